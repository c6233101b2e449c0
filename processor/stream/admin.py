"""Questions to the broker: a client that it has answered, what it permits, who holds an instance's name, what its refusals mean.

Asks only. The topics have a room of their own: processor/kafka.
"""

import time
from collections import deque
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from processor.errors import NotPermitted, SlotstreamError
from processor.settings import Settings
from processor.stream import permissions
from processor.stream.clients import admin_client
from processor.stream.refusal import refusal

BROKER_TIMEOUT_S = 15.0
ASK_S = 1.0
REFUSED_S = 3.0


def connected(settings: Settings) -> tuple[AdminClient, str]:
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
            if (why := refusal(settings, heard)) is not None:
                raise why from reason
        if past_s > BROKER_TIMEOUT_S:
            raise _no_answer(settings, reason, heard) from reason
        time.sleep(0.1)  # where all brokers are known to be down the client answers at once


def _no_answer(settings: Settings, error: Exception, heard: Iterable[KafkaError]) -> SlotstreamError:
    told = [one.str().partition(" (after ")[0] for one in heard if one.code() != KafkaError._ALL_BROKERS_DOWN]
    return SlotstreamError(
        f"no broker answers at {bootstrap(settings)} ({told[-1] if told else error.args[0].str()})",
        expected=f"an answer within {BROKER_TIMEOUT_S:.0f} s",
        do="start the broker, or correct bootstrap.servers and the security properties under kafka",
        see="no-broker-answers",
    )


def what_is_missing(settings: Settings, refused: NotPermitted) -> NotPermitted:
    """The error that names the permissions which a refused call has shown to be missing; the same one where the broker tells of none."""
    if refused.kind == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED":
        return permissions.named(settings, [permissions.of_transactions(settings)])
    try:
        client, _ = connected(settings)
        lacks = permissions.missing(client, settings, permissions.of_run(settings))
    except (SlotstreamError, KafkaException):
        return refused
    return permissions.named(settings, lacks) if lacks else refused


def demand(client: AdminClient, settings: Settings, needs: list[permissions.Need]) -> None:
    """Raises NotPermitted, and names everything that is missing."""
    try:
        lacks = permissions.missing(client, settings, needs)
    except KafkaException as error:
        raise refused("the broker does not tell what it permits", error) from error
    if lacks:
        raise permissions.named(settings, lacks)


def bootstrap(settings: Settings) -> str:
    return settings.kafka_config()["bootstrap.servers"]


def refused(found: str, error: KafkaException) -> SlotstreamError:
    reason = error.args[0]
    if reason.code() in permissions.AUTHORIZATION:
        return permissions.refused(found, reason)
    return SlotstreamError(
        f"{found} ({reason.name()}: {reason.str()})",
        expected="it to",
        do="mend what the broker names, or let an administrator do it",
        see="the-broker-refuses",
    )
