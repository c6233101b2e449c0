"""The demo: what it reads from the topics, what it calls found, and one whole run that is killed and interrupted."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console

from processor.demo.count import Count
from processor.demo.demo import Outcome
from processor.demo.plant import START_MS, TICK_MS, FaultPlan
from processor.demo.processes import HERE, parse_metrics
from processor.demo.show import Screen, View
from processor.demo.watch import Alarms, Recent, TopicNames, Watch, threshold_of
from processor.settings import Raise, load_settings
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.signals import Interrupts

LAST_LINE = re.compile(r"demo: readings=(\d+) predictions=(\d+) dead_letters=(\d+) restarts=(\d+) lost=(\d+) duplicated=(\d+)")
SENSORS = 30


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(FaultPlan(1, SENSORS), SENSORS, 0.5)


class Topics:
    """The three topics of a run on the session's broker, and who writes into them."""

    def __init__(self, bootstrap: str, unique: Callable[[str], str]) -> None:
        self.bootstrap = bootstrap
        self.names = TopicNames(unique("readings"), unique("predictions"), unique("dead-letters"), unique("alarms"))
        self.readings, self.predictions, self.dead_letters, self.alarms = self.names
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for created in admin.create_topics([NewTopic(name, 2, 1) for name in self.names]).values():
            created.result(30)
        self.service = Producer({"bootstrap.servers": bootstrap, "transactional.id": unique("service")})
        self.service.init_transactions(30)

    def feed(self, values: list[bytes | None]) -> None:
        plant = Producer({"bootstrap.servers": self.bootstrap})
        for value in values:
            plant.produce(self.readings, value, b"pump-000", partition=0)
        assert plant.flush(30) == 0

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[None]:
        self.service.begin_transaction()
        yield
        if commit:
            self.service.commit_transaction(30)
        else:
            self.service.flush(30)
            self.service.abort_transaction(30)

    def predict(self, offset: int) -> None:
        value = {"sensor": "pump-000", "timestamp": 0, "prediction": [0.0], "steps": 1, "partition": 0, "offset": offset, "model": "m"}
        self.service.produce(self.predictions, json.dumps(value | {"score": 0.25, "alarm": False}).encode(), b"pump-000")

    def reject(self, offset: int) -> None:
        headers = {"error": "late", "source_partition": "0", "source_offset": str(offset)}
        self.service.produce(self.dead_letters, b"?", b"pump-000", headers=headers)

    def alarm(self, sensor: str, state: str, tick: int) -> None:
        told = {"id": "a", "sensor": sensor, "state": state, "timestamp": START_MS + tick * TICK_MS}
        self.service.produce(self.alarms, json.dumps(told).encode(), sensor.encode())

    def watch(self, alarms: Alarms) -> Watch:
        return Watch(self.bootstrap, topics=self.names, alarms=alarms)


@pytest.fixture
def topics(kafka: EmbeddedKafka, unique: Callable[[str], str]) -> Topics:
    return Topics(kafka.bootstrap, unique)


def counted(topics: Topics, alarms: Alarms) -> Count:
    watch = topics.watch(alarms)
    try:
        watch.read_to_end()
        return watch.tally.count()
    finally:
        watch.close()


def test_committed_outputs_count_and_aborted_ones_and_null_readings_do_not(topics: Topics, alarms: Alarms) -> None:
    topics.feed([b"{}", b"{}", None, b"{}"])
    with topics.transaction(commit=False):
        topics.predict(0)
        topics.predict(1)
    with topics.transaction():
        topics.predict(0)
        topics.predict(1)
        topics.reject(3)
    assert counted(topics, alarms) == Count(readings=3, predictions=2, dead_letters=1, lost=0, duplicated=0)


