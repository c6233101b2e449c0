"""One turn of the loop: the only module that knows the order of things.

    consume -> decode -> apply -> encode -> publish -> commit -> checkpoint

A transaction is open from the first thing published until the next commit; an abort puts everything back to the last one:
the engine's rows, the partitions' positions, the consumer. Rebalance callbacks run inside consume, so they find the loop
between two batches, never within one. Why each step stands where it does: docs/architecture.md.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from processor.checkpoint.restore import Decision, Done, Present, Restore
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.writer import CheckpointWriter, Written
from processor.codec.dead_letters import BadShare, Refusals, dead_letter
from processor.codec.decode import Message
from processor.engine import Engine
from processor.errors import RepeatedAbort, SlotstreamError
from processor.figures import Figures
from processor.kafka.delivery import AbortedError, Delivery, ProducerFencedError
from processor.kafka.topic_errors import partitions_added
from processor.kafka.topics import Topics
from processor.loop.membership import Membership
from processor.partitions import Partition, Position, State
from processor.pipeline import Pipeline, Processed, clock_of, positions_after
from processor.records import Out, Rejected
from processor.rules import Clock
from processor.settings import TRANSACTION_TIMEOUT_S, Settings
from processor.split_sensors import KEYS_MAX as SPLIT_KEYS_MAX
from processor.split_sensors import SplitSensors
from processor.stream.consumer import MemberFencedError, Polled, Reader

_log = structlog.get_logger(__name__)

IDLE_S = 0.1
ABORTS_MAX = 5
# The final checkpoint on a revoke must leave time for the others to take the partition over.
REVOKE_CHECKPOINT_S = 5.0
EXPIRY_S = 30.0  # between two looks at a partition for sensors that have expired; a checkpoint looks too


class Join(Protocol):
    def __call__(self, listener: "Worker") -> Membership: ...


class Worker:
    """The loop of one instance. All methods but ready() and alive() are the loop's thread's."""

    def __init__(
        self,
        settings: Settings,
        *,
        topics: Topics,
        present: Present,
        made_by: dict[str, str],
        engine: Engine,
        pipeline: Pipeline,
        transaction: Delivery,
        join: Join,
        restore: Callable[[int], Restore],
        writer: CheckpointWriter,
        figures: Figures,
        split: SplitSensors,
        beat: Callable[[], None],
    ) -> None:
        self._settings, self._topics, self._present, self._made_by = settings, topics, present, made_by
        self._engine, self._pipeline, self._transaction, self._writer = engine, pipeline, transaction, writer
        self._restore, self._figures, self._split, self._beat = restore, figures, split, beat
        self.partitions: dict[int, Partition] = {}
        self._restores: dict[int, Restore] = {}
        self._decisions: dict[int, Decision] = {}
        self._prunable: list[Written] = []
        self._bad_share = BadShare(settings.dead_letter.max_ratio, topics.dead_letter.name)
        self._refusals = Refusals()
        self._aborts: tuple[str, int] = ("", 0)
        self._rewind_due = False
        self._abandoned = False
        self._busy = False
        self._suspended = False
        self._membership = join(self)

    # -- a turn -----------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Consumes once, applies and publishes what came, and commits and checkpoints what is due."""
        self._beat()
        self._take_restored()
        if orphans := self._membership.orphans():
            self._join_once_more(orphans)
        try:
            with self._figures.timed("consume"):
                polled = self._reader.consume(*self._wait())
        except MemberFencedError as fenced:
            self._join_again(fenced)
            return
        if self._rewind_due:
            # A callback aborted: what this call returned may lie past where we go back to.
            self._rewind()
            return
        self._busy = bool(polled.messages)
        if polled.messages:
            self._process(polled.messages)
        if self._rewind_due:
            return
        self._note_ends(polled)
        if polled.lost:
            self._restore_again(polled.lost)
        if self._commit_due():
            self._commit()
        self._checkpoint()
        self._figures.turned(self._engine, self.partitions.values(), self._reader.known_end, joined=self._reader.joined, ready=self.ready)

    def stop(self, *, leave: bool) -> None:
        """The last commit, the last checkpoints, and out of the group."""
        if not self._suspended:
            if leave:
                self._membership.leave(self._settings.drain_timeout + REVOKE_CHECKPOINT_S)
            self._give_up(list(self.partitions), self._settings.drain_timeout)
            self._reader.close()
        self._transaction.close()
        self._writer.close()

    def abandon(self, *, leave: bool, abort: bool = True) -> None:
        """After a failure: nothing more is committed, and nobody waits for what was open.

        Leaving the group lets others go on at once, and an operator change its offsets. abort: the open transaction, if no other process
        can have the name yet (see _undo).
        """
        self._abandoned = True
        for restore in self._restores.values():
            restore.cancel()
        try:
            if abort and (self._transaction.age_s or 0.0) < TRANSACTION_TIMEOUT_S:
                self._transaction.abort()
            if leave and not self._suspended:
                self._membership.leave(REVOKE_CHECKPOINT_S)
                self._reader.close()
        except (ProducerFencedError, SlotstreamError) as error:
            _log.debug("left to the broker's timeouts", reason=str(error))

    def suspend(self) -> None:
        """Undoes what is not committed and gives every partition up, without asking the broker's leave. No turn until resume().

        The place in the group is kept for the session's time, then others take the partitions.
        """
        self._suspended = True
        with contextlib.suppress(AbortedError, ProducerFencedError, SlotstreamError):  # then it is left to the next producer
            if (self._transaction.age_s or 0.0) < TRANSACTION_TIMEOUT_S:
                self._transaction.abort()
        self._engine.abort()
        self._writer.aborted()
        self._bad_share.abort()
        self._figures.aborted()
        for number in list(self.partitions):
            self._drop(number)
        self._reader.close()
        self._figures.turned(self._engine, [], self._reader.known_end, joined=False, ready=False)

    def resume(self) -> None:
        """Joins again with a new producer, if the name is still ours. Raises as turn(); then it is suspended still."""
        self._membership.prove_name("it was suspended")
        try:
            self._transaction.renew()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self._rewind_due = self._busy = False
        self._membership.join_again()
        self._suspended = False

    @property
    def _reader(self) -> Reader:
        return self._membership.reader

    @property
    def ready(self) -> bool:
        """Every assigned partition is restored and was once at the end seen at its assignment."""
        return self._reader.joined and all(p.live and p.caught_up for p in list(self.partitions.values()))

    @property
    def joined(self) -> bool:
        """The group has answered with an assignment, be it empty."""
        return self._reader.joined

    @property
    def restoring(self) -> int:
        return sum(not p.live for p in list(self.partitions.values()))

    def _wait(self) -> tuple[int, float]:
        """How many records to ask for, and how long to wait for them."""
        if self._busy:
            return self._settings.batch.readings_max, self._settings.batch.linger
        age_s = self._transaction.age_s
        wait_s = IDLE_S if age_s is None else max(0.0, min(IDLE_S, self._settings.commit_interval - age_s))
        return 1, min(wait_s, self._settings.batch.linger) if self._restores else wait_s

    # -- records ----------------------------------------------------------------------------------------------------------

    def _process(self, messages: list[Message]) -> None:
        # One call may return more than the first record of an idle wait: all of it is applied now or never seen again.
        done = self._pipeline.process(messages, self._clocks())
        for partition, position in positions_after(messages, self.partitions, done.clocks):
            partition.apply(position)
        self._figures.applied(done.batch, done.applied, done.decoded.resets, done.rejected)
        self._refusals.tell([messages[i].key() for i, _ in done.rejected], [reason for _, reason in done.rejected])
        self._bad_share.add(messages, done.rejected)
        try:
            with self._figures.timed("publish"):
                self._transaction.publish(self._outputs(done))
                self._transaction.publish(self._dead_letters(messages, done.rejected))
        except AbortedError as error:
            self._undo(str(error), None if error.retriable else error.kind)
        except ProducerFencedError as error:
            self._recover(error)

    def _clocks(self) -> dict[int, Clock]:
        return {number: clock_of(partition, partition.applied) for number, partition in self.partitions.items()}

    def _outputs(self, done: Processed) -> Iterable[Out]:
        topic, batch = self._topics.output, done.batch
        along = topic.partitions == self._topics.input.partitions
        for i, value in enumerate(done.values):
            if value is not None:
                yield Out(topic.name, batch.partition[i] if along else None, batch.key[i], value, int(batch.record_ms[i]))

    def _dead_letters(self, messages: list[Message], rejected: list[tuple[int, Rejected]]) -> Iterable[Out]:
        topic, source = self._topics.dead_letter, self._topics.input
        along = topic.partitions == source.partitions
        for i, reason in rejected:
            partition = reason.partition if along else None
            yield dead_letter(
                messages[i], reason, source_topic=source.name, topic=topic.name, partition=partition, bytes_max=topic.bytes_max
            )

    def _note_ends(self, polled: Polled) -> None:
        for number, end in polled.ends.items():
            partition = self.partitions.get(number)
            if partition is not None and partition.live:
                partition.reached_end(end)

    # -- commit and abort ---------------------------------------------------------------------------------------------------

    def _commit_due(self) -> bool:
        age_s = self._transaction.age_s
        if age_s is not None:
            return age_s >= self._settings.commit_interval
        return self._writer.pending or any(p.moved for p in self.partitions.values())

    def _commit(self) -> None:
        """Everything since the last commit becomes final, or is undone."""
        checkpoints, of = self._writer.outs()
        # Whatever is written for a partition goes with its offset, moved or not: without one the group could not refuse it.
        positions = [p for p in self.partitions.values() if p.moved or p.number in of]
        if not positions and self._transaction.age_s is None:
            return
        try:
            with self._figures.timed("commit"):
                if checkpoints:
                    self._transaction.publish(checkpoints)
                self._transaction.commit(self._topics.input.name, [p.offset for p in positions], self._reader)
        except AbortedError as error:
            self._undo(str(error), None if error.retriable else error.kind)
        except MemberFencedError as error:
            self._undo(str(error), None)  # the next consume() says it again, or tells of the loss
        except ProducerFencedError as error:
            self._recover(error)
        else:
            self._committed(positions)

    def _committed(self, positions: list[Partition]) -> None:
        self._engine.commit()
        self._writer.committed()
        for partition in positions:
            partition.commit()
        self._aborts = ("", 0)
        self._figures.committed()
        self._bad_share.commit()
        # The commit has proved that the partitions are still ours: what their newer checkpoints replaced may go.
        for written in self._prunable:
            if written.partition in self.partitions:
                self._writer.prune(written.prunable)
        self._prunable.clear()

    def _undo(self, reason: str, kind: str | None) -> None:
        """Back to the last commit, and once more from there; for the same kind of reason not for ever, but for one that passes (None)."""
        if self._transaction.age_s is not None:
            # Where records timed out, the abort asks for a higher epoch; and while a successor has a transaction open, the broker (4.3)
            # does not look at how old the one is that asks, and fences the successor.
            self._membership.prove_name("its transaction was not committed")
        self._go_back()
        count = 0 if kind is None else self._aborts[1] + 1 if self._aborts[0] == kind else 1
        self._aborts = (kind or "", count)
        _log.warning("transaction aborted, going back to the last commit", reason=reason, in_a_row=count)
        if count >= ABORTS_MAX:
            raise RepeatedAbort(
                f"{count} transactions in a row were aborted ({reason})",
                expected="a transaction that the broker takes",
                do="mend what the reason names, then start again: nothing was lost",
            )

    def _go_back(self) -> None:
        """Aborts: the caller knows that the name is ours. The consumer is rewound when its call is over: this may be a callback in it."""
        try:
            self._transaction.abort()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self._engine.abort()
        self._writer.aborted()
        for partition in self.partitions.values():
            partition.abort()
        self._rewind_due = True
        self._figures.aborted()
        self._bad_share.abort()

    def _rewind(self) -> None:
        self._rewind_due = False
        self._busy = False
        self._reader.rewind({p.number: p.applied.offset for p in self.partitions.values() if p.live})

    def _recover(self, fenced: ProducerFencedError) -> None:
        self._renew(fenced)
        self._undo(str(fenced), str(fenced))

    def _renew(self, fenced: ProducerFencedError) -> None:
        """A new producer, unless another process has the name. A rival that asks for the name at the same time may refuse this one too."""
        for _ in range(ABORTS_MAX):
            self._figures.fenced()
            self._membership.prove_name(str(fenced))
            told = "the broker timed the transaction out" if fenced.timed_out else "the broker refused the producer"
            _log.warning(f"{told}; going on with a new producer", reason=str(fenced))
            try:
                self._transaction.renew()
            except ProducerFencedError as again:
                fenced = again
            else:
                return
        raise RepeatedAbort(
            f"{ABORTS_MAX} producers in a row were refused ({fenced})",
            expected="a producer that the broker takes",
            do="look at the broker's log for the same time, then start again: nothing was lost",
        )

    def _join_again(self, fenced: MemberFencedError) -> None:
        """The group refuses this member: because another process has the name, or because the client outlived its session."""
        self._membership.prove_name(str(fenced))
        _log.warning("the client lost its place in the group in an outage; joining again", reason=str(fenced))
        self._go_back()
        for number in list(self.partitions):
            self._drop(number)
        self._become_new_member()

    def _join_once_more(self, orphans: set[int]) -> None:
        _log.warning("partitions have no owner, and the group does not see it; leaving it and joining again", partitions=sorted(orphans))
        self._membership.leave(self._settings.drain_timeout + REVOKE_CHECKPOINT_S)
        self._give_up(list(self.partitions), self._settings.drain_timeout)
        self._become_new_member()

    def _become_new_member(self) -> None:
        self._rewind_due = False
        self._membership.join_again()

    # -- partitions come and go (called from inside consume) -------------------------------------------------------------------

    def assigned(self, partitions: list[int]) -> None:
        if self._abandoned:
            return
        if any(number >= self._present.partitions for number in partitions):
            raise partitions_added(self._settings, self._present.partitions, max(partitions) + 1)
        self._figures.rebalanced("assigned")
        self._membership.moved()
        now_s = time.monotonic()
        for i, number in enumerate(sorted(partitions)):
            # Checkpoints are spread over the interval, so that no commit boundary copies them all.
            self._begin_restore(number, now_s + self._settings.checkpoint.interval * (i + 1) / len(partitions))
        _log.info("partitions assigned", partitions=sorted(partitions), owned=len(self.partitions))

    def revoked(self, partitions: list[int]) -> None:
        self._figures.rebalanced("revoked")
        _log.info("partitions revoked", partitions=sorted(partitions))
        if self._abandoned:
            return
        self._give_up(partitions, min(self._settings.drain_timeout, REVOKE_CHECKPOINT_S))

    def lost(self, partitions: list[int]) -> None:
        self._figures.rebalanced("lost")
        _log.warning("partitions lost: the group went on without this instance", partitions=sorted(partitions))
        if self._abandoned:
            return
        # The client joins again when this returns: a process that was asleep would take the name back from its successor.
        self._membership.prove_name("its session was over")
        self._membership.lost()
        self._go_back()
        for number in partitions:
            self._drop(number)

    def _give_up(self, partitions: list[int], timeout_s: float) -> None:
        """Commits, checkpoints what is given up as far as time allows, and forgets it."""
        until_s = time.monotonic() + timeout_s
        if partitions:
            self._commit()
        for number in partitions:
            partition = self.partitions.get(number)
            if partition is not None and partition.checkpoint_stale:
                self._finish_writing([number], until_s)
                if not self._writer.busy(number) and not partition.moved:
                    self._writer.write(self._snapshot(partition))
        self._finish_writing(partitions, until_s)
        for number in partitions:
            self._drop(number)

    def _finish_writing(self, partitions: list[int], until_s: float) -> None:
        """Lets these partitions' checkpoints come to their end, as far as time allows, and as the broker takes them."""
        while not self._rewind_due and (left_s := until_s - time.monotonic()) > 0 and any(map(self._writer.busy, partitions)):
            if self._writer.pending:
                self._commit()
                self._take_written(self._writer.finished())
            else:
                self._take_written(self._writer.wait(partitions, left_s))

    def _drop(self, number: int) -> None:
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        partition.drop()
        restore = self._restores.pop(number, None)
        if restore is not None:
            restore.cancel()
        self._decisions.pop(number, None)
        self._prunable = [written for written in self._prunable if written.partition != number]
        self._engine.drop(number)
        self._writer.drop(number)
        self._figures.dropped(number)

    def _begin_restore(self, number: int, checkpoint_due_s: float) -> None:
        self.partitions[number] = Partition(number, time.monotonic(), checkpoint_due_s=checkpoint_due_s)
        self._restores[number] = self._restore(number)

    def _restore_again(self, numbers: set[int]) -> None:
        """The log does not hold the next record of these partitions: what follows, a restore decides as at a start."""
        self._commit()
        if self._rewind_due:
            return  # they are started again where they stood, and found again
        for number in numbers:
            partition = self.partitions[number]
            _log.warning("the log does not hold the next record", partition=number, position=partition.applied.offset)
            self._reader.stop([number])
            # What is still written is of the state that ends here: it must not be taken for a checkpoint of the next one.
            self._take_written(self._writer.wait([number], REVOKE_CHECKPOINT_S))
            self._drop(number)
            self._begin_restore(number, partition.checkpoint_due_s)

    # -- restoring ----------------------------------------------------------------------------------------------------------

    def _take_restored(self) -> None:
        """One thing of each restore: replays take turns with live batches. Fetching begins here, never in a callback."""
        for partition in self.partitions.values():
            if partition.state is State.JOINING and partition.begun:
                self._go_live(partition)
        for number, restore in list(self._restores.items()):
            item = restore.take()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Decision):
                self._begin(self.partitions[number], item)
            elif isinstance(item, Done):
                self._restored(self.partitions[number], item)
            elif item is not None:
                self._replay(self.partitions[number], item)

    def _begin(self, partition: Partition, decision: Decision) -> None:
        if partition.number in self._decisions:
            # Decided once more, since the log was cut in the replay: nothing of what was restored so far counts.
            self._engine.drop(partition.number)
        self._decisions[partition.number] = decision
        if decision.policy is not None:
            self._figures.gap(decision.policy)
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
            _log.warning("the checkpoint was made elsewhere: bits may differ", by=snapshot.made_by, here=self._made_by)
        self._engine.table.load(partition.number, snapshot.keys, snapshot.rows)

    def _replay(self, partition: Partition, messages: list[Message]) -> None:
        begun_at = partition.applied.offset
        readings, clocks = self._pipeline.replay(messages, self._clocks())
        for _, position in positions_after(messages, self.partitions, clocks):
            partition.replayed(position)
        self._figures.replayed(readings, partition.applied.offset - begun_at)

    def _restored(self, partition: Partition, done: Done) -> None:
        del self._restores[partition.number]
        decision = self._decisions.pop(partition.number)
        partition.restored(decision.position, done.end)
        seconds = time.monotonic() - partition.assigned_at_s
        self._figures.restored(partition.number, seconds)
        _log.info(
            "partition restored",
            partition=partition.number,
            sensors=self._engine.table.sensors(partition.number),
            checkpoint=decision.snapshot.mark.offset if decision.snapshot else None,
            position=decision.position,
            backlog=max(0, done.end - decision.position),
            seconds=round(seconds, 3),
        )
        if decision.new:
            partition.join()  # its beginning is committed before any record is read
        else:
            self._go_live(partition)

    def _go_live(self, partition: Partition) -> None:
        partition.go_live()
        self._reader.start({partition.number: partition.applied.offset})

    # -- checkpoints ----------------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """At a commit boundary: copies one partition that is due. The writer does the rest."""
        self._take_written(self._writer.finished())
        if not self._engine.undo.empty or self._transaction.age_s is not None:
            return
        now_s = time.monotonic()
        self._expire_one(now_s)
        for partition in self.partitions.values():
            if now_s >= partition.checkpoint_due_s and partition.checkpoint_stale and not self._writer.busy(partition.number):
                with self._figures.timed("checkpoint"):
                    self._writer.write(self._snapshot(partition))
                partition.checkpoint_taken(now_s + self._settings.checkpoint.interval)
                return

    def checkpoint_anew(self) -> None:
        """What was written is gone: a checkpoint of every partition is due, idle ones too."""
        for partition in self.partitions.values():
            partition.checkpoint_lost()

    def _expire_one(self, now_s: float) -> None:
        """At a commit boundary: drops what has expired of one partition that is due, in a replay too; and looks for split sensors."""
        for partition in self.partitions.values():
            if now_s >= partition.expiry_due_s:
                self._expire(partition)
                self._split.found(self._engine.table.split(partition.number, SPLIT_KEYS_MAX))
                partition.expiry_due_s = now_s + EXPIRY_S
                return

    def _expire(self, partition: Partition) -> None:
        clock = clock_of(partition, partition.committed)
        self._figures.expired(self._engine.expire(partition.number, partition.committed.offset, clock))

    def _snapshot(self, partition: Partition) -> Snapshot:
        if partition.beginning is None or partition.applied != partition.committed:
            raise ValueError("a snapshot is taken at a commit boundary")
        self._expire(partition)
        table, number, base = self._engine.table, partition.number, self._writer.base(partition.number)
        keys, rows = table.copy(number, base)
        removed = table.take_forgotten(number)
        return Snapshot(number, partition.committed, partition.beginning, keys, rows, self._made_by, base, removed)

    def _take_written(self, finished: list[Written]) -> None:
        for written in finished:
            if written.error is not None:
                _log.error(
                    "a checkpoint could not be written; the one before it stays, and a restart replays from there",
                    partition=written.partition,
                    error=written.error,
                    expected="a folder with room that this process may write to (checkpoint.path)",
                    to_do="make room or mend the disk; the next checkpoint is tried after the interval",
                )
                continue
            self._figures.checkpointed(written.seconds, written.bytes)
            partition = self.partitions.get(written.partition)
            if partition is not None:
                partition.checkpointed(written.position, time.monotonic())
                self._prunable.append(written)
