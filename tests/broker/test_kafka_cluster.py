"""The embedded cluster of brokers: what each is told, who leads what, and that it survives the loss of a leader."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import wait_for

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.create_topics import init
from processor.settings import load_settings
from processor.testbed.kafka_cluster import OFFSETS, TRANSACTIONS, KafkaCluster, partition_of
from processor.testbed.kafka_node import ask
from processor.testbed.ports import free_ports
from processor.verify.cluster_faults import CLUSTER_FAULTS
from processor.verify.links import Links
from processor.verify.run import chosen
from processor.verify.schedule import deal
from processor.verify.stage import Stage

pytestmark = pytest.mark.long

# -- without a broker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"), [("", 0), ("hello", 99162322), ("Aa", 2112), ("BB", 2112), ("polygenelubricants", 0), ("Größe", 69209585)]
)
def test_a_name_is_kept_in_the_partition_that_javas_hash_gives(name: str, code: int) -> None:
    """The fifth one's hash is the smallest integer of Java, which has no absolute value."""
    assert [partition_of(name, count) for count in (4, 50)] == [abs(code) % 4, abs(code) % 50]


def properties(cluster: KafkaCluster, number: int) -> dict[str, str]:
    return cluster._properties(number)


def test_the_brokers_agree_on_who_votes_and_share_no_port(tmp_path: Path) -> None:
    cluster = KafkaCluster(tmp_path, beside=True)
    told = [properties(cluster, number) for number in cluster.numbers]
    assert [one["node.id"] for one in told] == ["1", "2", "3"]
    assert len({one["controller.quorum.voters"] for one in told}) == 1
    addresses = [address for one in told for address in one["listeners"].split(",")]
    assert len({address.rpartition(":")[2] for address in addresses}) == len(addresses) == 3 * 4


def test_what_is_acknowledged_is_on_two_brokers_the_clusters_own_topics_too(tmp_path: Path) -> None:
    told = properties(KafkaCluster(tmp_path), 2)
    factors = {key: value for key, value in told.items() if "replication.factor" in key}
    assert set(factors) == {
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    }
    assert set(factors.values()) == {"3"}
    assert told["min.insync.replicas"] == told["transaction.state.log.min.isr"] == "2"


def test_brokers_that_can_be_separated_reach_each_other_at_addresses_of_their_own(tmp_path: Path) -> None:
    cluster = KafkaCluster(tmp_path, separable=True)
    ways = [way for one, other in ((1, 2), (1, 3), (2, 3)) for way in cluster.ways(one, other)]
    assert len({(way.host, way.port) for way in ways}) == len(ways) == 12
    ports = cluster.ports[2]
    assert {(way.host, way.port) for way in cluster.ways(1, 2)} >= {("127.0.1.2", ports.peers), ("127.0.1.2", ports.controllers)}
    cluster._write_hosts(1)
    hosts = dict(reversed(line.split()[:2]) for line in (tmp_path / "hosts-1").read_text().splitlines())
    assert hosts == {"localhost": "127.0.0.1", "broker-1": "127.0.0.1", "broker-2": "127.0.1.2", "broker-3": "127.0.1.3"}
    assert f"PEERS://broker-2:{ports.peers}" in properties(cluster, 2)["advertised.listeners"]
    assert f"PLAINTEXT://127.0.0.1:{ports.clients}" in properties(cluster, 2)["advertised.listeners"]


def test_ports_that_are_given_out_together_differ() -> None:
    assert len(set(free_ports(100))) == 100


def test_a_cluster_beside_a_broker_of_the_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--brokers 3 and a broker of yours"):
        Stage(tmp_path / "m.keras", None, ["--kafka=bootstrap.servers=here:9092"], 4, 3)


def test_faults_of_a_cluster_are_chosen_by_name_and_dealt_once_each() -> None:
    names = [fault.name for fault in CLUSTER_FAULTS]
    assert [fault.name for fault in chosen(names, 3)] == names
    with pytest.raises(ConfigurationError, match="rolling with one broker"):
        chosen(["kill", "rolling"])
    assert {need for fault in CLUSTER_FAULTS for need in fault.needs} == {"cluster", "links"}
    dealt = deal(5, {"topic": names, "directory": names})
    assert sorted(dealt["topic"] + dealt["directory"]) == sorted(names)


# -- a real one ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    made = KafkaCluster(tmp_path_factory.mktemp("cluster"), separable=True)
    with ExitStack() as stack:
        made.links = stack.enter_context(Links(made))  # type: ignore[attr-defined]
        yield stack.enter_context(made)


def create(cluster: KafkaCluster, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": cluster.bootstrap})
    client.create_topics([NewTopic(topic, 1)])[topic].result(60)


def producer(cluster: KafkaCluster) -> tuple[Producer, list[bytes]]:
    """One, and the list that what was acknowledged is added to when it is polled."""
    acknowledged: list[bytes] = []

    def note(error: Any, message: Any) -> None:
        assert error is None, error
        acknowledged.append(message.value())

    return Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "on_delivery": note}), acknowledged


