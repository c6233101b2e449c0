"""Delivery without transactions: outputs are flushed, then their offsets are committed.

An abort cannot retract published outputs, so after an abort or a crash some outputs are published twice. None is lost, because no offset
is committed before the broker has acknowledged every output up to it.
"""

import contextlib
import time
from collections.abc import Callable, Iterable

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processor.errors import SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import UNKNOWN_TOPIC
from processor.kafka.delivery import Member, Offset, Stuck
from processor.kafka.produce import CALL_S, PATIENCE_S, WAITING, aborted, check_contact, learn_topics, produce_all
from processor.records import Out

_log = structlog.get_logger(__name__)

COMMIT_PATIENCE_S = 30.0


class AtLeastOnce:
    """The outputs published since the last commit. beat, suspect, stuck: see kafka.transaction.Transaction."""

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        beat: Callable[[], None],
        suspect: Callable[[], None] = lambda: None,
        stuck: Stuck = lambda _: False,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_producer, self._beat, self._suspect, self._stuck, self._now_s = make_producer, beat, suspect, stuck, now_s
        self._begun_at_s: float | None = None
        self._failed: KafkaError | None = None
        self._producer = make_producer()

    @property
    def age_s(self) -> float | None:
        """Seconds since the first output was published; None if there is none."""
        return None if self._begun_at_s is None else self._now_s() - self._begun_at_s

    def publish(self, outs: Iterable[Out]) -> None:
        self._begun_at_s = self._now_s() if self._begun_at_s is None else self._begun_at_s
        try:
            produce_all(self._producer, outs, self._beat, self._delivered)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() in UNKNOWN_TOPIC:
                self._suspect()
                learn_topics(self._producer)
                raise aborted(reason) from error
            raise self._broken("produce", reason) from error

    def commit(self, topic: str, positions: list[Offset], member: Member) -> None:
        """Raises AbortedError if the broker did not accept an output, or the group accepts no offsets from this member."""
        begun_s = said_at_s = time.monotonic()
        while self._producer.flush(CALL_S):
            self._suspect()
            self._beat()
            check_contact(self._stuck, "flush", begun_s)
            if time.monotonic() - said_at_s > PATIENCE_S:
                said_at_s = time.monotonic()
                _log.warning("waiting for the broker", call="flush", outputs=len(self._producer))
        if self._failed is not None and self._failed.code() in permissions.AUTHORIZATION:
            raise permissions.refused("the broker does not take an output", self._failed)
        if self._failed is not None:
            if self._failed.code() in UNKNOWN_TOPIC:
                self._suspect()
            raise aborted(self._failed, "an output was not delivered: ")
        until_s = time.monotonic() + COMMIT_PATIENCE_S
        while positions:
            self._beat()
            try:
                member.commit(topic, positions)
                break
            except KafkaException as error:
                reason = error.args[0]
                if reason.code() in permissions.AUTHORIZATION:
                    raise permissions.refused("the broker does not take the offsets", reason) from error
                again = reason.retriable() or reason.code() in WAITING or reason.code() == KafkaError.REBALANCE_IN_PROGRESS
                if not again or time.monotonic() > until_s:
                    raise aborted(reason, "the offsets were not committed: ") from error
        self._begun_at_s = None

    def abort(self) -> None:
        """Discards outputs that have not been sent yet."""
        with contextlib.suppress(KafkaException):
            self._producer.purge()
            self._producer.flush(CALL_S)
        self._begun_at_s = self._failed = None

    def renew(self) -> None:
        self.close()
        self._begun_at_s = self._failed = None
        self._producer = self._make_producer()

    def close(self) -> None:
        with contextlib.suppress(KafkaException):
            self._producer.flush(CALL_S)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error

    def _broken(self, call: str, reason: KafkaError) -> SlotstreamError:
        return SlotstreamError(
            f"{call} failed ({reason.name()}: {reason.str()})",
            expected="a broker that takes this client's records",
            do="look at the broker's log for the same time, and at the permissions on the topics",
            see="the-broker-refuses",
        )
