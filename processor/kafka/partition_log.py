"""Reads one partition for a restore: the group's committed offset, the bounds of the log, and its records.

Records and bounds come from a read-committed consumer of the same group that never joins, on one thread outside the loop. Committed
offsets come from the group's member. Every query is repeated until it is answered, because an instance that died may have left a
transaction open on the offset.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from processor.errors import SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import bulk_consumer, restore_consumer
from processor.kafka.consumer import Committed
from processor.settings import Settings

_log = structlog.get_logger(__name__)

CALL_S = 2.0
PATIENCE_S = 10.0
RECORDS_MAX = 4096
BULK_RECORDS_MAX = 50_000
HANGING_S = 60.0  # no transaction of an instance stays open for so long
HANGING = {
    "expected": "an offset that no open transaction holds back",
    "to_do": "if the broker answers other clients, look for a transaction that it never ended: kafka-transactions.sh find-hanging "
    "--broker-id N, for __consumer_offsets; end it with kafka-transactions.sh abort",
}
TURN_S = 0.02  # how long a call waits if there are fewer records than requested


Ask = Callable[[Sequence[int], float], list[Committed | None]]


class CancelledError(Exception):
    """The restore was cancelled."""


class OutOfRangeError(Exception):
    """The log no longer holds the next record."""


class PartitionLog:
    """ask: returns the group's committed offsets of partitions, within a time in seconds (GroupConsumer.committed)."""

    def __init__(self, settings: Settings, partition: int, cancelled: Callable[[], bool], ask: Ask) -> None:
        self._partition = TopicPartition(settings.input.topic, partition)
        self._cancelled, self._ask = cancelled, ask
        self._consumer = restore_consumer(settings)

    def committed(self) -> Committed | None:
        """The group's committed offset, once it is stable: no open transaction can still change it. None if there is none."""
        found: Committed | None = self._until_answered(lambda: self._ask([self._partition.partition], CALL_S)[0])
        return found

    def others(self, partitions: int) -> list[str]:
        """The metadata of the group's committed offsets in the topic's other partitions."""
        wanted = [number for number in range(partitions) if number != self._partition.partition]
        if not wanted:
            return []
        found = self._until_answered(lambda: self._ask(wanted, CALL_S))
        return [committed.metadata for committed in found if committed is not None and committed.metadata]

    def bounds(self) -> tuple[int, int]:
        """The log's first offset, and the offset after its last committed record."""
        low, end = self._until_answered(lambda: self._consumer.get_watermark_offsets(self._partition, CALL_S))
        return int(low), int(end)

    def read(self, start: int, position: int) -> Iterator[list[Message]]:
        """The records from start up to, but not including, position, in batches. The last of these offsets may have no record.

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
        begun_s = said_at_s = time.monotonic()
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
                    hanging = HANGING if said_at_s - begun_s > HANGING_S else {}
                    _log.warning("waiting for the committed offsets", partition=self._partition.partition, error=reason.str(), **hanging)
        raise CancelledError


def read_to_end(settings: Settings, topic: str, partition: int, cancelled: Callable[[], bool]) -> Iterator[list[Message]]:
    """Every record of a partition, read committed, in batches, up to the last stable offset. Raises CancelledError when cancelled."""
    consumer = bulk_consumer(settings)
    try:
        # A client that does not know the leader yet when it looks up the beginning waits half a second before it retries.
        with contextlib.suppress(KafkaException):
            consumer.get_watermark_offsets(TopicPartition(topic, partition), CALL_S)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        # Use the end that the broker reports after everything before it was returned: the log may move past a watermark taken earlier.
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
    """The newest records of each partition, read committed, up to a maximum for each; fewer if time runs out first.

    Raises KafkaException or SlotstreamError if the broker does not answer.
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
                elif error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):  # the end, or deleted in the meantime
                    left.discard(message.partition())
                else:
                    _end_if_decided(error, topic)
        return found
    finally:
        consumer.close()


def _bounds(consumer: Consumer, partition: TopicPartition, until_s: float) -> tuple[int, int]:
    """The first and the next offset of a log. Retries, because a broker may not know yet that it leads a new partition."""
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
    """The sensors of these records that have records in several partitions, and these partitions. sensor: reads a record's sensor."""
    partitions = dict[bytes, set[int]]()
    for record in records:
        key, number = sensor(record), record.partition()
        if key is not None and number is not None:
            partitions.setdefault(key, set()).add(number)
    return {key: sorted(numbers) for key, numbers in partitions.items() if len(numbers) > 1}


def _end_if_decided(error: KafkaError, topic: str) -> None:
    """Raises errors that are not retriable."""
    if error.code() in permissions.AUTHORIZATION:
        raise permissions.refused(f"the broker does not let {topic} be read", error)
    if error.fatal():
        raise KafkaException(error)