def values(cluster: KafkaCluster, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "none", "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    try:
        wait_for(lambda: found.extend(m.value() for m in consumer.consume(count, 1.0)) or len(found) >= count, "the records", 120)
        return found
    finally:
        consumer.close()


@pytest.mark.timeout(600)
def test_a_killed_leader_loses_nothing_that_was_acknowledged_and_comes_back_in_sync(cluster: KafkaCluster) -> None:
    create(cluster, "killed")
    sender, acknowledged = producer(cluster)
    sent = [b"%d" % i for i in range(200)]
    for value in sent[:100]:
        sender.produce("killed", value)
    wait_for(lambda: sender.poll(0.1) or acknowledged, "an acknowledgement", 60)
    leader = cluster.leader("killed", 0)
    cluster.kill(leader)
    assert cluster.pid(leader) is None
    assert cluster.crashed is None
    for value in sent[100:]:
        sender.produce("killed", value)
    assert sender.flush(120) == 0
    assert cluster.leader("killed", 0) != leader
    cluster.launch(leader)
    cluster.wait_until_whole()
    assert acknowledged == sent
    assert values(cluster, "killed", 200) == sent


@pytest.mark.timeout(600)
def test_a_group_and_a_transactional_id_are_coordinated_by_the_broker_that_is_named(cluster: KafkaCluster) -> None:
    create(cluster, "coordinated")
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "a group of mine"})
    consumer.subscribe(["coordinated"])
    wait_for(lambda: consumer.poll(0.2) or consumer.assignment(), "an assignment", 120)
    client = AdminClient({"bootstrap.servers": cluster.bootstrap})
    described = client.describe_consumer_groups(["a group of mine"])["a group of mine"].result(60)
    assert cluster.coordinator(OFFSETS, "a group of mine") == described.coordinator.id
    consumer.close()
    sender = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "mine"})
    sender.init_transactions(60)
    assert cluster.coordinator(TRANSACTIONS, "mine") in cluster.numbers


@pytest.mark.timeout(600)
def test_when_init_returns_every_broker_knows_the_topics(cluster: KafkaCluster) -> None:
    topics = {f"--{key}=known.{key}" for key in ("input.topic", "output.topic", "dead_letter.topic", "checkpoint.topic")}
    settings = load_settings(None, [f"--kafka=bootstrap.servers={cluster.bootstrap}", "--group=known", *sorted(topics)], {})
    assert len(init(settings, 4, None)) == 4
    for number in cluster.numbers:
        listed = ask(cluster._admin(number))
        assert listed is not None
        assert {option.partition("=")[2] for option in topics} <= set(listed.topics)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("quietly", [True, False])
def test_a_broker_that_is_cut_off_believes_that_it_leads_and_clients_still_reach_it(cluster: KafkaCluster, quietly: bool) -> None:
    topic = f"cut-off-{quietly}".lower()
    create(cluster, topic)
    links: Links = cluster.links  # type: ignore[attr-defined]
    alone = cluster.leader(topic, 0)
    links.cut_off(alone, quietly=quietly)
    try:
        others = [number for number in cluster.numbers if number != alone]
        wait_for(lambda: all(leader_by(cluster, number, topic) not in (alone, None) for number in others), "another leader", 120)
        assert leader_by(cluster, alone, topic) == alone
        assert not cluster.whole()
    finally:
        links.mend()
    cluster.wait_until_whole()
    assert leader_by(cluster, alone, topic) != alone


def leader_by(cluster: KafkaCluster, number: int, topic: str) -> int | None:
    """Who leads partition 0, as this broker has it."""
    listed = ask(cluster._admin(number))
    return None if listed is None else listed.topics[topic].partitions[0].leader


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_leaders_go_back_to_their_brokers_when_they_are_told_to(cluster: KafkaCluster) -> None:
    create(cluster, "moved")
    leader = cluster.leader("moved", 0)
    cluster.stop(leader)
    cluster.launch(leader)
    cluster.wait_until_whole()
    assert cluster.leader("moved", 0) != leader
    assert cluster.elect_preferred_leaders() > 0
    wait_for(lambda: cluster.leader("moved", 0) == leader, "the leader to be back", 60)
    assert cluster.running == [1, 2, 3]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_with_two_of_three_away_nothing_is_acknowledged_and_then_everything(cluster: KafkaCluster) -> None:
    create(cluster, "two-away")
    sender, acknowledged = producer(cluster)
    cluster.kill(1, 2)
    try:
        sender.produce("two-away", b"patient")
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            sender.poll(0.1)
        assert acknowledged == []
        with pytest.raises(SlotstreamError, match="the cluster is not whole after 1 s"):
            cluster.wait_until_whole(1)
    finally:
        cluster.launch(1, 2)
    cluster.wait_until_whole()
    assert sender.flush(120) == 0
    assert values(cluster, "two-away", 1) == [b"patient"]
