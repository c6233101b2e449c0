"""The rules that judge a record by earlier ones: whether it is late, and whether its sensor has expired or is reset.

The rules are functions of the record, the sensor's row and partition time, which are themselves functions of the log. So a replay makes
the same decisions as the first run, however the log was divided into batches. Knows nothing about states and steps nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from processor.records import NO_GAP, RULES, Batch, Claim, Jump
from processor.slots.rows import Indices, Rows

_log = structlog.get_logger(__name__)

TELL_EVERY_S = 60.0
AFTER_GAP, AFTER_STEPS, EXPIRED = (1 + i for i in range(len(RULES)))
NEVER = int(np.iinfo(np.int64).min)  # partition time before the first reading


class Clock(NamedTuple):
    """A partition's time, its first time, and a sensor's timestamp that it has not followed yet.

    gap: readings before the first time were lost, so a sensor without a row may have had one.
    """

    time_ms: int | None = None
    first_ms: int | None = None
    gap: bool = False
    claim: Claim | None = None

    def heard(self, key: bytes, event_ms: int, expire_ms: int | None) -> "Clock":
        """The clock after a record with readings. Without an expiry, partition time is the greatest timestamp so far.

        With an expiry, a single sensor does not move partition time by more than expire_ms, because its clock would otherwise expire all
        other sensors. A larger jump is kept as a claim, and another sensor that is as far ahead confirms it, as far as both agree. A
        claim is dropped when its sensor's timestamps are back in range, or when partition time reaches it. A sensor that sends alone for
        expire_ms by its own time confirms its own claim, because the others would have expired by then.
        """
        if expire_ms is None:
            return self._moved(event_ms)
        claim, ahead = self.claim, self.time_ms is None or event_ms > self.time_ms + expire_ms
        if not ahead:
            moved = self._moved(event_ms)
            if claim is None or claim.key == key or claim.ms <= (moved.time_ms or 0) + expire_ms:
                return moved._replace(claim=None)
            return moved._replace(claim=claim._replace(since_ms=claim.ms))
        if claim is None:
            return self._replace(claim=Claim(key, event_ms, event_ms))
        if claim.key == key:
            steady = claim.ms - expire_ms <= event_ms <= claim.ms + expire_ms
            since_ms = min(claim.since_ms, event_ms) if steady else event_ms
            if event_ms - since_ms > expire_ms:
                return self._moved(event_ms)._replace(claim=None)
            return self._replace(claim=Claim(key, event_ms, since_ms))
        low, high = sorted([(claim.ms, claim.key), (event_ms, key)])
        moved = self._moved(low[0])
        if high[0] <= low[0] + expire_ms:
            return moved._moved(high[0])._replace(claim=None)
        return moved._replace(claim=Claim(high[1], high[0], high[0]))

    def _moved(self, event_ms: int) -> "Clock":
        time_ms = event_ms if self.time_ms is None else max(self.time_ms, event_ms)
        return self._replace(time_ms=time_ms, first_ms=time_ms if self.first_ms is None else self.first_ms)


@dataclass(frozen=True, slots=True)
class Rules:
    """
    gap_ms      a record that is more than this later than the sensor's latest one begins a sequence; None: never
    steps       the record after this many steps begins a sequence; None: never
    late        a record older than the sensor's latest one is rejected
    expire_ms   a sensor whose latest record is more than this before partition time, or before its next record, is reset;
                None: never
    each_record every record begins a sequence, so no sensor can lack readings
    """

    gap_ms: int | None = None
    steps: int | None = None
    late: bool = False
    expire_ms: int | None = None
    each_record: bool = False

    def __bool__(self) -> bool:
        return self.late or any(limit is not None for limit in (self.gap_ms, self.steps, self.expire_ms))

    def lost(self, batch: Batch) -> NDArray[np.bool_] | None:
        """For which records the sensor, if it has no row, may lack readings: bool [n]; None if for none.

        Readings that would have expired by then do not count.
        """
        if not len(batch.since_gap_ms) or self.each_record:
            return None
        lost: NDArray[np.bool_] = batch.since_gap_ms != NO_GAP
        return lost if self.expire_ms is None else lost & (batch.since_gap_ms <= self.expire_ms)

    def expired_before(self, clock: Clock) -> int | None:
        """Rows whose latest record is before this have expired, and can be dropped without effect. None: there are none.

        For a while after a gap, dropping does have an effect: a sensor with a row is reset by the rule, one without may lack readings.
        """
        if self.expire_ms is None or clock.time_ms is None or clock.first_ms is None:
            return None
        if clock.gap and clock.time_ms - clock.first_ms <= self.expire_ms:
            return None
        return clock.time_ms - self.expire_ms

    def judge(
        self,
        batch: Batch,
        record: Indices,
        first: Indices,
        exists: NDArray[np.bool_],
        rows: Rows,
        admit: Callable[[int, bool], bool] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        """Which of these records are late, bool [n], and which begin a sequence by a rule, int8 [n] (like Applied.reset_by).

        record: indices in the batch, sensor by sensor, in offset order within each. first: where each sensor begins in it.
        exists, rows: whether each sensor has a row before its first record, and that row.
        admit: called for each record that is not late, with its place in `record` and whether its sensor begins a sequence with it; False
        rejects the record, as if it had not been sent.
        """
        late, reset_by = np.zeros(len(record), np.bool_), np.zeros(len(record), np.int8)
        # One after another, because each verdict depends on the previous one.
        steps, event_ms = batch.steps[record].tolist(), batch.event_ms[record].tolist()
        before, after = batch.reset_before[record].tolist(), batch.reset_after[record].tolist()
        time_ms = np.maximum(batch.time_ms[record], batch.event_ms[record]).tolist() if self.expire_ms is not None else event_ms
        ends = [*first[1:].tolist(), len(record)]
        known, total, latest_ms = exists.tolist(), rows.steps.tolist(), rows.event_ms.tolist()
        for start, end, goes_on, so_far, latest in zip(first.tolist(), ends, known, total, latest_ms, strict=True):
            for i in range(start, end):
                if not steps[i]:
                    goes_on = False
                    continue
                if goes_on and not before[i]:
                    # An expired sensor has no earlier record that this one could be late for.
                    expired = self.expire_ms is not None and time_ms[i] - latest > self.expire_ms
                    if self.late and event_ms[i] < latest and not expired:
                        late[i] = True
                        continue
                    if expired:
                        reset_by[i] = EXPIRED
                    elif self.gap_ms is not None and event_ms[i] - latest > self.gap_ms:
                        reset_by[i] = AFTER_GAP
                    elif self.steps is not None and so_far >= self.steps:
                        reset_by[i] = AFTER_STEPS
                anew = before[i] or reset_by[i] > 0 or not goes_on
                if admit is not None and not admit(i, bool(anew)):
                    reset_by[i] = 0
                    continue
                if anew:
                    so_far, latest = 0, event_ms[i]
                so_far, latest, goes_on = so_far + steps[i], max(latest, event_ms[i]), not after[i]
        return late, reset_by


def keep_time(batch: Batch, clocks: Mapping[int, Clock], expire_ms: int | None = None) -> dict[int, Clock]:
    """Adds the partition time at each record to the batch, starting from each partition's clock; returns the clocks afterwards.

    Every record with readings counts, even if it is rejected later. expire_ms: see Rules.
    """
    batch.time_ms = np.where(batch.steps > 0, batch.event_ms, NEVER)
    numbers, stand = np.array(batch.partition, np.int64), dict[int, Clock]()
    for number in np.unique(numbers).tolist():
        at, clock = np.flatnonzero(numbers == number), clocks[number]
        time_ms = np.maximum(np.maximum.accumulate(batch.time_ms[at]), NEVER if clock.time_ms is None else clock.time_ms)
        if expire_ms is not None and not _steady(batch.time_ms[at], time_ms, clock, expire_ms):
            time_ms, stand[number] = _told_one_by_one(batch, at, clock, expire_ms)
        elif time_ms[-1] == NEVER:
            stand[number] = clock
        else:
            first_ms = int(time_ms[time_ms != NEVER][0]) if clock.first_ms is None else clock.first_ms
            stand[number] = clock._replace(time_ms=int(time_ms[-1]), first_ms=first_ms)
        batch.time_ms[at] = time_ms
    if any(clock.gap for clock in stand.values()):
        batch.since_gap_ms = np.full(len(batch), NO_GAP, np.int64)
        for number, clock in stand.items():
            if clock.gap:
                at = np.flatnonzero(numbers == number)
                batch.since_gap_ms[at] = np.where(batch.time_ms[at] == NEVER, 0, batch.time_ms[at] - (clock.first_ms or 0))
    return stand


def _steady(event_ms: NDArray[np.int64], time_ms: NDArray[np.int64], clock: Clock, expire_ms: int) -> bool:
    """Whether no sensor's timestamp is or was too far ahead: then partition time is simply the greatest timestamp so far.

    event_ms: of a partition's records; NEVER for those without readings. time_ms: the greatest up to each record.
    """
    if clock.time_ms is None or clock.claim is not None:
        return False
    before = np.concatenate([[clock.time_ms], time_ms[:-1]])
    return bool((event_ms <= before + expire_ms).all())


def _told_one_by_one(batch: Batch, at: Indices, clock: Clock, expire_ms: int) -> tuple[NDArray[np.int64], Clock]:
    times = []
    for i, event_ms, steps in zip(at.tolist(), batch.event_ms[at].tolist(), batch.steps[at].tolist(), strict=True):
        if steps:
            before, clock = clock, clock.heard(batch.key[i], event_ms, expire_ms)
            jump = _jump(before, clock, expire_ms)
            if jump is not None:
                batch.jumps.append(Jump(batch.partition[i], int(batch.offset[i]), batch.key[i], *jump))
        times.append(NEVER if clock.time_ms is None else clock.time_ms)
    return np.array(times, np.int64), clock


def _jump(before: Clock, after: Clock, expire_ms: int) -> tuple[int, int, bool, bytes | None] | None:
    """from, to, claimed and other of a Jump; None if there was none."""
    if before.time_ms is None or after.time_ms is None:
        return None
    if after.time_ms - before.time_ms > expire_ms:
        return before.time_ms, after.time_ms, False, before.claim.key if before.claim else None
    if after.claim is not None and (before.claim is None or before.claim.key != after.claim.key):
        return after.time_ms, after.claim.ms, True, None
    return None


class Jumps:
    """Logs where partition time jumped, and where it waits: at most one line a minute for a waiting sensor."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._told_s: dict[int, float] = {}

    def tell(self, jumps: Sequence[Jump], forgotten_at: Callable[[int, int], int]) -> None:
        """forgotten_at: returns how many sensors of a partition expire when its time reaches this value, Unix ms."""
        for jump in jumps:
            told = {"partition": jump.partition, "offset": jump.offset, "sensor": jump.key.decode(errors="backslashreplace")}
            hours = round((jump.to_ms - jump.from_ms) / 3_600_000, 1)
            if not jump.claimed:
                _log.warning(
                    "partition time jumped by more than state.expire_after: sensors without a newer reading expire",
                    **told,
                    confirmed=None if jump.other in (None, jump.key) else (jump.other or b"").decode(errors="backslashreplace"),
                    hours=hours,
                    forgotten=forgotten_at(jump.partition, jump.to_ms),
                )
            elif self._now_s() - self._told_s.get(jump.partition, -TELL_EVERY_S) >= TELL_EVERY_S:
                self._told_s[jump.partition] = self._now_s()
                _log.warning(
                    "a sensor's clock is ahead by more than state.expire_after: no sensor expires until a second sensor confirms the time",
                    **told,
                    hours=hours,
                    to_do="correct the sensor's clock, if it is wrong",
                )
