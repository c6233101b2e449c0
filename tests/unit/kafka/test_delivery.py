"""What every delivery keeps to, be it by transactions, at least once, or the one of the simulation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError
from delivery import FakeDelivery
from memory_kafka import TRANSACTION_TIMEOUT_S, Broker
from producer import Producer
from waiting import wait_for

from processor.kafka.at_least_once import AtLeastOnce
from processor.kafka.consumer import MemberFencedError
from processor.kafka.delivery import AbortedError, ClientStuckError, Delivery, ProducerFencedError
from processor.kafka.produce import produce_all
from processor.kafka.transaction import Transaction
from processor.records import Out, Outs

NAME, OUT, OTHER = "group.a", Out("predictions", 0, b"pump", b"1", 5), Out("predictions", 0, b"pump", b"2", 6)
OFFSETS = [(0, 7, "metadata")]


class Member:
    """A place in the group, until the group or the client says otherwise."""

    def __init__(self, broker: Broker) -> None:
        self._broker, self._id, self.displaced = broker, broker.join(NAME, "mark"), False

    def group_metadata(self) -> tuple[str, str]:
        if self.displaced:
            raise MemberFencedError("the client joined under another member id")
        return NAME, self._id

    def commit(self, topic: str, positions: list[tuple[int, int, str]]) -> None:
        from confluent_kafka import KafkaError, KafkaException

        if not self._broker.accepts(*self.group_metadata()):
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        self._broker.committed |= {number: (offset, metadata) for number, offset, metadata in positions}


class Rig:
    def __init__(self, kind: str) -> None:
        self.broker, self.beats, self.stuck = Broker(2), 0, False
        self.member = Member(self.broker)
        if kind == "simulated":
            self.delivery: Delivery = FakeDelivery(self.broker, NAME, self._beat)
        elif kind == "transaction":
            self.delivery = Transaction(self._producer(transactional=True), self._beat, stuck=self._is_stuck, now_s=self.broker.clock.now_s)
        else:
            self.delivery = AtLeastOnce(
                self._producer(transactional=False), self._beat, stuck=self._is_stuck, now_s=self.broker.clock.now_s
            )

    def _producer(self, *, transactional: bool) -> Callable[[], Producer]:
        return lambda: Producer(self.broker, NAME, transactional=transactional)

    def _beat(self) -> None:
        self.beats += 1

    def _is_stuck(self, _waited_s: float) -> bool:
        return self.stuck

    def commit(self) -> None:
        self.delivery.commit("readings", OFFSETS, self.member)

    @property
    def values(self) -> list[bytes | None]:
        return [out.value for out in self.broker.outputs]


@pytest.fixture(params=["transaction", "at least once", "simulated"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


@pytest.fixture(params=["transaction", "simulated"])
def transactional(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def test_what_was_published_and_its_offsets_are_final_after_the_commit(rig: Rig) -> None:
    rig.delivery.publish([OUT, OTHER])
    assert rig.broker.committed == {}
    rig.commit()
    assert (rig.values, rig.broker.committed) == ([b"1", b"2"], {0: (7, "metadata")})


@pytest.mark.parametrize("partitions", [[0, 1, 0], None])
def test_many_records_by_columns_are_published_but_those_that_are_none(rig: Rig, partitions: list[int] | None) -> None:
    outs = Outs("predictions", partitions, [b"a", b"b", b"c"], [b"1", None, b"3"], [5, 6, -1])
    rig.delivery.publish(outs)
    rig.commit()
    partition = partitions and partitions[0]
    expected = [Out("predictions", partition, b"a", b"1", 5), Out("predictions", partition, b"c", b"3", -1)]
    assert list(outs) == expected
    assert [replace(out, record_ms=max(out.record_ms, 0)) for out in rig.broker.outputs] == [expected[0], replace(expected[1], record_ms=0)]


def test_records_by_columns_have_their_own_headers(rig: Rig) -> None:
    headers = [[("traceparent", b"00-4b"), ("ce_time", None)], None]
    rig.delivery.publish(Outs("predictions", [0, 0], [b"a", b"b"], [b"1", b"2"], [5, 6], headers))
    rig.commit()
    assert [list(out.headers or []) for out in rig.broker.outputs] == [headers[0], []]


COLUMNS = Outs("predictions", [0, 0], [b"pump", b"pump"], [b"1", b"2"], [5, 6])


@pytest.mark.parametrize("outs", [[OUT, OTHER], COLUMNS], ids=["one by one", "columns"])
def test_a_record_that_the_clients_queue_has_no_place_for_is_handed_over_again(outs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, full, produce = Rig("at least once"), [True, True, False, True, False], Producer.produce

    def hesitate(self: Producer, *row: Any) -> None:
        if full.pop(0):
            raise BufferError
        produce(self, *row)

    monkeypatch.setattr(Producer, "produce", hesitate)
    rig.delivery.publish(outs)
    rig.commit()
    assert rig.values == [b"1", b"2"]


def test_its_age_is_that_of_the_first_record_since_the_last_commit(rig: Rig) -> None:
    assert rig.delivery.age_s is None
    rig.delivery.publish([OUT])
    rig.broker.clock.sleep(2)
    rig.delivery.publish([OTHER])
    rig.broker.clock.sleep(1)
    assert rig.delivery.age_s == 3
    rig.commit()
    assert rig.delivery.age_s is None


def test_offsets_alone_are_committed(rig: Rig) -> None:
    rig.commit()
    assert (rig.values, rig.broker.committed, rig.delivery.age_s) == ([], {0: (7, "metadata")}, None)


def test_after_an_abort_the_work_is_done_again(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.delivery.abort()
    rig.delivery.abort()
    assert rig.delivery.age_s is None
    rig.delivery.publish([OTHER])
    rig.commit()
    assert (rig.values[-1], rig.broker.committed) == (b"2", {0: (7, "metadata")})


def test_offsets_of_a_member_that_the_group_does_not_know_are_refused_and_the_member_hears_of_it(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.broker.expire(NAME)
    if isinstance(rig.delivery, AtLeastOnce):
        rig.delivery._producer.flush(0)
    with pytest.raises(AbortedError) as caught:
        rig.commit()
    assert caught.value.retriable
    assert rig.broker.committed == {}
    rig.delivery.abort()
    assert rig.delivery.age_s is None


def test_a_displaced_client_commits_nothing(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.member.displaced = True
    with pytest.raises(MemberFencedError):
        rig.commit()
    assert rig.broker.committed == {}


def test_an_unknown_topic_is_an_abort_that_is_tried_again_without_end(rig: Rig) -> None:
    rig.broker.faults["publish"] = ["abort"]
    with pytest.raises(AbortedError) as caught:
        rig.delivery.publish([OUT])
    assert caught.value.retriable
    rig.delivery.abort()
    rig.delivery.publish([OTHER])
    rig.commit()
    assert rig.values == [b"2"]


def test_a_broker_that_does_not_answer_is_asked_again_with_a_beat_before_each_question(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.broker.away, beats = 4, rig.beats
    rig.commit()
    assert rig.beats - beats >= 3
    assert rig.broker.committed == {0: (7, "metadata")}


@pytest.mark.failure("a client does not find the broker again after an outage")
@pytest.mark.parametrize("kind", ["transaction", "at least once"])
def test_a_client_that_finds_no_broker_is_given_up_where_one_answers_others_and_a_new_one_goes_on(kind: str) -> None:
    rig = Rig(kind)
    rig.delivery.publish([OUT])
    rig.broker.away, rig.stuck = 10**9, True
    with pytest.raises(ClientStuckError, match="the broker answers other clients"):
        rig.commit()
    assert rig.broker.committed == {}
    if kind == "transaction":  # a new client may be stuck too
        with pytest.raises(ClientStuckError, match="init_transactions"):
            rig.delivery.renew()
    rig.broker.away, rig.stuck = 0, False
    rig.delivery.renew()
    rig.delivery.publish([OTHER])
    rig.commit()
    assert rig.values[-1] == b"2"
    assert rig.broker.committed == {0: (7, "metadata")}


def test_a_new_producer_begins_with_nothing(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.delivery.renew()
    assert rig.delivery.age_s is None
    rig.delivery.publish([OTHER])
    rig.commit()
    assert rig.values[-1] == b"2"


def test_closing_says_nothing_of_a_producer_that_is_at_its_end(rig: Rig) -> None:
    rig.delivery.publish([OUT])
    rig.broker.fence(NAME)
    rig.delivery.close()
    assert rig.broker.committed == {}


# -- of transactions ---------------------------------------------------------------------------------------------------------


def test_nothing_of_an_aborted_transaction_is_visible(transactional: Rig) -> None:
    transactional.delivery.publish([OUT])
    transactional.broker.faults["commit"] = ["abort"]
    with pytest.raises(AbortedError):
        transactional.commit()
    transactional.delivery.abort()
    assert (transactional.values, transactional.broker.committed) == ([], {})


@pytest.mark.parametrize("call", ["publish", "commit", "abort"])
@pytest.mark.parametrize("timed_out", [False, True])
def test_a_producer_that_the_broker_has_ended_is_fenced_in_whatever_it_does_next(transactional: Rig, call: str, timed_out: bool) -> None:
    delivery = transactional.delivery
    delivery.publish([OUT])
    if timed_out:
        transactional.broker.clock.sleep(TRANSACTION_TIMEOUT_S)
    else:
        transactional.broker.fence(NAME)
    with pytest.raises(ProducerFencedError) as caught:
        {"publish": lambda: delivery.publish([OTHER]), "commit": transactional.commit, "abort": delivery.abort}[call]()
    assert caught.value.timed_out == timed_out
    delivery.renew()
    delivery.publish([OTHER])
    transactional.commit()
    assert transactional.values == [b"2"]


@pytest.mark.parametrize("outs", [[Out("out", 0, b"pump", b"1", 5)], Outs("out", [0], [b"pump"], [b"1"], [5])], ids=["records", "columns"])
def test_the_client_itself_tells_of_a_record_that_no_broker_takes(outs: list[Out] | Outs) -> None:
    """Where the function stands among the client's arguments decides whether it is called at all."""
    heard: list[KafkaError | None] = []
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 20, "delivery.report.only.error": True, "log_level": 0}
    )
    produce_all(producer, outs, lambda: None, lambda error, _message: heard.append(error))
    wait_for(lambda: producer.flush(0.1) == 0 and heard, 60)
    assert [error.code() for error in heard if error is not None] == [KafkaError._MSG_TIMED_OUT]


def test_columns_that_do_not_fit_lose_no_output_in_silence() -> None:
    short = Outs("out", None, [b"pump", b"fan"], [b"1"], [5, 6])
    producer = confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        produce_all(producer, short, lambda: None)
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        list(short)
    producer.purge()
