"""`slotstream init`: creates the missing topics, with the settings that the service needs. Never changes a topic."""

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from processor.kafka import admin, permissions
from processor.kafka.topics import describe_topic, names
from processor.settings import Settings

KNOWN_ANSWERS = 3
# Outputs have the timestamps of their input, so the other topics must accept all timestamps that the input topic accepts.
TIMESTAMP_AFTER_MAX_MS = str(2**63 - 1)
# Segments are closed, and so compacted, after 64 MB: a restore reads everything that is not compacted away.
COMPACTED = {"cleanup.policy": "compact", "segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.3"}


def init(settings: Settings, partitions: int, replication_factor: int | None) -> list[str]:
    """Creates the missing topics, including the input. Returns one line for each action."""
    client, _ = admin.connected(settings)
    admin.demand(client, settings, permissions.of_init(settings))
    existing = describe_topic(client, settings.input.topic)
    count = existing.partitions if existing else partitions  # the same everywhere, so that a prediction is in its reading's partition
    lines = []
    for key, name in names(settings).items():
        topic = describe_topic(client, name)
        if topic is None:
            _create(settings, client, name, count, replication_factor, COMPACTED if key == "checkpoint.topic" else {})
            _wait_until_known(client, name)
            lines.append(f"created {name} with {count} partitions")
        else:
            lines.append(f"{name} is there, with {topic.partitions} partitions")
    return lines


def _create(
    settings: Settings, client: AdminClient, name: str, partitions: int, replication_factor: int | None, more: dict[str, str]
) -> None:
    config = {"message.timestamp.after.max.ms": TIMESTAMP_AFTER_MAX_MS, **more}
    topic = NewTopic(name, partitions, -1 if replication_factor is None else replication_factor, config=config)
    try:
        client.create_topics([topic], request_timeout=admin.BROKER_TIMEOUT_S)[name].result(admin.BROKER_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise permissions.named(settings, [permissions.Need("topic", name, "Create")]) from error
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise admin.refused(f"the broker does not create the topic {name}", error) from error


def _wait_until_known(client: AdminClient, name: str) -> None:
    """Waits until every broker knows the new topics, so that the next command finds them, whichever broker it asks.

    Any broker may answer a request, so each must have had several chances to answer that it does not know a topic.
    """
    known, until_s = 0, time.monotonic() + admin.BROKER_TIMEOUT_S
    while known < KNOWN_ANSWERS * _brokers(client) and time.monotonic() < until_s:
        known = known + 1 if describe_topic(client, name) is not None else 0
        if known == 0:
            time.sleep(0.05)


def _brokers(client: AdminClient) -> int:
    """The number of brokers; 1 if unknown."""
    try:
        return max(1, len(client.list_topics(timeout=admin.BROKER_TIMEOUT_S).brokers))
    except KafkaException:
        return 1
