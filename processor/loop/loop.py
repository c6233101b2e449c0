"""One turn of the loop: poll, process, publish, commit, checkpoint. The only module that knows the order of operations.

A transaction is open from the first published record until the next commit. An abort returns everything to the last commit: the engine's
rows, the partitions' positions, the consumer. Rebalance callbacks run inside the poll, so they always run between two batches, never
within one. docs/architecture/commit.md gives the reason for the order of the steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from processor.codec.columns import Message
from processor.codec.dead_letters import BadShare, Refusals
from processor.engine import Engine
from processor.errors import SlotstreamError
from processor.kafka.consumer import MemberFencedError, Polled
from processor.kafka.delivery import ClientStuckError, ProducerFencedError
from processor.loop.checkpoints import Checkpoints
from processor.loop.committer import Committer
from processor.loop.membership import Membership
from processor.loop.outputs import Outputs
from processor.loop.progress import Progress
from processor.loop.rebalance import REVOKE_CHECKPOINT_S, Rebalance
from processor.loop.restorer import Restorer
from processor.partitions import Partitions
from processor.pipeline import Pipeline, clock_of, positions_after
from processor.recorder import Recorder

_log = structlog.get_logger(__name__)

IDLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """records_max: of one poll. linger_s: how long a poll waits for that many. commit_interval_s: how long a transaction stays open."""

    records_max: int
    linger_s: float
    commit_interval_s: float


class Loop:
    """The loop of one instance. Only one thread uses it."""

    def __init__(
        self,
        pace: Pace,
        *,
        partitions: Partitions,
        engine: Engine,
        pipeline: Pipeline,
        outputs: Outputs,
        bad_share: BadShare,
        committer: Committer,
        restorer: Restorer,
        checkpoints: Checkpoints,
        rebalance: Rebalance,
        membership: Membership,
        recorder: Recorder,
        progress: Progress,
        beat: Callable[[], None],
    ) -> None:
        self._pace, self.partitions, self._engine, self._pipeline, self._outputs = pace, partitions, engine, pipeline, outputs
        self._committer, self._restorer, self._checkpoints, self._rebalance = committer, restorer, checkpoints, rebalance
        self._bad_share, self._membership, self._recorder, self._progress, self._beat = bad_share, membership, recorder, progress, beat
        self._refusals = Refusals()
        self._busy = self._suspended = False

    def turn(self) -> None:
        """Polls once, processes and publishes the records, and commits and checkpoints what is due."""
        self._beat()
        self._membership.check_contact()
        for partition in self._restorer.take():
            self._membership.reader.start({partition.number: partition.applied.offset})
        if orphans := self._membership.orphans():
            self._rebalance.join_once_more(orphans)
        try:
            with self._recorder.timed("consume"):
                polled = self._membership.reader.consume(*self._wait())
        except MemberFencedError as fenced:
            self._rebalance.join_again(fenced)
            return
        if self._committer.rewind_due:
            # A callback aborted: the records of this call may lie past the offset that the loop goes back to.
            self._rewind()
            return
        self._busy = bool(polled.messages)
        if polled.messages:
            self._process(polled.messages)
        if self._committer.rewind_due:
            return
        self._note_ends(polled)
        if polled.lost:
            self._rebalance.restore_again(polled.lost)
        if self._committer.due(self._pace.commit_interval_s):
            self._committer.commit()
        self._checkpoint()
        self._report()

    def stop(self, *, leave: bool) -> None:
        """Makes the last commit and the last checkpoints, and leaves the group."""
        if not self._suspended:
            self._rebalance.give_up_all(leave=leave)
            self._membership.close()
        self._committer.close()
        self._checkpoints.close()

    def abandon(self, *, leave: bool, abort: bool = True) -> None:
        """Ends after a failure: commits nothing more, and does not wait for open work.

        Leaves the group, so that other instances can take over at once and an operator can change its offsets. abort: also abort the open
        transaction, if no other process can hold the name yet (see Committer.abort_if_young).
        """
        self._rebalance.deaf = True
        self._restorer.cancel()
        try:
            if abort:
                self._committer.abort_if_young()
            if leave and not self._suspended:
                self._membership.leave(REVOKE_CHECKPOINT_S)
                self._membership.close()
        except (ClientStuckError, ProducerFencedError, SlotstreamError) as error:
            _log.debug("left to the broker's timeouts", reason=str(error))

    def suspend(self) -> None:
        """Rolls back uncommitted work and gives up all partitions, even if the broker refuses. Call resume() before the next turn.

        The membership is kept until the session times out; then other instances take the partitions.
        """
        self._suspended = True
        self._committer.suspend()
        self._rebalance.drop(self.partitions)
        self._membership.close()
        self._report()

    def resume(self) -> None:
        """Rejoins with new clients, if this process still holds the name. Raises the same errors as turn(), and then stays suspended."""
        self._membership.prove_name("it was suspended")
        self._committer.resume()
        self._busy = False
        self._membership.join_again()
        self._suspended = False

    @property
    def ready(self) -> bool:
        """Whether every assigned partition is restored and has reached the end of the log as of its assignment."""
        return self.joined and all(p.live and p.caught_up for p in self.partitions.values())

    @property
    def joined(self) -> bool:
        """Whether the group has answered with an assignment, even an empty one."""
        return not self._suspended and self._membership.joined

    def checkpoints_lost(self) -> None:
        """All written checkpoints are gone: a checkpoint of every partition is due."""
        self._checkpoints.all_lost()

    def _wait(self) -> tuple[int, float]:
        """The number of records to poll for, and how long to wait for them."""
        pace, age_s = self._pace, self._committer.age_s
        if self._busy:
            return pace.records_max, pace.linger_s
        wait_s = IDLE_S if age_s is None else max(0.0, min(IDLE_S, pace.commit_interval_s - age_s))
        return 1, min(wait_s, pace.linger_s) if self._restorer.busy else wait_s

    def _process(self, messages: list[Message]) -> None:
        # One call may return more than the first record after an idle wait: all records must be applied now, or they are never seen
        # again.
        clocks = {number: clock_of(partition, partition.applied) for number, partition in self.partitions.items()}
        done = self._pipeline.process(messages, clocks)
        # Before publishing, so that an abort during publishing rolls back positions and states together.
        for partition, position in positions_after(messages, self.partitions, done.clocks):
            partition.apply(position)
        self._recorder.applied(done.batch, done.applied, done.decoded.resets, done.rejected)
        self._refusals.tell([messages[i].key() for i, _ in done.rejected], [reason for _, reason in done.rejected])
        self._bad_share.add(messages, done.rejected)
        outputs = self._outputs
        self._committer.publish(outputs.predictions(done), outputs.alarms(done), outputs.dead_letters(messages, done))

    def _note_ends(self, polled: Polled) -> None:
        for number, end in polled.ends.items():
            partition = self.partitions.get(number)
            if partition is not None and partition.live:
                partition.reached_end(end)

    def _checkpoint(self) -> None:
        self._checkpoints.note_written()
        if self._engine.at_boundary and self._committer.age_s is None:
            self._checkpoints.copy_due()

    def _rewind(self) -> None:
        self._committer.rewind_due = self._busy = False
        self._membership.reader.rewind(self.partitions.applied)

    def _report(self) -> None:
        reader = self._membership.reader
        self._progress.turned(self._engine.stats(), self.partitions.values(), reader.known_end, joined=self.joined, ready=self.ready)
