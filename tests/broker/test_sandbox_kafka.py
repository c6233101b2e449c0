"""The embedded broker: it keeps its data and address through a kill, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from processor.errors import SlotstreamError
from processor.testbed import kafka_jars
from processor.testbed.embedded_kafka import EmbeddedKafka, free_port

pytestmark = pytest.mark.long


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.05)


def create_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)


def publish(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def values(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, 30)]
    finally:
        consumer.close()


def test_a_killed_broker_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path)
    with broker:
        address, first = broker.bootstrap, broker.pid
        create_topic(address, "t")
        publish(address, "t", b"before")
        broker.kill()
        assert broker.pid is None
        broker.start()
        assert broker.bootstrap == address
        assert broker.pid not in (None, first)
        publish(address, "t", b"after")
        assert values(address, "t", 2) == [b"before", b"after"]


def test_stop_leaves_nothing_running_and_a_new_object_finds_the_data(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as broker:
        create_topic(broker.bootstrap, "t")
        publish(broker.bootstrap, "t", b"kept")
        pid = broker.pid
    assert pid is not None
    assert not is_running(pid)
    with EmbeddedKafka(tmp_path) as again:
        assert values(again.bootstrap, "t", 1) == [b"kept"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_broker_dies_with_its_parent(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal
from processor.testbed.embedded_kafka import EmbeddedKafka
broker = EmbeddedKafka(pathlib.Path({str(tmp_path)!r})).start()
print(broker.pid, flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        broker = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    wait_until_gone(broker)


def test_the_command_runs_a_broker_until_it_is_interrupted(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "processor.testbed.embedded_kafka", "--folder", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert f"127.0.0.1:{port}" in running.stdout.readline()
        create_topic(f"127.0.0.1:{port}", "t")
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    with EmbeddedKafka(tmp_path, port=port) as broker:
        assert broker.port == port


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_folder_of_a_command_that_was_killed_is_removed_by_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "processor.testbed.embedded_kafka"]
    folders = []
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}) as running:
            assert running.stdout is not None
            assert "Ctrl-C ends it" in running.stdout.readline()
            folders.append(list(tmp_path.iterdir()))
            running.send_signal(end)
    assert [len(found) for found in folders] == [1, 1]
    assert folders[0] != folders[1]
    assert list(tmp_path.iterdir()) == []


def test_a_warm_start_needs_no_network(kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("jars were resolved again")

    monkeypatch.setattr(kafka_jars, "_resolve", unreachable)
    with EmbeddedKafka(tmp_path) as broker:
        assert broker.bootstrap != kafka.bootstrap


def test_a_taken_port_is_named(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    with pytest.raises(SlotstreamError, match=f"port {kafka.port} .* in use"):
        EmbeddedKafka(tmp_path, port=kafka.port).start()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(SlotstreamError, match=r"num\.io\.threads"):
        EmbeddedKafka(tmp_path, properties={"num.io.threads": "0"}).start()


def test_a_broker_that_ends_while_it_starts_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(SlotstreamError, match=r"(?s)Kafka ended with .*broker\.log:.*OutOfMemoryError"):
        EmbeddedKafka(tmp_path, heap_mb=8).start()
