"""Shared by both deliveries: passes records to a producer, and converts its errors to those of kafka.delivery."""

import contextlib
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.kafka.clients import UNKNOWN_TOPIC
from processor.kafka.delivery import AbortedError, ClientStuckError, Stuck
from processor.records import Out, Outs

CALL_S = 2.0  # a call that waits for the broker returns this often, so that the loop can report that it is alive
UNKNOWN_S = 0.5
PATIENCE_S = 10.0  # between two log messages about a broker that does not answer
WAITING = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._WAIT_COORD, KafkaError._IN_PROGRESS}
_OF_MEMBER = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.FENCED_INSTANCE_ID}
_RETRIABLE = {KafkaError._MSG_TIMED_OUT} | _OF_MEMBER | WAITING | UNKNOWN_TOPIC


Delivered = Callable[[KafkaError | None, Message], None]


def aborted(reason: KafkaError, words: str = "") -> AbortedError:
    """The abortable error for this error of the client."""
    return AbortedError(f"{words}{reason.name()}: {reason.str()}", kind=reason.name(), retriable=reason.code() in _RETRIABLE)


def check_contact(stuck: Stuck, call: str, begun_s: float) -> None:
    """Raises ClientStuckError if the call has waited for longer than one of a client in order. begun_s: on the monotonic clock."""
    waited_s = time.monotonic() - begun_s
    if stuck(waited_s):
        raise ClientStuckError(f"{call} has waited for {waited_s:.0f} s, and the broker answers other clients")


def produce_all(producer: Producer, outs: Iterable[Out] | Outs, beat: Callable[[], None], delivered: Delivered | None = None) -> None:
    """Hands the records to the client, however slow the broker is. Raises KafkaException.

    delivered: called in a poll for each record that the broker does not take.
    """
    if isinstance(outs, Outs) and outs.headers is None:
        _produce_columns(producer, outs, beat, delivered)
    else:
        for out in outs:
            partition = -1 if out.partition is None else out.partition
            row = (out.topic, out.value, out.key, partition, delivered, None, max(out.record_ms, 0), out.headers)
            _produce(producer, row, beat)
    with contextlib.suppress(SystemError):
        producer.poll(0)


def _produce_columns(producer: Producer, outs: Outs, beat: Callable[[], None], delivered: Delivered | None) -> None:
    # A plain loop of calls by position: with an object a record and named arguments it takes four times as long.
    topic, produce = outs.topic, producer.produce
    partitions = repeat(-1, len(outs.key)) if outs.partition is None else outs.partition
    for value, key, partition, ms in zip(outs.value, outs.key, partitions, outs.record_ms, strict=True):
        if value is None:
            continue
        try:
            produce(topic, value, key, partition, delivered, None, ms if ms > 0 else 0)
        except BufferError:
            _produce(producer, (topic, value, key, partition, delivered, None, max(ms, 0)), beat)


def _produce(producer: Producer, row: tuple[Any, ...], beat: Callable[[], None]) -> None:
    """row: topic, value, key, partition, callback, on_delivery, timestamp and headers, by position.

    The client takes on_delivery only where no callback is given at all, and None is given.
    """
    while True:
        try:
            producer.produce(*row)
        except BufferError:
            producer.poll(0.01)  # the client's queue is full: the broker is slower than we are
            beat()
        else:
            return


def learn_topics(producer: Producer) -> None:
    """After an unknown-topic error: makes the client ask a broker again, and keeps the loop from retrying at full speed."""
    with contextlib.suppress(KafkaException, SystemError):
        producer.list_topics(timeout=CALL_S)
        producer.poll(UNKNOWN_S)
