"""One broker process of the embedded Kafka: its folder, its properties, its start and its end.

Responsible for the process alone. When a broker is of use, and which properties make one broker or a cluster of it, is decided by
kafka.py and kafka_cluster.py.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.kafka_jars import jars, java
from processor.testbed.ports import is_free

HERE = "127.0.0.1"
STOP_PATIENCE_S = 15.0
POLL_S = 0.03

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # After a kill the broker is let in again only when its old session is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # The default takes a quarter of a 512 MB heap.
    "log.cleaner.dedupe.buffer.size": str(32 << 20),
}


class Node:
    """`start` after `stop` or `kill` goes on with the data under `folder`.

    format_words: of Kafka's storage tool, for the first start. java_words: of the Java runtime. Every method raises SlotstreamError
    when it cannot do what it says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        heap_mb: int,
        format_words: Sequence[str],
        java_words: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.log_path = folder / "broker.log"
        self._heap_mb = heap_mb
        self._format_words, self._java_words = list(format_words), list(java_words)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ended(self) -> int | None:
        """The exit code of a process that ended without `stop` or `kill`; None otherwise."""
        return None if self._process is None else self._process.poll()

    def start(self, properties: Mapping[str, str]) -> None:
        """Returns when the process is there; the broker in it takes seconds more. Gets Kafka from the network the first time.

        properties: added to PROPERTIES, last word.
        """
        if self.pid is not None:
            return
        program = java()
        classpath = os.pathsep.join(map(str, jars()))
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "server.properties"
        written = {**PROPERTIES, "log.dirs": (self.folder / "data").resolve().as_posix(), **properties}
        settings.write_text("".join(f"{key}={value}\n" for key, value in written.items()))
        self._format([*program, "-cp", classpath], settings)
        # Compression libraries unpack themselves into Java's temporary folder, and a killed broker leaves them there.
        options = [
            f"-Xmx{self._heap_mb}m",
            f"-Djava.io.tmpdir={self.folder}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *self._java_words,
            "-cp",
            classpath,
        ]
        self._process = process.spawn([*program, *options, "kafka.Kafka", str(settings)], self.log_path)

    def stop(self) -> None:
        """Ends the broker in good order (its leaders move, its clients are told, its files closed), by force after 15 s. Returns when it
        is gone."""
        if self._process is not None:
            process.stop(self._process, STOP_PATIENCE_S)
            self._process = None

    def terminate(self) -> None:
        """SIGTERM. Returns at once; call `stop` to wait for the end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, as a crash would. Returns when it is gone."""
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def wait_until(self, condition: Callable[[], bool], what: str, until_s: float) -> None:
        """Polls the condition. Raises SlotstreamError with the end of the log when the process ends, or at `until_s` (monotonic)."""
        while not condition():
            if self._process is not None and self._process.poll() is not None:
                raise self.failed(f"Kafka ended with {self._process.returncode} while it started")
            if time.monotonic() > until_s:
                raise self.failed(f"Kafka did not {what} in time")
            time.sleep(POLL_S)

    def failed(self, found: str) -> SlotstreamError:
        return SlotstreamError(
            process.with_log(found, self.log_path),
            expected="a broker that answers",
            do="look at these lines: a full disk, too little memory and a folder in use by another broker are the usual reasons",
        )

    def _format(self, program: list[str], settings: Path) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        tool = [*program, "kafka.tools.StorageTool", "format", *self._format_words, "-c", str(settings)]
        done = subprocess.run(tool, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise SlotstreamError(
                f"Kafka could not prepare its folder {self.folder}: {(done.stderr or done.stdout).strip()[:600]}",
                expected="an empty or earlier Kafka folder on a disk with space",
                do="look at the message, or take another folder",
            )


def refuse_taken_ports(*ports: int) -> None:
    """Raises SlotstreamError if one of them is in use."""
    for port in ports:
        if not is_free(port):
            raise SlotstreamError(
                f"port {port} on {HERE} is in use",
                expected="a free port for the embedded Kafka",
                do="end the program that holds it, or choose another port",
            )


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


def ask(admin: AdminClient) -> ClusterMetadata | None:
    """What a broker says of brokers, topics and partitions; None when none answers within 2 s."""
    try:
        return admin.list_topics(timeout=2)
    except KafkaException:
        return None
