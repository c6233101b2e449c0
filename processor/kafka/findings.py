"""The findings about the topics and the cluster settings that the service depends on, as one list.

`slotstream check` prints the list, a start logs warnings and ends at the first error, and a running service repeats the checks
(topic_watch.py). Pure functions: the broker's answers are arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from processor.errors import ConfigurationError
from processor.kafka.clients import HEARTBEAT_MS, SESSION_MS
from processor.kafka.topics import Topic, Topics
from processor.settings import Settings

RETENTION_INTERVALS = 10  # covered by retention: room for a restart, its replay and a downtime of some minutes
START_S = 10.0  # for importing TensorFlow and compiling a model
CHECKPOINT = "the-checkpoint-topic-does-not-fit"
SIZES = "a-topic-takes-too-small-records"
SESSION = "the-session-does-not-fit"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of `slotstream check`, and the message of a start or a running service.

    warning: a start continues. error: a start ends with it.
    """

    level: Literal["ok", "warning", "error"]
    what: str
    found: str
    do: str = ""
    expected: str = ""
    see: str = ""

    @property
    def good(self) -> bool:
        return self.level != "error"

    def error(self) -> ConfigurationError:
        return ConfigurationError(self.found, expected=self.expected, do=self.do, see=self.see)


@dataclass(frozen=True, slots=True)
class RecordBytes:
    """The largest records that the service may write, bytes. row: a sensor's row in the checkpoint topic."""

    output: int
    row: int


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The broker's group.min.session.timeout.ms and group.max.session.timeout.ms."""

    min_ms: int
    max_ms: int


def require(findings: list[Finding]) -> None:
    """Raises ConfigurationError for the first finding that is an error."""
    for finding in findings:
        if not finding.good:
            raise finding.error()


def of_topics(settings: Settings, topics: Topics) -> list[Finding]:
    """The findings about the topics, individually and together."""
    found = [*_input(settings, topics.input), *_replication(topics), *_partitions(topics), *_dead_letter(topics)]
    if topics.checkpoint is not None:
        found += _checkpoint(topics.checkpoint, topics.input)
    return found


def of_sizes(topics: Topics, record_bytes: RecordBytes) -> list[Finding]:
    """The findings about record sizes, for the topics and the model."""
    return list(_sizes(topics, record_bytes))


def of_session(settings: Settings, limits: SessionLimits | None) -> list[Finding]:
    """The findings about the group session's settings. limits: None if the broker does not report them."""
    return list(_session(settings, limits))


def _input(settings: Settings, topic: Topic) -> Iterator[Finding]:
    if "compact" in topic.cleanup:
        yield Finding(
            "error",
            "input.topic cleanup.policy",
            f"cleanup.policy of {topic.name} is {topic.cleanup}: compaction deletes all readings of a sensor but the last",
            _alter(topic, "cleanup.policy=delete"),
            expected="cleanup.policy delete: a replay needs every reading",
            see="the-input-topic-does-not-fit",
        )
    interval_s, retention_ms = settings.checkpoint.interval, topic.retention_ms
    if "delete" in topic.cleanup and retention_ms is not None and retention_ms < RETENTION_INTERVALS * interval_s * 1000:
        yield Finding(
            "warning",
            "input.topic retention.ms",
            f"{topic.name} keeps readings for {retention_ms / 1000:g} s, and a checkpoint is made each {interval_s:g} s: after an absence "
            "the log may not reach back to the newest one",
            f"raise retention.ms of {topic.name} well above the longest absence, or lower checkpoint.interval",
            expected=f"at least {RETENTION_INTERVALS} times checkpoint.interval",
        )
    if "delete" in topic.cleanup and topic.retention_bytes is not None and topic.retention_bytes < topic.bytes_max:
        yield Finding(
            "warning",
            "input.topic retention.bytes",
            f"{topic.name} keeps {topic.retention_bytes:,} bytes a partition, less than one record may take: readings can be gone before "
            "they are read, and a replay may not find its own",
            f"raise retention.bytes of {topic.name} above what a partition takes in in {RETENTION_INTERVALS} times checkpoint.interval",
            expected="more than a replay reads",
        )


def _replication(topics: Topics) -> Iterator[Finding]:
    for key, topic in topics.by_key.items():
        if key == "input.topic" or topic.replicas is None or topic.insync_min is None:
            continue
        told = f"min.insync.replicas of {topic.name} is {topic.insync_min}, and a partition has {topic.replicas} replicas"
        if topic.insync_min > topic.replicas:
            yield Finding(
                "error",
                f"{key} min.insync.replicas",
                f"{told}: the broker takes no record",
                f"add replicas, or {_alter(topic, f'min.insync.replicas={max(1, topic.replicas - 1)}')}",
                expected="fewer in-sync replicas than there are replicas",
                see="a-topic-takes-no-records",
            )
        elif topic.insync_min == topic.replicas > 1:
            yield Finding(
                "warning",
                f"{key} min.insync.replicas",
                f"{told}: while one broker is away nothing is published",
                f"add replicas, or {_alter(topic, f'min.insync.replicas={topic.replicas - 1}')}",
                expected="fewer in-sync replicas than there are replicas",
            )
        elif topic.insync_min == 1 and topic.replicas > 2:
            yield Finding(
                "warning",
                f"{key} min.insync.replicas",
                f"{told}: what only one of them has taken is lost with it",
                _alter(topic, "min.insync.replicas=2"),
                expected="2, so that each record survives the loss of a broker",
            )


