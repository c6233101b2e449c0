"""Outputs, dead letters and consumed offsets in one Kafka transaction.

Sorts the producer's errors into the three classes of kafka.delivery: retriable errors are retried here until the outcome is known,
abortable errors raise AbortedError, and fatal errors raise ProducerFencedError.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from processor.errors import SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import UNKNOWN_TOPIC, check_producer
from processor.kafka.delivery import AbortedError, Member, Offset, ProducerFencedError, Stuck
from processor.kafka.produce import CALL_S, PATIENCE_S, WAITING, aborted, check_contact, learn_topics, produce_all
from processor.records import Out
from processor.settings import TRANSACTION_TIMEOUT_S, Settings

_log = structlog.get_logger(__name__)

TRY_S = 15.0
FLUSH_S = 5.0
GARBLED_MAX = 3
ABANDON_S = 2 * TRANSACTION_TIMEOUT_S  # by then the broker has aborted the transaction, or will do so when it is back
TRIED_KEY = b"\x02check"  # a key of neither a row nor a marker


class Transaction:
    """The open transaction of this instance. It begins with the first record or commit after the previous transaction.

    beat is called while a call waits for the broker, so that a long outage is not mistaken for a hang; suspect is called when a topic may
    be gone. Any call that waits may raise ClientStuckError, if stuck says so.
    """

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
        self._abandoned = False
        # The first record of the open transaction that the broker did not accept. The transaction only reports that there was one, and a
        # callback for each record is expensive: so callbacks are requested only after an abort, until a commit.
        self._refused: KafkaError | None = None
        self._aborted = False
        self._producer = make_producer()
        self._until_decided("init_transactions", lambda: self._producer.init_transactions(CALL_S))

    @property
    def age_s(self) -> float | None:
        """Seconds since the transaction began; None if none is open."""
        return None if self._begun_at_s is None else self._now_s() - self._begun_at_s

    def publish(self, outs: Iterable[Out]) -> None:
        self._begin()
        try:
            produce_all(self._producer, outs, self._beat, self._delivered if self._aborted else None)
        except KafkaException as error:
            raise self._sorted("produce", error.args[0]) from error

    def commit(self, topic: str, positions: list[Offset], member: Member) -> None:
        """Commits the published records with the (partition, offset, metadata) of each partition that they belong to.

        The group could not fence a transaction without offsets.
        """
        self._begin()
        offsets = [TopicPartition(topic, *position) for position in positions]
        # Sending the offsets ignores its timeout while the coordinator is away (librdkafka 2.16). So it is called when the broker has
        # just accepted everything else, and is abandoned if it still does not return.
        begun_s = time.monotonic()
        with contextlib.suppress(KafkaException, SystemError):  # the next call reports a fatal error properly
            while self._producer.flush(CALL_S):
                self._suspect()
                self._beat()
                check_contact(self._stuck, "flush", begun_s)
        send, metadata = self._producer.send_offsets_to_transaction, member.group_metadata()
        self._until_decided("send_offsets_to_transaction", lambda: self._bounded(lambda: send(offsets, metadata, CALL_S)))
        self._until_decided("commit_transaction", lambda: self._producer.commit_transaction(CALL_S))
        self._begun_at_s, self._aborted = None, False

    def abort(self) -> None:
        self._aborted = True
        if self._begun_at_s is None or self._abandoned:
            return
        try:
            self._until_decided("abort_transaction", lambda: self._producer.abort_transaction(CALL_S))
        except AbortedError as error:
            _log.warning("the transaction no longer existed when it was aborted", error=str(error))
        except SlotstreamError as error:
            # A broker that was killed while the transaction began does not know of it. If it does, the next producer with the name aborts
            # the transaction, if this process still holds the name.
            raise ProducerFencedError(error.found, timed_out=True) from error
        self._begun_at_s = None

    def renew(self) -> None:
        """Creates a new producer with the same name; the broker aborts the old one's open transaction."""
        self._begun_at_s = None
        self.close()
        self._abandoned = False
        self._producer = self._make_producer()
        self._until_decided("init_transactions", lambda: self._producer.init_transactions(CALL_S))

    def close(self) -> None:
        if not self._abandoned:
            with contextlib.suppress(KafkaException):  # a fenced producer reports again that it is fenced
                self._producer.close()

    def _bounded(self, run: Callable[[], None]) -> None:
        """Runs a call that may never return. Raises ProducerFencedError once its transaction must have ended."""
        done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def report() -> None:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - raised again below
                done.put(error)
            else:
                done.put(None)

        threading.Thread(target=report, name="send-offsets", daemon=True).start()
        until_s = time.monotonic() + ABANDON_S
        while True:
            try:
                error = done.get(timeout=CALL_S)
            except queue.Empty:
                self._beat()
                if time.monotonic() > until_s:
                    self._abandoned = True  # a thread is stuck in it, so it cannot be closed
                    raise ProducerFencedError("the client did not return from a call", timed_out=True) from None
                continue
            if error is not None:
                raise error
            return

    def _begin(self) -> None:
        if self._begun_at_s is None:
            try:
                self._producer.begin_transaction()
            except KafkaException as error:
                raise self._sorted("begin_transaction", error.args[0]) from error
            self._begun_at_s, self._refused = self._now_s(), None

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._refused is None and error.code() not in _PURGED:
            self._refused = error

    def _until_decided(self, call: str, run: Callable[[], None]) -> None:
        begun_s = said_at_s = time.monotonic()
        garbled = 0
        while True:
            self._beat()
            try:
                run()
            except SystemError:
                # An error that the client reports in a callback can be raised by any running call, without its text: repeating the call
                # returns the text.
                garbled += 1
                if garbled == GARBLED_MAX:
                    raise
            except KafkaException as error:
                reason = error.args[0]
                if not (reason.retriable() or reason.code() in WAITING) or reason.fatal() or reason.txn_requires_abort():
                    raise self._sorted(call, reason) from error
                self._suspect()
                check_contact(self._stuck, call, begun_s)
                if time.monotonic() - said_at_s > PATIENCE_S:
                    said_at_s = time.monotonic()
                    _log.warning("waiting for the broker", call=call, error=reason.str())
                    with contextlib.suppress(SystemError):
                        self._producer.poll(0)  # lets the error callback report the reason
            else:
                return

    def _sorted(self, call: str, reason: KafkaError) -> Exception:
        if reason.code() == KafkaError._FATAL:
            reason = self._reason_before() or reason
        if reason.code() == KafkaError._STATE:
            reason = self._reason_of_state() or reason
        if reason.code() in _FENCED:
            return ProducerFencedError(reason.str(), timed_out=(self.age_s or 0.0) >= TRANSACTION_TIMEOUT_S)
        unknown = reason.code() in UNKNOWN_TOPIC
        abortable = not reason.fatal() and (reason.txn_requires_abort() or reason.code() == KafkaError._STATE or unknown)
        if abortable:
            self._hear()
        if unknown:
            learn_topics(self._producer)
        cause = self._refused if abortable and self._refused is not None else reason
        if cause.code() in UNKNOWN_TOPIC:
            self._suspect()
        if cause.code() in permissions.AUTHORIZATION:
            return permissions.refused(f"the broker does not permit {call}", cause)
        if abortable:
            return aborted(cause, "" if cause is reason else "a record was not taken: ")
        if reason.fatal() and call != "init_transactions":
            return ProducerFencedError(f"{call}: {reason.name()}: {reason.str()}", timed_out=False)
        return SlotstreamError(
            f"{call} failed ({reason.name()}: {reason.str()})",
            expected="a broker that takes transactions of this client",
            do="look at the broker's log for the same time, and at the permissions of the transactional id",
            see="the-broker-refuses",
        )

    def _hear(self) -> None:
        """Polls, so that the client reports records that were not accepted."""
        with contextlib.suppress(KafkaException, SystemError):
            self._producer.poll(0)

    def _reason_of_state(self) -> KafkaError | None:
        """produce() in a failed transaction only reports that there is none; begin_transaction() gives the reason, and begins none."""
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            return error.args[0]
        return None

    def _reason_before(self) -> KafkaError | None:
        """produce() on an unusable producer only reports an earlier fatal error; an abort gives the reason."""
        try:
            self._producer.abort_transaction(CALL_S)
        except KafkaException as error:
            return error.args[0]
        return None


