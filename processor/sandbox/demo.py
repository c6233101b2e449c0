"""The demo: a real Kafka, a simulated plant and the service on this machine, for as long as wanted, and then the count.

Responsible for the processes (started in order, killed when asked, all ended and their folder removed whatever happens), for the
phases of a run, and for the verdict. What lies in the topics is watch.py's, how it looks show.py's, the arithmetic count.py's.

    slotstream demo --seconds 20 --crash 5

                 first ready          time is over         all came out       SIGTERM, read to the end
    starting  ------------->  running  ---------->  draining  -------->  stopping  -------->  counted
                 simulator            simulator                           exit code
                 starts               stops                               must be 0
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from processor.errors import SlotstreamError
from processor.sandbox import process
from processor.sandbox.count import Count
from processor.sandbox.kafka import EmbeddedKafka
from processor.sandbox.kafka_jars import VERSION
from processor.sandbox.own_folder import OwnFolder
from processor.sandbox.plant import FaultPlan
from processor.sandbox.ports import free_port
from processor.sandbox.show import Screen, View
from processor.sandbox.watch import Residuals, Threshold, Watch

SANDBOX = Path(__file__).resolve().parent
CONFIG = SANDBOX / "demo.yaml"
READINGS, PREDICTIONS, DEAD_LETTERS = "readings", "predictions", "readings.dead-letter"

POLL_S = 0.1
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 180.0  # TensorFlow alone takes most of a minute on a machine that is busy
STALLED_S = 60.0
STOP_PATIENCE_S = 45.0
INIT_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Options:
    seconds: float | None
    crash: float | None
    rate: float
    sensors: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    count: Count
    restarts: int

    def __str__(self) -> str:
        count = self.count
        return (
            f"demo: readings={count.readings} predictions={count.predictions} dead_letters={count.dead_letters} "
            f"restarts={self.restarts} lost={count.lost} duplicated={count.duplicated}"
        )


class Interrupts:
    """What Ctrl-C (and SIGTERM, SIGHUP) does: at first it ends the demo at once; while `deferred` the first one only sets `seen`, so
    that a run ends in good order; during the clean-up it does nothing."""

    def __init__(self) -> None:
        self.seen = False
        self._deferred = False
        self._ignored = False

    def install(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def ignore(self) -> None:
        self._ignored = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        first, self.seen = not self.seen, True
        if not self._ignored and not (self._deferred and first):
            raise KeyboardInterrupt


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

    def __init__(self, bootstrap: str, folder: Path, options: Options) -> None:
        self._log = folder / "plant.log"
        self._command = [sys.executable, "-m", "processor.cli", "plant", "--bootstrap", bootstrap, "--topic", READINGS]
        self._command += ["--rate", str(options.rate), "--sensors", str(options.sensors), "--seed", str(options.seed)]
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
    settings = ["--config", str(CONFIG), "--kafka", f"bootstrap.servers={bootstrap}", f"--model.path={SANDBOX / 'demo.keras'}"]
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


class Demo:
    """One run, phase by phase. `screen` shows it; `interrupts.seen` ends the running phase early."""

    def __init__(
        self, options: Options, kafka: EmbeddedKafka, service: ServiceProcess, simulator: Simulator, watch: Watch, screen: Screen
    ) -> None:
        self._options = options
        self._kafka = kafka
        self._service = service
        self._simulator = simulator
        self._watch = watch
        self._screen = screen
        self._began_s = time.monotonic()
        self._shown_s = 0.0
        self._phase = ""

    def run(self, interrupts: Interrupts) -> Outcome | None:
        """None when it was interrupted before there was anything to count."""
        self._service.start()
        if not self._until_ready(interrupts):
            return None
        self._began_s = time.monotonic()
        self._simulator.start()
        while not interrupts.seen and not self._is_over():
            self._turn()
            self._crash_when_due()
        self._phase = "no new readings, waiting for the last predictions; "
        acknowledged = self._simulator.stop()
        self._drain()
        self._screen.last(self._view())
        self._service.stop()
        self._watch.read_to_end()
        if self._watch.tally.readings < acknowledged:
            raise SlotstreamError(
                f"{self._watch.tally.readings} readings in the topic",
                expected=f"the {acknowledged} acknowledged",
                do="see the broker's log",
            )
        return Outcome(self._watch.tally.count(), self._service.restarts)

    def _until_ready(self, interrupts: Interrupts) -> bool:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._service.ready_at_s is None:
            if interrupts.seen:
                return False
            if time.monotonic() > deadline:
                raise SlotstreamError(
                    process.with_log(f"the service was not ready within {READY_TIMEOUT_S:.0f} s", self._service.log),
                    expected="/readyz to answer 200",
                    do="look at these lines",
                )
            self._turn()
        return True

    def _is_over(self) -> bool:
        return self._options.seconds is not None and time.monotonic() - self._began_s >= self._options.seconds

    def _crash_when_due(self) -> None:
        ready_at_s, crash = self._service.ready_at_s, self._options.crash
        if crash is not None and ready_at_s is not None and time.monotonic() - ready_at_s >= crash and not self._is_over():
            self._service.restart_by_kill()

    def _drain(self) -> None:
        """Until every reading has come out, or nothing has come for a minute of a service that is ready."""
        progress_s = time.monotonic()
        while time.monotonic() - progress_s < (STALLED_S if self._service.probe.ready else READY_TIMEOUT_S):
            if self._turn():
                progress_s = time.monotonic()
            elif self._watch.tally.count().lost == 0:
                return

    def _turn(self) -> bool:
        arrived = self._watch.poll(POLL_S)
        if self._kafka.pid is None:
            raise SlotstreamError(
                process.with_log("Kafka ended", self._kafka.log_path),
                expected="a broker that runs",
                do="look at these lines",
            )
        self._service.watch()
        self._simulator.watch()
        if time.monotonic() - self._shown_s >= PROBE_EVERY_S:
            self._shown_s = time.monotonic()
            self._screen.show(self._view())
        return arrived

    def _view(self) -> View:
        probe = self._service.probe
        return View(
            state=self._phase + probe.state,
            elapsed_s=time.monotonic() - self._began_s,
            restarts=self._service.restarts,
            url=f"{self._service.url}/metrics",
            recent=self._watch.recent(),
            slots_used=probe.figures.get("slots_used"),
            checkpoint_age_s=probe.figures.get("checkpoint_age_seconds"),
            residuals=self._watch.residuals,
        )


def run(options: Options, console: Console, interrupts: Interrupts) -> Outcome | None:
    """The whole demo in a folder of its own. When it returns or raises, nothing of it is left."""
    with ExitStack() as stack:
        folder = stack.enter_context(OwnFolder("demo")).path
        kafka = EmbeddedKafka(folder / "kafka")
        stack.callback(kafka.stop)
        stack.callback(interrupts.ignore)
        console.print(f"starting Apache Kafka {VERSION} in {folder}", highlight=False, soft_wrap=True)
        kafka.start()
        create_topics(kafka.bootstrap, folder)
        service = ServiceProcess(kafka.bootstrap, folder)
        simulator = Simulator(kafka.bootstrap, folder, options)
        residuals = Residuals(FaultPlan(options.seed, options.sensors), options.sensors, Threshold.read(SANDBOX / "demo_model.json"))
        watch = Watch(kafka.bootstrap, readings=READINGS, predictions=PREDICTIONS, dead_letters=DEAD_LETTERS, residuals=residuals)
        for close in (watch.close, service.close, simulator.close, interrupts.ignore):
            stack.callback(close)
        console.print(f"Kafka at {kafka.bootstrap}; starting the service: {service.url}/metrics", highlight=False, soft_wrap=True)
        with interrupts.deferred(), Screen(console) as screen:
            return Demo(options, kafka, service, simulator, watch, screen).run(interrupts)


def main(options: Options) -> int:
    """Exit codes: 0 all readings came out exactly once, 1 they did not or something failed, 130 interrupted."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        outcome = run(options, Console(), interrupts)
    except KeyboardInterrupt:
        outcome = None
    except SlotstreamError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    if outcome is None:
        sys.stderr.write("demo: interrupted, nothing was counted\n")
        return 130
    sys.stdout.write(f"{outcome}\n")
    if outcome.count.lost or outcome.count.duplicated:
        return 1
    # Without --seconds Ctrl-C is how a demo ends.
    return 130 if interrupts.seen and options.seconds is not None else 0
