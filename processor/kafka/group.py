"""Queries to the group's coordinator.

Each query uses a separate client, and is cancelled by closing that client: an assertion in librdkafka 2.16 aborts the whole process if
the coordinator comes back after a request has timed out.
"""

import contextlib
import struct
import warnings
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import ConsumerGroupDescription

from processor.kafka.clients import admin_client
from processor.settings import Settings

_ASK_S = 1.0
_ASK_HOLDER_S = 5.0
_RACK_VERSION = 3  # the first version of a member's subscription that has a rack
_NEVER_S = 3_000.0  # longer than any wait here, and within the client's limit


def described(settings: Settings, wait_s: float, *, authorized_operations: bool = False) -> ConsumerGroupDescription:
    """Raises TimeoutError after wait_s without an answer, and KafkaException."""
    client = admin_client(settings)
    asked = client.describe_consumer_groups(
        [settings.group_id], include_authorized_operations=authorized_operations, request_timeout=_NEVER_S
    )
    return asked[settings.group_id].result(wait_s)


def unowned(settings: Settings, partitions: int) -> set[int] | None:
    """The input's partitions that no member of the group owns; None if there is no answer in time, or during a rebalance."""
    try:
        group = described(settings, _ASK_S)
    except (KafkaException, TimeoutError):
        return None
    if group.state != ConsumerGroupState.STABLE:
        return None
    owned = {tp.partition for member in group.members for tp in member.assignment.topic_partitions if tp.topic == settings.input.topic}
    return set(range(partitions)) - owned


@dataclass(frozen=True, slots=True)
class Owner:
    """A member of the group. instance: the setting of its process, or what the group shows in its place. host: as the broker sees it."""

    instance: str
    host: str
    partitions: tuple[int, ...]


def owners(settings: Settings) -> list[Owner] | None:
    """Each member and its partitions of the input; None if there is no answer in time, or during a rebalance."""
    try:
        group = described(settings, _ASK_S)
    except (KafkaException, TimeoutError):
        return None
    if group.state != ConsumerGroupState.STABLE:
        return None
    prefix = f"{settings.group_id}."
    found = []
    for member in group.members:
        numbers = sorted(tp.partition for tp in member.assignment.topic_partitions if tp.topic == settings.input.topic)
        name = (member.group_instance_id or member.client_id).removeprefix(prefix)
        found.append(Owner(name, member.host.lstrip("/"), tuple(numbers)))
    return found


@dataclass(frozen=True, slots=True)
class Holder:
    """The member that holds a group.instance.id.

    mark: the rack of its subscription, "" if it has none; None while the group does not show subscriptions, which is during a rebalance.
    """

    member_id: str
    mark: str | None


def holder(settings: Settings, member_id: str | None) -> Holder | None:
    """The holder of this instance's name; None if no member holds it. Raises TimeoutError, with the reason, if there is no answer.

    member_id: that of the caller. The mark is not requested if the coordinator returns this member.

    The mark is in the subscription because that is the only part of a group's description that a process chooses and sends with every
    join: when a static member is replaced, the broker (4.3) keeps the client id and the host of its predecessor.
    """
    try:
        members = described(settings, _ASK_HOLDER_S).members
    except KafkaException as error:
        raise TimeoutError(error.args[0].str()) from error
    found = next((m.member_id for m in members if m.group_instance_id == settings.transactional_id), None)
    if found is None:
        return None
    return Holder(found, None if found == member_id else _mark_of(settings, found))


def _mark_of(settings: Settings, member_id: str) -> str | None:
    """None if the mark is not shown, or if a broker does not answer: this call queries all brokers."""
    client = admin_client(settings)
    with warnings.catch_warnings(), contextlib.suppress(KafkaException):
        warnings.simplefilter("ignore", DeprecationWarning)  # its replacement does not return subscriptions
        for group in client.list_groups(settings.group_id, _ASK_HOLDER_S):
            for member in group.members:
                if member.id == member_id:
                    return rack_of(member.metadata)
    return None


def rack_of(subscription: bytes) -> str | None:
    """The rack in a member's subscription; "" if it has none or uses another protocol, None if there is no subscription.

    The layout is ConsumerProtocolSubscription of Kafka's protocol guide.
    """
    if not subscription:
        return None
    try:
        return _rack(subscription)
    except (struct.error, UnicodeDecodeError):
        return ""


def _rack(subscription: bytes) -> str:
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, subscription, at)
        at += struct.calcsize(form)
        return int(value)

    def skip(length: int) -> bytes:
        nonlocal at
        begun, at = at, at + max(0, length)  # a length of -1 means null
        if at > len(subscription):
            raise struct.error("the subscription ends early")
        return subscription[begun:at]

    if number(">h") < _RACK_VERSION:
        return ""
    for _ in range(number(">i")):  # topics
        skip(number(">h"))
    skip(number(">i"))  # user data
    for _ in range(number(">i")):  # owned partitions, by topic
        skip(number(">h"))
        skip(4 * number(">i"))
    number(">i")  # generation
    return skip(number(">h")).decode()