def _partitions(topics: Topics) -> Iterator[Finding]:
    for key, topic in (("output.topic", topics.output), ("dead_letter.topic", topics.dead_letter)):
        if topic.partitions != topics.input.partitions:
            found = f"{topic.name} has {topic.partitions} partitions, the input has {topics.input.partitions}"
            yield Finding("ok", f"{key} partitions", f"{found}: records are spread by their keys")


def _dead_letter(topics: Topics) -> Iterator[Finding]:
    if topics.dead_letter.bytes_max < topics.input.bytes_max:
        yield Finding(
            "warning",
            "dead_letter.topic max.message.bytes",
            f"{topics.dead_letter.name} takes records up to {topics.dead_letter.bytes_max:,} bytes, and {topics.input.name} up to "
            f"{topics.input.bytes_max:,}: a larger bad record is written there without its value",
            _alter(topics.dead_letter, f"max.message.bytes={topics.input.bytes_max}"),
            expected="as many bytes as the input takes",
        )


def _checkpoint(topic: Topic, source: Topic) -> Iterator[Finding]:
    expected = "a topic with cleanup.policy compact and as many partitions as the input"
    if topic.cleanup != "compact":
        found = f"cleanup.policy of {topic.name} is {topic.cleanup}: rows of sensors that are silent for long would be deleted"
        yield Finding("error", "checkpoint.topic cleanup.policy", found, _alter(topic, "cleanup.policy=compact"), expected, see=CHECKPOINT)
    if topic.partitions != source.partitions:
        found = f"{topic.name} has {topic.partitions} partitions, {source.name} has {source.partitions}"
        do = "create it again with as many (it holds nothing that the input cannot give again), or name another checkpoint.topic"
        if topic.partitions < source.partitions:
            command = f"kafka-topics.sh --bootstrap-server ... --alter --topic {topic.name} --partitions {source.partitions}"
            do = f"raise them: {command}"
        yield Finding("error", "checkpoint.topic partitions", found, do, expected, see=CHECKPOINT)


def _sizes(topics: Topics, largest: RecordBytes) -> Iterator[Finding]:
    if largest.output > topics.output.bytes_max:
        yield Finding(
            "error",
            "output.topic max.message.bytes",
            f"an output may take {largest.output:,} bytes, and {topics.output.name} takes records up to {topics.output.bytes_max:,}",
            "raise its max.message.bytes, or lower input.record_steps_max",
            expected="a topic that takes the largest output",
            see=SIZES,
        )
    if topics.checkpoint is not None and largest.row > topics.checkpoint.bytes_max:
        yield Finding(
            "error",
            "checkpoint.topic max.message.bytes",
            f"a sensor's row may take {largest.row:,} bytes, and {topics.checkpoint.name} takes records up to "
            f"{topics.checkpoint.bytes_max:,}",
            "raise its max.message.bytes, or keep checkpoints in a folder (checkpoint.store: directory)",
            expected="a topic that takes the largest row",
            see=SIZES,
        )


def _session(settings: Settings, limits: SessionLimits | None) -> Iterator[Finding]:
    config = settings.kafka_config()
    session_ms = int(config.get("session.timeout.ms", SESSION_MS))
    heartbeat_ms = int(config.get("heartbeat.interval.ms", HEARTBEAT_MS))
    told = f"heartbeat.interval.ms is {heartbeat_ms}, and session.timeout.ms is {session_ms}"
    if limits is not None and not limits.min_ms <= session_ms <= limits.max_ms:
        yield Finding(
            "error",
            "session.timeout.ms",
            f"session.timeout.ms is {session_ms}, and the broker takes {limits.min_ms} to {limits.max_ms}",
            "correct session.timeout.ms under kafka, or the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
            expected="a session that the broker takes",
            see=SESSION,
        )
    if heartbeat_ms >= session_ms:
        yield Finding(
            "error",
            "heartbeat.interval.ms",
            f"{told}: the session is over before a heartbeat is due",
            f"set heartbeat.interval.ms under kafka to {session_ms // 10} or less",
            expected="several heartbeats in a session",
            see=SESSION,
        )
    elif heartbeat_ms * 3 > session_ms:
        yield Finding(
            "warning",
            "heartbeat.interval.ms",
            f"{told}: two heartbeats that are late end the session",
            f"set heartbeat.interval.ms under kafka to {session_ms // 10} or less",
            expected="a third of the session at most",
        )
    if session_ms < START_S * 1000:
        yield Finding(
            "warning",
            "session.timeout.ms",
            f"session.timeout.ms is {session_ms}, and a start takes about {START_S:.0f} s: a restart moves the partitions twice",
            "raise session.timeout.ms under kafka, best to 30000",
            expected="a session that outlasts a restart",
        )


def _alter(topic: Topic, config: str) -> str:
    """The command for an administrator."""
    entity = f"--entity-type topics --entity-name {topic.name}"
    return f"kafka-configs.sh --bootstrap-server ... --alter {entity} --add-config {config}"