def try_transaction(settings: Settings, *, with_record: bool = True) -> None:
    """Begins and aborts a transaction under a name next to the instance's. Raises SlotstreamError if the broker does not accept it.

    It writes a record to the checkpoint topic, which only the service reads and where no reader sees aborted records: this also tests the
    broker's transaction log and its replicas. with_record: the topic exists.
    """
    producer = check_producer(settings)
    answers = list[KafkaError | None]()
    try:
        producer.init_transactions(TRY_S)
        producer.begin_transaction()
        if settings.checkpoint_topic is not None and with_record:
            producer.produce(settings.checkpoint_topic, b"", TRIED_KEY, 0, on_delivery=lambda error, _: answers.append(error))
            producer.flush(FLUSH_S)  # a record for a partition without write permission gets no answer
            answer = answers[0] if answers else KafkaError(KafkaError._TIMED_OUT)
            if answer is not None:
                raise KafkaException(answer)
        producer.abort_transaction(TRY_S)
    except KafkaException as error:
        reason = error.args[0]
        if reason.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            raise permissions.named(settings, [permissions.of_transactions(settings)]) from error
        raise SlotstreamError(
            f"the broker takes no transaction ({reason.name()}: {reason.str()})",
            expected="transactions: the outputs and offsets are committed in them",
            do="look at the other lines, and at the broker's transaction.state.log settings",
            see="the-broker-refuses",
        ) from error
    finally:
        with contextlib.suppress(KafkaException):  # it repeats the error
            producer.close()


_FENCED = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # caused by an abort: reported after it, possibly in the next transaction
