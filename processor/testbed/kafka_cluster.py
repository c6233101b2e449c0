"""Several embedded brokers that are one cluster: each is broker and controller (KRaft), every partition has a replica on each.

Responsible for starting and ending the brokers together and one by one, for telling who leads what, and for waiting until the cluster is
whole. What is acknowledged with acks=all is on two brokers at least (min.insync.replicas), the cluster's own topics included. Not for
breaking it, and not for what lies between the brokers: with `separable` each reaches each other one at an address of its own, and
whoever owns the cluster must pass on what is sent there (`ways`).
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient, ClusterMetadata

from processor.errors import SlotstreamError
from processor.testbed.kafka_node import HERE, Node, ask, refuse_taken_ports
from processor.testbed.ports import free_ports

T = TypeVar("T")

REPLICAS_IN_SYNC = 2
WHOLE_TIMEOUT_S = 240.0  # three Java processes that start at once, on a machine that is busy
# Twice one broker's, and twice Kafka's defaults for the quorum: on a busy machine a broker that lives is not to be missed.
PATIENCE = {
    "broker.session.timeout.ms": "6000",
    "controller.quorum.election.timeout.ms": "2000",
    "controller.quorum.fetch.timeout.ms": "4000",
}
ASK_S = 20.0
POLL_S = 0.1
OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
_INTERNAL = {"offsets.topic": 4, "transaction.state.log": 4, "share.coordinator.state.topic": 1}


@dataclass(frozen=True)
class Way:
    """Where one broker reaches a port of another: what arrives at host:port belongs to 127.0.0.1:port."""

    host: str
    port: int


@dataclass(frozen=True)
class Ports:
    """Of one broker: for clients, for its peers, for its controller; a second one for clients, and the port those are sent on to."""

    clients: int
    peers: int
    controllers: int
    beside: int
    sent_on: int


class KafkaCluster:
    """`brokers` nodes, numbered from 1, with their data under `folder`. A context manager that kills what still runs.

    separable: each broker reaches the others at addresses that are its own (Linux only), so that two can be separated.
    beside: clients that come by the ports `beside` are sent on to the ports `sent_on`, where something else must listen.
    Every method raises SlotstreamError when it cannot do what it says.
    """

    def __init__(self, folder: Path, *, brokers: int = 3, heap_mb: int = 256, separable: bool = False, beside: bool = False) -> None:
        self.folder = Path(folder)
        self.numbers = tuple(range(1, brokers + 1))
        self._separable, self._beside = separable, beside
        free = iter(free_ports(5 * brokers))
        self.ports = {number: Ports(*islice(free, 5)) for number in self.numbers}
        cluster = hashlib.sha256(os.urandom(16)).hexdigest()[:22]  # base64 may begin with a dash, which the tool takes for an option
        self._nodes = {
            number: Node(
                self.folder / f"broker-{number}",
                heap_mb=heap_mb,
                format_words=("-t", cluster),
                java_words=(f"-Djdk.net.hosts.file={self._hosts(number)}",) if separable else (),
            )
            for number in self.numbers
        }

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{HERE}:{ports.clients}" for ports in self.ports.values())

    @property
    def running(self) -> list[int]:
        return [number for number, node in self._nodes.items() if node.pid is not None]

    @property
    def crashed(self) -> Path | None:
        """The log of a broker that has ended without being asked to, if there is one."""
        return next((node.log_path for node in self._nodes.values() if node.ended is not None), None)

    @property
    def pids(self) -> list[int]:
        """The process ids of the brokers that run."""
        return [pid for number in self.numbers if (pid := self.pid(number)) is not None]

    def pid(self, number: int) -> int | None:
        """The process id of a broker while it runs."""
        return self._nodes[number].pid

    # -- starting and ending ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """All brokers that do not run. Returns when the cluster is whole."""
        try:
            self.launch()
            self.wait_until_whole()
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self, *numbers: int) -> None:
        """These brokers, all without any. Returns when the processes are there."""
        wanted = [number for number in numbers or self.numbers if self.pid(number) is None]
        for number in wanted:
            ports = self.ports[number]
            refuse_taken_ports(ports.clients, ports.peers, ports.controllers)
        for number in wanted:
            self._write_hosts(number)
            self._nodes[number].start(self._properties(number))

    def stop(self, *numbers: int) -> None:
        """These brokers, all without any: in good order, by force after 15 s. Returns when they are gone."""
        for number in numbers or self.numbers:
            self._nodes[number].terminate()
        for number in numbers or self.numbers:
            self._nodes[number].stop()

    def kill(self, *numbers: int) -> None:
        """SIGKILL to these brokers, to all without any. Returns when they are gone."""
        for number in numbers or self.numbers:
            self._nodes[number].kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    # -- who leads what ---------------------------------------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> int:
        """The number of the broker that leads this partition. Waits until one does."""
        return self._wait(lambda: self._leader(topic, partition), f"partition {partition} of {topic} has no leader")

    def coordinator(self, internal: str, name: str) -> int:
        """The broker that coordinates this group (OFFSETS) or this transactional id (TRANSACTIONS). Waits until there is one."""
        count = _INTERNAL["offsets.topic" if internal == OFFSETS else "transaction.state.log"]
        return self.leader(internal, partition_of(name, count))

    def elect_preferred_leaders(self) -> int:
        """Each partition is led by its first replica again. Returns how many leaders moved. Raises KafkaException."""
        admin = self._admin(*self.running)
        moved = admin.elect_leaders(ElectionType.PREFERRED).result(ASK_S)  # the client (2.16) refuses to be given a timeout here
        return sum(error is None for error in moved.values())

    # -- the cluster as a whole -------------------------------------------------------------------------------------------

    def wait_until_whole(self, timeout_s: float = WHOLE_TIMEOUT_S) -> None:
        """Until each broker sees all brokers, and of every partition a leader and all replicas in sync.

        Each is asked by itself: one that was cut off goes on with what it knew before.
        """
        self._wait(self.whole, "the cluster is not whole", timeout_s)

    def whole(self) -> bool:
        """What wait_until_whole waits for, asked once."""
        return all(self._is_whole(number) for number in self.numbers)

    def ways(self, one: int, other: int) -> list[Way]:
        """All by which these two reach each other, of a cluster that is separable."""
        return [
            Way(_address(source, target), port)
            for source, target in ((one, other), (other, one))
            for port in (self.ports[target].peers, self.ports[target].controllers)
        ]

    def _is_whole(self, number: int) -> bool:
        listed = ask(self._admin(number))  # a new client for each question: an older one may put it to another broker
        return listed is not None and len(listed.brokers) == len(self.numbers) and _in_sync(listed)

    def _leader(self, topic: str, partition: int) -> int | None:
        listed = ask(self._admin(*self.running))
        found = None if listed is None or topic not in listed.topics else listed.topics[topic].partitions.get(partition)
        return None if found is None or found.leader not in self.running else found.leader

    def _wait(self, condition: Callable[[], T | None], found: str, timeout_s: float = WHOLE_TIMEOUT_S) -> T:
        """What the condition gives once that is something. `found` is what the error says if it never does."""
        until_s = time.monotonic() + timeout_s
        while not (result := condition()):
            for node in self._nodes.values():
                if node.ended is not None:
                    raise node.failed(f"{node.folder.name} ended with {node.ended}")
            if time.monotonic() > until_s:
                raise SlotstreamError(
                    f"{found} after {timeout_s:.0f} s", expected="brokers that find each other", do=f"look at the logs in {self.folder}"
                )
            time.sleep(POLL_S)
        return result

    def _admin(self, *numbers: int) -> AdminClient:
        servers = ",".join(f"{HERE}:{self.ports[number].clients}" for number in numbers or self.numbers)
        return AdminClient({"bootstrap.servers": servers, "log_level": 0, "reconnect.backoff.max.ms": 200})

    # -- what a broker is told --------------------------------------------------------------------------------------------

    def _properties(self, number: int) -> dict[str, str]:
        ports, own = self.ports[number], self._name(number)
        listeners = {"PLAINTEXT": ports.clients, "PEERS": ports.peers, "CONTROLLER": ports.controllers}
        advertised = {"PLAINTEXT": f"{HERE}:{ports.clients}", "PEERS": f"{own}:{ports.peers}", "CONTROLLER": f"{own}:{ports.controllers}"}
        if self._beside:
            listeners["BESIDE"] = ports.beside
            advertised["BESIDE"] = f"{HERE}:{ports.sent_on}"
        replicas, in_sync = str(len(self.numbers)), str(min(REPLICAS_IN_SYNC, len(self.numbers)))
        properties = PATIENCE | {
            "node.id": str(number),
            "listeners": ",".join(f"{name}://{HERE}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{address}" for name, address in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            "inter.broker.listener.name": "PEERS",
            "controller.quorum.voters": ",".join(f"{n}@{self._name(n)}:{self.ports[n].controllers}" for n in self.numbers),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "auto.leader.rebalance.enable": "false",  # leaders move when they are told to, and not every five minutes
        }
        for topic, partitions in _INTERNAL.items():
            properties |= {f"{topic}.replication.factor": replicas, f"{topic}.num.partitions": str(partitions)}
        return properties | {f"{topic}.min.isr": in_sync for topic in _INTERNAL if topic != "offsets.topic"}

    def _name(self, number: int) -> str:
        return f"broker-{number}" if self._separable else HERE

    def _hosts(self, number: int) -> Path:
        return (self.folder / f"hosts-{number}").resolve()

    def _write_hosts(self, number: int) -> None:
        """Java's own hosts file: the same name leads each broker to another address, and itself to 127.0.0.1."""
        if self._separable:
            self.folder.mkdir(parents=True, exist_ok=True)
            lines = [f"{HERE} localhost {socket.gethostname()}", f"{HERE} {self._name(number)}"]
            lines += [f"{_address(number, other)} {self._name(other)}" for other in self.numbers if other != number]
            self._hosts(number).write_text("\n".join(lines) + "\n")


def partition_of(name: str, partitions: int) -> int:
    """Of an internal topic: where the broker keeps this group or transactional id, by Java's hash of its name."""
    units = name.encode("utf-16-be")
    code = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        code = (31 * code + (high << 8 | low)) & 0xFFFF_FFFF
    signed = code - (1 << 32) if code >= 1 << 31 else code
    return 0 if signed == -(1 << 31) else abs(signed) % partitions


def _in_sync(listed: ClusterMetadata) -> bool:
    partitions = [p for topic in listed.topics.values() for p in topic.partitions.values()]
    return all(p.leader >= 0 and len(p.isrs) == len(p.replicas) for p in partitions)


def _address(source: int, target: int) -> str:
    return f"127.0.{source}.{target}"
