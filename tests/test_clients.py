"""How Kafka's clients are configured: defaults under the user's properties, under what exactly-once rests on."""

import logging

import pytest

from processor.settings import KAFKA_REFUSED, Settings
from processor.stream import clients

GROUP = {
    "group.id": "g",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
}
MEMBER = {
    **GROUP,
    "group.instance.id": "g.i",
    "group.protocol": "classic",
    "partition.assignment.strategy": "cooperative-sticky",
}
FEED = {"enable.idempotence": True, "partitioner": "murmur2_random"}
PRODUCER = {"transactional.id": "g.i", "transaction.timeout.ms": 10_000, "partitioner": "murmur2_random"}


def settings(**kafka: object) -> Settings:
    return Settings(group="g", instance="i", kafka={key.replace("_", "."): value for key, value in kafka.items()})


class Past(Settings):
    """Settings that have let through what they refuse: what is fixed must not rest on them."""

    def kafka_config(self) -> dict[str, str]:
        refused = dict.fromkeys([*KAFKA_REFUSED, *PRODUCER, "message.max.bytes"], "the user's")
        return {**super().kafka_config(), **refused, "batch.size": "2000000"}


class Made(dict):
    """Kept by identity, as a client is."""

    __hash__ = object.__hash__


@pytest.fixture(autouse=True)
def _nothing_is_connected(monkeypatch) -> None:
    """A client is what it would be made of."""
    for kind in ("_Consumer", "_Producer", "AdminClient"):
        monkeypatch.setattr(clients, kind, Made)


MAKE = {
    "member": lambda of: clients.member_consumer(of),
    "restore": lambda of: clients.restore_consumer(of),
    "producer": lambda of: clients.output_producer(of, batch_bytes_max=1_048_588, record_bytes_max=1_048_588),
    "feed": lambda of: clients.feed_producer(of, record_bytes_max=1_048_588),
    "admin": lambda of: clients.admin_client(of),
}


def subset(config: dict[str, object], expected: dict[str, object]) -> dict[str, object]:
    return {key: config.get(key) for key in expected}


@pytest.mark.parametrize(("kind", "fixed"), [("member", MEMBER), ("restore", GROUP), ("producer", PRODUCER), ("feed", FEED)])
@pytest.mark.parametrize("of", [settings(), Past(group="g", instance="i")], ids=["plain", "tampered with"])
def test_what_exactly_once_rests_on_is_fixed_whatever_the_user_sets(kind, fixed, of):
    assert subset(MAKE[kind](of), fixed) == fixed


def test_the_restoring_consumer_has_no_membership():
    config = MAKE["restore"](settings())
    assert {"group.instance.id", "partition.assignment.strategy"} & set(config) == set()


@pytest.mark.parametrize("kind", MAKE)
def test_a_users_property_reaches_every_client(kind):
    config = MAKE[kind](settings(bootstrap_servers="broker:1", security_protocol="ssl"))
    assert (config["bootstrap.servers"], config["security.protocol"]) == ("broker:1", "ssl")


@pytest.mark.parametrize(
    ("kind", "key", "default"),
    [
        ("member", "session.timeout.ms", 30_000),
        ("member", "heartbeat.interval.ms", 1_000),
        ("member", "fetch.queue.backoff.ms", 5),
        ("restore", "fetch.queue.backoff.ms", 5),
        ("producer", "linger.ms", 5),
        ("feed", "message.timeout.ms", 60_000),
        ("admin", "client.id", "slotstream"),
    ],
)
def test_a_default_gives_way_to_the_user(kind, key, default):
    assert MAKE[kind](settings())[key] == default
    assert MAKE[kind](Settings(group="g", instance="i", kafka={key: "7"}))[key] == "7"


@pytest.mark.parametrize("kind", MAKE)
def test_every_client_logs_where_the_service_does(kind):
    assert isinstance(MAKE[kind](settings())["logger"], logging.Logger)


def producer(of: Settings, batch_bytes_max: int, record_bytes_max: int = 1_048_588) -> dict[str, object]:
    return clients.output_producer(of, batch_bytes_max=batch_bytes_max, record_bytes_max=record_bytes_max)


@pytest.mark.parametrize("limit", [20_000, 1_000_000])
@pytest.mark.parametrize("asked", [{}, {"batch_size": "900000000"}])
def test_a_batch_with_all_around_it_fits_the_smallest_topic_limit(limit, asked):
    batch = producer(settings(**asked), limit)["batch.size"]
    assert limit * 0.9 < batch <= limit - 61, "61 bytes are a batch's header"


def test_a_batch_is_no_larger_for_topics_that_take_more():
    assert producer(settings(), 5_000_000)["batch.size"] == producer(settings(), 50_000_000)["batch.size"] == 1_000_000


def test_a_users_batch_size_may_be_smaller():
    assert producer(settings(batch_size="5000"), 20_000)["batch.size"] == 5000


def test_a_record_may_be_as_large_as_the_topic_that_takes_the_most():
    config = producer(settings(), 20_000, 5_000_000)
    assert config["message.max.bytes"] == 5_000_000
    assert config["batch.size"] < 20_000


def test_a_check_fences_nobody():
    assert clients.check_producer(settings())["transactional.id"] != MAKE["producer"](settings())["transactional.id"]


@pytest.mark.parametrize(("limit", "message"), [(5, 1000), (20_000, 20_000), (2**31, 1_000_000_000)])
def test_the_clients_own_limit_is_the_topics_within_what_librdkafka_takes(limit, message):
    config = producer(settings(), limit, limit)
    assert config["message.max.bytes"] == message
    assert 1 <= config["batch.size"] <= limit


@pytest.mark.parametrize("bytes_max", [1, 1000, 20_000, 1_048_588, 2**31 - 1])
def test_librdkafka_takes_the_configurations(monkeypatch, bytes_max):
    monkeypatch.undo()
    quiet = settings(bootstrap_servers="127.0.0.1:9", log_level="0")
    for kind in ("member", "restore"):
        MAKE[kind](quiet).close()
    producer(quiet, bytes_max, bytes_max)
    clients.feed_producer(quiet, record_bytes_max=bytes_max)
    MAKE["admin"](quiet)
