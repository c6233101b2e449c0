"""Outputs, dead letters and consumed offsets in one Kafka transaction.

Sorts the producer's errors into the three of kafka.delivery: retriable errors are retried here until they are decided, abortable errors
raise AbortedError, and errors that the producer does not survive raise ProducerFencedError.
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
from processor.kafka.delivery import AbortedError, Member, Offset, ProducerFencedError
from processor.kafka.produce import CALL_S, PATIENCE_S, WAITING, aborted, learn_topics, produce_all
from processor.records import Out
from processor.settings import TRANSACTION_TIMEOUT_S, Settings

_log = structlog.get_logger(__name__)

TRY_S = 15.0
FLUSH_S = 5.0
GARBLED_MAX = 3
ABANDON_S = 2 * TRANSACTION_TIMEOUT_S  # the broker has aborted the transaction by then, or does when it is back
TRIED_KEY = b"\x02check"  # neither a row's nor a marker's


class Transaction:
    """The open transaction of this instance. Begins with the first record or commit after the last one.

    beat is called while a call waits for the broker, so that a long outage is not taken for a hang; suspect when a topic may be gone.
    """

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        beat: Callable[[], None],
        suspect: Callable[[], None] = lambda: None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_producer, self._beat, self._suspect, self._now_s = make_producer, beat, suspect, now_s
        self._begun_at_s: float | None = None
        self._abandoned = False
        # The first record of the open transaction that the broker did not take. The transaction itself only says that there was one, and
        # to be told of each record costs: so it is asked for after an abort, until a commit.
        self._refused: KafkaError | None = None
        self._aborted = False
        self._producer = make_producer()
        self._until_decided("init_transactions", lambda: self._producer.init_transactions(CALL_S))

    @property
    def age_s(self) -> float | None:
        """Seconds since it began; None if none is open."""
        return None if self._begun_at_s is None else self._now_s() - self._begun_at_s

    def publish(self, outs: Iterable[Out]) -> None:
        self._begin()
        try:
            produce_all(self._producer, outs, self._beat, self._delivered if self._aborted else None)
        except KafkaException as error:
            raise self._sorted("produce", error.args[0]) from error

    def commit(self, topic: str, positions: list[Offset], member: Member) -> None:
        """Commits what was published together with (partition, offset, metadata) of each partition that it was written for.

        A transaction without offsets would not be fenced by the group.
        """
        self._begin()
        offsets = [TopicPartition(topic, *position) for position in positions]
        # Sending the offsets ignores its timeout while the coordinator is away (librdkafka 2.16): it is called when the broker
        # has just taken everything else, and is given up if it does not come back all the same.
        with contextlib.suppress(KafkaException, SystemError):  # what is fatal the next call tells properly
            while self._producer.flush(CALL_S):
                self._suspect()
                self._beat()
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
            _log.warning("the transaction was gone when it was aborted", error=str(error))
        except SlotstreamError as error:
            # A broker that was killed as the transaction began knows nothing of it. Whatever it knows, the next producer of the
            # name aborts, if the name is still ours.
            raise ProducerFencedError(error.found, timed_out=True) from error
        self._begun_at_s = None

    def renew(self) -> None:
        """A new producer of the same name; whatever the old one left open is aborted by the broker."""
        self._begun_at_s = None
        self.close()
        self._abandoned = False
        self._producer = self._make_producer()
        self._until_decided("init_transactions", lambda: self._producer.init_transactions(CALL_S))

    def close(self) -> None:
        if not self._abandoned:
            with contextlib.suppress(KafkaException):  # a fenced producer says once more that it is fenced
                self._producer.close()

    def _bounded(self, run: Callable[[], None]) -> None:
        """Runs a call that may never return. Raises ProducerFencedError when its transaction must be over by then."""
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
                    self._abandoned = True  # a thread is in it for good: it cannot be closed
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
        said_at_s, garbled = time.monotonic(), 0
        while True:
            self._beat()
            try:
                run()
            except SystemError:
                # An error that the client tells in a callback can come out of whatever call is running, without its words:
                # the same call, made again, has them.
                garbled += 1
                if garbled == GARBLED_MAX:
                    raise
            except KafkaException as error:
                reason = error.args[0]
                if not (reason.retriable() or reason.code() in WAITING) or reason.fatal() or reason.txn_requires_abort():
                    raise self._sorted(call, reason) from error
                self._suspect()
                if time.monotonic() - said_at_s > PATIENCE_S:
                    said_at_s = time.monotonic()
                    _log.warning("waiting for the broker", call=call, error=reason.str())
                    with contextlib.suppress(SystemError):
                        self._producer.poll(0)  # what the client has to tell of the reason, its error callback tells
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
        """What the client has to tell of records that were not taken it tells in a poll."""
        with contextlib.suppress(KafkaException, SystemError):
            self._producer.poll(0)

    def _reason_of_state(self) -> KafkaError | None:
        """produce() in a transaction that has failed only says that there is none; begin_transaction() says why, and begins none in one."""
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            return error.args[0]
        return None

    def _reason_before(self) -> KafkaError | None:
        """produce() on a producer that is at its end only says that something fatal came before; an abort says what."""
        try:
            self._producer.abort_transaction(CALL_S)
        except KafkaException as error:
            return error.args[0]
        return None


def try_transaction(settings: Settings, *, with_record: bool = True) -> None:
    """Begins and aborts a transaction under a name beside the instance's. Raises SlotstreamError if the broker takes none.

    A record in it goes to the checkpoint topic, the service's own, where no reader ever sees what was aborted: so the broker's log of
    transactions and its replicas are tried too. with_record: that topic is there.
    """
    producer = check_producer(settings)
    answers = list[KafkaError | None]()
    try:
        producer.init_transactions(TRY_S)
        producer.begin_transaction()
        if settings.checkpoint_topic is not None and with_record:
            producer.produce(settings.checkpoint_topic, b"", TRIED_KEY, 0, on_delivery=lambda error, _: answers.append(error))
            producer.flush(FLUSH_S)  # a partition that may not be written to leaves the record unanswered
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
        with contextlib.suppress(KafkaException):  # it says once more what was wrong
            producer.close()


_FENCED = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # by an abort: it is told after it, maybe in the next transaction
