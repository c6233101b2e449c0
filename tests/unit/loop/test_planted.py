"""The simulation finds what it is there for: each fault in the order of things, planted into the loop, ends it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from delivery import FakeDelivery
from machine import simulate
from reader import FakeReader
from simulation import Parts

from processor.checkpoint.snapshot import Snapshot
from processor.engine import Engine
from processor.kafka.consumer import Polled
from processor.loop.checkpoints import Checkpoints
from processor.loop.loop import Loop
from processor.partitions import Partition, Partitions
from processor.pipeline import clock_of, positions_after

SEED = 1


class PublishesBeforeItMoves(Loop):
    def _process(self, messages: list[Any]) -> None:
        clocks = {number: clock_of(partition, partition.applied) for number, partition in self.partitions.items()}
        done = self._pipeline.process(messages, clocks)
        self._committer.publish(
            self._outputs.predictions(done), self._outputs.alarms(done), self._outputs.dead_letters(messages, done)
        )
        for partition, position in positions_after(messages, self.partitions, done.clocks):
            partition.apply(position)


class KeepsStatesThroughAborts(Engine):
    def abort(self) -> None:
        self.undo.commit()


class CommitsWithoutOffsets(FakeDelivery):
    def commit(self, topic: str, positions: Sequence[Any], member: Any) -> None:
        super().commit(topic, [], member)


class CopiesWithinTransactions(Checkpoints):
    def _snapshot(self, partition: Partition) -> Snapshot:
        base = self._writer.base(partition.number)
        keys, rows, removed = self._engine.copy(partition.number, base)
        return Snapshot(partition.number, partition.committed, partition.beginning, keys, rows, self._made_by, base, removed)

    def _expire_one(self, now_s: float) -> None:
        pass


class ChecksNoBoundary(Loop):
    def _process(self, messages: list[Any]) -> None:
        super()._process(messages)
        if not self._committer.rewind_due:
            self._checkpoints.copy_due()

    def _checkpoint(self) -> None:
        self._checkpoints.note_written()


class CarriesRecordsOver(FakeReader):
    _carried: Any = None

    def consume(self, records_max: int, timeout_s: float) -> Polled:
        polled = super().consume(records_max, timeout_s)
        messages = [*([self._carried] if self._carried else []), *polled.messages]
        self._carried = messages.pop() if messages else None
        return dataclasses.replace(polled, messages=messages)


class NeverRewinds(Loop):
    def _rewind(self) -> None:
        self._committer.rewind_due = False


PLANTED = {
    "move and publish swapped": Parts(loop=PublishesBeforeItMoves),
    "engine.abort dropped": Parts(engine=KeepsStatesThroughAborts),
    "commit without offsets": Parts(delivery=CommitsWithoutOffsets),
    "checkpoint before the commit": Parts(loop=ChecksNoBoundary, checkpoints=CopiesWithinTransactions),
    "a record carried over a turn": Parts(reader=CarriesRecordsOver),
    "the consumer not rewound": Parts(loop=NeverRewinds),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_ends_the_simulation(fault: str) -> None:
    with pytest.raises((AssertionError, ValueError, KeyError)) as caught:
        simulate(PLANTED[fault], seed=SEED, examples=60, steps=30, shrink=False)
    print(fault, "->", caught.value)


def test_positions_that_outlive_an_abort_end_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Partitions, "abort", lambda _: None)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        simulate(Parts(), seed=SEED, examples=60, steps=30, shrink=False)
