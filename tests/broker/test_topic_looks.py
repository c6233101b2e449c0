"""Looks at the topics of a real broker, without a service."""

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from waiting import wait_for

from processor.kafka.topics import Look, Looker, describe
from processor.settings import Settings


@pytest.fixture
def real(kafka, unique):
    """Settings whose topics exist, and an administrator."""
    name, admin = unique("watch"), AdminClient({"bootstrap.servers": kafka.bootstrap})
    options = {"kafka": {"bootstrap.servers": kafka.bootstrap}, "input": {"topic": name}, "output": {"topic": f"{name}.out"}}
    settings = Settings(**options)
    made = [NewTopic(one, 2, 1) for one in (name, f"{name}.out", settings.dead_letter_topic)]
    made.append(NewTopic(str(settings.checkpoint_topic), 2, 1, config={"cleanup.policy": "compact"}))
    for future in admin.create_topics(made).values():
        future.result(30)
    wait_for(lambda: {one.topic for one in made} <= admin.list_topics(timeout=10).topics.keys(), "the topics")
    return settings, admin


def test_a_look_sees_what_the_start_saw_until_an_administrator_comes_by(real):
    settings, admin = real
    topics = describe(settings)
    look = Looker(settings, topics)
    assert look(configs=True) == Look(topics.by_key, credible=True)
    told = topics.input
    assert (told.retention_ms, told.retention_bytes, told.replicas, told.insync_min) == (604_800_000, None, 1, 1)

    admin.delete_topics([settings.output.topic])[settings.output.topic].result(30)
    found = wait_for(lambda: (seen := look(configs=False)) and seen.topics["output.topic"] is None and seen, "the topic gone")
    assert found == Look({**topics.by_key, "output.topic": None}, credible=True)

    admin.create_partitions([NewPartitions(settings.input.topic, 5)])[settings.input.topic].result(30)
    wait_for(lambda: look(configs=False).topics["input.topic"].partitions == 5, "the partitions")

    def created() -> bool:
        made = NewTopic(settings.output.topic, 1, 1, config={"max.message.bytes": "2000"})
        return admin.create_topics([made])[settings.output.topic].exception(30) is None

    wait_for(created, "created again")
    found = wait_for(lambda: look(configs=False).topics["output.topic"], "seen again")
    assert found.id != topics.output.id
    assert (found.partitions, found.bytes_max) == (1, 2000), "of another topic the settings are asked for at once"


def test_without_a_broker_there_is_no_look(real, monkeypatch):
    settings, _ = real
    look = Looker(Settings(kafka={"bootstrap.servers": "127.0.0.1:1"}), describe(settings))
    monkeypatch.setattr("processor.kafka.topics.LOOK_S", 0.5)
    assert look(configs=True) is None
