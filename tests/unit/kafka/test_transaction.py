"""What an error of the producer means for the transaction: told by the error alone, so that a stand-in may raise it."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from processor.kafka.at_least_once import AtLeastOnce
from processor.kafka.delivery import AbortedError, ProducerFencedError
from processor.kafka.transaction import Transaction
from processor.records import Out


class Producer:
    """Begins transactions; how an abort ends, the test says, and how a record is taken."""

    def __init__(self, error: KafkaError | None, of_records: KafkaError | None = None) -> None:
        self._error, self._of_records = error, of_records

    def init_transactions(self, _timeout_s: float) -> None:
        pass

    def begin_transaction(self) -> None:
        pass

    def produce(self, *_: object, **__: object) -> None:
        if self._of_records is not None:
            raise KafkaException(self._of_records)

    def poll(self, _timeout_s: float) -> int:
        return 0

    def abort_transaction(self, _timeout_s: float) -> None:
        if self._error is not None:
            raise KafkaException(self._error)

    def close(self) -> None:
        pass


def begun(error: KafkaError | None) -> Transaction:
    transaction = Transaction(lambda: Producer(error), lambda: None)
    transaction.publish([])
    assert transaction.age_s is not None
    return transaction


def test_an_abort_that_the_broker_takes_ends_the_transaction():
    transaction = begun(None)
    transaction.abort()
    assert transaction.age_s is None


@pytest.mark.parametrize("fatal", [False, True])
def test_a_broker_that_knows_nothing_of_the_transaction_costs_a_new_producer_and_not_the_process(fatal):
    """A broker that is killed as a transaction begins has forgotten it when it is back."""
    transaction = begun(KafkaError(KafkaError.INVALID_TXN_STATE, "Failed to end transaction", fatal=fatal))
    with pytest.raises(ProducerFencedError, match="Failed to end transaction"):
        transaction.abort()
    transaction.renew()
    assert transaction.age_s is None


class WithoutTopic(Producer):
    """Does not know the topic that is written to."""

    def __init__(self, code: int) -> None:
        super().__init__(None)
        self._code, self.asked = code, 0

    def produce(self, *_: object, **__: object) -> None:
        raise KafkaException(KafkaError(self._code))

    def list_topics(self, timeout: float) -> None:
        self.asked += 1


@pytest.mark.parametrize("delivery", [Transaction, AtLeastOnce])
@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_an_unknown_topic_is_tried_again_without_end_looked_for_and_told_of(delivery, code):
    """A client whose metadata lags behind, and a topic that is gone, look the same from here."""
    producer, suspected = WithoutTopic(code), []
    transaction = delivery(lambda: producer, lambda: None, lambda: suspected.append(1))
    with pytest.raises(AbortedError) as caught:
        transaction.publish([Out("predictions", 0, b"key", b"value", 0)])
    assert caught.value.retriable
    assert (producer.asked, suspected) == (1, [1])


@pytest.mark.parametrize("code", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.INVALID_PRODUCER_ID_MAPPING])
def test_an_error_that_the_producer_does_not_survive_costs_a_new_producer_and_not_the_process(code):
    error = KafkaError(code, "the sequence broke", fatal=True)
    transaction = Transaction(lambda: Producer(None, error), lambda: None)
    with pytest.raises(ProducerFencedError, match="the sequence broke"):
        transaction.publish([Out("predictions", 0, b"pump", b"1", 5)])
    transaction.renew()
    assert transaction.age_s is None
