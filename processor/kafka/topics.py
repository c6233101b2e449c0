"""The broker's descriptions of the service's topics: at the start, for the commands, and while the service runs.

Only queries. findings.py evaluates the descriptions; create_topics.py creates topics.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from processor.errors import ConfigurationError
from processor.kafka import admin, permissions
from processor.kafka.clients import admin_client
from processor.settings import Settings

LOOK_S = 5.0
_NEVER_S = 3_000.0  # a query is cancelled by closing its client (kafka.group explains why)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and the settings that the service depends on. None: unlimited, or not reported by the broker.

    bytes_max is max.message.bytes, cleanup is cleanup.policy, insync_min is min.insync.replicas; replicas is the smallest number of
    replicas of any partition.
    """

    name: str
    id: str
    partitions: int
    bytes_max: int
    cleanup: str
    retention_ms: int | None = None
    retention_bytes: int | None = None
    replicas: int | None = None
    insync_min: int | None = None


@dataclass(slots=True)
class Topics:
    """The service's topics. Only the loop's thread replaces one, and only with a topic of the same name (topic_watch.py)."""

    cluster: str
    input: Topic
    output: Topic
    dead_letter: Topic
    checkpoint: Topic | None  # None if checkpoints are files
    alarm: Topic | None = None  # None if there are no alarms

    @property
    def written(self) -> list[Topic]:
        """The topics that the service's transactions write to."""
        return [topic for topic in (self.output, self.dead_letter, self.checkpoint, self.alarm) if topic is not None]

    @property
    def by_key(self) -> dict[str, Topic]:
        """The topics by the setting that names them: input.topic, output.topic, dead_letter.topic, and the others that are used."""
        found = {"input.topic": self.input, "output.topic": self.output, "dead_letter.topic": self.dead_letter}
        others = {"checkpoint.topic": self.checkpoint, "alarm.topic": self.alarm}
        return found | {key: topic for key, topic in others.items() if topic is not None}

    def put(self, key: str, topic: Topic) -> None:
        setattr(self, key.removesuffix(".topic"), topic)


@dataclass(frozen=True, slots=True)
class Look:
    """One answer of one broker about the topics, by the setting that names them.

    topics    None: the broker does not know the topic. A missing key: unknown.
    credible  the broker knows at least one topic. A broker that knows none may not have learned of them yet.
    """

    topics: Mapping[str, Topic | None]
    credible: bool


def names(settings: Settings) -> dict[str, str]:
    """The topics' names, by setting."""
    found = {"input.topic": settings.input.topic, "output.topic": settings.output.topic, "dead_letter.topic": settings.dead_letter_topic}
    others = {"checkpoint.topic": settings.checkpoint_topic, "alarm.topic": settings.alarm_topic}
    return found | {key: name for key, name in others.items() if name is not None}


def describe(settings: Settings) -> Topics:
    """The topics that the service reads and writes.

    Raises SlotstreamError if no broker answers, ConfigurationError if a topic is missing or the broker refuses the client, NotPermitted
    if permissions are missing.
    """
    client, cluster = admin.connected(settings)
    admin.demand(client, settings, permissions.of_run(settings))
    found = {key: describe_topic(client, name) for key, name in names(settings).items()}
    missing = [f"{names(settings)[key]} ({key})" for key, topic in found.items() if topic is None]
    if missing:
        raise _missing(settings, ", ".join(missing), "the topics that the service reads and writes to exist")
    there = {key: topic for key, topic in found.items() if topic is not None}
    return of_keys(cluster, there)


def of_keys(cluster: str, found: Mapping[str, Topic]) -> Topics:
    """The topics, from those by setting."""
    source, output, dead_letter = (found[key] for key in ("input.topic", "output.topic", "dead_letter.topic"))
    return Topics(cluster, source, output, dead_letter, found.get("checkpoint.topic"), found.get("alarm.topic"))


def describe_input(settings: Settings) -> Topic:
    """Only the input topic, for writing. Raises the errors of describe()."""
    return _describe_one(settings, settings.input.topic, "input.topic", permissions.of_feed(settings))


def describe_sampled(settings: Settings) -> Topic:
    """Only the input topic, for reading its newest records. Raises the errors of describe()."""
    return _describe_one(settings, settings.input.topic, "input.topic", permissions.of_sample(settings))


def describe_checkpoints(settings: Settings) -> Topic:
    """Only the checkpoint topic, for inspection. Raises the errors of describe()."""
    return _describe_one(settings, str(settings.checkpoint_topic), "checkpoint.topic", permissions.of_state(settings))