def test_what_is_missing_or_twice_or_unreadable_in_the_topics_is_counted(topics: Topics, alarms: Alarms) -> None:
    topics.feed([b"{}"] * 4)
    with topics.transaction():
        topics.predict(0)
        topics.predict(0)
        topics.reject(0)
        topics.predict(9)
        topics.service.produce(topics.predictions, b"not json")
        topics.service.produce(topics.dead_letters, b"no headers")
    assert counted(topics, alarms) == Count(readings=4, predictions=4, dead_letters=2, lost=3, duplicated=5)


def test_reading_to_the_end_twice_counts_once_and_takes_in_what_came_between(topics: Topics, alarms: Alarms) -> None:
    topics.feed([b"{}"])
    watch = topics.watch(alarms)
    watch.read_to_end()
    with topics.transaction():
        topics.predict(0)
    watch.read_to_end()
    watch.read_to_end()
    assert watch.tally.count() == Count(readings=1, predictions=1, dead_letters=0, lost=0, duplicated=0)
    watch.close()


def poll_until_predictions(watch: Watch, count: int) -> None:
    deadline = time.monotonic() + 30
    while watch.tally.predictions < count:
        assert time.monotonic() < deadline
        watch.poll(0.1)


def test_polling_measures_rates_and_latency(topics: Topics, alarms: Alarms) -> None:
    watch = topics.watch(alarms)
    assert watch.recent() == Recent(0.0, 0.0, None, None)
    topics.feed([b"{}"] * 2)
    for offset in range(2):
        with topics.transaction():
            topics.predict(offset)
        poll_until_predictions(watch, offset + 1)
    recent = watch.recent()
    assert recent.predictions_per_s > 0
    assert recent.p50_ms is not None
    assert recent.p99_ms is not None
    assert 0 <= recent.p50_ms <= recent.p99_ms
    watch.close()


def test_a_fault_is_found_by_the_alarm_that_the_service_raises_while_it_lasts(topics: Topics, alarms: Alarms) -> None:
    fault = FaultPlan(1, SENSORS).until(20)[0]
    with topics.transaction(commit=False):
        topics.alarm(fault.name, "raised", fault.start_tick + 1)
    with topics.transaction():
        topics.alarm(fault.name, "raised", fault.start_tick + 3)
        topics.alarm(fault.name, "cleared", fault.start_tick + 9)
        topics.alarm("pump-000", "raised", 0)
    assert counted(topics, alarms).predictions == 0
    assert alarms.found_tick == {fault: fault.start_tick + 3}
    assert (alarms.raised, alarms.right) == (2, 1)


def test_the_scores_stand_beside_the_truth(alarms: Alarms) -> None:
    fault = FaultPlan(1, SENSORS).until(20)[0]
    alarms.add(fault.name, fault.start_tick, 9.0)
    alarms.add("pump-000", fault.start_tick, 0.25)
    assert alarms.highest(1) == [(fault.name, 9.0)]
    assert alarms.open_fault(fault.name) == fault
    assert alarms.open_fault("pump-000") is None


def test_the_demo_raises_alarms_by_the_numbers_that_its_model_was_judged_with() -> None:
    figures, rule = json.loads((HERE / "demo_model.json").read_text()), load_settings(HERE / "demo.yaml", [], {}).alarm
    assert rule.raise_ == Raise(above=True, at=figures["threshold"], readings=1)
    assert rule.mean_of == figures["mean_of"]
    assert rule.clear is not None
    assert rule.clear.readings == figures["mean_of"] + 1
    assert threshold_of(HERE / "demo_model.json") == figures["threshold"]


def test_metrics_of_several_partitions_give_the_largest() -> None:
    text = "# HELP slotstream_lag_records x\n" + "".join(f'slotstream_lag_records{{partition="{i}"}} {i}.5\n' for i in range(3))
    assert parse_metrics(text + "slotstream_slots_used 500.0\nother 1\n") == {"lag_records": 2.5, "slots_used": 500.0}


