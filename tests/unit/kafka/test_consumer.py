"""What the group's member is asked beside the loop. Everything else of it takes a broker: tests/broker."""

import threading

import pytest
from confluent_kafka import KafkaException, TopicPartition
from waiting import wait_for

from processor.kafka import consumer as module
from processor.kafka.consumer import Committed, GroupConsumer
from processor.settings import load_settings


class Client:
    """In place of confluent_kafka's consumer. An answer waits for `answer`; a client that is freed before it would crash the process."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked = threading.Event()
        self.done: list[str] = []

    def memberid(self) -> str:
        return "member-1"

    def subscribe(self, _topics, **_callbacks) -> None:
        pass

    def committed(self, partitions: list[TopicPartition], _timeout_s: float) -> list[TopicPartition]:
        self.asked.set()
        assert self.answer.wait(60)
        self.done.append("answered")
        for wanted in partitions:
            wanted.offset = -1001 if wanted.partition == 2 else 70 + wanted.partition
        return partitions

    def close(self) -> None:
        self.done.append("closed")


@pytest.fixture
def client(monkeypatch) -> Client:
    client = Client()
    monkeypatch.setattr(module, "member_consumer", lambda _settings, _mark: client)
    return client


def test_committed_offsets_come_from_the_client_that_is_the_member(client):
    reader = GroupConsumer(load_settings(None, [], {}), listener=None, mark="slotstream#0")
    client.answer.set()
    assert reader.committed([0, 1, 2], 1.0) == [Committed(70, ""), Committed(71, ""), None]


def test_a_client_is_not_closed_while_it_is_asked_and_is_not_asked_once_it_is(client):
    reader = GroupConsumer(load_settings(None, [], {}), listener=None, mark="slotstream#0")
    threads = [threading.Thread(target=reader.committed, args=([0], 1.0)), threading.Thread(target=reader.close)]
    threads[0].start()
    assert client.asked.wait(60)
    threads[1].start()
    wait_for(lambda: reader.member_id is None, 60)  # close() has begun, and waits
    with_third = threading.Thread(target=lambda: client.done.append(_refused(reader)))
    with_third.start()
    client.answer.set()
    for thread in (*threads, with_third):
        thread.join(60)
    assert client.done == ["answered", "closed", "refused"] or client.done == ["answered", "refused", "closed"]


def _refused(reader: GroupConsumer) -> str:
    with pytest.raises(KafkaException, match="left the group"):
        reader.committed([0], 1.0)
    return "refused"
