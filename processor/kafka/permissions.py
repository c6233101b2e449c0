"""The permissions that the service needs: which of them are missing, and the command that grants them.

Owns the list in docs/operations/security.md, and queries the broker, which reports the client's permissions on topics and groups. It does
not report those on a transactional id: only a transaction shows them (kafka.transaction.try_transaction).
"""

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType

from processor.errors import NotPermitted
from processor.kafka import group
from processor.kafka.refusals.certificates import certificates
from processor.settings import Settings

ASK_S, TRY_S = 15.0, 5.0
AUTHORIZATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
NO_COORDINATOR = {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
OF_TRANSACTIONS = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
_PASSING = NO_COORDINATOR | {KafkaError._TIMED_OUT, KafkaError._TRANSPORT}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


@dataclass(frozen=True, slots=True)
class Need:
    """An operation on a resource, in the terms of kafka-acls.sh. prefixed: on all resources with this name prefix."""

    kind: Literal["topic", "group", "transactional-id"]
    name: str
    operation: str
    prefixed: bool = False

    @property
    def resource(self) -> str:
        return f"{self.kind} {self.name}{'*' if self.prefixed else ''}"


def of_run(settings: Settings) -> list[Need]:
    """The minimum permissions of `run` and `check`. Read and Write each include Describe."""
    topics = [(settings.input.topic, "Read"), (settings.output.topic, "Write"), (settings.dead_letter_topic, "Write")]
    if settings.alarm_topic is not None:
        topics.append((settings.alarm_topic, "Write"))
    if settings.checkpoint_topic is not None:
        topics += [(settings.checkpoint_topic, "Read"), (settings.checkpoint_topic, "Write")]
    needs = [Need("topic", name, operation) for name, operation in topics]
    needs += [Need("topic", name, "DescribeConfigs") for name in dict.fromkeys(name for name, _ in topics)]
    needs.append(Need("group", settings.group_id, "Read"))
    if settings.delivery == "exactly_once":
        needs.append(of_transactions(settings))
    return needs


def of_init(settings: Settings) -> list[Need]:
    """The permissions of `init` for every topic; a missing topic also needs Create."""
    topics = (settings.input.topic, settings.output.topic, settings.dead_letter_topic, settings.checkpoint_topic, settings.alarm_topic)
    return [Need("topic", name, operation) for name in topics if name is not None for operation in ("Describe", "DescribeConfigs")]


def of_feed(settings: Settings) -> list[Need]:
    """The permissions of `feed` and `state reset` for sending records; idempotent records need no others."""
    return [Need("topic", settings.input.topic, operation) for operation in ("Write", "DescribeConfigs")]


def of_sample(settings: Settings) -> list[Need]:
    """The permissions for reading the newest records of the input."""
    input_topic = settings.input.topic
    return [Need("topic", input_topic, "Read"), Need("topic", input_topic, "DescribeConfigs"), Need("group", settings.group_id, "Read")]


def of_state(settings: Settings) -> list[Need]:
    """The permissions for reading checkpoints from a topic. With Describe on group and input, the committed offsets are shown too."""
    name = str(settings.checkpoint_topic)
    return [Need("topic", name, "Read"), Need("topic", name, "DescribeConfigs"), Need("group", settings.group_id, "Describe")]


def of_transactions(settings: Settings) -> Need:
    """A prefix, because each instance has its own id, and so has the test transaction of `check`."""
    return Need("transactional-id", f"{settings.group_id}.", "Write", prefixed=True)


def grant(settings: Settings, need: Need) -> str:
    """The command for an administrator."""
    words = ["kafka-acls.sh", "--bootstrap-server", settings.kafka_config()["bootstrap.servers"], "--add"]
    words += ["--allow-principal", principal(settings), "--operation", need.operation, f"--{need.kind}", need.name]
    return shlex.join([*words, "--resource-pattern-type", "prefixed"] if need.prefixed else words)


def principal(settings: Settings) -> str:
    """The broker's principal for this client, unless it maps names: the user, or the certificate's subject."""
    config = settings.kafka_config()
    if "sasl.username" in config:
        return f"User:{config['sasl.username']}"
    own = certificates(config) if config.get("security.protocol", "").lower() == "ssl" else []
    return f"User:{own[0][1].subject.rfc4514_string()}" if own else "User:ANONYMOUS" if not config.get("security.protocol") else "User:NAME"


def missing(client: AdminClient, settings: Settings, needs: Iterable[Need]) -> list[Need]:
    """The needs on topics and groups that the broker reports as not granted; none for missing topics. Raises KafkaException."""
    asked = list(needs)
    topics = list(dict.fromkeys(need.name for need in asked if need.kind == "topic"))
    permitted = {("topic", name): operations for name, operations in _of_topics(client, topics).items()}
    if any(need.kind == "group" for need in asked):
        permitted["group", settings.group_id] = _of_group(settings)
    return [need for need in asked if (found := permitted.get((need.kind, need.name))) is not None and need.operation not in found]


def refused(found: str, reason: KafkaError) -> NotPermitted:
    """The error for a call that the broker did not permit, before the missing permissions are known."""
    error = NotPermitted(
        f"{found} ({reason.name()}: {reason.str()})",
        expected="the permissions that docs/operations/security.md lists",
        do="look at what `slotstream check` names, and have an administrator grant it",
    )
    error.kind = reason.name()
    return error


def named(settings: Settings, needs: Sequence[Need]) -> NotPermitted:
    """The error that names the missing permissions."""
    lacks = "; ".join(f"{need.operation} on {need.resource}" for need in needs)
    unseen = " (or there is no such topic: who may not see it is not told)" if any(need.kind == "topic" for need in needs) else ""
    return NotPermitted(
        f"the broker does not permit {principal(settings)}: {lacks}{unseen}",
        expected="the permissions that docs/operations/security.md lists",
        do="have an administrator run: " + "; ".join(grant(settings, need) for need in needs),
    )


def _of_topics(client: AdminClient, names: list[str]) -> Mapping[str, set[str] | None]:
    """The operations permitted on each topic; None if the broker does not report them."""
    if not names:
        return {}
    found = dict[str, set[str] | None]()
    futures = client.describe_topics(TopicCollection(names), include_authorized_operations=True, request_timeout=ASK_S)
    for name, future in futures.items():
        try:
            found[name] = _spelled(future.result(2 * ASK_S).authorized_operations)  # the client's own time limit is shorter
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                found[name] = None
            elif code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                found[name] = {"DescribeConfigs"} if _tells_configs(client, name) else set()
            else:
                raise
    return found


def _tells_configs(client: AdminClient, name: str) -> bool:
    """Whether the configuration can be read of a topic that cannot be described: this is a separate permission."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    try:
        client.describe_configs([resource], request_timeout=ASK_S)[resource].result(2 * ASK_S)
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART)
    return True


def _of_group(settings: Settings) -> set[str] | None:
    """None if there is no answer in time: the first request for a new group assigns its coordinator, which can take long."""
    until_s = time.monotonic() + ASK_S
    while time.monotonic() < until_s:
        try:
            return _spelled(group.described(settings, TRY_S, authorized_operations=True).authorized_operations)
        except TimeoutError:
            continue
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
                return set()
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            if code not in _PASSING:
                raise
            time.sleep(0.2)
    return None


def _spelled(operations: Any) -> set[str] | None:
    return None if not operations else {word for word, operation in _OPERATIONS.items() if operation in operations}
