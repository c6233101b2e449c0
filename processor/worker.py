"""One turn of the loop: the only module that knows the order of things.

    consume -> decode -> apply -> encode -> publish -> commit -> checkpoint

A transaction is open from the first thing published until the next commit; an abort puts everything back to the last one:
the engine's rows, the partitions' positions, the consumer. Rebalance callbacks run inside consume, so they find the loop
between two batches, never within one. Why each step stands where it does: docs/architecture.md.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import structlog

from processor.checkpoint.restore import Decision, Done, Present, Restore
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.writer import Writer, Written
from processor.codec.dead_letters import dead_letter
from processor.codec.json_records import Decoded, JsonRecords, Message
from processor.engine import Engine
from processor.errors import DeadLetterLimit, Fenced, RepeatedAbort, SlotstreamError
from processor.metrics import Metrics
from processor.records import Applied, Out, Rejected
from processor.settings import Settings
from processor.stream.admin import Topics
from processor.stream.assignment import Partition, State
from processor.stream.consumer import Polled, Reader
from processor.stream.transaction import AbortedError, ProducerFencedError, Transaction

_log = structlog.get_logger(__name__)

IDLE_S = 0.1
ABORTS_MAX = 5
BAD_WINDOW = 10_000
BAD_RECORDS_MIN = 100
LAG_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
# The final checkpoint on a revoke must leave time for the others to take the partition over.
REVOKE_CHECKPOINT_S = 5.0


class StartReader(Protocol):
    def __call__(self, listener: "Worker") -> Reader: ...


@dataclass(slots=True)
class _Pending:
    """What the open transaction holds, for the metrics and the dead-letter limit: counted when it is committed."""

    predictions: int = 0
    readings: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
    record_ms: list[Any] = field(default_factory=list)
    bad: list[Any] = field(default_factory=list)  # bool arrays, in order


@dataclass(slots=True)
class _Progress:
    over: bool = False
    at_s: float = 0.0
    backlog: int = 0


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
        codec: JsonRecords,
        transaction: Transaction,
        start_reader: StartReader,
        restore: Callable[[int], Restore],
        writer: Writer,
        member_of: Callable[[], str | None],
        metrics: Metrics,
        beat: Callable[[], None],
    ) -> None:
        self._settings, self._topics, self._present, self._made_by = settings, topics, present, made_by
        self._engine, self._codec, self._transaction, self._writer = engine, codec, transaction, writer
        self._restore, self._member_of, self._metrics, self._beat = restore, member_of, metrics, beat
        self.partitions: dict[int, Partition] = {}
        self._restores: dict[int, Restore] = {}
        self._decisions: dict[int, Decision] = {}
        self._prunable: list[Written] = []
        self._pending = _Pending()
        self._recent_bad = np.zeros(0, np.bool_)
        self._aborts: tuple[str, int] = ("", 0)
        self._rewind_due = False
        self._busy = False
        self._lag_due_s = 0.0
        self._progress = _Progress()
        self._evictions_seen = 0
        self._reader = start_reader(self)

    # -- a turn -----------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Consumes once, applies and publishes what came, and commits and checkpoints what is due."""
        self._beat()
        self._take_restored()
        with self._timed("consume"):
            polled = self._reader.consume(*self._wait())
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
        if self._commit_due():
            self._commit()
        self._checkpoint()
        self._observe()

    def stop(self, *, leave: bool) -> None:
        """The last commit, the last checkpoints, and out of the group."""
        if leave:
            self._reader.leave()
            until_s = time.monotonic() + self._settings.drain_timeout + REVOKE_CHECKPOINT_S
            while (self.partitions or not self._reader.assignment_empty) and time.monotonic() < until_s:
                self._reader.consume(1, IDLE_S)
        self._give_up(list(self.partitions), self._settings.drain_timeout)
        self._reader.close()
        self._transaction.close()
        self._writer.close()

    def abandon(self) -> None:
        """After a failure: nothing more is committed, and nobody waits for what was open."""
        for restore in self._restores.values():
            restore.cancel()
        try:
            self._transaction.abort()
        except (ProducerFencedError, SlotstreamError) as error:
            _log.debug("the open transaction is left to the broker's timeout", reason=str(error))

    @property
    def ready(self) -> bool:
        """Every assigned partition is restored and was once at the end seen at its assignment."""
        return self._reader.joined and all(p.caught_up for p in list(self.partitions.values()))

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
        with self._timed("decode"):
            decoded = self._codec.decode(messages)
        with self._timed("apply"):
            applied = self._engine.apply(decoded.batch)
        with self._timed("encode"):
            values = self._codec.encode(decoded.batch, applied)
        rejected = self._with_broken(decoded, applied)
        self._move(messages)
        self._move_time(decoded)
        self._count(decoded, applied, rejected, len(messages))
        try:
            with self._timed("publish"):
                self._transaction.publish(self._outputs(decoded, values))
                self._transaction.publish(self._dead_letters(messages, rejected))
        except AbortedError as error:
            self._undo(str(error))
        except ProducerFencedError as error:
            self._recover(error)

    def _move(self, messages: list[Message]) -> None:
        last = {message.partition(): message.offset() for message in messages}
        for number, offset in last.items():
            partition = self.partitions[number]
            partition.applied = partition.applied.passed(offset + 1, None)

    def _move_time(self, decoded: Decoded) -> None:
        """Partition time rises by every record with readings, whatever becomes of it later."""
        batch = decoded.batch
        with_readings = batch.steps > 0
        numbers = np.array(batch.partition, np.int64)
        for number in np.unique(numbers[with_readings]).tolist():
            time_ms = int(batch.event_ms[with_readings & (numbers == number)].max())
            partition = self.partitions[number]
            partition.applied = partition.applied.passed(partition.applied.position, time_ms)

    def _with_broken(self, decoded: Decoded, applied: Applied) -> list[tuple[int, Rejected]]:
        """The codec's dead letters, and those of records that turned a state NaN or infinite, by message."""
        rejected = list(decoded.rejected)
        detail = "the record turns the sensor's state or prediction NaN or infinite; it was left out"
        for i in np.flatnonzero(~applied.finite).tolist():
            reason = Rejected(decoded.batch.partition[i], int(decoded.batch.offset[i]), "non_finite_state", detail)
            rejected.append((decoded.source[i], reason))
        return sorted(rejected, key=lambda pair: pair[0])

    def _outputs(self, decoded: Decoded, values: list[bytes | None]) -> Iterable[Out]:
        topic, batch = self._topics.output, decoded.batch
        along = topic.partitions == self._topics.input.partitions
        for i, value in enumerate(values):
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

    def _count(self, decoded: Decoded, applied: Applied, rejected: list[tuple[int, Rejected]], records: int) -> None:
        batch, pending = decoded.batch, self._pending
        pending.predictions += int((applied.finite & (batch.steps > 0)).sum())
        pending.readings += len(batch.x)
        pending.errors.update(reason.error for _, reason in rejected)
        pending.resets.update(decoded.resets)
        pending.record_ms.append(batch.record_ms[batch.steps > 0])
        bad = np.zeros(records, np.bool_)
        bad[[i for i, _ in rejected]] = True
        pending.bad.append(bad)
        self._metrics.observe("batch_readings", len(batch.x))
        self._check_dead_letters()

    def _check_dead_letters(self) -> None:
        """A wrong deployment must not drain a topic into the dead letters."""
        recent = np.concatenate([self._recent_bad, *self._pending.bad])[-BAD_WINDOW:]
        limit = self._settings.dead_letter.max_ratio
        if len(recent) >= BAD_RECORDS_MIN and recent.mean() > limit:
            worst, count = self._pending.errors.most_common(1)[0] if self._pending.errors else ("", 0)
            raise DeadLetterLimit(
                f"{int(recent.sum())} of the last {len(recent)} records are bad (most now: {worst}, {count})",
                expected=f"at most {limit:.0%} (dead_letter.max_ratio)",
                do=f"look at the headers of {self._topics.dead_letter.name}; the records since the last commit are still in the input",
            )

    def _note_ends(self, polled: Polled) -> None:
        for number, end in polled.ends.items():
            partition = self.partitions.get(number)
            if partition is not None and partition.live:
                partition.end_at(end)
                if not partition.moved and partition.applied.position >= partition.end_seen:
                    partition.caught_up = True

    # -- commit and abort ---------------------------------------------------------------------------------------------------

    def _commit_due(self) -> bool:
        age_s = self._transaction.age_s
        if age_s is not None:
            return age_s >= self._settings.commit_interval
        return any(p.moved for p in self.partitions.values())

    def _commit(self) -> None:
        """Everything since the last commit becomes final, or is undone."""
        positions = [p for p in self.partitions.values() if p.moved]
        if not positions and self._transaction.age_s is None:
            return
        try:
            with self._timed("commit"):
                self._transaction.commit(self._topics.input.name, [self._offset(p) for p in positions], self._reader.group_metadata())
        except AbortedError as error:
            self._undo(str(error))
        except ProducerFencedError as error:
            self._recover(error)
        else:
            self._committed(positions)

    def _offset(self, partition: Partition) -> tuple[int, int, str]:
        metadata = partition.beginning.to_metadata() if partition.beginning else ""
        return partition.number, partition.applied.position, metadata

    def _committed(self, positions: list[Partition]) -> None:
        self._engine.commit()
        for partition in positions:
            partition.commit()
        self._aborts = ("", 0)
        self._count_committed()
        # The commit has proved that the partitions are still ours: what their newer checkpoints replaced may go.
        for written in self._prunable:
            if written.partition in self.partitions:
                self._writer.prune(written.prunable)
        self._prunable.clear()

    def _count_committed(self) -> None:
        pending, metrics = self._pending, self._metrics
        self._recent_bad = np.concatenate([self._recent_bad, *pending.bad])[-BAD_WINDOW:]
        metrics.add("transactions_total", result="committed")
        metrics.add("predictions_total", pending.predictions)
        metrics.add("readings_total", pending.readings)
        for error, count in pending.errors.items():
            metrics.add("dead_letters_total", count, error=error)
        for reason, count in pending.resets.items():
            metrics.add("resets_total", count, reason=reason)
        if pending.record_ms:
            metrics.observe("end_to_end_seconds", time.time() - np.concatenate(pending.record_ms) / 1000)
        self._pending = _Pending()

    def _undo(self, reason: str) -> None:
        """Back to the last commit, and once more from there; for the same reason not for ever."""
        self._go_back()
        count = self._aborts[1] + 1 if self._aborts[0] == reason else 1
        self._aborts = (reason, count)
        _log.warning("transaction aborted, going back to the last commit", reason=reason, in_a_row=count)
        if count >= ABORTS_MAX:
            raise RepeatedAbort(
                f"{count} transactions in a row were aborted ({reason})",
                expected="a transaction that the broker takes",
                do="mend what the reason names, then start again: nothing was lost",
            )

    def _go_back(self) -> None:
        """The consumer is rewound when its call is over: this may be a callback inside it."""
        try:
            self._transaction.abort()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self._engine.abort()
        for partition in self.partitions.values():
            partition.abort()
        self._pending = _Pending()
        self._rewind_due = True
        self._metrics.add("transactions_total", result="aborted")

    def _rewind(self) -> None:
        self._rewind_due = False
        self._busy = False
        self._reader.rewind({p.number: p.applied.position for p in self.partitions.values() if p.live})

    def _recover(self, fenced: ProducerFencedError) -> None:
        self._renew(fenced)
        self._undo(str(fenced))

    def _renew(self, fenced: ProducerFencedError) -> None:
        """The broker refuses the producer: because another process has the name, or because it timed the transaction out."""
        self._metrics.add("transactions_total", result="fenced")
        holder = self._member_of()
        if holder not in (None, self._reader.member_id) or not fenced.timed_out:
            raise Fenced(
                f"another process runs as {self._settings.transactional_id} ({fenced})",
                expected="one process a name",
                do="nothing, if this one was replaced; else give each process its own `instance`",
            )
        _log.warning("the broker timed the transaction out; going on with a new producer", reason=str(fenced))
        self._transaction.renew()

    # -- partitions come and go (called from inside consume) -------------------------------------------------------------------

    def assigned(self, partitions: list[int]) -> None:
        self._metrics.add("rebalances_total", kind="assigned")
        now_s = time.monotonic()
        for i, number in enumerate(sorted(partitions)):
            # Checkpoints are spread over the interval, so that no commit boundary copies them all.
            due_s = now_s + self._settings.checkpoint.interval * (i + 1) / len(partitions)
            self.partitions[number] = Partition(number, now_s, checkpoint_due_s=due_s)
            self._restores[number] = self._restore(number)
        _log.info("partitions assigned", partitions=sorted(partitions), owned=len(self.partitions))

    def revoked(self, partitions: list[int]) -> None:
        self._metrics.add("rebalances_total", kind="revoked")
        _log.info("partitions revoked", partitions=sorted(partitions))
        self._give_up(partitions, min(self._settings.drain_timeout, REVOKE_CHECKPOINT_S))

    def lost(self, partitions: list[int]) -> None:
        self._metrics.add("rebalances_total", kind="lost")
        _log.warning("partitions lost: the group went on without this instance", partitions=sorted(partitions))
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
            if partition is not None and self._worth_checkpointing(partition):
                self._take_written(self._writer.wait([number], until_s - time.monotonic()))
                if not self._writer.busy(number):
                    self._writer.write(self._snapshot(partition))
        self._take_written(self._writer.wait(partitions, until_s - time.monotonic()))
        for number in partitions:
            self._drop(number)

    def _drop(self, number: int) -> None:
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        partition.to(State.DROPPED)
        restore = self._restores.pop(number, None)
        if restore is not None:
            restore.cancel()
        self._decisions.pop(number, None)
        self._prunable = [written for written in self._prunable if written.partition != number]
        self._engine.drop(number)
        self._metrics.forget("lag_records", partition=number)
        self._metrics.forget("checkpoint_age_seconds", partition=number)

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
        self._decisions[partition.number] = decision
        partition.beginning = decision.beginning
        snapshot = decision.snapshot
        if snapshot is None:
            return
        if snapshot.made_by != self._made_by:
            _log.warning("the checkpoint was made elsewhere: bits may differ", by=snapshot.made_by, here=self._made_by)
        self._engine.table.load(partition.number, snapshot.keys, snapshot.rows)
        partition.applied = partition.committed = snapshot.mark
        partition.checkpoint_position = snapshot.mark.position

    def _replay(self, partition: Partition, messages: list[Message]) -> None:
        decoded = self._codec.decode(messages)
        self._engine.apply(decoded.batch, replay=True)
        self._move(messages)
        self._move_time(decoded)
        partition.committed = partition.applied  # it was committed before: an abort does not go back behind it
        self._metrics.add("replayed_readings_total", len(decoded.batch.x))

    def _restored(self, partition: Partition, done: Done) -> None:
        del self._restores[partition.number]
        decision = self._decisions.pop(partition.number)
        partition.applied = partition.applied.passed(decision.position, None)
        partition.committed = partition.applied
        partition.end_seen = done.end
        partition.caught_up = decision.position >= done.end
        if partition.checkpoint_position is None:
            partition.checkpoint_due_s = 0.0  # the first is made at once: a crash in the first seconds finds one
        seconds = time.monotonic() - partition.assigned_at_s
        self._metrics.observe("restore_seconds", seconds)
        _log.info(
            "partition restored",
            partition=partition.number,
            sensors=self._engine.table.sensors(partition.number),
            checkpoint=decision.snapshot.mark.position if decision.snapshot else None,
            position=decision.position,
            backlog=max(0, done.end - decision.position),
            seconds=round(seconds, 3),
        )
        if decision.new:
            partition.to(State.JOINING)  # its beginning is committed before any record is read
        else:
            self._go_live(partition)

    def _go_live(self, partition: Partition) -> None:
        partition.to(State.LIVE)
        self._reader.start({partition.number: partition.applied.position})

    # -- checkpoints ----------------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """At a commit boundary: copies one partition that is due. The writer does the rest."""
        self._take_written(self._writer.finished())
        if not self._engine.undo.empty or self._transaction.age_s is not None:
            return
        now_s = time.monotonic()
        for partition in self.partitions.values():
            if now_s >= partition.checkpoint_due_s and self._worth_checkpointing(partition) and not self._writer.busy(partition.number):
                with self._timed("checkpoint"):
                    self._writer.write(self._snapshot(partition))
                partition.checkpoint_due_s = now_s + self._settings.checkpoint.interval
                return

    def _worth_checkpointing(self, partition: Partition) -> bool:
        return partition.live and partition.committed.position != partition.checkpoint_position

    def _snapshot(self, partition: Partition) -> Snapshot:
        if partition.beginning is None or partition.applied != partition.committed:
            raise ValueError("a snapshot is taken at a commit boundary")
        keys, rows = self._engine.table.copy(partition.number)
        return Snapshot(partition.number, partition.committed, partition.beginning, keys, rows, self._made_by)

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
            self._metrics.observe("checkpoint_seconds", written.seconds)
            self._metrics.set("checkpoint_bytes", written.bytes)
            partition = self.partitions.get(written.partition)
            if partition is not None:
                partition.checkpoint_position = written.position
                partition.checkpoint_at_s = time.monotonic()
                self._prunable.append(written)

    # -- figures --------------------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        engine, metrics = self._engine, self._metrics
        if engine.tile_rows:
            metrics.observe("tile_fill_ratio", min(1.0, engine.tile_readings / engine.tile_rows))
            engine.tile_rows = engine.tile_readings = 0
        now_s = time.monotonic()
        if now_s < self._lag_due_s:
            return
        self._lag_due_s = now_s + LAG_EVERY_S
        metrics.set("slots_used", engine.table.resident)
        metrics.set("sensors_parked", len(engine.table.parking))
        metrics.add("evictions_total", engine.table.evictions - self._evictions_seen)
        self._evictions_seen = engine.table.evictions
        metrics.set("ready", float(self.ready))
        self._report(now_s)
        for partition in self.partitions.values():
            since_s = partition.checkpoint_at_s if partition.checkpoint_at_s is not None else partition.assigned_at_s
            metrics.set("checkpoint_age_seconds", now_s - since_s, partition=partition.number)
            if partition.live:
                end = self._reader.known_end(partition.number)
                metrics.set("lag_records", max(0, end - partition.committed.position), partition=partition.number)

    def _report(self, now_s: float) -> None:
        """Says how far the start has come: at first, every PROGRESS_EVERY_S, and once when it is over."""
        progress, live = self._progress, [p for p in self.partitions.values() if p.live]
        if progress.over or not self._reader.joined:
            return
        backlog = sum(max(0, p.end_seen - p.committed.position) for p in live)
        if self.ready:
            progress.over = True
            _log.info("ready", partitions=len(live), replayed_readings=int(self._metrics.value("replayed_readings_total")))
        elif now_s - progress.at_s >= PROGRESS_EVERY_S:
            rate = (progress.backlog - backlog) / (now_s - progress.at_s) if progress.backlog else 0.0
            minutes = round(backlog / rate / 60, 1) if rate > 0 else None
            _log.info("catching up", live=len(live), restoring=len(self._restores), backlog=backlog, minutes_left=minutes)
            progress.at_s, progress.backlog = now_s, backlog

    def _timed(self, stage: str) -> "_Timed":
        return _Timed(self._metrics, stage)


class _Timed:
    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._metrics, self._stage = metrics, stage

    def __enter__(self) -> None:
        self._begun_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._metrics.observe("stage_seconds", time.perf_counter() - self._begun_s, stage=self._stage)


