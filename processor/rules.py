"""What the settings decide of a record by earlier ones: whether it is late, whether its sensor has expired or begins anew.

A function of the record, of what the sensor's row says, and of partition time, which are themselves functions of the log: so
a replay decides as the first run did, however the log was cut into batches. Knows nothing of states and steps nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processor.records import NO_GAP, RULES, Batch
from processor.slots.rows import Indices, Rows

AFTER_GAP, AFTER_STEPS, EXPIRED = (1 + i for i in range(len(RULES)))
NEVER = int(np.iinfo(np.int64).min)  # partition time before the first reading


class Clock(NamedTuple):
    """A partition's time: the greatest so far and that of the first reading, both None before it.

    gap: readings before the first were lost, so that a sensor without a row may have had one.
    """

    time_ms: int | None = None
    first_ms: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """
    gap_ms      a record that is more than this later than the sensor's latest one begins a sequence; None: never
    steps       the record after so many steps begins a sequence; None: never
    late        a record before the sensor's latest one is left out
    expire_ms   a sensor whose latest record lies more than this before partition time begins anew; None: never
    each_record every record begins a sequence: no sensor has anything to lose
    """

    gap_ms: int | None = None
    steps: int | None = None
    late: bool = False
    expire_ms: int | None = None
    each_record: bool = False

    def __bool__(self) -> bool:
        return self.late or any(limit is not None for limit in (self.gap_ms, self.steps, self.expire_ms))

    def lost(self, batch: Batch) -> NDArray[np.bool_] | None:
        """Of which records the sensor, should it have no row, may have had readings that were lost: bool [n], None for none.

        Those that would have expired by then are as if they had never been.
        """
        if not len(batch.since_gap_ms) or self.each_record:
            return None
        lost: NDArray[np.bool_] = batch.since_gap_ms != NO_GAP
        return lost if self.expire_ms is None else lost & (batch.since_gap_ms <= self.expire_ms)

    def expired_before(self, clock: Clock) -> int | None:
        """Rows whose latest record lies before this have expired, and whether they are there does not show. None: none is such.

        After a gap it shows for a while: a sensor with a row begins anew by the rule, one without has perhaps lost readings.
        """
        if self.expire_ms is None or clock.time_ms is None or clock.first_ms is None:
            return None
        if clock.gap and clock.time_ms - clock.first_ms <= self.expire_ms:
            return None
        return clock.time_ms - self.expire_ms

    def judge(
        self, batch: Batch, record: Indices, first: Indices, exists: NDArray[np.bool_], rows: Rows
    ) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        """Which of these records are late, bool [n], and which begin a sequence by a rule, int8 [n] (as Applied.reset_by).

        record: indices in the batch, sensor by sensor, in offset order within each. first: where each sensor's begin in it.
        exists, rows: whether each sensor has a row before the first of them, and which.
        """
        late, reset_by = np.zeros(len(record), np.bool_), np.zeros(len(record), np.int8)
        # One after another: each verdict hangs on the one before it.
        steps, event_ms = batch.steps[record].tolist(), batch.event_ms[record].tolist()
        before, after = batch.reset_before[record].tolist(), batch.reset_after[record].tolist()
        time_ms = batch.time_ms[record].tolist() if self.expire_ms is not None else event_ms
        ends = [*first[1:].tolist(), len(record)]
        known, total, latest_ms = exists.tolist(), rows.steps.tolist(), rows.event_ms.tolist()
        for start, end, goes_on, so_far, latest in zip(first.tolist(), ends, known, total, latest_ms, strict=True):
            for i in range(start, end):
                if not steps[i]:
                    goes_on = False
                    continue
                if goes_on and not before[i]:
                    # What has expired is as if it had never been: there is nothing to be late for.
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
                if before[i] or reset_by[i] or not goes_on:
                    so_far, latest = 0, event_ms[i]
                so_far, latest, goes_on = so_far + steps[i], max(latest, event_ms[i]), not after[i]
        return late, reset_by


def keep_time(batch: Batch, clocks: Mapping[int, Clock]) -> dict[int, Clock]:
    """Enters partition time as of each record into the batch, from where each partition's clock stood; returns where they stand then.

    It rises by every record with readings, whatever becomes of it later.
    """
    batch.time_ms = np.where(batch.steps > 0, batch.event_ms, NEVER)
    numbers, stand = np.array(batch.partition, np.int64), dict[int, Clock]()
    for number in np.unique(numbers).tolist():
        at, clock = np.flatnonzero(numbers == number), clocks[number]
        time_ms = np.maximum(np.maximum.accumulate(batch.time_ms[at]), NEVER if clock.time_ms is None else clock.time_ms)
        batch.time_ms[at] = time_ms
        if time_ms[-1] == NEVER:
            stand[number] = clock
            continue
        first_ms = int(time_ms[time_ms != NEVER][0]) if clock.first_ms is None else clock.first_ms
        stand[number] = clock._replace(time_ms=int(time_ms[-1]), first_ms=first_ms)
    if any(clock.gap for clock in stand.values()):
        batch.since_gap_ms = np.full(len(batch), NO_GAP, np.int64)
        for number, clock in stand.items():
            if clock.gap:
                at = np.flatnonzero(numbers == number)
                batch.since_gap_ms[at] = np.where(batch.time_ms[at] == NEVER, 0, batch.time_ms[at] - (clock.first_ms or 0))
    return stand
