"""Copies rows for checkpoints, and drops the rows of expired sensors; both only at a commit boundary.

Owns the schedule, and the record of which checkpoints were written. The writer owns the storage. Must not commit or publish.
"""

import time
from collections.abc import Callable, Collection

import structlog

from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.writer import CheckpointWriter, Written
from processor.engine import Engine
from processor.partitions import Partition, Partitions
from processor.pipeline import clock_of
from processor.recorder import Recorder
from processor.split_sensors import KEYS_MAX as SPLIT_KEYS_MAX
from processor.split_sensors import SplitSensors

_log = structlog.get_logger(__name__)

EXPIRY_S = 30.0  # between two expiry checks of a partition; each checkpoint also checks


class Checkpoints:
    """interval_s: between two checkpoints of a partition. made_by: versions and instruction set, for the checkpoints' metadata."""

    def __init__(
        self,
        writer: CheckpointWriter,
        interval_s: float,
        *,
        partitions: Partitions,
        engine: Engine,
        split: SplitSensors,
        recorder: Recorder,
        made_by: dict[str, str],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer, self._interval_s, self._partitions, self._engine, self._split = writer, interval_s, partitions, engine, split
        self._recorder, self._made_by, self._now_s = recorder, made_by, now_s
        self._expiry_due_s: dict[int, float] = {}

    def first_due_s(self, i: int, of: int) -> float:
        """When the i-th of `of` new partitions is due. Spread over the interval, so that no single commit boundary copies them all."""
        return self._now_s() + self._interval_s * (i + 1) / of

    def note_written(self) -> None:
        self._take(self._writer.finished())

    def copy_due(self) -> None:
        """At a commit boundary: drops the expired rows of one partition, and copies one partition that is due. The writer does the rest."""
        now_s = self._now_s()
        self._expire_one(now_s)
        for partition in self._partitions.values():
            if now_s >= partition.checkpoint_due_s and partition.checkpoint_stale and not self._writer.busy(partition.number):
                with self._recorder.timed("checkpoint"):
                    self.copy(partition)
                partition.checkpoint_taken(now_s + self._interval_s)
                return

    def copy(self, partition: Partition) -> None:
        """Passes the partition's state to the writer. Raises ValueError if part of it is not committed."""
        self._writer.write(self._snapshot(partition))

    def busy(self, numbers: Collection[int]) -> bool:
        """Whether a checkpoint of one of these partitions is still being written."""
        return any(map(self._writer.busy, numbers))

    @property
    def pending(self) -> bool:
        """Whether the writer is waiting for the next commit."""
        return self._writer.pending

    def wait(self, numbers: Collection[int], timeout_s: float) -> None:
        """Waits until the checkpoints of these partitions are written, for at most timeout_s; does not wait for pending ones."""
        self._take(self._writer.wait(numbers, timeout_s))

    def all_lost(self) -> None:
        """All written checkpoints are gone: a checkpoint of every partition is due, even of idle ones."""
        for partition in self._partitions.values():
            partition.checkpoint_lost()

    def drop(self, number: int) -> None:
        self._expiry_due_s.pop(number, None)
        self._writer.drop(number)

    def close(self) -> None:
        self._writer.close()

    def _snapshot(self, partition: Partition) -> Snapshot:
        if partition.beginning is None or partition.applied != partition.committed:
            raise ValueError("a snapshot is taken at a commit boundary")
        self._expire(partition)
        base = self._writer.base(partition.number)
        keys, rows, removed = self._engine.copy(partition.number, base)
        return Snapshot(partition.number, partition.committed, partition.beginning, keys, rows, self._made_by, base, removed)

    def _expire_one(self, now_s: float) -> None:
        """Expires the sensors of one partition that is due, even during a replay, and looks for split sensors."""
        for partition in self._partitions.values():
            if now_s >= self._expiry_due_s.get(partition.number, 0.0):
                self._expire(partition)
                self._split.found(self._engine.split(partition.number, SPLIT_KEYS_MAX))
                self._expiry_due_s[partition.number] = now_s + EXPIRY_S
                return

    def _expire(self, partition: Partition) -> None:
        clock = clock_of(partition, partition.committed)
        self._recorder.expired(self._engine.expire(partition.number, partition.committed.offset, clock))

    def _take(self, finished: list[Written]) -> None:
        for written in finished:
            if written.error is not None:
                _log.error(
                    "could not write a checkpoint: the previous one stays, and a restart replays from it",
                    partition=written.partition,
                    error=written.error,
                    expected="a folder with room that this process may write to (checkpoint.path)",
                    to_do="make room or repair the disk; the next checkpoint is tried after the interval",
                )
                continue
            self._recorder.checkpointed(written.seconds, written.bytes)
            partition = self._partitions.get(written.partition)
            if partition is not None:
                partition.checkpointed(written.position, self._now_s())
