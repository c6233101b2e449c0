"""`slotstream verify` as a process: every kind of fault once, a difference that it must find, and Ctrl-C in the middle."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import L, save_model
from waiting import wait_for

from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.verify.cluster_faults import CLUSTER_FAULTS
from processor.verify.fault import Fault
from processor.verify.faults import FAULTS

pytestmark = pytest.mark.long

LAST_LINE = re.compile(
    r"verify: seed=(\d+) records=(\d+) predictions=(\d+) dead_letters=(\d+) faults=(\d+) "
    r"lost=(\d+) duplicated=(\d+) different=(\d+) longest_stall_s=([\d.]+) kills=(\d+) starts=(\d+)"
    r"(?: topic_predictions=(\d+) topic_dead_letters=(\d+))?(?: directory_predictions=(\d+) directory_dead_letters=(\d+))?"
)
UNDER_WAY_S = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(2))


@contextmanager
def verifying(model: Path, folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "processor.cli", "verify", "--instances=2", f"--model={model}", *words]
    out = (folder.parent / "out.txt").open("w")
    with (
        out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TMPDIR": str(folder)}) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def said(folder: Path) -> str:
    return (folder.parent / "out.txt").read_text()


def wait_until_said(words: str, folder: Path, running: "subprocess.Popen[str]") -> None:
    def there() -> bool:
        assert running.poll() is None or words in said(folder), said(folder)
        return words in said(folder)

    wait_for(there, lambda: f"{words}:\n{said(folder)}", UNDER_WAY_S, every_s=0.2)


def last_line(text: str) -> list[str]:
    """The values, "0" for those of a phase that did not run."""
    found = LAST_LINE.fullmatch(text.splitlines()[-1])
    assert found is not None, text
    return list(found.groups("0"))


def assert_nothing_runs(folder: Path) -> None:
    running = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder) in path.read_text(errors="replace") or str(folder) in (path.parent / "cmdline").read_text(errors="replace"):
                running.append(path)
        except OSError:
            continue
    assert running == []


def own_topics(kafka: EmbeddedKafka) -> list[str]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    return [topic for topic in admin.list_topics(timeout=20).topics if topic.startswith("slotstream-verify")]


@pytest.mark.timeout(1500)
def test_every_kind_of_fault_is_survived_with_checkpoints_in_a_topic_and_in_a_folder(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with verifying(model, folder, "--seed=11", "--minutes=0.1", "--rate=100", "--output.residual=false") as running:
        code = running.wait(1400)
    text = said(folder)
    assert code == 0, text
    seed, records, predictions, dead_letters, faults, *wrong, _, kills, starts = last_line(text)[:11]
    assert (seed, wrong) == ("11", ["0", "0", "0"])
    by_phase = list(map(int, last_line(text)[11:]))
    assert (by_phase[0] + by_phase[2], by_phase[1] + by_phase[3]) == (int(predictions), int(dead_letters))
    assert min(by_phase) > 0
    assert int(starts) > int(kills) > 0
    assert int(records) > 1000
    assert int(predictions) > 1000
    assert int(dead_letters) > 10
    of_one = [fault for fault in FAULTS if fault not in CLUSTER_FAULTS]
    assert_survived(of_one, text, int(faults))
    assert re.search(r"leader-kill .* skipped .* see --brokers", text)
    assert list(folder.iterdir()) == []
    assert_nothing_runs(folder)


def assert_survived(expected: Sequence[Fault], text: str, faults: int) -> None:
    skipped = re.findall(r"^. (\S+) .* skipped .* no right to mount", text, re.MULTILINE)
    assert set(skipped) <= {"disk-full", "disk-read-only"}
    assert faults >= len(expected) - len(skipped)
    assert all(f" {fault.name}: survived, " in text for fault in expected if fault.name not in skipped)


@pytest.mark.soak
@pytest.mark.failure(
    "the leader of a partition, or the coordinator of the group or of transactions, killed with -9 (three brokers)",
    "rolling restart of three brokers",
    "preferred leaders moved (three brokers)",
    "two of three brokers away for longer than the transaction timeout (10 s)",
    "one of three brokers cut off from its peers, clients still reach it",
)
@pytest.mark.timeout(3000)
def test_every_kind_of_fault_is_survived_on_a_cluster_of_three_brokers(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with verifying(model, folder, "--brokers=3", "--seed=12", "--minutes=4", "--rate=100", "--output.residual=false") as running:
        code = running.wait(2900)
    text = said(folder)
    assert code == 0, text
    _, records, predictions, _, faults, *wrong, _ = last_line(text)[:9]
    assert wrong == ["0", "0", "0"]
    assert int(records) > 1000
    assert int(predictions) > 1000
    assert_survived(FAULTS, text, int(faults))
    assert list(folder.iterdir()) == []
    assert_nothing_runs(folder)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_an_output_that_comes_twice_ends_it_with_1_and_a_report_and_keeps_what_tells_why(
    kafka: EmbeddedKafka, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    broker = f"--kafka=bootstrap.servers={kafka.bootstrap}"
    with verifying(model, folder, "--seed=3", "--faults=kill,broker-kill", "--checkpoint.store=directory", broker) as running:
        wait_until_said("kill: an instance is killed", folder, running)
        (predictions,) = (topic for topic in own_topics(kafka) if topic.endswith(".predictions"))
        publish_again(kafka, predictions)
        assert running.wait(UNDER_WAY_S) == 1
    text = said(folder)
    assert last_line(text)[5:8] == ["0", "1", "0"], text
    report = dict(re.findall(r"^(found|sensor|partition|offset|expected|got|last fault|kept) +(.+)$", text, re.MULTILINE))
    assert report["found"] == "duplicated"
    assert report["offset"].isdecimal()
    assert report["last fault"].startswith("kill (")
    kept = Path(report["kept"].split()[0])
    assert list((kept / "directory").glob("*-a.log"))
    assert own_topics(kafka)
    assert_nothing_runs(folder)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for gone in admin.delete_topics(own_topics(kafka)).values():
        gone.result(30)


def publish_again(kafka: EmbeddedKafka, topic: str) -> None:
    """The first prediction of partition 0, a second time."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "again"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        first = wait_for(lambda: consumer.poll(1.0), "a prediction")
        assert first.error() is None
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(topic, first.value(), first.key(), 0, timestamp=first.timestamp()[1])
        assert producer.flush(30) == 0
    finally:
        consumer.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ctrl_c_ends_it_with_130_and_leaves_no_process_no_file_and_no_topic(kafka: EmbeddedKafka, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with verifying(model, folder, "--faults=kill", f"--kafka=bootstrap.servers={kafka.bootstrap}") as running:
        wait_until_said("kill: an instance is killed", folder, running)
        assert own_topics(kafka)
        running.send_signal(signal.SIGINT)
        assert running.wait(UNDER_WAY_S) == 130
    assert "interrupted, nothing was proved" in said(folder)
    assert list(folder.iterdir()) == []
    wait_for(lambda: own_topics(kafka) == [], "the topics to be gone")
    assert_nothing_runs(folder)
