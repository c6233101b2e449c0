"""What the broker says of topics and of the group; creating what is missing; telling what is wrong before the start.

Asks and creates, never deletes. The service needs describe(); `slotstream init` and `slotstream check` are this room's too.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from processor.errors import ConfigurationError, NotPermitted, SlotstreamError
from processor.settings import Settings
from processor.stream import group, permissions
from processor.stream.clients import admin_client, restore_consumer
from processor.stream.permissions import NO_COORDINATOR
from processor.stream.refusal import refusal

BROKER_TIMEOUT_S = 15.0
ASK_S = 1.0
REFUSED_S = 3.0
GROUP_S = 5.0
# Outputs bear their input's timestamps, and what the input topic took the others must take too.
TIMESTAMP_AFTER_MAX_MS = str(2**63 - 1)
# Segments are closed, and so compacted, after 64 MB: a restore reads what compaction has left.
COMPACTED = {"cleanup.policy": "compact", "segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.3"}
EXPECTED_OF_CHECKPOINTS = "a topic with cleanup.policy compact and as many partitions as the input"


@dataclass(frozen=True, slots=True)
class Topic:
    """name, id, number of partitions, max.message.bytes, cleanup.policy"""

    name: str
    id: str
    partitions: int
    bytes_max: int
    cleanup: str


@dataclass(frozen=True, slots=True)
class Topics:
    cluster: str
    input: Topic
    output: Topic
    dead_letter: Topic
    checkpoint: Topic | None  # None where checkpoints are files

    @property
    def written(self) -> list[Topic]:
        """The topics that the service's transactions write to."""
        return [topic for topic in (self.output, self.dead_letter, self.checkpoint) if topic is not None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `slotstream check`."""

    good: bool
    what: str
    found: str
    do: str = ""


def describe(settings: Settings) -> Topics:
    """The topics that are read and written. Raises SlotstreamError if no broker answers, ConfigurationError if one is missing or if
    the broker does not let the client in, NotPermitted for what it may not do."""
    client, cluster = _connected(settings)
    _demand(client, settings, permissions.of_run(settings))
    names = dict(_names(settings))
    found = {key: _topic(client, name) for key, name in names.items()}
    missing = [f"{names[key]} ({key})" for key, topic in found.items() if topic is None]
    if missing:
        raise _missing(settings, ", ".join(missing), "the topics that the service reads and writes to exist")
    present = {key: topic for key, topic in found.items() if topic is not None}
    source, checkpoint = present["input.topic"], present.get("checkpoint.topic")
    if checkpoint is not None and (problem := _unfit_for_checkpoints(checkpoint, source)):
        raise ConfigurationError(problem[0], expected=EXPECTED_OF_CHECKPOINTS, do=problem[1], see="the-checkpoint-topic-does-not-fit")
    return Topics(cluster, source, present["output.topic"], present["dead_letter.topic"], checkpoint)


def describe_input(settings: Settings) -> Topic:
    """The input topic alone, to write to. Raises as describe()."""
    return _describe_one(settings, settings.input.topic, "input.topic", permissions.of_feed(settings))


def describe_sampled(settings: Settings) -> Topic:
    """The input topic alone, to read its newest records. Raises as describe()."""
    return _describe_one(settings, settings.input.topic, "input.topic", permissions.of_sample(settings))


def describe_checkpoints(settings: Settings) -> Topic:
    """The checkpoint topic alone, to look into. Raises as describe()."""
    return _describe_one(settings, str(settings.checkpoint_topic), "checkpoint.topic", permissions.of_state(settings))


def _describe_one(settings: Settings, name: str, key: str, needs: list[permissions.Need]) -> Topic:
    client, _ = _connected(settings)
    _demand(client, settings, needs)
    topic = _topic(client, name)
    if topic is None:
        raise _missing(settings, f"{name} ({key})", "it to exist")
    return topic


def _missing(settings: Settings, topics: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"the broker at {_bootstrap(settings)} has no topic {topics}",
        expected=expected,
        do="create what is missing with `slotstream init`, or correct the names",
        see="a-topic-is-missing",
    )


def member_of(settings: Settings, beat: Callable[[], None]) -> str | None:
    """The member id that the group's coordinator holds for this instance's name; None if it knows nobody of that name.

    Asks until it answers, with a beat a try: it is asked after an outage.
    """
    while True:
        beat()
        try:
            members = group.described(settings, GROUP_S).members
        except (KafkaException, TimeoutError) as error:
            if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise _refused(f"the broker does not describe the group {settings.group_id}", error) from error
            time.sleep(0.2)  # a coordinator that starts up answers soon
            continue
        return next((m.member_id for m in members if m.group_instance_id == settings.transactional_id), None)


def init(settings: Settings, partitions: int, replication_factor: int | None) -> list[str]:
    """Creates the topics that are missing, the input too. Returns what was done, a line each."""
    client, _ = _connected(settings)
    _demand(client, settings, permissions.of_init(settings))
    existing = _topic(client, settings.input.topic)
    count = existing.partitions if existing else partitions  # as many everywhere, so that a prediction lies where its reading does
    lines = []
    for key, name in _names(settings):
        topic = _topic(client, name)
        if topic is None:
            _create(settings, client, name, count, replication_factor, COMPACTED if key == "checkpoint.topic" else {})
            _wait_until_known(client, name)
            lines.append(f"created {name} with {count} partitions")
        else:
            lines.append(f"{name} is there, with {topic.partitions} partitions")
    return lines


def check(settings: Settings) -> list[Finding]:
    """The broker's side of `slotstream check`: reachable, topics, permissions, offsets. Goes on past whatever is wrong."""
    try:
        client, cluster = _connected(settings)
    except SlotstreamError as error:
        return [Finding(False, "broker", error.found, error.do)]
    findings = [Finding(True, "broker", f"{_bootstrap(settings)} answers, cluster {cluster}")]
    topics = dict[str, Topic | None]()
    for key, name in _names(settings):
        try:
            topics[key] = topic = _topic(client, name)
        except SlotstreamError as error:
            findings.append(Finding(False, key, error.found, error.do))
            continue
        if topic is None:
            findings.append(Finding(False, key, f"there is no topic {name}", "slotstream init"))
        else:
            findings.append(Finding(True, key, f"{name}: {topic.partitions} partitions, records up to {topic.bytes_max:,} bytes"))
    findings += _check_permissions(client, settings)
    source = topics.get("input.topic")
    if source is not None:
        findings += _check_together(source, topics)
        if not any(f"on group {settings.group_id} is missing" in finding.found for finding in findings):
            findings.append(_check_group(settings, source.partitions))
    return findings


def _check_permissions(client: AdminClient, settings: Settings) -> Iterator[Finding]:
    """A line for each that is missing, and one for those that are there."""
    needs = [need for need in permissions.of_run(settings) if need.kind in ("topic", "group")]
    try:
        lacks = permissions.missing(client, settings, needs)
    except KafkaException as error:
        yield Finding(False, "permissions", f"the broker does not tell them ({error.args[0].str()})", "look at the broker's log")
        return
    for need in lacks:
        yield Finding(False, "permission", f"{need.operation} on {need.resource} is missing", permissions.grant(settings, need))
    if len(lacks) < len(needs):
        there = f"{len(needs) - len(lacks)} of the {len(needs)} on topics and group are there, for {permissions.principal(settings)}"
        yield Finding(True, "permissions", there)


def _names(settings: Settings) -> list[tuple[str, str]]:
    names = [
        ("input.topic", settings.input.topic),
        ("output.topic", settings.output.topic),
        ("dead_letter.topic", settings.dead_letter_topic),
    ]
    return [*names, ("checkpoint.topic", settings.checkpoint_topic)] if settings.checkpoint_topic is not None else names


def _unfit_for_checkpoints(topic: Topic, source: Topic) -> tuple[str, str] | None:
    """What is wrong with it, and what to do."""
    if topic.cleanup != "compact":
        found = f"cleanup.policy of {topic.name} is {topic.cleanup}: rows of sensors that are silent for long would be deleted"
        return found, "set it to compact, and to nothing else"
    if topic.partitions != source.partitions:
        found = f"{topic.name} has {topic.partitions} partitions, {source.name} has {source.partitions}"
        if topic.partitions < source.partitions:
            command = f"kafka-topics.sh --bootstrap-server ... --alter --topic {topic.name} --partitions {source.partitions}"
            return found, f"raise them: {command}"
        return found, "create it anew with as many (it holds nothing that the input cannot give again), or name another checkpoint.topic"
    return None


def _check_together(source: Topic, topics: dict[str, Topic | None]) -> Iterator[Finding]:
    if "compact" in source.cleanup:
        yield Finding(False, "input cleanup", f"cleanup.policy is {source.cleanup}", "set it to delete: a replay needs every reading")
    checkpoint = topics.get("checkpoint.topic")
    if checkpoint is not None and (problem := _unfit_for_checkpoints(checkpoint, source)):
        yield Finding(False, "checkpoints", *problem)
    for key in ("output.topic", "dead_letter.topic"):
        topic = topics.get(key)
        if topic is not None and topic.partitions != source.partitions:
            found = f"{topic.partitions} partitions, the input has {source.partitions}: records are spread by their keys"
            yield Finding(True, f"{key} partitions", found)


def _check_group(settings: Settings, partitions: int) -> Finding:
    name = settings.group_id
    consumer = restore_consumer(settings)
    try:
        wanted = [TopicPartition(settings.input.topic, partition) for partition in range(partitions)]
        offsets = [tp.offset for tp in _committed(consumer, wanted) if tp.offset >= 0]
    except KafkaException as error:
        return Finding(False, "group", f"{name}: {error.args[0].str()}", "look at the permissions on the group, and at the broker's log")
    finally:
        consumer.close()
    said = f"{name} has offsets in {len(offsets)} partitions" if offsets else f"{name} is new: it begins at {settings.input.start}"
    return Finding(True, "group", said)


def _committed(consumer: Consumer, wanted: list[TopicPartition]) -> list[TopicPartition]:
    """Asks again for a while where there is no coordinator yet: a new group's is found as it is asked for."""
    until_s = time.monotonic() + BROKER_TIMEOUT_S
    while True:
        try:
            return list(consumer.committed(wanted, BROKER_TIMEOUT_S))
        except KafkaException as error:
            if not (error.args[0].retriable() or error.args[0].code() in NO_COORDINATOR) or time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def _connected(settings: Settings) -> tuple[AdminClient, str]:
    """A client, and the id of the cluster that has answered it.

    Raises SlotstreamError if none answers, ConfigurationError as soon as it is known why a broker that is there refuses this client.
    """
    heard = deque[KafkaError](maxlen=20)
    client = admin_client(settings, heard.append)
    begun_s, looked = time.monotonic(), False
    while True:
        try:
            return client, str(client.list_topics(timeout=min(ASK_S, BROKER_TIMEOUT_S)).cluster_id)
        except KafkaException as error:
            client.poll(0)
            past_s, reason = time.monotonic() - begun_s, error
        # A login may be taken a moment later by a broker that starts up: one look, when it has had that moment, and one at the end.
        if past_s > min(REFUSED_S, BROKER_TIMEOUT_S) and (not looked or past_s > BROKER_TIMEOUT_S):
            looked = True
            if (refused := refusal(settings, heard)) is not None:
                raise refused from reason
        if past_s > BROKER_TIMEOUT_S:
            raise _no_answer(settings, reason, heard) from reason
        time.sleep(0.1)  # where all brokers are known to be down the client answers at once


def _no_answer(settings: Settings, error: Exception, heard: Iterable[KafkaError]) -> SlotstreamError:
    told = [one.str().partition(" (after ")[0] for one in heard if one.code() != KafkaError._ALL_BROKERS_DOWN]
    return SlotstreamError(
        f"no broker answers at {_bootstrap(settings)} ({told[-1] if told else error.args[0].str()})",
        expected=f"an answer within {BROKER_TIMEOUT_S:.0f} s",
        do="start the broker, or correct bootstrap.servers and the security properties under kafka",
        see="no-broker-answers",
    )


def what_is_missing(settings: Settings, refused: NotPermitted) -> NotPermitted:
    """The error that names the permissions which a refused call has shown to be missing; the same one where the broker tells of none."""
    if refused.kind == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED":
        return permissions.named(settings, [permissions.of_transactions(settings)])
    try:
        client, _ = _connected(settings)
        lacks = permissions.missing(client, settings, permissions.of_run(settings))
    except (SlotstreamError, KafkaException):
        return refused
    return permissions.named(settings, lacks) if lacks else refused


def _demand(client: AdminClient, settings: Settings, needs: list[permissions.Need]) -> None:
    """Raises NotPermitted, and names everything that is missing."""
    try:
        lacks = permissions.missing(client, settings, needs)
    except KafkaException as error:
        raise _refused("the broker does not tell what it permits", error) from error
    if lacks:
        raise permissions.named(settings, lacks)


def _bootstrap(settings: Settings) -> str:
    return settings.kafka_config()["bootstrap.servers"]


def _topic(client: AdminClient, name: str) -> Topic | None:
    try:
        found = client.describe_topics(TopicCollection([name]), request_timeout=BROKER_TIMEOUT_S)[name].result(BROKER_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise _refused(f"the broker does not describe the topic {name}", error) from error
    resource = ConfigResource(ResourceType.TOPIC, name)
    try:
        configs = client.describe_configs([resource], request_timeout=BROKER_TIMEOUT_S)[resource].result(BROKER_TIMEOUT_S)
    except KafkaException as error:
        raise _refused(f"the broker does not tell the configuration of the topic {name}", error) from error
    return Topic(
        name,
        str(found.topic_id),
        len(found.partitions),
        int(configs["max.message.bytes"].value),
        str(configs["cleanup.policy"].value),
    )


def _create(
    settings: Settings, client: AdminClient, name: str, partitions: int, replication_factor: int | None, more: dict[str, str]
) -> None:
    config = {"message.timestamp.after.max.ms": TIMESTAMP_AFTER_MAX_MS, **more}
    topic = NewTopic(name, partitions, -1 if replication_factor is None else replication_factor, config=config)
    try:
        client.create_topics([topic], request_timeout=BROKER_TIMEOUT_S)[name].result(BROKER_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise permissions.named(settings, [permissions.Need("topic", name, "Create")]) from error
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise _refused(f"the broker does not create the topic {name}", error) from error


def _wait_until_known(client: AdminClient, name: str) -> None:
    """A topic is created before every broker tells of it: what runs next should find it."""
    until_s = time.monotonic() + BROKER_TIMEOUT_S
    while _topic(client, name) is None and time.monotonic() < until_s:
        time.sleep(0.05)


def _refused(found: str, error: KafkaException) -> SlotstreamError:
    reason = error.args[0]
    if reason.code() in permissions.AUTHORIZATION:
        return permissions.refused(found, reason)
    return SlotstreamError(
        f"{found} ({reason.name()}: {reason.str()})",
        expected="it to",
        do="mend what the broker names, or let an administrator do it",
        see="the-broker-refuses",
    )
