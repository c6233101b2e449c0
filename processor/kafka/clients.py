"""The configuration of every Kafka client of the service: defaults, overridden by the user's properties, overridden by fixed ones.

The fixed properties are those that exactly-once depends on; settings.KAFKA_REFUSED explains why users cannot set them.
"""

import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, libversion
from confluent_kafka.admin import AdminClient

from processor.errors import ConfigurationError
from processor.kafka.refusals import Answer, RefusalWatch, advertised, refusal
from processor.logs import LIBRDKAFKA
from processor.settings import TRANSACTION_TIMEOUT_S, Settings, addresses, librdkafka

# The largest message.max.bytes and batch.size that librdkafka accepts.
BYTES_MAX = 1_000_000_000
BATCH_BYTES = 1_000_000
BATCH_OVERHEAD_BYTES = 512
# A restart takes about 10 s, mostly for TensorFlow: the session must outlast it, or the partitions move twice.
SESSION_MS = 30_000
HEARTBEAT_MS = 1_000

# The client's error for a topic, its error for a partition, and the broker's. kafka.topic_watch finds out whether the topic is gone.
UNKNOWN_TOPIC = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
}


ASK_S = 5.0
HEARD_MAX = 20


# Subclasses, because the client classes do not support weak references.
class _Consumer(Consumer):  # type: ignore[misc]
    pass


class _Producer(Producer):  # type: ignore[misc]
    pass


def librdkafka_version() -> str:
    return str(libversion()[0])


_watches: dict[tuple[tuple[str, str], ...], RefusalWatch] = {}


def watch_of(settings: Settings) -> RefusalWatch:
    """The RefusalWatch that all clients with these `kafka` properties share."""
    key = settings.kafka_at_start()
    if key not in _watches:
        _watches[key] = RefusalWatch(functools.partial(ask, settings), functools.partial(_credentials, settings))
    return _watches[key]


def ask(settings: Settings) -> Answer:
    """Whether a broker admits a new client, and which addresses it advertises. Takes up to about 15 s."""
    heard = deque[KafkaError](maxlen=HEARD_MAX)
    client, config = admin_client(settings, heard.append), settings.kafka_config()
    try:
        brokers = client.list_topics(timeout=ASK_S).brokers.values()
    except KafkaException:
        client.poll(0)
        return Answer(False, refusal(config, heard, ignoring={"absent"}))
    servers = config["bootstrap.servers"]
    reason, of_all = advertised(servers, [(broker.host, broker.port) for broker in brokers], addresses(servers))
    return Answer(True, reason, in_part=not of_all)


def _credentials(settings: Settings) -> tuple[str, str] | None:
    config = settings.kafka_config()
    return (config["sasl.username"], config["sasl.password"]) if {"sasl.username", "sasl.password"} <= config.keys() else None


def admin_client(settings: Settings, heard: Callable[[KafkaError], None] | None = None) -> AdminClient:
    """heard: called with the client's own errors, from inside its poll()."""
    if heard is None:
        return _made(AdminClient, _merged(settings, {}, {}))
    # `heard` reports the problem: the client's own log lines for each attempt would only hide that report.
    return _made(AdminClient, _merged(settings, {"log_level": 2}, {"error_cb": heard}))


def member_consumer(settings: Settings, mark: str) -> Consumer:
    """The consumer that joins the group. It fetches only partitions that the service starts at explicit offsets.

    mark: identifies this process in the group's description, unless the user has set client.rack. A rack without brokers has no other
    effect: fetches go to the leader, and the assignor ignores it.
    """
    defaults = {
        "client.rack": mark,
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        # With the default of 1 s, a partition is not fetched for most of a second after its queue was full once.
        "fetch.queue.backoff.ms": 5,
    }
    fixed = {
        **_group(settings),
        "group.instance.id": settings.transactional_id,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
    }
    return _made(_Consumer, _merged(settings, defaults, fixed))


def shows_mark(settings: Settings) -> bool:
    """Whether member_consumer() joins with the mark; the user's own client.rack takes precedence."""
    return "client.rack" not in settings.kafka_config()


def session_ms(settings: Settings) -> int:
    return int(settings.kafka_config().get("session.timeout.ms", SESSION_MS))


def restore_consumer(settings: Settings) -> Consumer:
    """A consumer of the same group that never joins: reads committed offsets, and replays the input."""
    return _made(_Consumer, _merged(settings, {"fetch.queue.backoff.ms": 5}, _group(settings)))


