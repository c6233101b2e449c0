"""confluent_kafka.Producer over the Kafka in memory: what Transaction and AtLeastOnce need of it, with the client's own errors."""

from typing import Any

from confluent_kafka import KafkaError, KafkaException
from memory_kafka import Broker

from processor.records import Out


class Producer:
    def __init__(self, broker: Broker, name: str, *, transactional: bool) -> None:
        self._broker, self._name, self._transactional = broker, name, transactional
        self._queued: list[tuple[Out, Any]] = []
        self._offsets: list[tuple[int, int, str]] = []
        self._epoch = 0

    def init_transactions(self, _timeout_s: float) -> None:
        self._answered()
        self._epoch = self._broker.init_producer(self._name)

    def begin_transaction(self) -> None:
        self._broker.begin(self._name)

    def produce(self, topic, value, key, partition, callback, _on_delivery, timestamp, headers=None) -> None:
        self._check()
        if self._broker.fault("publish") == "abort":
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        out = Out(topic, None if partition < 0 else partition, key, value, timestamp, headers)
        if self._transactional:
            self._broker.begin(self._name).outs.append(out)
        else:
            self._queued.append((out, callback))

    def poll(self, _timeout_s: float) -> int:
        return 0

    def list_topics(self, timeout: float) -> None:
        pass

    def flush(self, _timeout_s: float) -> int:
        if not self._broker.answers():
            return 1
        for out, delivered in self._queued:
            self._broker.outputs.append(out)
            delivered(None, None)
        self._queued.clear()
        return 0

    def purge(self) -> None:
        self._queued.clear()

    def send_offsets_to_transaction(self, offsets, member: tuple[str, str], _timeout_s: float) -> None:
        self._answered()
        self._check()
        if offsets and not self._broker.accepts(*member):
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
        self._offsets = [(tp.partition, tp.offset, tp.metadata) for tp in offsets]

    def commit_transaction(self, _timeout_s: float) -> None:
        self._answered()
        self._check()
        if self._broker.fault("commit") == "abort":
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, txn_requires_abort=True))
        self._broker.end_transaction(self._name, self._offsets)

    def abort_transaction(self, _timeout_s: float) -> None:
        self._answered()
        self._check()
        self._broker.end_transaction(self._name, None)

    def close(self) -> None:
        self._check()

    def __len__(self) -> int:
        return len(self._queued)

    def _answered(self) -> None:
        if not self._broker.answers():
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, retriable=True))

    def _check(self) -> None:
        if self._transactional and self._epoch and not self._broker.current(self._name, self._epoch):
            raise KafkaException(KafkaError(KafkaError._FENCED, "another producer has the name", fatal=True))
