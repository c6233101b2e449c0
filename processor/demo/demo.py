"""The demo: a real Kafka, a simulated plant and the service on this machine, for as long as wanted, and then the count.

Responsible for the phases of a run (processes started in order, killed when asked, all ended and their folder removed whatever happens)
and for the verdict. Not for the processes (processes.py), the topics (watch.py), the looks (show.py) or the arithmetic (count.py).

    slotstream demo --seconds 20 --crash 5

                 first ready          time is over         all came out       SIGTERM, read to the end
    starting  ------------->  running  ---------->  draining  -------->  stopping  -------->  counted
                 simulator            simulator                           exit code
                 starts               stops                               must be 0
"""

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from processor.demo.count import Count
from processor.demo.plant import FaultPlan
from processor.demo.processes import HERE, PROBE_EVERY_S, ServiceProcess, Simulator, create_topics
from processor.demo.show import Screen, View
from processor.demo.watch import Alarms, TopicNames, Watch, threshold_of
from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.kafka_jars import VERSION
from processor.testbed.own_folder import OwnFolder
from processor.testbed.signals import Interrupts

TOPICS = TopicNames("readings", "predictions", "readings.dead-letter", "predictions.alarms")

POLL_S = 0.1
READY_TIMEOUT_S = 180.0  # TensorFlow alone takes most of a minute on a machine that is busy
STALLED_S = 60.0


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
            alarms=self._watch.alarms,
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
        simulator = Simulator(kafka.bootstrap, folder, TOPICS.readings, rate=options.rate, sensors=options.sensors, seed=options.seed)
        alarms = Alarms(FaultPlan(options.seed, options.sensors), options.sensors, threshold_of(HERE / "demo_model.json"))
        watch = Watch(kafka.bootstrap, topics=TOPICS, alarms=alarms)
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
