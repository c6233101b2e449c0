"""How every Kafka client of the service is configured: the user's properties over defaults, under what is fixed.

Fixed are the properties that exactly-once rests on; settings.KAFKA_REFUSED tells users why they cannot set them.
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

# The largest message.max.bytes and batch.size that librdkafka takes.
BYTES_MAX = 1_000_000_000
BATCH_BYTES = 1_000_000
BATCH_OVERHEAD_BYTES = 512
# A restart takes about 10 s, TensorFlow's: the session must outlast it, or the partitions move twice.
SESSION_MS = 30_000
HEARTBEAT_MS = 1_000

# The client's own answer, of a topic and of a partition of it, and the broker's. Whether the topic is gone kafka.topic_watch finds out.
UNKNOWN_TOPIC = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
}


ASK_S = 5.0
HEARD_MAX = 20


# Subclasses, so that a weak reference to a client can be held.
class _Consumer(Consumer):  # type: ignore[misc]
    pass


class _Producer(Producer):  # type: ignore[misc]
    pass


def librdkafka_version() -> str:
    return str(libversion()[0])


_watches: dict[tuple[tuple[str, str], ...], RefusalWatch] = {}


def watch_of(settings: Settings) -> RefusalWatch:
    """The one of every client that is made with these properties under `kafka`."""
    key = settings.kafka_at_start()
    if key not in _watches:
        _watches[key] = RefusalWatch(functools.partial(ask, settings), functools.partial(_credentials, settings))
    return _watches[key]


def ask(settings: Settings) -> Answer:
    """Whether a broker lets a client in that is made now, and where it sends its clients. Takes up to some 15 s."""
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
    """heard is called with the client's own errors, from within its poll()."""
    if heard is None:
        return _made(AdminClient, _merged(settings, {}, {}))
    # Whoever hears what is wrong tells it: the client's own lines of each attempt would only stand in front of that.
    return _made(AdminClient, _merged(settings, {"log_level": 2}, {"error_cb": heard}))


def member_consumer(settings: Settings, mark: str) -> Consumer:
    """The consumer that joins the group. Nothing is fetched but what the service starts by explicit offsets.

    mark: tells this process from others of its name in the group's description, unless the user has put client.rack to its own use. A
    rack in which no broker stands changes nothing: fetches go to the leader, and the assignor passes over it.
    """
    defaults = {
        "client.rack": mark,
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        # The default of 1 s leaves a partition unfetched for most of a second after its queue was full once.
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
    """Whether member_consumer() joins with the mark; a client.rack of the user's own goes before it."""
    return "client.rack" not in settings.kafka_config()


def session_ms(settings: Settings) -> int:
    return int(settings.kafka_config().get("session.timeout.ms", SESSION_MS))


def restore_consumer(settings: Settings) -> Consumer:
    """A consumer of the same group that never joins: reads committed offsets and the input again."""
    return _made(_Consumer, _merged(settings, {"fetch.queue.backoff.ms": 5}, _group(settings)))


def bulk_consumer(settings: Settings) -> Consumer:
    """As restore_consumer, to read a whole partition at once: the defaults fetch half as fast."""
    defaults = {
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 1_000_000,
        "queued.max.messages.kbytes": 262_144,
        "fetch.message.max.bytes": 16_000_000,
        "fetch.wait.max.ms": 10,
    }
    return _made(_Consumer, _merged(settings, defaults, _group(settings)))


def output_producer(settings: Settings, *, record_bytes_max: int, batch_bytes_max: int) -> Producer:
    """Transactional with delivery exactly_once, else idempotent.

    The limits are the largest and the smallest max.message.bytes of the topics written to. A topic's limit holds for a whole
    batch, and librdkafka does not split one that is refused: so no batch of several records may pass the smallest.
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
    """Writes readings to the input topic, once each and each sensor's in order. record_bytes_max: the topic's max.message.bytes."""
    # A broker that is away for longer than this is told instead of waited for: the command says where to go on.
    defaults = {"linger.ms": 20, "message.timeout.ms": 60_000}
    fixed = {"enable.idempotence": True, **_written(settings, record_bytes_max, record_bytes_max)}
    return _made(_Producer, _merged(settings, defaults, fixed))


def check_producer(settings: Settings) -> Producer:
    """A transactional producer that fences nobody."""
    fixed = {"transactional.id": f"{settings.transactional_id}.check", "transaction.timeout.ms": round(TRANSACTION_TIMEOUT_S * 1000)}
    return _made(_Producer, _merged(settings, {}, fixed))


def _written(settings: Settings, record_bytes_max: int, batch_bytes_max: int) -> dict[str, Any]:
    """A key's partition is the one that a Java producer puts it in; no batch is larger than its topic takes."""
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
        # A broker that is the first to be back answers for a moment that there are none, and the client drops those that are not named:
        # with `none` it would have nobody left to ask, for good (librdkafka 2.16).
        "metadata.recovery.strategy": "rebootstrap",
        **defaults,
        **settings.kafka_config(),
        "logger": logging.getLogger(LIBRDKAFKA),
        # Without one a fatal error is raised inside whatever call happens to be running; the next call tells it properly.
        "error_cb": watch_of(settings),
        **fixed,
    }


def _made(kind: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """Raises ConfigurationError for properties that librdkafka does not take.

    The properties come from one section on purpose; librdkafka would warn of those that are another kind of client's.
    """
    of_kind: dict[Callable[[dict[str, Any]], Any], frozenset[str]] = {_Consumer: librdkafka.PRODUCER, _Producer: librdkafka.CONSUMER}
    others = of_kind.get(kind, librdkafka.PRODUCER | librdkafka.CONSUMER)  # an AdminClient neither reads nor writes
    config = {name: value for name, value in config.items() if name not in others}
    try:
        client = kind(config)
        if isinstance(config["error_cb"], RefusalWatch):
            config["error_cb"].watch(client)
        if "OAUTHBEARER" in (config.get("sasl.mechanism"), config.get("sasl.mechanisms")):
            # Its first token is made in a poll, and the first calls of some clients never poll.
            client.poll(0)
        return client
    except KafkaException as error:
        reason = error.args[0].str()
        do = "correct them under kafka (the properties are librdkafka's)"
        if "GSSAPI" in reason:  # the mechanism where none is set
            do = "set sasl.mechanism under kafka to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER; Kerberos is not built in"
        raise ConfigurationError(
            f"the Kafka client does not take its properties: {reason}",
            expected="properties that librdkafka can work with",
            do=do,
            see="the-settings-are-wrong",
        ) from error