def test_without_a_terminal_a_moment_is_one_line_and_a_fault_is_told_once(alarms: Alarms) -> None:
    fault = FaultPlan(1, SENSORS).until(20)[0]
    alarms.add(fault.name, fault.start_tick, 0.1)
    text = io.StringIO()
    view = View("ready", 3.0, 1, "http://127.0.0.1:1/metrics", Recent(2000.0, 1999.5, 61.0, 99.0), 500.0, None, alarms)
    with Screen(Console(file=text)) as screen:
        screen.show(view)
        screen.show(view)
    first, second = text.getvalue().splitlines()
    words = "3 s ready 2,000 readings/s 2,000 predictions/s end to end p50 61 ms, p99 99 ms slots used 500 checkpoint - restarts 1"
    assert " ".join(first.split()) == words
    assert f"{fault.name} {fault.kind}, since 0 minutes" in second


def test_on_a_terminal_the_scores_stand_beside_the_truth(alarms: Alarms) -> None:
    fault = FaultPlan(1, SENSORS).until(20)[0]
    alarms.add(fault.name, fault.start_tick + 3, 1.0)
    alarms.alarm(fault.name, fault.start_tick + 3)
    text = io.StringIO()
    with Screen(Console(file=text, force_terminal=True, width=120)) as screen:
        screen.show(View("ready", 3.0, 1, "http://127.0.0.1:1/metrics", Recent(2000.0, 1999.5, 61.0, 99.0), 500.0, 2.0, alarms))
    page = text.getvalue()
    assert re.search(rf"{fault.name} +1\.00 .*█.* {fault.kind}", page)
    assert f"{fault.kind}  found after 3 minutes of the plant" in re.sub(r"\x1b\[[0-9;]*m", "", page)


def test_the_first_interrupt_is_deferred_while_the_demo_runs_and_the_second_is_not() -> None:
    interrupts = Interrupts()
    with interrupts.deferred():
        interrupts._handle(signal.SIGINT, None)
        assert interrupts.seen
        with pytest.raises(KeyboardInterrupt):
            interrupts._handle(signal.SIGINT, None)
    interrupts.ignore()
    interrupts._handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        Interrupts()._handle(signal.SIGINT, None)


def test_the_last_line_says_it_all() -> None:
    found = LAST_LINE.fullmatch(str(Outcome(Count(5, 4, 1, 0, 0), 2)))
    assert found is not None
    assert found.groups() == ("5", "4", "1", "2", "0", "0")


# Whole runs, with the real service.


@contextmanager
def running_demo(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "processor.cli", "demo", "--rate", "1000", "--sensors", "200", *arguments]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as running:
        try:
            yield running
        finally:
            running.kill()


def assert_all_came_out_and_nothing_is_left(text: str, folder: Path) -> "re.Match[str]":
    last = LAST_LINE.fullmatch(text.splitlines()[-1])
    assert last is not None, text
    readings, predictions, dead_letters, _, lost, duplicated = map(int, last.groups())
    assert (lost, duplicated) == (0, 0), text
    assert readings == predictions + dead_letters > 0, text
    assert list(folder.iterdir()) == []
    assert [line for line in processes() if str(folder) in line] == []
    return last


def processes() -> list[str]:
    """The command lines of all processes, where the system shows them as files."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text())
        except OSError:
            continue
    return lines


@pytest.mark.long
def test_a_demo_whose_service_is_killed_loses_and_doubles_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--seconds", "8", "--crash", "4") as demo:
        text, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, text
    assert int(assert_all_came_out_and_nothing_is_left(text, tmp_path)[4]) >= 1


@pytest.mark.soak
def test_a_demo_without_an_end_counts_at_ctrl_c(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        assert demo.stdout is not None
        text = ""
        while not re.search(r"ready {2}[1-9]", text):
            line = demo.stdout.readline()
            assert line, text
            text += line
        demo.send_signal(signal.SIGINT)
        text += demo.stdout.read()
    assert demo.wait() == 0, text
    assert_all_came_out_and_nothing_is_left(text, tmp_path)
