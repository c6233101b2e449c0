"""The demo's processes: the service, the simulated plant, and the command that creates the topics.

Responsible for their command lines, their logs, and for noticing one that ends without being asked to. Not for when they start or stop.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.ports import free_port

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "demo.yaml"
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 2.0
STOP_PATIENCE_S = 45.0
INIT_TIMEOUT_S = 90.0


class Probe(threading.Thread):
    """Asks one instance of the service for its state, beside everything else, since it may be slow to answer while it starts."""

    def __init__(self, port: int) -> None:
        super().__init__(name="probe", daemon=True)
        self._port = port
        self._over = threading.Event()
        self.state = "starting"
        self.ready = False
        self.figures: dict[str, float] = {}

    def run(self) -> None:
        while not self._over.wait(PROBE_EVERY_S):
            status, reason = self._get("/readyz")
            self.ready = status == 200
            self.state = "ready" if self.ready else reason if status == 503 else "starting"
            self.figures = parse_metrics(self._get("/metrics")[1]) if status else {}

    def end(self) -> None:
        self._over.set()

    def _get(self, path: str) -> tuple[int, str]:
        """Status and text; status 0 when nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


_SAMPLE = re.compile(r"^slotstream_(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def parse_metrics(text: str) -> dict[str, float]:
    """Metric to value, without the prefix; of several label sets the largest value."""
    figures: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        figures[name] = max(float(value), figures.get(name, float("-inf")))
    return figures


class ServiceProcess:
    """The service as its user runs it: a process with a command line, a log and an HTTP port. Started again after each kill."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self._port = port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "service.log"
        self.restarts = 0
        self.ready_at_s: float | None = None  # of the instance that runs
        self._folder = folder
        # A name of its own: two demos on one machine are not two processes of one instance.
        settings = [f"--http.port={port}", f"--checkpoint.path={folder / 'checkpoints'}", f"--instance=demo-{port}"]
        self._command = [*slotstream("run", bootstrap), *settings]
        self._process: subprocess.Popen[bytes] | None = None
        self._probe = Probe(self._port)

    @property
    def probe(self) -> Probe:
        return self._probe

    def start(self) -> None:
        self._process = process.spawn(self._command, self.log, env=environment(self._folder), cwd=self._folder)
        self._probe = Probe(self._port)
        self._probe.start()
        self.ready_at_s = None

    def watch(self) -> None:
        """Notes when it turned ready. SlotstreamError if it ended without being asked to."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise self._died(f"the service ended with exit code {code}")
        if self.ready_at_s is None and self._probe.ready:
            self.ready_at_s = time.monotonic()

    def restart_by_kill(self) -> None:
        if self._process is not None:
            self._probe.end()
            process.kill(self._process)
        self.restarts += 1
        self.start()

    def stop(self) -> None:
        """SIGTERM. SlotstreamError if it does not end with exit code 0."""
        self._probe.end()
        running, self._process = self._process, None
        if running is not None and (code := process.stop(running, STOP_PATIENCE_S)) != 0:
            raise self._died(f"the service was asked to stop and ended with exit code {code}")

    def close(self) -> None:
        """The end of a demo that failed or was interrupted: what it would still write is thrown away, so it is not waited for."""
        self._probe.end()
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def _died(self, found: str) -> SlotstreamError:
        return SlotstreamError(
            process.with_log(found, self.log),
            expected="a service that runs until it is stopped, and then ends with 0",
            do="look at these lines",
        )


class Simulator:
    """The plant's process."""

    def __init__(self, bootstrap: str, folder: Path, topic: str, *, rate: float, sensors: int, seed: int) -> None:
        self._log = folder / "plant.log"
        self._command = [sys.executable, "-m", "processor.cli", "plant", "--bootstrap", bootstrap, "--topic", topic]
        self._command += ["--rate", str(rate), "--sensors", str(sensors), "--seed", str(seed)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = process.spawn(self._command, self._log)

    def watch(self) -> None:
        if self._process is not None and (code := self._process.poll()) is not None:
            raise self._died(code)

    def stop(self) -> int:
        """Returns how many readings the broker has acknowledged."""
        running, self._process = self._process, None
        if running is None:
            return 0
        if (code := process.stop(running, STOP_PATIENCE_S)) != 0:
            raise self._died(code)
        return int(json.loads(process.last_lines(self._log, 1))["acknowledged"])

    def close(self) -> None:
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def _died(self, code: int) -> SlotstreamError:
        return SlotstreamError(
            process.with_log(f"the simulated plant ended with exit code {code}", self._log),
            expected="readings until it is stopped",
            do="look at these lines",
        )


def slotstream(command: str, bootstrap: str) -> list[str]:
    """The command line of `slotstream COMMAND` with the demo's settings."""
    settings = ["--config", str(CONFIG), "--kafka", f"bootstrap.servers={bootstrap}", f"--model.path={HERE / 'demo.keras'}"]
    return [sys.executable, "-m", "processor.cli", command, *settings]


def environment(folder: Path) -> dict[str, str]:
    """Without the user's own settings of slotstream, which are not meant for the demo. Temporary files go into its folder."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("SLOTSTREAM_")}
    return kept | {"TMPDIR": str(folder)}


def create_topics(bootstrap: str, folder: Path) -> None:
    log = folder / "init.log"
    running = process.spawn([*slotstream("init", bootstrap), "--partitions", "8"], log, env=environment(folder), cwd=folder)
    try:
        code = running.wait(INIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        code = process.kill(running)
    if code != 0:
        raise SlotstreamError(
            process.with_log(f"slotstream init ended with exit code {code}", log), expected="the topics", do="look at these lines"
        )
