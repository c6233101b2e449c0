"""The delivery of the simulation: that of a transaction, over the Kafka in memory and without a client."""

from collections.abc import Callable, Iterable

from memory_kafka import TRANSACTION_TIMEOUT_S, Broker

from processor.kafka.delivery import AbortedError, Member, ProducerFencedError
from processor.records import Out


class FakeDelivery:
    def __init__(self, broker: Broker, name: str, beat: Callable[[], None] = lambda: None) -> None:
        self._broker, self._name, self._beat = broker, name, beat
        self._begun_at_s: float | None = None
        self._epoch = broker.init_producer(name)

    @property
    def age_s(self) -> float | None:
        return None if self._begun_at_s is None else self._broker.clock.s - self._begun_at_s

    def publish(self, outs: Iterable[Out]) -> None:
        self._begin()
        transaction = self._broker.begin(self._name)
        outs = list(outs)
        if self._broker.fault("publish") == "abort":
            transaction.outs += outs[: len(outs) // 2]
            raise AbortedError("a record was not taken", kind="UNKNOWN_TOPIC_OR_PART", retriable=True)
        transaction.outs += outs

    def commit(self, topic: str, positions: list[tuple[int, int, str]], member: Member) -> None:
        self._begin()
        name, member_id = member.group_metadata()
        while not self._broker.answers():
            self._beat()
        if positions and not self._broker.accepts(name, member_id):
            raise AbortedError("the group does not know the member", kind="ILLEGAL_GENERATION", retriable=True)
        if self._broker.fault("commit") == "abort":
            raise AbortedError("a record timed out", kind="_MSG_TIMED_OUT", retriable=True)
        self._check()
        self._broker.end_transaction(self._name, positions)
        self._begun_at_s = None

    def abort(self) -> None:
        if self._begun_at_s is not None:
            self._check()
            self._broker.end_transaction(self._name, None)
            self._begun_at_s = None

    def renew(self) -> None:
        self._begun_at_s = None
        self._epoch = self._broker.init_producer(self._name)

    def close(self) -> None:
        pass

    def _begin(self) -> None:
        self._check()
        if self._begun_at_s is None:
            self._begun_at_s = self._broker.clock.s
            self._broker.begin(self._name)

    def _check(self) -> None:
        if not self._broker.current(self._name, self._epoch):
            raise ProducerFencedError("another producer has the name", timed_out=(self.age_s or 0.0) >= TRANSACTION_TIMEOUT_S)
