"""Counts what the loop does, in metrics. loop.progress tells how far it has come.

Counts of a transaction become metrics when it is committed, and are forgotten when it is undone: what is counted was
published. Decides nothing.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from processor.metrics import Metrics
from processor.records import RULES, Applied, Batch, Rejected


@dataclass(slots=True)
class _Open:
    """Counts of the open transaction."""

    predictions: int = 0
    readings: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
    alarms: Counter[tuple[str, str]] = field(default_factory=Counter)
    record_ms: list[NDArray[np.int64]] = field(default_factory=list)
    missing: list[NDArray[np.int64]] = field(default_factory=list)


class Recorder:
    """A participant of the transaction. replayed_offsets: how many were replayed since the start.

    may_miss: names of the features, where a value may be missing and something else stands for it.
    """

    def __init__(self, metrics: Metrics, may_miss: Sequence[str | int] = ()) -> None:
        self._metrics, self._may_miss = metrics, may_miss
        for name in may_miss:
            metrics.add("missing_values_total", 0, feature=name)
        self._open = _Open()
        self.replayed_offsets = 0

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
        counts.alarms.update((event.level, event.state) for event in applied.alarm_events())
        counts.resets.update(resets)
        if applied.reset_by.any():
            counts.resets.update({rule: int((applied.reset_by == 1 + i).sum()) for i, rule in enumerate(RULES)})
        if batch.missing is not None:
            used = np.repeat(applied.published(batch), batch.steps)
            counts.missing.append(batch.missing[used].sum(0))
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
        for (level, state), count in counts.alarms.items():
            metrics.add("alarms_total", count, level=level, state=state)
        for name, count in zip(self._may_miss, np.sum(counts.missing, 0).tolist() if counts.missing else (), strict=False):
            metrics.add("missing_values_total", count, feature=name)
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
        self.replayed_offsets += offsets

    def restored(self, partition: int, seconds: float) -> None:
        self._metrics.observe("restore_seconds", seconds)
        self._metrics.forget("restore_records_left", partition=partition)

    def expired(self, sensors: int) -> None:
        self._metrics.add("sensors_expired_total", sensors)

    def checkpointed(self, seconds: float, size_bytes: int) -> None:
        self._metrics.observe("checkpoint_seconds", seconds)
        self._metrics.set("checkpoint_bytes", size_bytes)
