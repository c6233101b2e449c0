"""One sensor in several partitions, and what `check` says of the newest records."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from judge import echo_model
from structlog.testing import capture_logs

from processor.app.fit import codec_of
from processor.doctor.topic_records import judged, records
from processor.kafka import partition_log
from processor.kafka.partition_log import in_several_partitions, newest
from processor.kafka.topics import Topic
from processor.metrics import Metrics
from processor.settings import load_settings
from processor.slots.rows import Rows
from processor.slots.table import Table
from processor.split_sensors import SplitSensors

PARTITIONS = 4
KEYS = [b"pump-%d" % i for i in range(10)]


@pytest.fixture
def settings(kafka, unique):
    name = unique("readings")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    return load_settings(None, [f"--kafka=bootstrap.servers={kafka.bootstrap}", f"--input.topic={name}", f"--group={name}"], {})


def produce(settings, values, **properties):
    """Each value once for every key, by a producer of its own."""
    producer = Producer({"bootstrap.servers": settings.kafka["bootstrap.servers"], **properties})
    for value in values:
        for key in KEYS:
            producer.produce(settings.input.topic, value, key)
    assert producer.flush(30) == 0


def topic_of(settings):
    return Topic(settings.input.topic, "id", PARTITIONS, 1_000_000, "delete")


def test_two_producers_with_different_partitioners_are_found(settings):
    codec = codec_of(settings, echo_model(2), "check")
    good = json.dumps({"values": [1, 2]}).encode()
    produce(settings, [good], partitioner="murmur2_random")
    assert [finding.what for finding in records(settings, topic_of(settings), codec)] == ["records"]
    produce(settings, [good])
    record, sensors = records(settings, topic_of(settings), codec)
    assert record.good
    assert record.found == "the newest 20 are readings, or reset their sensors"
    assert not sensors.good
    assert "of 10 in the newest records lie in several partitions, pump-" in sensors.found
    assert "murmur2_random" in sensors.do
    found = in_several_partitions(newest(settings, settings.input.topic, PARTITIONS, 100, timeout_s=30))
    assert len(found) > 3
    assert all(len(numbers) == 2 for numbers in found.values())


def test_the_newest_records_are_read_and_not_all(settings):
    produce(settings, [b"old"] * 5, partitioner="murmur2_random")
    produce(settings, [b"new"], partitioner="murmur2_random")
    by_partition = {}
    for record in newest(settings, settings.input.topic, PARTITIONS, 2, timeout_s=30):
        by_partition.setdefault(record.partition(), []).append(record.value())
    assert all(len(values) <= 2 and values[-1] == b"new" for values in by_partition.values())


def test_an_empty_topic_is_said_to_be_so(settings):
    (finding,) = records(settings, topic_of(settings), None)
    assert (finding.found, finding.good) == (f"{settings.input.topic} holds none yet", True)


def test_a_leader_that_does_not_know_a_new_partition_yet_is_asked_again():
    codes = (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.NOT_LEADER_FOR_PARTITION)
    answers = [*(KafkaException(KafkaError(code)) for code in codes), (3, 7)]

    def answer(*_):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    consumer = SimpleNamespace(get_watermark_offsets=answer)
    assert partition_log._bounds(consumer, TopicPartition("t", 0), time.monotonic() + 60) == (3, 7)
    answers = [KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))]
    with pytest.raises(KafkaException):
        partition_log._bounds(consumer, TopicPartition("t", 0), time.monotonic())


def message(i, value):
    return SimpleNamespace(
        key=lambda: b"pump-%d" % i, value=lambda: value, headers=lambda: None, partition=lambda: 0, offset=lambda: i,
        timestamp=lambda: (1, 1_700_000_000_000),
    )  # fmt: skip


def test_what_would_become_of_the_newest_records_is_told_by_reason():
    codec = codec_of(load_settings(None, [], {}), echo_model(2), "check")
    fields, good = b'{"temperature": 1, "current": 2}', b'{"values": [1, 2]}'
    (every,) = judged([message(i, fields) for i in range(20)], codec, 0.5)
    assert not every.good
    assert every.found.startswith("20 of the newest 20 would become dead letters (bad_schema), such as partition 0, offset 19, key pump-19")
    assert "input.features" in every.found
    (one,) = judged([message(i, fields if i == 3 else good) for i in range(20)], codec, 0.5)
    assert one.good
    assert one.found.startswith("1 of the newest 20 would")


def test_the_loop_finds_sensors_in_its_own_partitions():
    table = Table(2, 1)
    for partition, keys in ((0, [b"a", b"b", b"c"]), (1, [b"d", b"c"]), (2, [b"c", b"a"])):
        table.load(partition, keys, Rows.zeros(len(keys), 1))
    assert table.split(0, 100) == {b"a": [0, 2], b"c": [0, 1, 2]}
    assert table.split(1, 100) == {b"c": [0, 1, 2]}
    assert table.split(0, 2) == {b"a": [0, 2], b"c": [0, 1, 2]}, "the oldest and the newest"
    assert table.split(7, 100) == {}


def test_split_sensors_are_told_once_and_counted():
    metrics = Metrics()
    split = SplitSensors(metrics)
    with capture_logs() as log:
        split.found({})
        assert log == []
        split.found({b"a": [0, 2], b"\xff": [1, 3]})
        split.found({b"a": [0, 2], b"c": [0, 1]})
    assert [(line["sensors"], line["such_as"]) for line in log] == [(2, "a in 0 and 2, 0xff in 1 and 3")]
    assert b"slotstream_sensors_split 3.0" in metrics.render()


def test_how_many_are_forgotten_when_time_comes_to_this():
    table = Table(2, 1)
    rows = Rows.zeros(3, 1)
    rows.event_ms = np.array([5, 10, 20], np.int64)
    table.load(0, [b"a", b"b", b"c"], rows)
    assert [table.older(0, ms) for ms in (5, 6, 20, 21)] == [0, 1, 2, 3]
    assert table.older(1, 21) == 0
