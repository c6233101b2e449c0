"""Topics that are deleted, created again or changed under a service that works."""

import json
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from harness import SMALL, L, Service, Stream, Topics, assert_same, save_model
from places import SUPPORT
from waiting import wait_for

from processor.app.fit import load_model
from processor.verify.oracle import Reference

pytestmark = pytest.mark.long

LOOKS_OFTEN = str(SUPPORT / "looks_often.py")
GONE = "a topic no longer exists on the broker: the service waits, and ends if it does not come back"
AGAIN = "a topic was deleted and created again: continuing with the new one"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


class Broker:
    """What an administrator does to topics."""

    def __init__(self, bootstrap: str) -> None:
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(30)
        wait_for(lambda: topic not in self.admin.list_topics(timeout=10).topics, f"{topic} gone")

    def create(self, topic: str, partitions: int, **config: str) -> None:
        def created() -> bool:
            try:
                self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30)
            except KafkaException:
                return False  # the one before is not quite gone
            return True

        wait_for(created, f"{topic} created")
        wait_for(lambda: len(self.admin.list_topics(topic, timeout=10).topics[topic].partitions) == partitions, f"{topic} known")

    def configure(self, topic: str, name: str, value: str) -> None:
        change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(30)


class Watched:
    """A service that works on a seeded stream, and every answer that could ever be read."""

    def __init__(self, service: Service, topics: Topics, broker: Broker) -> None:
        self.service, self.topics, self.broker = service, topics, broker
        self.stream, self.seen = Stream(topics, 600), {}

    def lives(self) -> None:
        assert self.service.process.poll() is None, f"ended with {self.service.process.returncode}:\n{self.service.said()[-3000:]}"

    def answered(self) -> None:
        """Everything that was fed is answered, once."""

        def all_there() -> bool:
            self.lives()
            found = self.topics.answers()
            return len(self.seen.keys() | found.keys()) >= self.stream.due

        wait_for(all_there, lambda: f"{self.stream.due} answers:\n{self.service.said()[-3000:]}", 180, every_s=0.2)

    def keep(self, topic: str) -> None:
        """Remembers the answers in a topic that is about to be deleted."""
        dead = topic == self.topics.dead_letter
        self.seen |= {at: answer for at, answer in self.topics.answers().items() if isinstance(answer, str) == dead}

    def waits(self, topic: str) -> None:
        def said() -> bool:
            self.lives()
            found = self.service.get("/readyz")
            return found is not None and found[0] == 503 and topic in found[1]

        wait_for(said, lambda: f"/readyz names {topic}: {self.service.get('/readyz')}\n{self.service.said()[-3000:]}")
        verdicts = json.loads(self.service.get("/status.json")[1])["verdicts"]
        assert (verdicts["ready"]["level"], verdicts["pace"]["level"]) == ("bad", "bad")
        assert topic in verdicts["ready"]["reason"]
        assert self.service.get("/healthz")[0] == 200
        assert [event["topic"] for event in self.service.events(GONE)].count(topic) == 1

    def went_on(self, topic: str) -> None:
        wait_for(lambda: topic in [event["topic"] for event in self.service.events(AGAIN)], "the new topic taken up", 120)
        self.service.wait_ready(120)
        self.stream.feed(60)
        self.answered()
        assert [event["topic"] for event in self.service.events(AGAIN)].count(topic) == 1


@pytest.mark.timeout(900)
@pytest.mark.failure(
    "topic deleted",
    "output or dead-letter topic deleted and created again",
    "the checkpoint topic is deleted and created again",
    "a topic's settings changed while it runs",
)
def test_a_service_waits_for_a_topic_that_is_gone_and_goes_on_with_another_of_its_name_but_for_the_input(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("gone"), partitions=2)
    service = Service(topics, model, tmp_path, *SMALL, "--checkpoint.store=topic", f"--group={unique('gone')}")
    service.program, broker = [LOOKS_OFTEN, "300"], Broker(kafka.bootstrap)
    watched = Watched(service, topics, broker)
    with service:
        service.wait_ready(240)
        watched.stream.feed(100)
        watched.answered()

        # Nothing is fed: the look alone finds it.
        watched.keep(topics.output)
        broker.delete(topics.output)
        watched.waits(topics.output)
        wait_for(lambda: service.metric("topic_gone", '{topic="output"}') == 1, "the figure")
        wait_for(lambda: service.metric("ready") == 0, "the loop waits")
        watched.stream.feed(60)
        broker.create(topics.output, 2)
        watched.went_on(topics.output)
        wait_for(lambda: service.metric("topic_gone", '{topic="output"}') == 0, "the figure is back")

        # Under load, and with other partitions than before.
        watched.keep(topics.dead_letter)
        broker.delete(topics.dead_letter)
        watched.stream.feed(60)
        watched.waits(topics.dead_letter)
        broker.create(topics.dead_letter, 1)
        watched.went_on(topics.dead_letter)

        broker.delete(topics.checkpoint)
        watched.stream.feed(30)
        watched.waits(topics.checkpoint)
        broker.create(topics.checkpoint, 2, **{"cleanup.policy": "compact"})
        watched.went_on(topics.checkpoint)
        wait_for(lambda: marked(topics) == {0, 1}, "each partition checkpointed as a whole")
        service.kill()

    service.program = [LOOKS_OFTEN, "15"]
    with service:
        service.wait_ready(240)
        restored = service.events("partition restored")
        assert {event["partition"] for event in restored if event["checkpoint"] is not None} == {0, 1}
        watched.stream.feed(60)
        watched.answered()
        reference = Reference(load_model(service.settings), service.settings, model_id(topics))
        assert not watched.seen.keys() & topics.answers().keys(), "answered before its topic was deleted, and again"
        assert_same(watched.seen | topics.answers(), reference.expect(topics.inputs()))

        broker.configure(topics.checkpoint, "cleanup.policy", "delete")
        wait_for(lambda: service.metric("topic_findings", '{level="error"}') == 1, "the finding")
        found = next(e for e in map(json.loads, service.said().splitlines()) if topics.checkpoint in e["event"] and e["level"] == "error")
        assert "cleanup.policy" in found["event"]
        assert "kafka-configs.sh" in found["to_do"]
        broker.configure(topics.checkpoint, "cleanup.policy", "compact")
        wait_for(lambda: service.events("the finding is resolved"), "the finding is resolved")

        broker.delete(topics.input)
        watched.waits(topics.input)
        assert service.wait_end(90) == 3
        last = service.said().splitlines()[-1]
        assert f"the topic {topics.input} (input.topic) has been gone from the broker" in last
        assert "slotstream init" in last
        assert "#a-topic-is-gone" in last


def marked(topics: Topics) -> set[int]:
    return {message.partition() for message in topics.read(topics.checkpoint) if message.key() == b"\0"}


def model_id(topics: Topics) -> str:
    return json.loads(topics.read(topics.output)[0].value())["model"]