def describe_topic(client: AdminClient, name: str) -> Topic | None:
    """None if the topic does not exist. Raises SlotstreamError."""
    wait_s = admin.BROKER_TIMEOUT_S
    try:
        described = client.describe_topics(TopicCollection([name]), request_timeout=wait_s)[name].result(wait_s)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise admin.refused(f"the broker does not describe the topic {name}", error) from error
    resource = ConfigResource(ResourceType.TOPIC, name)
    try:
        configs = client.describe_configs([resource], request_timeout=wait_s)[resource].result(wait_s)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:  # a broker that does not know the topic yet
            return None
        raise admin.refused(f"the broker does not tell the configuration of the topic {name}", error) from error
    return _topic(described, configs)


class Looker:
    """Queries the topics again, with a new client each time. For use by one thread.

    known: the descriptions from the start. A setting that the broker no longer reports keeps its value.
    """

    def __init__(self, settings: Settings, known: Topics) -> None:
        self._settings, self._known = settings, known.by_key
        self._configs_told = True

    def __call__(self, *, configs: bool) -> Look | None:
        """configs: also request the topics' settings; those of a topic with a new id are always requested. None if there is no answer."""
        try:
            client = admin_client(self._settings, lambda _: None)  # the loop's own clients report connection problems
            found = self._described(client)
            # A broker that knows none of these topics may know others.
            credible = any(found.values()) or bool(client.list_topics(timeout=LOOK_S).topics)
            asked = {key: self._known[key] for key, described in found.items() if described}
            told = self._configs(client, [t.name for key, t in asked.items() if configs or t.id != str(found[key].topic_id)])
        except (KafkaException, TimeoutError, ConfigurationError):  # ConfigurationError: a certificate file that is just being replaced
            return None
        topics = dict[str, Topic | None]()
        for key, described in found.items():
            topic = None if described is None else _renewed(self._known[key], described, told.get(self._known[key].name))
            topics[key] = topic
            self._known[key] = topic or self._known[key]
        return Look(topics, credible)

    def _described(self, client: AdminClient) -> dict[str, Any]:
        """None for a topic that the broker does not know; no entry for one that it does not show to this user."""
        futures = client.describe_topics(TopicCollection([topic.name for topic in self._known.values()]), request_timeout=_NEVER_S)
        until_s, found = time.monotonic() + LOOK_S, dict[str, Any]()
        for key, topic in self._known.items():
            try:
                found[key] = futures[topic.name].result(max(0.0, until_s - time.monotonic()))
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    found[key] = None
                elif error.args[0].code() not in permissions.AUTHORIZATION:
                    raise
        return found

    def _configs(self, client: AdminClient, names: list[str]) -> dict[str, Any]:
        """The topics' settings. Not requested again after a refusal, because each refusal is a line in the broker's audit log."""
        if not self._configs_told or not names:
            return {}
        resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in names}
        futures = client.describe_configs(list(resources.values()), request_timeout=_NEVER_S)
        until_s, told = time.monotonic() + LOOK_S, dict[str, Any]()
        for name, resource in resources.items():
            try:
                told[name] = futures[resource].result(max(0.0, until_s - time.monotonic()))
            except KafkaException as error:
                if error.args[0].code() in permissions.AUTHORIZATION:
                    self._configs_told = False
                elif error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # deleted between the two requests
                    raise
        return told


def _describe_one(settings: Settings, name: str, key: str, needs: list[permissions.Need]) -> Topic:
    client, _ = admin.connected(settings)
    admin.demand(client, settings, needs)
    topic = describe_topic(client, name)
    if topic is None:
        raise _missing(settings, f"{name} ({key})", "it to exist")
    return topic


def _missing(settings: Settings, topics: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"the broker at {admin.bootstrap(settings)} has no topic {topics}",
        expected=expected,
        do="create what is missing with `slotstream init`, or correct the names",
        see="a-topic-is-missing",
    )


def _topic(described: Any, configs: Any) -> Topic:
    """A Topic from the client's description and its config entries by name."""
    bare = Topic(str(described.name), str(described.topic_id), len(described.partitions), 0, "")
    return _configured(replace(bare, replicas=_replicas(described)), configs)


def _renewed(known: Topic, described: Any, configs: Any | None) -> Topic:
    topic = replace(known, id=str(described.topic_id), partitions=len(described.partitions), replicas=_replicas(described))
    return topic if configs is None else _configured(topic, configs)


def _configured(topic: Topic, configs: Any) -> Topic:
    return replace(
        topic,
        bytes_max=int(configs["max.message.bytes"].value),
        cleanup=str(configs["cleanup.policy"].value),
        retention_ms=_limit(configs, "retention.ms"),
        retention_bytes=_limit(configs, "retention.bytes"),
        insync_min=_limit(configs, "min.insync.replicas"),
    )


def _replicas(described: Any) -> int | None:
    return min((len(partition.replicas) for partition in described.partitions), default=None)


def _limit(configs: Any, name: str) -> int | None:
    """The limit; None for -1."""
    entry = configs.get(name)
    return None if entry is None or entry.value is None or int(entry.value) < 0 else int(entry.value)
