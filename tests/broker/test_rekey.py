"""`slotstream rekey` on a real broker: every record once, under its sensor, through kill -9 and with several instances."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import wait_for

from processor.doctor.topic_records import split
from processor.kafka.partition_log import newest
from processor.settings import load_settings

RECORDS, SENSORS = 40_000, 50
BEGIN_MS = 1_700_000_000_000


class Copy:
    """The command as a process, which may be started again under its name."""

    def __init__(self, bootstrap: str, source: str, target: str, folder: Path, name: str) -> None:
        self._log, self._process = folder / f"{name}.log", None
        self._words = [source, target, "--key=value:sensor.id", f"--kafka=bootstrap.servers={bootstrap}", f"--instance={name}"]

    def start(self, *words: str) -> "Copy":
        command = [sys.executable, "-m", "processor.cli", "rekey", *self._words, *words]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._log.parent, env={**os.environ})
        return self

    def send(self, number: int) -> int:
        self._process.send_signal(number)
        return self._process.wait(60)

    def wait(self) -> int:
        return self._process.wait(120)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture
def topics(kafka, unique):
    source = unique("lines")
    names = {source: 4, f"{source}.keyed": 3, f"{source}.dead-letter": 1}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    kept = {"retention.ms": "-1"}  # the records' times are old
    for made in admin.create_topics([NewTopic(name, partitions, 1, config=kept) for name, partitions in names.items()]).values():
        made.result(30)
    return kafka.bootstrap, source, f"{source}.keyed", f"{source}.dead-letter"


@pytest.fixture
def copies(topics, tmp_path):
    bootstrap, source, target, _ = topics
    made = [Copy(bootstrap, source, target, tmp_path, name) for name in ("one", "two")]
    yield made
    for copy in made:
        copy.close()


def produce(bootstrap: str, topic: str, count: int) -> None:
    """Readings that name their sensors in the value, under the keys of their lines; now and then one that names none, or has no value."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "enable.idempotence": True})  # in order
    for i in range(count):
        value = json.dumps({"n": i, "sensor": {"id": f"pump-{i % SENSORS}"} if i % 1000 != 500 else {}, "values": [i]}).encode()
        key = None if i % 3 == 0 else b"line-%d" % (i % 3)
        if i % 1000 == 700:
            key, value = b"pump-%d" % (i % SENSORS), None
        producer.produce(topic, value, key, i % 4, timestamp=BEGIN_MS + i, headers=[("n", b"%d" % i), ("none", None)])
        producer.poll(0)
    assert producer.flush(60) == 0


def read(bootstrap: str, topic: str):
    """All that is committed, each partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": "read_committed", "enable.partition.eof": True}
        | {"auto.offset.reset": "earliest"}
    )
    try:
        left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, 0) for p in left])
        found = []
        while left:
            for message in consumer.consume(5000, 0.2):
                if message.error() is None:
                    found.append(message)
                else:
                    left.discard(message.partition())
        return found
    finally:
        consumer.close()


def written(bootstrap: str, topic: str) -> int:
    """Offsets that are taken, of open transactions too."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    try:
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(3))
    finally:
        consumer.close()


@pytest.mark.long
def test_each_record_is_copied_once_under_its_sensor_through_kills_and_by_two_instances(topics, copies):
    bootstrap, source, target, dead = topics
    produce(bootstrap, source, RECORDS)
    one, two = copies
    one.start()
    for share in (0.02, 0.3, 0.6):
        wait_for(lambda share=share: written(bootstrap, target) > share * RECORDS or not one.running, one.said, 60, every_s=0.1)
        assert one.running, one.said()
        one.send(signal.SIGKILL)
        one.start()
        if share == 0.3:
            two.start()
    wait_for(lambda: written(bootstrap, target) > 0.95 * RECORDS or not (one.running and two.running), one.said, 60)
    assert two.send(signal.SIGTERM) == 0, two.said()
    # Started last, it may not have come to where it listens for signals before the other one was done.
    assert one.send(signal.SIGTERM) in (0, -signal.SIGTERM), one.said()
    produce(bootstrap, source, 100)  # nobody reads them but what goes on to the end
    assert one.start("--to-end").wait() == 0, one.said()
    got, refused = read(bootstrap, target), read(bootstrap, dead)
    counted = defaultdict(int)
    for message in [*got, *refused]:
        counted[dict(message.headers())["n"]] += 1
    assert {n for n, times in counted.items() if times != (2 if int(n) < 100 else 1)} == set()
    assert len(counted) == RECORDS
    assert {int(dict(message.headers())["n"]) % 1000 for message in refused} == {500}
    partitions, latest = defaultdict(set), {}
    for message in got:
        n = int(dict(message.headers())["n"])
        assert message.key() == b"pump-%d" % (n % SENSORS)
        assert (message.timestamp()[1], message.headers()) == (BEGIN_MS + n, [("n", b"%d" % n), ("none", None)])
        assert (message.value() is None) == (n % 1000 == 700)
        partitions[message.key()].add(message.partition())
        if n >= 100:  # of those that were sent once
            assert latest.get((message.key(), n % 4), -1) < n
            latest[message.key(), n % 4] = n
    assert all(len(numbers) == 1 for numbers in partitions.values())
    assert len({number for numbers in partitions.values() for number in numbers}) == 3


def test_check_says_how_many_keys_are_missing_and_names_the_command(topics):
    bootstrap, source, _, _ = topics
    produce(bootstrap, source, 40)
    settings = load_settings(None, [f"--kafka=bootstrap.servers={bootstrap}", f"--input.topic={source}"], {})
    keys, sensors = split(newest(settings, source, 4, 100, timeout_s=15))
    assert keys.found == "14 of the newest 40 records name no sensor by their key"
    assert (keys.level, "slotstream rekey" in keys.do) == ("warning", True)
    assert sensors.found.startswith("2 of 3 in the newest records lie in several partitions")
    assert "slotstream rekey" in sensors.do


def test_a_topic_that_is_missing_is_named_before_anything_is_copied(topics, tmp_path):
    bootstrap, source, _, _ = topics
    copy = Copy(bootstrap, source, f"{source}.nowhere", tmp_path, "one").start("--to-end")
    assert copy.wait() == 2
    assert f"has no topic {source}.nowhere" in copy.said()