def bulk_consumer(settings: Settings) -> Consumer:
    """Like restore_consumer, but tuned to read a whole partition: the defaults fetch half as fast."""
    defaults = {
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 1_000_000,
        "queued.max.messages.kbytes": 262_144,
        "fetch.message.max.bytes": 16_000_000,
        "fetch.wait.max.ms": 10,
    }
    return _made(_Consumer, _merged(settings, defaults, _group(settings)))


def output_producer(settings: Settings, *, record_bytes_max: int, batch_bytes_max: int) -> Producer:
    """Transactional with delivery exactly_once, otherwise idempotent.

    The limits are the largest and the smallest max.message.bytes of the topics written to. A topic's limit applies to a whole batch, and
    librdkafka does not split a refused batch: so no batch of several records may exceed the smallest limit.
    """
    defaults = {"linger.ms": 5, "queue.buffering.max.messages": 500_000}
    transactional = {
        "transactional.id": settings.transactional_id,
        "transaction.timeout.ms": round(TRANSACTION_TIMEOUT_S * 1000),
    }
    fixed = {
        **(transactional if settings.delivery == "exactly_once" else {"enable.idempotence": True}),
        "delivery.report.only.error": True,  # nobody asks for the others, and each is a call of Python's
        **_written(settings, record_bytes_max, batch_bytes_max),
    }
    return _made(_Producer, _merged(settings, defaults, fixed))


def feed_producer(settings: Settings, *, record_bytes_max: int) -> Producer:
    """Writes each reading to the input topic once, in order for each sensor. record_bytes_max: the topic's max.message.bytes."""
    # If a broker is away for longer than this, the command ends and prints where to continue.
    defaults = {"linger.ms": 20, "message.timeout.ms": 60_000}
    fixed = {"enable.idempotence": True, **_written(settings, record_bytes_max, record_bytes_max)}
    return _made(_Producer, _merged(settings, defaults, fixed))


def check_producer(settings: Settings) -> Producer:
    """A transactional producer that fences no other."""
    fixed = {"transactional.id": f"{settings.transactional_id}.check", "transaction.timeout.ms": round(TRANSACTION_TIMEOUT_S * 1000)}
    return _made(_Producer, _merged(settings, {}, fixed))


def _written(settings: Settings, record_bytes_max: int, batch_bytes_max: int) -> dict[str, Any]:
    """Properties that choose a key's partition like a Java producer, and keep every batch within its topic's limit."""
    batch_bytes = min(batch_bytes_max - BATCH_OVERHEAD_BYTES, int(settings.kafka_config().get("batch.size", BATCH_BYTES)))
    return {
        "partitioner": "murmur2_random",
        "message.max.bytes": max(1000, min(record_bytes_max, BYTES_MAX)),
        "batch.size": max(1, batch_bytes),
    }


def _group(settings: Settings) -> dict[str, Any]:
    return {
        "group.id": settings.group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }


def _merged(settings: Settings, defaults: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    return {
        "client.id": "slotstream",
        "log.connection.close": False,
        # The first broker that comes back briefly answers that there are no brokers, and the client drops all that are not listed: with
        # `none` it would have no broker left to contact, permanently (librdkafka 2.16).
        "metadata.recovery.strategy": "rebootstrap",
        **defaults,
        **settings.kafka_config(),
        "logger": logging.getLogger(LIBRDKAFKA),
        # Without an error callback, a fatal error is raised inside any running call; the next call reports it properly.
        "error_cb": watch_of(settings),
        **fixed,
    }


def _made(kind: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """Creates a client. Raises ConfigurationError for properties that librdkafka does not accept.

    All clients share one section of properties on purpose; librdkafka would warn about those of other kinds of clients.
    """
    of_kind: dict[Callable[[dict[str, Any]], Any], frozenset[str]] = {_Consumer: librdkafka.PRODUCER, _Producer: librdkafka.CONSUMER}
    others = of_kind.get(kind, librdkafka.PRODUCER | librdkafka.CONSUMER)  # an AdminClient neither reads nor writes
    config = {name: value for name, value in config.items() if name not in others}
    try:
        client = kind(config)
        if isinstance(config["error_cb"], RefusalWatch):
            config["error_cb"].watch(client)
        if "OAUTHBEARER" in (config.get("sasl.mechanism"), config.get("sasl.mechanisms")):
            # The first token is created in a poll, and the first calls of some clients never poll.
            client.poll(0)
        return client
    except KafkaException as error:
        reason = error.args[0].str()
        do = "correct them under kafka (the properties are librdkafka's)"
        if "GSSAPI" in reason:  # the default mechanism
            do = "set sasl.mechanism under kafka to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; Kerberos is not built in"
        raise ConfigurationError(
            f"the Kafka client does not take its properties: {reason}",
            expected="properties that librdkafka can work with",
            do=do,
            see="the-settings-are-wrong",
        ) from error
