"""Shared by both deliveries: passes records to a producer, and converts its errors to those of kafka.delivery."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from processor.kafka.clients import UNKNOWN_TOPIC
from processor.kafka.delivery import AbortedError
from processor.records import Out

CALL_S = 2.0  # a call that waits for the broker returns this often, so that the loop can report that it is alive
UNKNOWN_S = 0.5
PATIENCE_S = 10.0  # between two log messages about a broker that does not answer
WAITING = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._WAIT_COORD, KafkaError._IN_PROGRESS}
_OF_MEMBER = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.FENCED_INSTANCE_ID}
_RETRIABLE = {KafkaError._MSG_TIMED_OUT} | _OF_MEMBER | WAITING | UNKNOWN_TOPIC


def aborted(reason: KafkaError, words: str = "") -> AbortedError:
    """The abortable error for this error of the client."""
    return AbortedError(f"{words}{reason.name()}: {reason.str()}", kind=reason.name(), retriable=reason.code() in _RETRIABLE)


def produce_all(producer: Producer, outs: Iterable[Out], beat: Callable[[], None], **options: Any) -> None:
    """Passes the records to the client, however slow the broker is. Raises KafkaException."""
    produce, poll = producer.produce, producer.poll
    for out in outs:
        while True:
            try:
                produce(
                    out.topic,
                    value=out.value,
                    key=out.key,
                    partition=-1 if out.partition is None else out.partition,
                    timestamp=max(out.record_ms, 0),
                    headers=out.headers,
                    **options,
                )
                break
            except BufferError:
                poll(0.01)  # the client's queue is full: the broker is slower than the loop
                beat()
    with contextlib.suppress(SystemError):
        poll(0)


def learn_topics(producer: Producer) -> None:
    """After an unknown-topic error: makes the client ask a broker again, and keeps the loop from retrying at full speed."""
    with contextlib.suppress(KafkaException, SystemError):
        producer.list_topics(timeout=CALL_S)
        producer.poll(UNKNOWN_S)
