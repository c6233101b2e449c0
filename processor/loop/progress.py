"""Progress of the loop: gauges of its partitions and sensors, and log lines about replays and the backlog after a start.

Reads the state of other modules once a turn, and changes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection

import structlog

from processor.engine import Stats
from processor.metrics import Metrics
from processor.partitions import Partition, State
from processor.recorder import Recorder

_log = structlog.get_logger(__name__)

OBSERVE_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
OWNED = (State.RESTORING, State.JOINING, State.LIVE)


class Progress:
    def __init__(self, metrics: Metrics, recorder: Recorder, now_s: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._recorder, self._now_s = metrics, recorder, now_s
        self._begun_s = now_s()
        self._observe_due_s = 0.0
        self._started = False
        self._backlog: tuple[float, int] = (0.0, 0)  # when it was last logged, and its value then
        self._replays: tuple[float, int] | None = None  # when replays were last logged, and the number of offsets replayed by then

    def turned(
        self, stats: Stats, partitions: Collection[Partition], known_end: Callable[[int], int], *, joined: bool, ready: bool
    ) -> None:
        """Called once a turn; does most of its work once a second. known_end(partition): the last known end of the log."""
        now_s = self._now_s()
        if stats.tile_rows:
            self._metrics.observe("tile_fill_ratio", min(1.0, stats.tile_readings / stats.tile_rows))
        if stats.evictions:
            self._metrics.add("evictions_total", stats.evictions)
        if now_s < self._observe_due_s:
            return
        self._observe_due_s = now_s + OBSERVE_EVERY_S
        self._observe(stats, partitions, known_end, now_s)
        self._report_replays(partitions, now_s)
        self._metrics.set("ready", float(ready))
        if joined and not self._started:
            self._report(partitions, now_s, ready=ready)

    def _observe(self, stats: Stats, partitions: Collection[Partition], known_end: Callable[[int], int], now_s: float) -> None:
        metrics = self._metrics
        metrics.set("slots_used", stats.resident)
        metrics.set("sensors_parked", stats.parked)
        states = Counter(partition.state for partition in partitions)
        for state in OWNED:
            metrics.set("partitions", states[state], state=state.value)
        for partition in partitions:
            metrics.set("checkpoint_age_seconds", _checkpoint_age_s(partition, now_s), partition=partition.number)
            if partition.replay is not None:
                left = partition.replay.stop - partition.applied.offset
                metrics.set("restore_records_left", max(0, left), partition=partition.number)
            if partition.live:
                lag = max(0, known_end(partition.number) - partition.committed.offset)
                metrics.set("lag_records", lag, partition=partition.number)

    def _report_replays(self, partitions: Collection[Partition], now_s: float) -> None:
        """Logs the total progress of all replays, every PROGRESS_EVERY_S while there are any."""
        replays = [(p.replay, p.applied.offset) for p in partitions if p.replay is not None]
        if not replays or self._replays is None:
            self._replays = (now_s, self._recorder.replayed_offsets) if replays else None
            return
        told_s, before = self._replays
        if now_s - told_s < PROGRESS_EVERY_S:
            return
        rate = (self._recorder.replayed_offsets - before) / (now_s - told_s)
        left = sum(max(0, replay.stop - position) for replay, position in replays)
        _log.info(
            "replaying",
            partitions=len(replays),
            records_replayed=sum(position - replay.start for replay, position in replays),
            records_total=sum(map(len, (replay for replay, _ in replays))),
            records_per_second=round(rate),
            seconds_left=round(left / rate) if rate else None,
        )
        self._replays = (now_s, self._recorder.replayed_offsets)

    def _report(self, partitions: Collection[Partition], now_s: float, *, ready: bool) -> None:
        """Logs the progress of the start: at first, then every PROGRESS_EVERY_S, and once when it is complete."""
        live = [p for p in partitions if p.live]
        backlog = sum(max(0, p.end_seen - p.committed.offset) for p in live)
        replayed = int(self._metrics.value("replayed_readings_total"))
        told_s, before = self._backlog
        if ready:
            self._started = True
            _log.info("ready", partitions=len(live), replayed_readings=replayed, seconds=round(now_s - self._begun_s, 2))
        elif now_s - told_s >= PROGRESS_EVERY_S:
            rate = (before - backlog) / (now_s - told_s)
            minutes = round(backlog / rate / 60, 1) if before and rate > 0 else None
            _log.info(
                "catching up",
                partitions_live=len(live),
                partitions_restoring=len(partitions) - len(live),
                replayed_readings=replayed,
                backlog_records=backlog,
                minutes_left=minutes,
            )
            self._backlog = (now_s, backlog)


def _checkpoint_age_s(partition: Partition, now_s: float) -> float:
    """The checkpoint of an idle partition does not age, because it is complete."""
    if partition.live and partition.checkpoint_position == partition.committed.offset:
        return 0.0
    return now_s - (partition.assigned_at_s if partition.checkpoint_at_s is None else partition.checkpoint_at_s)
