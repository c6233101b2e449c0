"""Restores the states of new partitions: loads the checkpoint, replays the records after it, and reports when a partition can go live.

Owns the running restores. Each one reads on its own thread; this module takes its results, one a turn, so that replays alternate with
live batches and the engine has one owner. checkpoint.policy decides what is loaded and replayed.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from processor.checkpoint.policy import Decision
from processor.checkpoint.restore import Done, Item
from processor.checkpoint.writer import CheckpointWriter
from processor.codec.columns import Message
from processor.engine import Engine
from processor.partitions import Partition, Partitions, Position, State
from processor.pipeline import Pipeline, clock_of, positions_after
from processor.recorder import Recorder
from processor.written_schema import SchemaPendingError

_log = structlog.get_logger(__name__)


class Restore(Protocol):
    """The restore of one partition; see checkpoint.restore.Restore."""

    def take(self) -> Item | None: ...
    def cancel(self) -> None: ...


class Restorer:
    """start: begins the restore of a partition. made_by: versions and instruction set; checkpoints with different ones are logged."""

    def __init__(
        self,
        start: Callable[[int], Restore],
        *,
        partitions: Partitions,
        engine: Engine,
        pipeline: Pipeline,
        writer: CheckpointWriter,
        recorder: Recorder,
        made_by: dict[str, str],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._partitions, self._engine, self._pipeline, self._writer = start, partitions, engine, pipeline, writer
        self._recorder, self._made_by, self._now_s = recorder, made_by, now_s
        self._running: dict[int, Restore] = {}
        self._waiting: dict[int, list[Message]] = {}  # records to replay whose schema is not known yet
        self._decisions: dict[int, Decision] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def begin(self, number: int, checkpoint_due_s: float) -> None:
        """Adds a partition that this instance owns from now on, and starts its restore."""
        self._partitions[number] = Partition(number, self._now_s(), checkpoint_due_s=checkpoint_due_s)
        self._running[number] = self._start(number)

    def take(self) -> Iterator[Partition]:
        """Takes one result from each restore. Yields the partitions that are live from now on."""
        for partition in self._partitions.values():
            if partition.state is State.JOINING and partition.begun:
                partition.go_live()
                yield partition
        for number, restore in list(self._running.items()):
            item, partition = self._waiting.pop(number, None) or restore.take(), self._partitions[number]
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Decision):
                self._decided(partition, item)
            elif isinstance(item, Done):
                self._restored(partition, item)
                if partition.live:
                    yield partition
            elif item is not None:
                self._replay(partition, item)

    def drop(self, number: int) -> None:
        self._waiting.pop(number, None)
        restore = self._running.pop(number, None)
        if restore is not None:
            restore.cancel()
        self._decisions.pop(number, None)

    def cancel(self) -> None:
        for restore in self._running.values():
            restore.cancel()

    def _decided(self, partition: Partition, decision: Decision) -> None:
        if partition.number in self._decisions:
            # Decided again, because the log was cut during the replay: discard everything restored so far.
            self._engine.drop(partition.number)
        self._decisions[partition.number] = decision
        if decision.policy is not None:
            self._recorder.gap(decision.policy)
        start, snapshot = decision.replay_from, decision.snapshot
        partition.begin(
            decision.beginning,
            snapshot.mark if snapshot is not None else Position(decision.position if start is None else start, None),
            replay=None if start is None else range(start, decision.position),
            checkpoint=None if snapshot is None else snapshot.mark.offset,
        )
        self._writer.begins(partition.number, snapshot)
        if snapshot is None:
            return
        if snapshot.made_by != self._made_by:
            _log.warning("checkpoint from another kind of machine: last bits may differ", by=snapshot.made_by, here=self._made_by)
        self._engine.load(partition.number, snapshot.keys, snapshot.rows)

    def _replay(self, partition: Partition, messages: list[Message]) -> None:
        begun_at = partition.applied.offset
        try:
            readings, clocks = self._pipeline.replay(messages, {partition.number: clock_of(partition, partition.applied)})
        except SchemaPendingError:
            self._waiting[partition.number] = messages
            return
        for _, position in positions_after(messages, self._partitions, clocks):
            partition.replayed(position)
        self._recorder.replayed(readings, partition.applied.offset - begun_at)

    def _restored(self, partition: Partition, done: Done) -> None:
        del self._running[partition.number]
        decision = self._decisions.pop(partition.number)
        partition.restored(decision.position, done.end)
        seconds = self._now_s() - partition.assigned_at_s
        self._recorder.restored(partition.number, seconds)
        _log.info(
            "partition restored",
            partition=partition.number,
            sensors=self._engine.sensors(partition.number),
            checkpoint=decision.snapshot.mark.offset if decision.snapshot else None,
            position=decision.position,
            backlog=max(0, done.end - decision.position),
            seconds=round(seconds, 3),
        )
        if decision.new:
            partition.join()  # commits its beginning before any record is read
        else:
            partition.go_live()
