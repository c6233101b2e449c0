"""What the loop tells of itself: metrics, and the lines about how far the start has come.

Counts of a transaction become metrics when it is committed, and are forgotten when it is undone: what is counted was
published. Decides nothing.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from processor.engine import Engine, Stats
from processor.metrics import Metrics
from processor.partitions import Partition, State
from processor.records import RULES, Applied, Batch, Rejected

_log = structlog.get_logger(__name__)

OBSERVE_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
OWNED = (State.RESTORING, State.JOINING, State.LIVE)


@dataclass(slots=True)
class _Open:
    """Counts of the open transaction."""

    predictions: int = 0
    readings: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
    record_ms: list[NDArray[np.int64]] = field(default_factory=list)


class Figures:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._open = _Open()
        self._observe_due_s = 0.0
        self._started = False
        self._progress: tuple[float, int] = (0.0, 0)  # when it was last told, and the backlog then
        self._replayed = 0  # offsets
        self._replay_progress: tuple[float, int] | None = None  # when replays were last told of, and how many offsets then

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begun_s = time.perf_counter()
        try:
            yield
        finally:
            self._metrics.observe("stage_seconds", time.perf_counter() - begun_s, stage=stage)

    def applied(self, batch: Batch, applied: Applied, resets: Counter[str], rejected: list[tuple[int, Rejected]]) -> None:
        counts = self._open
        counts.predictions += int(applied.published(batch).sum())
        counts.readings += len(batch.x)
        counts.errors.update(reason.error for _, reason in rejected)
        counts.resets.update(resets)
        if applied.reset_by.any():
            counts.resets.update({rule: int((applied.reset_by == 1 + i).sum()) for i, rule in enumerate(RULES)})
        counts.record_ms.append(batch.record_ms[batch.steps > 0])
        self._metrics.observe("batch_readings", len(batch.x))

    def commit(self) -> None:
        counts, metrics = self._open, self._metrics
        metrics.add("transactions_total", result="committed")
        metrics.add("predictions_total", counts.predictions)
        metrics.add("readings_total", counts.readings)
        for error, count in counts.errors.items():
            metrics.add("dead_letters_total", count, error=error)
        for reason, count in counts.resets.items():
            metrics.add("resets_total", count, reason=reason)
        if counts.record_ms:
            metrics.observe("end_to_end_seconds", time.time() - np.concatenate(counts.record_ms) / 1000)
        self._open = _Open()

    def abort(self) -> None:
        self._metrics.add("transactions_total", result="aborted")
        self._open = _Open()

    def fenced(self) -> None:
        self._metrics.add("transactions_total", result="fenced")

    def rebalanced(self, kind: str) -> None:
        self._metrics.add("rebalances_total", kind=kind)

    def dropped(self, partition: int) -> None:
        self._metrics.forget("lag_records", partition=partition)
        self._metrics.forget("checkpoint_age_seconds", partition=partition)
        self._metrics.forget("restore_records_left", partition=partition)

    def gap(self, policy: str) -> None:
        self._metrics.add("gaps_total", policy=policy)

    def replayed(self, readings: int, offsets: int) -> None:
        self._metrics.add("replayed_readings_total", readings)
        self._replayed += offsets

    def restored(self, partition: int, seconds: float) -> None:
        self._metrics.observe("restore_seconds", seconds)
        self._metrics.forget("restore_records_left", partition=partition)

    def expired(self, sensors: int) -> None:
        self._metrics.add("sensors_expired_total", sensors)

    def checkpointed(self, seconds: float, size_bytes: int) -> None:
        self._metrics.observe("checkpoint_seconds", seconds)
        self._metrics.set("checkpoint_bytes", size_bytes)

    def turned(self, engine: Engine, partitions: Collection[Partition], known_end: Any, *, joined: bool, ready: bool) -> None:
        """Once a turn; most of it once a second. known_end(partition) is the log's end as it was last seen."""
        stats, now_s = engine.stats(), time.monotonic()
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

    def _observe(self, stats: Stats, partitions: Collection[Partition], known_end: Any, now_s: float) -> None:
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
        """How far they have come, all together, every PROGRESS_EVERY_S while there are any."""
        replays = [(p.replay, p.applied.offset) for p in partitions if p.replay is not None]
        if not replays or self._replay_progress is None:
            self._replay_progress = (now_s, self._replayed) if replays else None
            return
        told_s, before = self._replay_progress
        if now_s - told_s < PROGRESS_EVERY_S:
            return
        rate = (self._replayed - before) / (now_s - told_s)
        left = sum(max(0, replay.stop - position) for replay, position in replays)
        _log.info(
            "replaying",
            partitions=len(replays),
            records_replayed=sum(position - replay.start for replay, position in replays),
            records_total=sum(map(len, (replay for replay, _ in replays))),
            records_per_second=round(rate),
            seconds_left=round(left / rate) if rate else None,
        )
        self._replay_progress = (now_s, self._replayed)

    def _report(self, partitions: Collection[Partition], now_s: float, *, ready: bool) -> None:
        """How far the start has come: at first, every PROGRESS_EVERY_S, and once when it is over."""
        live = [p for p in partitions if p.live]
        backlog = sum(max(0, p.end_seen - p.committed.offset) for p in live)
        replayed = int(self._metrics.value("replayed_readings_total"))
        told_s, before = self._progress
        if ready:
            self._started = True
            _log.info("ready", partitions=len(live), replayed_readings=replayed)
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
            self._progress = (now_s, backlog)


def _checkpoint_age_s(partition: Partition, now_s: float) -> float:
    """An idle partition's checkpoint does not age: it holds all there is."""
    if partition.live and partition.checkpoint_position == partition.committed.offset:
        return 0.0
    return now_s - (partition.assigned_at_s if partition.checkpoint_at_s is None else partition.checkpoint_at_s)
