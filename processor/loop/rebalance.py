"""Handles partitions that are assigned, revoked, lost, given up at a stop, or restored again because the log lacks the next record.

The consumer's listener: its consume() calls assigned(), revoked() and lost(), between two batches. Must not decide how a partition's
state is restored (restorer) or where a transaction ends (committer).
"""

import time
from collections.abc import Callable, Collection, Iterable

import structlog

from processor.engine import Engine
from processor.kafka.consumer import MemberFencedError
from processor.loop.checkpoints import Checkpoints
from processor.loop.committer import Committer
from processor.loop.membership import Membership
from processor.loop.restorer import Restorer
from processor.partitions import Partitions
from processor.recorder import Recorder

_log = structlog.get_logger(__name__)

# The final checkpoint on a revoke must leave the other members time to take over the partition.
REVOKE_CHECKPOINT_S = 5.0


class Rebalance:
    """check_assigned: raises if the group assigns partitions that did not exist at the start. drain_s: for the last checkpoints."""

    def __init__(
        self,
        *,
        partitions: Partitions,
        engine: Engine,
        committer: Committer,
        restorer: Restorer,
        checkpoints: Checkpoints,
        membership: Membership,
        recorder: Recorder,
        check_assigned: Callable[[list[int]], None],
        drain_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._partitions, self._engine, self._committer, self._restorer = partitions, engine, committer, restorer
        self._checkpoints, self._membership, self._recorder = checkpoints, membership, recorder
        self._check_assigned, self._drain_s, self._now_s = check_assigned, drain_s, now_s
        self.deaf = False  # after a failure: nothing more is committed, whatever callbacks come

    # -- what the consumer tells --------------------------------------------------------------------------------------------

    def assigned(self, numbers: list[int]) -> None:
        if self.deaf:
            return
        self._check_assigned(numbers)
        self._recorder.rebalanced("assigned")
        self._membership.moved()
        for i, number in enumerate(sorted(numbers)):
            self._restorer.begin(number, self._checkpoints.first_due_s(i, len(numbers)))
        _log.info("partitions assigned", partitions=sorted(numbers), owned=len(self._partitions))

    def revoked(self, numbers: list[int]) -> None:
        self._recorder.rebalanced("revoked")
        _log.info("partitions revoked", partitions=sorted(numbers))
        if not self.deaf:
            self._give_up(numbers, min(self._drain_s, REVOKE_CHECKPOINT_S))

    def lost(self, numbers: list[int]) -> None:
        self._recorder.rebalanced("lost")
        _log.warning("partitions lost: the group continued without this instance", partitions=sorted(numbers))
        if self.deaf:
            return
        # The client rejoins when this returns: a process that was suspended would take the name back from its successor.
        self._membership.prove_name("its session was over")
        self._membership.lost()
        self._committer.go_back()
        self.drop(numbers)

    # -- what the loop asks for ---------------------------------------------------------------------------------------------

    def join_again(self, fenced: MemberFencedError) -> None:
        """Handles a refused member: either another process holds the name, or the client outlived its session."""
        self._membership.prove_name(str(fenced))
        _log.warning("the client lost its membership in an outage, rejoining the group", reason=str(fenced))
        self._committer.go_back()
        self.drop(self._partitions)
        self._become_new_member()

    def join_once_more(self, orphans: set[int]) -> None:
        _log.warning("partitions have no owner and the group does not notice, rejoining the group", partitions=sorted(orphans))
        self.give_up_all(leave=True)
        self._become_new_member()

    def give_up_all(self, *, leave: bool) -> None:
        """Makes the last commit and the last checkpoints. leave: hand the partitions to other members at once."""
        if leave:
            self._membership.leave(self._drain_s + REVOKE_CHECKPOINT_S)
        self._give_up(list(self._partitions), self._drain_s)

    def restore_again(self, numbers: set[int]) -> None:
        """The log does not hold the next record of these partitions: a new restore decides how to continue, as at a start."""
        self._committer.commit()
        if self._committer.rewind_due:
            return  # they restart at their old position, and are detected again
        for number in numbers:
            partition = self._partitions[number]
            _log.warning("the next record is no longer in the log", partition=number, position=partition.applied.offset)
            self._membership.reader.stop([number])
            # A snapshot that is still being written belongs to the old state: it must not be mistaken for a checkpoint of the new one.
            self._checkpoints.wait([number], REVOKE_CHECKPOINT_S)
            self.drop([number])
            self._restorer.begin(number, partition.checkpoint_due_s)

    def drop(self, numbers: Iterable[int]) -> None:
        """Drops everything about these partitions."""
        for number in list(numbers):
            partition = self._partitions.pop(number, None)
            if partition is not None:
                partition.drop()
                self._restorer.drop(number)
                self._engine.drop(number)
                self._checkpoints.drop(number)
                self._recorder.dropped(number)

    def _give_up(self, numbers: list[int], timeout_s: float) -> None:
        """Commits, writes checkpoints of these partitions as far as time allows, and drops them."""
        until_s = self._now_s() + timeout_s
        if numbers:
            self._committer.commit()
        for number in numbers:
            partition = self._partitions.get(number)
            if partition is None:
                continue
            if partition.checkpoint_stale:
                self._finish_writing([number], until_s)
            # What was being written may already be the state as committed.
            if partition.checkpoint_stale and not partition.moved and not self._checkpoints.busy([number]):
                self._checkpoints.copy(partition)
        self._finish_writing(numbers, until_s)
        self.drop(numbers)

    def _finish_writing(self, numbers: Collection[int], until_s: float) -> None:
        """Completes these partitions' checkpoints, as long as time allows and the broker accepts them."""
        while not self._committer.rewind_due and (left_s := until_s - self._now_s()) > 0 and self._checkpoints.busy(numbers):
            if self._checkpoints.pending:
                self._committer.commit()
                self._checkpoints.note_written()
            else:
                self._checkpoints.wait(numbers, left_s)

    def _become_new_member(self) -> None:
        self._committer.rewind_due = False
        self._membership.join_again()
