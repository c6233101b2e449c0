"""How Kafka's clients are configured: defaults under the user's properties, under what exactly-once rests on."""

import logging
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaException
from waiting import wait_for

from processor.errors import ConfigurationError
from processor.kafka import clients
from processor.settings import KAFKA_REFUSED, Settings, librdkafka, load_settings

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
        monkeypatch.setattr(clients, kind, type(kind, (Made,), {}))


MAKE = {
    "member": lambda of: clients.member_consumer(of, "slotstream#0000000a"),
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
        ("member", "client.rack", "slotstream#0000000a"),
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


class Alone:
    """A broker that answers for topic t, and while `empty` that there is none, as one that comes back before it is let in again."""

    def __init__(self) -> None:
        self.empty = False
        self.answers: list[bool] = []  # to questions for metadata: whether they were empty
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        try:
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()
        except OSError:
            return

    def _serve(self, client: socket.socket) -> None:
        with client:
            while len(size := client.recv(4, socket.MSG_WAITALL)) == 4:
                request = client.recv(struct.unpack(">i", size)[0], socket.MSG_WAITALL)
                api, version, correlation = struct.unpack(">hhi", request[:8])
                answer = struct.pack(">i", correlation) + (self._versions(version) if api == 18 else self._metadata())
                client.sendall(struct.pack(">i", len(answer)) + answer)

    def _versions(self, version: int) -> bytes:
        """Those of Produce, Fetch, Metadata, and of this request; another one than the oldest form of it is not understood."""
        known = [(0, 0, 7), (1, 0, 4), (3, 0, 2), (18, 0, 0)]
        return struct.pack(">hi", 35 if version else 0, len(known)) + b"".join(struct.pack(">hhh", *api) for api in known)

    def _metadata(self) -> bytes:
        empty = self.empty
        self.answers.append(empty)
        here = struct.pack(">i", 1) + _string("127.0.0.1") + struct.pack(">ih", self.port, -1)
        brokers = struct.pack(">i", 0) if empty else struct.pack(">i", 1) + here
        leader = -1 if empty else 1
        partition = struct.pack(">hiiiiii", 5 if empty else 0, 0, leader, 1, 1, 1, 1)
        topic = struct.pack(">h", 0) + _string("t") + b"\0" + struct.pack(">i", 1) + partition
        return brokers + _string("cluster") + struct.pack(">i", leader) + struct.pack(">i", 1) + topic


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


@pytest.fixture
def alone() -> Iterator[Alone]:
    broker = Alone()
    yield broker
    broker.close()


def test_a_client_that_was_told_of_no_broker_asks_again(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # real clients
    told = settings(bootstrap_servers=f"127.0.0.1:{alone.port}", topic_metadata_refresh_interval_ms="200")
    client = clients.admin_client(told)
    assert list(client.list_topics("t", timeout=60).brokers) == [1]
    alone.empty = True
    wait_for(lambda: client.poll(0.1) or any(alone.answers), "an answer without brokers", 60)
    alone.empty = False
    before = len(alone.answers)
    wait_for(lambda: client.poll(0.1) or False in alone.answers[before:], "the next question", 60)


@pytest.mark.parametrize("kind", MAKE)
def test_each_client_gets_its_own_properties_alone(kind):
    config = MAKE[kind](settings(compression_type="lz4", session_timeout_ms=45_000, fetch_min_bytes=7, socket_keepalive_enable=True))
    given = {"compression.type", "session.timeout.ms", "fetch.min.bytes", "socket.keepalive.enable"} & set(config)
    writes, reads = {"compression.type"}, {"session.timeout.ms", "fetch.min.bytes"}
    expected = writes if kind in ("producer", "feed") else reads if kind in ("member", "restore") else set()
    assert given == {*expected, "socket.keepalive.enable"}


def test_the_table_of_properties_is_that_of_the_client_in_use():
    assert clients.librdkafka_version().startswith("2.16."), "another librdkafka: look at processor/settings/librdkafka.py"
    for name in librdkafka.CONSUMER | librdkafka.PRODUCER | librdkafka.EVERY:
        try:
            Consumer({"group.id": "g", name: "\x01"}, logger=logging.getLogger("quiet"))
        except KafkaException as error:
            assert "No such configuration" not in str(error), name  # noqa: PT017 (any other answer is right)
        except (TypeError, ValueError):
            pass


@pytest.mark.parametrize(
    ("wrong", "meant"), [("bootstrap.server", "bootstrap.servers"), ("compresion.type", "compression.type"), ("sasl.user", "sasl.username")]
)
def test_a_property_that_librdkafka_does_not_have_is_refused_by_the_nearest_name(wrong, meant):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, [f"--kafka={wrong}=x", "--batch.linger=5", "--kafka=group.id=g"], {})
    said = str(caught.value)
    assert f"{wrong}: found 'x', librdkafka has no such property, the nearest is {meant}" in said
    assert "3 problems" in said
    load_settings(None, ["--kafka=some.plugins.own=x"], {})


def test_two_files_with_the_same_password_have_watches_of_their_own(tmp_path):
    """The password of each may be renewed without the other's."""
    watches = []
    for name in ("one", "two"):
        (tmp_path / name).write_text("the same word\n")
        config = tmp_path / f"{name}.yaml"
        config.write_text(f"kafka: {{bootstrap.servers: 'h:1', sasl.username: u, sasl.password: {{file: {tmp_path / name}}}}}\n")
        watches += [clients.watch_of(load_settings(config, [], {})) for _ in range(2)]
    assert watches[0] is watches[1]
    assert watches[2] is watches[3]
    assert watches[0] is not watches[2]
