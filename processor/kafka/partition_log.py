"""What the group and the log hold of one partition: its committed offset, its bounds, its records once more.

A consumer of the same group that never joins, read committed: used beside the loop, by one thread. Every question is asked
until it is answered, because an instance that died may have left a transaction open on the offset.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from processor.errors import SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import bulk_consumer, restore_consumer
from processor.settings import Settings

_log = structlog.get_logger(__name__)

CALL_S = 2.0
PATIENCE_S = 10.0
RECORDS_MAX = 4096
BULK_RECORDS_MAX = 50_000
TURN_S = 0.02  # of a call that gets less than it asks for: what there is waits that long


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


class OutOfRangeError(Exception):
    """The log no longer holds the record that is to be read next."""


@dataclass(frozen=True, slots=True)
class Committed:
    offset: int
    metadata: str


class PartitionLog:
    def __init__(self, settings: Settings, partition: int, cancelled: Callable[[], bool]) -> None:
        self._partition = TopicPartition(settings.input.topic, partition)
        self._cancelled = cancelled
        self._consumer = restore_consumer(settings)

    def committed(self) -> Committed | None:
        """The group's committed offset, stable: no open transaction is about to change it. None if there is none."""
        found = self._until_answered(lambda: self._consumer.committed([self._partition], CALL_S)[0])
        return Committed(found.offset, found.metadata or "") if found.offset >= 0 else None

    def others(self, partitions: int) -> list[str]:
        """The metadata of the group's committed offsets in the others of the topic's partitions."""
        topic, own = self._partition.topic, self._partition.partition
        wanted = [TopicPartition(topic, number) for number in range(partitions) if number != own]
        if not wanted:
            return []
        found = self._until_answered(lambda: self._consumer.committed(wanted, CALL_S))
        return [tp.metadata for tp in found if tp.offset >= 0 and tp.metadata]

    def bounds(self) -> tuple[int, int]:
        """The log's first offset, and the one after its last committed record."""
        low, end = self._until_answered(lambda: self._consumer.get_watermark_offsets(self._partition, CALL_S))
        return int(low), int(end)

    def read(self, start: int, position: int) -> Iterator[list[Message]]:
        """The records from start up to, not including, position, in batches. The last of them may not exist.

        Raises OutOfRangeError if the log begins after start, CancelledError when cancelled.
        """
        self._consumer.assign([TopicPartition(self._partition.topic, self._partition.partition, start)])
        ended = start >= position
        while not ended:
            if self._cancelled():
                raise CancelledError
            batch = list[Message]()
            for message in self._consumer.consume(RECORDS_MAX, TURN_S):
                error = message.error()
                if error is None:
                    ended = ended or message.offset() >= position
                    if message.offset() < position:
                        batch.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended = True
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise OutOfRangeError
                else:
                    _end_if_decided(error, self._partition.topic)
            if batch:
                yield batch

    def close(self) -> None:
        self._consumer.close()

    def _until_answered(self, ask: Callable[[], Any]) -> Any:
        said_at_s = time.monotonic()
        while not self._cancelled():
            try:
                return ask()
            except KafkaException as error:
                reason = error.args[0]
                found = f"partition {self._partition.partition}: the broker refuses to tell offsets"
                if reason.code() in permissions.AUTHORIZATION:
                    raise permissions.refused(found, reason) from error
                if reason.fatal():
                    raise SlotstreamError(
                        f"{found} ({reason.str()})", expected="an answer", do="look at the broker's log", see="the-broker-refuses"
                    ) from error
                if time.monotonic() - said_at_s > PATIENCE_S:
                    said_at_s = time.monotonic()
                    _log.warning("waiting for offsets", partition=self._partition.partition, error=reason.str())
        raise CancelledError


def read_to_end(settings: Settings, topic: str, partition: int, cancelled: Callable[[], bool]) -> Iterator[list[Message]]:
    """Every record of a partition, read committed, in batches, up to where the log is decided. Raises CancelledError when cancelled."""
    consumer = bulk_consumer(settings)
    try:
        # A client that does not know the leader yet as it is to find the beginning waits half a second before it looks again.
        with contextlib.suppress(KafkaException):
            consumer.get_watermark_offsets(TopicPartition(topic, partition), CALL_S)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        # The end is what the broker says it is, once everything before it was handed over: a watermark taken earlier may be passed by.
        ended = False
        while not ended:
            if cancelled():
                raise CancelledError
            batch = list[Message]()
            for message in consumer.consume(BULK_RECORDS_MAX, TURN_S):
                error = message.error()
                if error is None:
                    batch.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended = True
                else:
                    _end_if_decided(error, topic)
            if batch:
                yield batch
    finally:
        consumer.close()


def newest(settings: Settings, topic: str, partitions: int, records: int, *, timeout_s: float) -> list[Message]:
    """The newest records of each partition, read committed, at most so many of each; fewer where time is up first.

    Raises KafkaException or SlotstreamError where the broker does not answer.
    """
    consumer = restore_consumer(settings)
    try:
        until_s, starts = time.monotonic() + timeout_s, list[TopicPartition]()
        for number in range(partitions):
            low, end = _bounds(consumer, TopicPartition(topic, number), until_s)
            if low < end:
                starts.append(TopicPartition(topic, number, max(low, end - records)))
        consumer.assign(starts)
        left, found = {start.partition for start in starts}, list[Message]()
        while left and time.monotonic() < until_s:
            for message in consumer.consume(RECORDS_MAX, TURN_S):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):  # the end, or gone meanwhile
                    left.discard(message.partition())
                else:
                    _end_if_decided(error, topic)
        return found
    finally:
        consumer.close()


def _bounds(consumer: Consumer, partition: TopicPartition, until_s: float) -> tuple[int, int]:
    """The first and the next offset of a log. A broker may not know yet that it leads a partition that was made a moment ago."""
    while True:
        try:
            found: tuple[int, int] = consumer.get_watermark_offsets(partition, max(CALL_S, until_s - time.monotonic()))
        except KafkaException as error:
            _end_if_decided(error.args[0], partition.topic)
            if time.monotonic() >= until_s:
                raise
            time.sleep(TURN_S)
        else:
            return found


def in_several_partitions(
    records: Iterable[Message], sensor: Callable[[Message], bytes | None] = lambda record: record.key()
) -> dict[bytes, list[int]]:
    """Of the sensors of these records those that lie in several partitions, and in which. sensor: reads a record's."""
    partitions = dict[bytes, set[int]]()
    for record in records:
        key, number = sensor(record), record.partition()
        if key is not None and number is not None:
            partitions.setdefault(key, set()).add(number)
    return {key: sorted(numbers) for key, numbers in partitions.items() if len(numbers) > 1}


def _end_if_decided(error: KafkaError, topic: str) -> None:
    """Raises what time does not mend."""
    if error.code() in permissions.AUTHORIZATION:
        raise permissions.refused(f"the broker does not let {topic} be read", error)
    if error.fatal():
        raise KafkaException(error)
