"""Silence: which sensors have had no reading for too long by their partition's stream time, and with which record that became so.

A sensor's row keeps the partition time as of its last record. It is silent when partition time has moved further than the limit since then,
so who is silent follows from rows and clocks: nothing is remembered of it but a bound that spares most batches a look at all rows.
Must not read a real clock.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from processor.engine.grouping import Group
from processor.records import CLEARED, RAISED, RESET, SILENT, AlarmEvent, Applied, Batch
from processor.slots.rows import Indices
from processor.slots.table import Table

HEARD_NUMBERS = 2  # float32 numbers of a row that hold the partition time, by its bits


def packed_heard(time_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [n, 2] of int64 [n]."""
    return np.ascontiguousarray(time_ms[:, None]).view(np.float32)


def heard_of(stored: NDArray[np.float32]) -> NDArray[np.int64]:
    """The partition time in a row's part, int64 [n], of float32 [n, 2]."""
    return np.ascontiguousarray(stored).view(np.int64)[:, 0]


class Times:
    """Of a batch: the partition time before each record, int64 [n], and which record first moved it past some time."""

    def __init__(self, batch: Batch) -> None:
        self._batch, numbers = batch, np.array(batch.partition, np.int64)
        self._at = {number: np.flatnonzero(numbers == number) for number in batch.began_ms}
        self.before_ms = np.zeros(len(batch), np.int64)
        for number, at in self._at.items():
            self.before_ms[at] = np.concatenate([[batch.began_ms[number]], batch.time_ms[at[:-1]]])

    def end_ms(self, partition: int) -> int:
        return int(self._batch.time_ms[self._at[partition][-1]])

    def passed(self, partition: int, time_ms: NDArray[np.int64]) -> Indices:
        """The record with which partition time moves past each of these times; they must lie before its end."""
        at = self._at[partition]
        return at[np.searchsorted(self._batch.time_ms[at], time_ms, side="right")]


def heard_again(limit_ms: int, batch: Batch, of: Group, after: NDArray[np.bool_], heard_ms: NDArray[np.int64], applied: Applied) -> None:
    """Notes the sensors of a part that were silent before one of their records there. heard_ms: of each sensor's row, int64 [G]."""
    record = of.record
    last_ms, offset, there = np.empty(len(record), np.int64), np.empty(len(record), np.int64), np.ones(len(record), np.bool_)
    last_ms[1:], offset[1:], there[1:] = batch.time_ms[record[:-1]], batch.offset[record[:-1]], ~after[:-1]
    last_ms[of.first], offset[of.first], there[of.first] = heard_ms, of.stored.applied, of.exists
    if applied.silences:  # a sensor that is stepped a second time may have been judged otherwise the first time
        for i in record.tolist():
            applied.silences.pop(i, None)
    times = Times(batch)
    for at in np.flatnonzero(there & (times.before_ms[record] > last_ms + limit_ms)).tolist():
        i, since_ms, raised_at = int(record[at]), int(last_ms[at]), int(offset[at])
        partition, key = batch.partition[i], batch.key[i]
        reason = None if batch.steps[i] else RESET
        events = [AlarmEvent(i, CLEARED, raised_at, since_ms, reason=reason, level=SILENT, sensor=key)]
        if since_ms + limit_ms >= batch.began_ms[partition]:
            passed = int(times.passed(partition, np.array([since_ms + limit_ms]))[0])
            events.append(AlarmEvent(passed, RAISED, raised_at, since_ms, level=SILENT, sensor=key))
        applied.silences[i] = events


class Silence:
    """limit_ms: how far partition time moves without a sensor before it is silent. heard: the part of a row with its time."""

    def __init__(self, limit_ms: int, heard: slice) -> None:
        self._limit_ms, self._heard = limit_ms, heard
        self._due_ms: dict[int, int] = {}  # by partition: no sensor becomes silent before its time has passed this

    def forget(self, partitions: Iterable[int] | None = None) -> None:
        """Rows of these partitions, or of all, have changed otherwise than by a batch with outputs."""
        for partition in list(self._due_ms) if partitions is None else partitions:
            self._due_ms.pop(partition, None)

    def raised(self, table: Table, batch: Batch) -> list[AlarmEvent]:
        """The sensors that became silent within a batch and still are after it; the batch was applied already."""
        found = list[AlarmEvent]()
        times: Times | None = None
        for partition, began_ms in batch.began_ms.items():
            times = times or Times(batch)
            end_ms = times.end_ms(partition)
            if end_ms <= self._due_ms.get(partition, began_ms):
                continue
            keys, rows = table.copy(partition)
            due_ms = heard_of(rows.state[:, self._heard]) + self._limit_ms
            there = rows.steps > 0
            became = np.flatnonzero(there & (due_ms >= began_ms) & (due_ms < end_ms))
            for i, passed in zip(became.tolist(), times.passed(partition, due_ms[became]).tolist(), strict=True):
                since_ms = int(due_ms[i]) - self._limit_ms
                found.append(AlarmEvent(passed, RAISED, int(rows.applied[i]), since_ms, level=SILENT, sensor=keys[i]))
            later = due_ms[there & (due_ms >= end_ms)]
            self._due_ms[partition] = min(int(later.min(initial=end_ms + self._limit_ms)), end_ms + self._limit_ms)
        return found
