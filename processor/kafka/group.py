"""Asking the group's coordinator about the group.

A question is given up by closing the client that asked it, and each question has a client of its own: librdkafka 2.16 ends the whole
process, by an assertion, when the coordinator comes back for a request that has timed out meanwhile.
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


@dataclass(frozen=True, slots=True)
class Holder:
    """The member that holds a group.instance.id.

    mark: the rack of its subscription, "" if it has none; None while the group does not show subscriptions, which it does only between
    two rebalances.
    """

    member_id: str
    mark: str | None


def holder(settings: Settings, member_id: str | None) -> Holder | None:
    """Who holds this instance's name; None if no member does. Raises TimeoutError, with the reason, without an answer.

    member_id: the caller's own. The mark is not asked for where the coordinator names this very member.

    The mark travels in the subscription because it is the one thing in a group's description that a process chooses and that each of
    its joins brings along: when a static member is replaced, the broker (4.3) keeps the client id and the host of the one before.
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
    """None where it is not shown, or where a broker does not answer: this call asks all of them."""
    client = admin_client(settings)
    with warnings.catch_warnings(), contextlib.suppress(KafkaException):
        warnings.simplefilter("ignore", DeprecationWarning)  # the call that replaces it does not return subscriptions
        for group in client.list_groups(settings.group_id, _ASK_HOLDER_S):
            for member in group.members:
                if member.id == member_id:
                    return rack_of(member.metadata)
    return None


def rack_of(subscription: bytes) -> str | None:
    """The rack in a member's subscription; "" if it has none or is of another protocol, None if there is no subscription.

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
        begun, at = at, at + max(0, length)  # a length of -1 stands for null
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
