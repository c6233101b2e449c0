"""`slotstream rekey FROM TO`: copies a topic so that every record has its sensor as its key, and all records of a sensor one partition.

Each record is copied exactly once: copies and offsets are in one transaction, and several instances share the partitions of FROM. Times,
values and headers stay. A record that names no sensor goes to the dead-letter topic. Knows nothing of readings or models.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from confluent_kafka import Message, Producer

from processor.codec.dead_letters import dead_letter
from processor.codec.decode import check_key
from processor.codec.json_records import loaded
from processor.codec.key_source import KeySource
from processor.codec.reject import RejectError
from processor.errors import Fenced, RepeatedAbort, SlotstreamError
from processor.kafka.clients import output_producer
from processor.kafka.consumer import GroupConsumer, MemberFencedError
from processor.kafka.delivery import AbortedError, ProducerFencedError
from processor.kafka.partition_log import PartitionLog
from processor.kafka.topics import Topic
from processor.kafka.transaction import Transaction
from processor.records import Out, Rejected
from processor.settings import Settings

_log = structlog.get_logger(__name__)

RECORDS_MAX = 4096
WAIT_S = 0.05
LEAVE_S = 10.0
ABORTS_MAX = 5


@dataclass(slots=True)
class Copied:
    """Records that are in TO, and those that named no sensor, by this process."""

    records: int = 0
    dead_letters: int = 0


class Rekey:
    """source, target, dead_letters: the topics, as they are. Not thread-safe. Is the consumer's listener."""

    def __init__(self, settings: Settings, source: Topic, target: Topic, dead_letters: Topic) -> None:
        self._settings, self._source, self._target, self._dead_letters = settings, source, target, dead_letters
        self._key = KeySource(settings.input.key)
        self.copied, self._open = Copied(), Copied()  # final, and in the open transaction
        self._new: set[int] = set()  # assigned, and not started yet
        self._committed: dict[int, int] = {}  # of started partitions, where an abort goes back to
        self._positions: dict[int, int] = {}  # the next offset of partitions with records in the open transaction
        self._ended: set[int] = set()
        self._undo_due = False
        self._aborts = 0
        self._delivery = Transaction(self._producer, lambda: None)
        self._consumer = GroupConsumer(settings, self, secrets.token_hex(4))

    def _producer(self) -> Producer:
        sizes = self._target.bytes_max, self._dead_letters.bytes_max
        return output_producer(self._settings, record_bytes_max=max(sizes), batch_bytes_max=min(sizes))

    def run(self, stopping: Callable[[], bool], *, to_end: bool) -> Copied:
        """Copies until it is stopped, or with `to_end` until its partitions are read to their ends. Raises SlotstreamError."""
        try:
            while not stopping() and not (to_end and self._at_end()):
                self._turn()
            self._leave()
        except MemberFencedError as error:
            raise Fenced(
                f"the group does not know this instance any more ({error})",
                expected="one process with the name",
                do="give each instance a name with --instance, or start this one again",
            ) from error
        finally:
            self._consumer.close()
            self._delivery.close()
        return self.copied

    def _turn(self) -> None:
        """One round: what is read is published, and committed once it is old enough."""
        try:
            polled = self._consumer.consume(RECORDS_MAX, WAIT_S)
            if self._undo_due:
                self._undo()
                return
            self._publish(polled.messages)
            for number in polled.lost:
                self._find_again(number)
            self._ended |= polled.ends.keys()
            self._begin()
            if self._delivery.age_s is not None and (not polled.messages or self._delivery.age_s >= self._settings.commit_interval):
                self._commit()
        except AbortedError as error:
            self._aborted(error)
        except ProducerFencedError as error:
            self._renew(error)

    def _publish(self, messages: list[Message]) -> None:
        outs = [self._out(message) for message in messages]
        self._delivery.publish(outs) if outs else None
        for message in messages:
            self._positions[message.partition()] = message.offset() + 1
            self._ended.discard(message.partition())
        dead = sum(out.topic == self._dead_letters.name for out in outs)
        self._open = Copied(self._open.records + len(outs) - dead, self._open.dead_letters + dead)

    def _out(self, message: Message) -> Out:
        """The record as it is copied. One without a value names its sensor by its own key where it does not say so otherwise."""
        value = message.value()
        try:
            key = self._key.key(message, loaded(value) if self._key.in_value and value is not None else None)
            check_key(key)
        except RejectError as error:
            reason = Rejected(message.partition(), message.offset(), error.error, error.detail)
            topic = self._dead_letters
            return dead_letter(
                message, reason, source_topic=self._source.name, topic=topic.name, partition=None, bytes_max=topic.bytes_max
            )
        return Out(self._target.name, None, key, value, message.timestamp()[1], message.headers())

    def _begin(self) -> None:
        """Starts new partitions where the group is, or at their beginning."""
        for number in sorted(self._new):
            log = self._log(number)
            try:
                committed = log.committed()
                start = log.bounds()[0] if committed is None else committed.offset
            finally:
                log.close()
            self._consumer.start({number: start})
            self._committed[number] = start
            self._new.discard(number)

    def _find_again(self, number: int) -> None:
        """Goes on where the client no longer knows the next record. Raises SlotstreamError if the log does not hold it any more."""
        log, position = self._log(number), self._positions.get(number, self._committed[number])
        try:
            first, _ = log.bounds()
        finally:
            log.close()
        if first > position:
            raise SlotstreamError(
                f"partition {number} of {self._source.name} begins at offset {first}, and the next to copy is {position}",
                expected="a topic that keeps its records until they are copied",
                do="copy under another --group from the beginning of what is left, or move the offsets of this one",
            )
        self._consumer.rewind({number: position})

    def _log(self, number: int) -> PartitionLog:
        return PartitionLog(self._settings, number, lambda: False, self._consumer.committed)

    def _commit(self) -> None:
        if self._delivery.age_s is None:
            return
        self._delivery.commit(self._source.name, [(number, offset, "") for number, offset in self._positions.items()], self._consumer)
        self._committed |= self._positions
        self._positions, self._aborts = {}, 0
        self.copied = Copied(self.copied.records + self._open.records, self.copied.dead_letters + self._open.dead_letters)
        self._open = Copied()

    def _undo(self) -> None:
        """Back to the last commit."""
        self._delivery.abort()
        self._back()

    def _back(self) -> None:
        self._positions, self._open, self._undo_due = {}, Copied(), False
        self._ended.clear()
        self._consumer.rewind(self._committed)

    def _aborted(self, error: AbortedError) -> None:
        self._aborts += not error.retriable
        if self._aborts == ABORTS_MAX:
            raise RepeatedAbort(
                f"{ABORTS_MAX} transactions in a row were aborted ({error})",
                expected="transactions that can be committed",
                do="look at the broker's log for the same time, then start again",
            ) from error
        _log.warning("transaction aborted, going back to the last commit", reason=str(error))
        try:
            self._undo()
        except ProducerFencedError as fenced:
            self._renew(fenced)

    def _renew(self, error: ProducerFencedError) -> None:
        """A producer whose transaction timed out is replaced; any other that is fenced has lost its name."""
        if not error.timed_out:
            raise Fenced(
                f"another process copies as {self._settings.transactional_id} ({error})",
                expected="one process with the name",
                do="give each instance a name with --instance",
            ) from error
        self._delivery.renew()
        self._back()

    def _at_end(self) -> bool:
        return self._consumer.joined and not self._new and self._committed.keys() <= self._ended and self._delivery.age_s is None

    def _leave(self) -> None:
        """Commits, and gives the partitions back, so that others need not wait for this session's end.

        What cannot be committed is copied by whoever reads it next.
        """
        try:
            self._commit()
        except (AbortedError, ProducerFencedError) as error:
            _log.warning("the last transaction was not committed", reason=str(error))
            self._undo_due = True
        self._consumer.leave()
        until_s = time.monotonic() + LEAVE_S
        while not self._consumer.left and time.monotonic() < until_s:
            self._consumer.consume(1, WAIT_S)

    # What the consumer tells.

    def assigned(self, partitions: list[int]) -> None:
        self._new |= set(partitions)

    def revoked(self, partitions: list[int]) -> None:
        """Commits first: whoever gets the partitions goes on where this process ends."""
        try:
            # After a loss the open transaction has records that another process copies too: it is only to be aborted.
            if not self._undo_due:
                self._commit()
        finally:
            self._drop(partitions)

    def lost(self, partitions: list[int]) -> None:
        self._drop(partitions)
        self._undo_due = True

    def _drop(self, partitions: list[int]) -> None:
        for number in partitions:
            self._new.discard(number)
            self._ended.discard(number)
            self._committed.pop(number, None)
            self._positions.pop(number, None)
