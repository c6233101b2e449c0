"""Asking the group's coordinator about the group.

A question is given up by closing the client that asked it, and each question has a client of its own: librdkafka 2.16 ends the whole
process, by an assertion, when the coordinator comes back for a request that has timed out meanwhile.
"""

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import ConsumerGroupDescription

from processor.settings import Settings
from processor.stream.clients import admin_client

_ASK_S = 1.0
_NEVER_S = 3_000.0  # longer than anybody waits here, and no more than the client takes


def described(settings: Settings, wait_s: float, *, authorized_operations: bool = False) -> ConsumerGroupDescription:
    """Raises TimeoutError after wait_s without an answer, and KafkaException."""
    client = admin_client(settings)
    asked = client.describe_consumer_groups(
        [settings.group_id], include_authorized_operations=authorized_operations, request_timeout=_NEVER_S
    )
    return asked[settings.group_id].result(wait_s)


def unowned(settings: Settings, partitions: int) -> set[int] | None:
    """The input's partitions that no member of the group has; None where it does not say in time, or moves them just now."""
    try:
        group = described(settings, _ASK_S)
    except (KafkaException, TimeoutError):
        return None
    if group.state != ConsumerGroupState.STABLE:
        return None
    owned = {tp.partition for member in group.members for tp in member.assignment.topic_partitions if tp.topic == settings.input.topic}
    return set(range(partitions)) - owned
