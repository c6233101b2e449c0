"""Queries to the broker: a connected client, the granted permissions, and the meaning of refusals.

Only queries. topics.py describes topics; group.py queries the group.
"""

import time
from collections import deque
from collections.abc import Iterable

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from processor.errors import NotPermitted, SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import admin_client
from processor.kafka.refusals import advertised, refusal
from processor.logs import plain
from processor.settings import Settings, addresses

_log = structlog.get_logger(__name__)

BROKER_TIMEOUT_S = 15.0
ASK_S = 1.0
REFUSED_S = 3.0


def connected(settings: Settings) -> tuple[AdminClient, str]:
    """A connected client, and the id of its cluster.

    Raises SlotstreamError if no broker answers, or if the advertised addresses cannot be reached; ConfigurationError as soon as the
    reason why a broker refuses this client is known.
    """
    heard, config = deque[KafkaError](maxlen=20), settings.kafka_config()
    client = admin_client(settings, heard.append)
    begun_s, looked = time.monotonic(), False
    while True:
        past_s = time.monotonic() - begun_s
        # A broker that is starting may accept a login a moment later: so diagnose once after that moment, and once at the end.
        patient = past_s <= min(REFUSED_S, BROKER_TIMEOUT_S)
        try:
            cluster = client.list_topics(timeout=min(ASK_S, BROKER_TIMEOUT_S))
        except KafkaException as error:
            client.poll(0)
            last = past_s > BROKER_TIMEOUT_S
            if not patient and (last or not looked):
                looked = True
                if (refused := refusal(config, heard, ignoring=() if last else {"absent", "unresolved"})) is not None:
                    raise refused from error
            if last:
                raise _no_answer(settings, error, heard) from error
        else:
            brokers = [(broker.host, broker.port) for broker in cluster.brokers.values()]
            problem, of_all = advertised(bootstrap(settings), brokers, addresses(bootstrap(settings)))
            if problem is not None and of_all and not patient:
                raise problem
            if problem is None or not of_all:
                if problem is not None:
                    _log.warning("cannot reach some brokers", found=problem.found, expected=problem.expected, to_do=problem.do)
                return client, str(cluster.cluster_id)
        time.sleep(0.1)  # the client returns at once while it knows that all brokers are down


def _no_answer(settings: Settings, error: Exception, heard: Iterable[KafkaError]) -> SlotstreamError:
    """The error for a broker that admits clients but does not answer."""
    told = [plain(one.str()) for one in heard if one.code() != KafkaError._ALL_BROKERS_DOWN]
    return SlotstreamError(
        f"no broker answers at {bootstrap(settings)} ({told[-1] if told else error.args[0].str()})",
        expected=f"an answer within {BROKER_TIMEOUT_S:.0f} s",
        do="start the broker, or correct bootstrap.servers and the security properties under kafka",
        see="no-broker-answers",
    )


def what_is_missing(settings: Settings, refused: NotPermitted) -> NotPermitted:
    """The error with the missing permissions behind a refused call; the given error if the broker reports none."""
    if refused.kind == permissions.OF_TRANSACTIONS:
        named = permissions.named(settings, [permissions.of_transactions(settings)])
        named.kind = refused.kind
        return named
    try:
        client, _ = connected(settings)
        lacks = permissions.missing(client, settings, permissions.of_run(settings))
    except (SlotstreamError, KafkaException):
        return refused
    return permissions.named(settings, lacks) if lacks else refused


def demand(client: AdminClient, settings: Settings, needs: list[permissions.Need]) -> None:
    """Raises NotPermitted with all missing permissions."""
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
        do="fix what the broker names, or let an administrator do it",
        see="the-broker-refuses",
    )
