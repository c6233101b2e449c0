"""What giving partitions up writes: a last checkpoint of each, and none twice."""

from typing import Any

import pytest

from processor.loop.rebalance import Rebalance
from processor.partitions import Beginning, Partition, Partitions, Position


class Anything:
    """Takes any call."""

    rewind_due = pending = False

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: None


class Checkpoints(Anything):
    """Is writing a checkpoint of the partition at `position`, which is done once it is waited for."""

    def __init__(self, partition: Partition, position: int) -> None:
        self._partition, self._position, self.writing, self.copied = partition, position, True, list[int]()

    def busy(self, _numbers: object) -> bool:
        return self.writing

    def wait(self, _numbers: object, _timeout_s: float) -> None:
        if self.writing:
            self.writing = False
            self._partition.checkpointed(self._position, 0.0)

    def copy(self, partition: Partition) -> None:
        self.copied.append(partition.committed.offset)


def live(offset: int) -> Partition:
    partition = Partition(0, 0.0)
    partition.begin(Beginning(0, "lineage", "fingerprint", "topic", 1), Position(offset, None), replay=None, checkpoint=None)
    partition.restored(offset, offset)
    partition.go_live()
    return partition


@pytest.mark.parametrize(("written", "copied"), [(7, []), (5, [7])])
def test_a_state_that_is_being_written_as_committed_is_not_written_again(written: int, copied: list[int]) -> None:
    partitions, partition = Partitions(), live(7)
    partitions[0] = partition
    checkpoints = Checkpoints(partition, written)
    other = Anything()
    rebalance = Rebalance(
        partitions=partitions,
        engine=other,
        committer=other,
        restorer=other,
        checkpoints=checkpoints,
        membership=other,
        recorder=other,
        check_assigned=lambda _: None,
        drain_s=10.0,
        now_s=lambda: 0.0,
    )
    rebalance.give_up_all(leave=False)
    assert checkpoints.copied == copied
    assert not partitions
