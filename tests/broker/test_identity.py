"""A name and the processes that go by it: a broker that dies at each step of a rebalance ends nobody, a second process ends one of two."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from harness import SMALL, L, Service, Stream, Topics, assert_exact, group_of, save_model
from waiting import wait_for
from wire import JOIN_GROUP, SYNC_GROUP, Wire

from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.ports import free_port

pytestmark = pytest.mark.long

OWN = (*SMALL, "--commit_interval=200ms", "--kafka=session.timeout.ms=6000", "--checkpoint.store=topic")
STEPS = ("the revoke callback runs", "JoinGroup is sent", "SyncGroup is sent", "the assignment is accepted")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


class Other:
    """A member of the group that only comes and goes: each time the partitions are dealt out anew."""

    def __init__(self, service: Service) -> None:
        config = {"bootstrap.servers": service.topics.bootstrap, "group.id": service.settings.group_id, "client.id": "other"}
        config |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 6000, "log_level": 0}
        self._consumer = Consumer(config)
        self._consumer.subscribe([service.topics.input], on_assign=lambda consumer, _: consumer.incremental_assign([]))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        while not self._over.is_set():
            self._consumer.consume(1, 0.05)
        self._consumer.close()

    def __enter__(self) -> "Other":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)


class Site:
    """A service whose broker can be killed at a step of a rebalance."""

    def __init__(self, broker: EmbeddedKafka, wire: Wire, service: Service, stream: Stream) -> None:
        self.broker, self.wire, self.service, self.stream = broker, wire, service, stream

    def break_at(self, step: str, delay_s: float) -> None:
        """Kills the broker with -9 at this step of a rebalance, starts it again, and returns when all that was fed is answered."""
        killed = threading.Event()

        def kill() -> None:
            time.sleep(delay_s)  # how far the broker has come with the request
            self.broker.kill()
            killed.set()

        revoked = self._revoked()
        if step == "JoinGroup is sent":
            self.wire.at(JOIN_GROUP, "slotstream", kill)
        elif step == "SyncGroup is sent":
            self.wire.at(SYNC_GROUP, "slotstream", kill)
        elif step == "the assignment is accepted":
            self.wire.at(SYNC_GROUP, "slotstream", kill, answered=True)
        self.stream.feed(10)
        with Other(self.service):
            if step == "the revoke callback runs":
                wait_for(lambda: self._revoked() > revoked, "the revoke callback", 120, every_s=0.001)
                kill()
            wait_for(killed.is_set, f"the kill when {step}", 120)
            self.broker.start()
            self._alive(lambda: self.service.get("/healthz") is not None, "the service after the outage")
        self.service.wait_answered(self.stream.feed(10), 180)  # in every partition: all of them are back

    def _revoked(self) -> int:
        return self.service.said().count('"partitions revoked"')

    def _alive(self, condition: Callable[[], object], what: str) -> None:
        def alive() -> object:
            assert self.service.process.poll() is None, self.service.said()[-3000:]
            return condition()

        wait_for(alive, lambda: f"{what}:\n{self.service.said()[-3000:]}", 180)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Site]:
    folder, port, through = tmp_path_factory.mktemp("identity"), free_port(), free_port()
    advertised = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{through}"}
    broker = EmbeddedKafka(folder / "kafka", heap_mb=256, port=port, properties=advertised)
    with Wire(through, port) as wire, broker:
        topics = Topics(f"127.0.0.1:{through}", "identity", partitions=4)
        service = Service(topics, model, folder, *OWN)
        with service:
            service.wait_ready()
            found = Site(broker, wire, service, Stream(topics, 4000))
            found.service.wait_answered(found.stream.feed(50))
            yield found
            assert service.stop() == 0
        assert_exact(service, topics)


@pytest.mark.failure("broker killed in a rebalance")
@pytest.mark.parametrize("step", STEPS)
def test_a_broker_that_dies_in_a_rebalance_ends_nobody(site: Site, step: str) -> None:
    site.break_at(step, 0.002)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("step", STEPS)
def test_a_broker_that_dies_in_ten_rebalances_ends_nobody(site: Site, step: str) -> None:
    rng = random.Random(step)
    for _ in range(10):
        site.break_at(step, rng.choice((0.0, 0.002, 0.01, 0.05)))


@pytest.mark.failure("a second process of one name, another host")
@pytest.mark.parametrize("sleeper_holds_partitions", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_of_two_processes_of_one_name_one_lives(kafka, unique, tmp_path, model, sleeper_holds_partitions: bool) -> None:
    """One sleeps past its session while another host's process takes its name; where it owns nothing, it hears of no loss."""
    topics = Topics(kafka.bootstrap, unique("name"), partitions=2 if sleeper_holds_partitions else 1)
    stream = Stream(topics, 400)
    keeper, first, second = (Service(topics, model, tmp_path, *OWN, instance=name) for name in ("keeper", "one", "one"))
    second.log = tmp_path / "second.log"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    second.environment = {"TMPDIR": str(elsewhere)}
    with keeper:
        keeper.wait_ready()
        with first:
            first.wait_ready()
            first.process.send_signal(signal.SIGSTOP)
            try:
                wait_for(lambda: names_of(keeper) == {keeper.settings.transactional_id}, "the session to be over")
                with second:
                    second.wait_ready()
                    first.process.send_signal(signal.SIGCONT)
                    both = (first.process, second.process)
                    wait_for(lambda: any(p.poll() is not None for p in both), "one of the two to end", 120)
                    ended, lives = (first, second) if first.process.poll() is not None else (second, first)
                    assert ended.process.poll() == 3, ended.said()[-3000:]
                    assert "Expected: one process a name" in ended.said()
                    lives.wait_answered(stream.feed(), 120)
                    assert lives.process.poll() is None
                    assert lives.stop() == keeper.stop() == 0
            finally:
                if first.process.poll() is None:
                    first.process.send_signal(signal.SIGCONT)
    assert_exact(keeper, topics)


def names_of(service: Service) -> set[str]:
    group = group_of(service)
    return {m.group_instance_id for m in group.admin.describe_consumer_groups([group.name])[group.name].result(30).members}
