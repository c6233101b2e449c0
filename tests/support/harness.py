"""A service as a process, its topics, and what it must have published: shared by the tests that run the whole thing."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import forks
import keras
import numpy as np
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import wait_for

from processor.app.fit import load_model
from processor.checkpoint.directory import Directory, Name
from processor.settings import load_settings
from processor.verify.oracle import Reference, as_published
from processor.verify.oracle_records import InputRecord

L = keras.layers
SMALL = ("--slots=8", "--dead_letter.max_ratio=1")


def save_model(path: Path, *layers, steps=None, features=3, seed=1, **options) -> Path:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((steps, features)), *layers], **options)
    model.save(path)
    return path


class Topics:
    """An input topic and its two outputs, on one broker."""

    def __init__(
        self, bootstrap: str, name: str, partitions: int = 3, output_partitions: int | None = None, *, dead_letter_bytes: int | None = None
    ):
        self.bootstrap, self.input, self.output = bootstrap, name, f"{name}.predictions"
        self.dead_letter, self.partitions = f"{name}.dead-letter", partitions
        self.checkpoint = f"{name}.checkpoints"
        config = {"max.message.bytes": str(dead_letter_bytes)} if dead_letter_bytes else {}
        self._create(
            NewTopic(self.input, partitions, 1),
            NewTopic(self.output, output_partitions or partitions, 1),
            NewTopic(self.dead_letter, partitions, 1, config=config),
            NewTopic(self.checkpoint, partitions, 1, config={"cleanup.policy": "compact"}),
        )
        config = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 2, "partitioner": "murmur2_random"}
        self.producer = Producer(config)

    def answered_to(self, name: str) -> "Topics":
        """The same input, with outputs of its own."""
        other = copy.copy(self)
        other.output, other.dead_letter = f"{name}.predictions", f"{name}.dead-letter"
        other._create(NewTopic(other.output, self.partitions, 1), NewTopic(other.dead_letter, self.partitions, 1))
        return other

    def _create(self, *topics):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_topics(list(topics)).values():
            future.result(30)

    def produce(self, records):
        """records: (partition, key, value bytes or None, record_ms, headers)"""
        for partition, key, value, record_ms, headers in records:
            self.producer.produce(self.input, value, key, partition, timestamp=record_ms, headers=list(headers) or None)
            self.producer.poll(0)
        assert self.producer.flush(30) == 0

    def end(self, topic=None) -> int:
        """Records in a topic, as offsets: control records included."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "ends"})
        try:
            topic = topic or self.input
            count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(count))
        finally:
            consumer.close()

    def read(self, topic):
        """Every record of a topic, read committed."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            partitions = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
            found, ended, until_s = [], set(), time.monotonic() + 60
            while len(ended) < partitions:
                assert time.monotonic() < until_s, f"{topic} could not be read to its end"
                for message in consumer.consume(5000, 0.2):
                    if message.error() is None:
                        found.append(message)
                    else:
                        ended.add(message.partition())
            return found
        finally:
            consumer.close()

    def inputs(self):
        def record(m):
            return InputRecord(m.partition(), m.offset(), m.key(), m.value(), m.timestamp()[1], tuple(m.headers() or ()))

        return sorted(map(record, self.read(self.input)), key=lambda r: (r.partition, r.offset))

    def answers(self):
        """(partition, offset) -> what was published for it; fails if anything was published twice."""
        found, times = {}, Counter()
        for message in self.read(self.output):
            output = as_published(message.value())
            at = (output["partition"], output["offset"])
            times[at] += 1
            found[at] = output
        for message in self.read(self.dead_letter):
            headers = dict(message.headers())
            at = (int(headers["source_partition"]), int(headers["source_offset"]))
            times[at] += 1
            found[at] = headers["error"].decode()
        twice = [at for at, count in times.items() if count > 1]
        assert not twice, f"published more than once: {twice[:10]}"
        return found


class Service:
    """`slotstream run` as a process. Starting it again continues the same group, instance and checkpoints."""

    program: tuple[str, ...] | list[str] = ("-m", "processor.cli")

    def __init__(self, topics: Topics, model: Path, folder: Path, *options: str, instance: str = "one", environment=None):
        self.environment = environment or {}
        self.topics, self.model, self.folder, self.instance = topics, model, folder, instance
        self.options = [
            "--checkpoint.store=directory",
            f"--kafka=bootstrap.servers={topics.bootstrap}",
            f"--input.topic={topics.input}",
            f"--output.topic={topics.output}",
            f"--dead_letter.topic={topics.dead_letter}",
            f"--checkpoint.topic={topics.checkpoint}",
            f"--instance={instance}",
            f"--model.path={model}",
            f"--checkpoint.path={folder / 'checkpoints'}",
            "--checkpoint.interval=1s",
            "--http.port=0",
            "--log.format=json",
            *options,
        ]
        self.process: subprocess.Popen | forks.Forked | None = None
        self.log = folder / f"{instance}.log"

    @property
    def settings(self):
        return load_settings(None, self.options, {})

    def start(self):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **self.environment}
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            words = [*self.program, "run", *self.options]
            if self.environment or sys.platform != "linux":
                self.process = subprocess.Popen([sys.executable, *words], stderr=log, stdout=log, env=environment, cwd=self.folder)
            else:
                self.process = forks.start(words, log.fileno(), environment, self.folder)
        return self

    def said(self) -> str:
        """What the process that runs now, or ran last, has written."""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode()

    def events(self, event: str):
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def url(self):
        found = re.search(r'"url": "([^"]+)"', self.said())
        return found[1] if found else None

    def get(self, path):
        """(status, text); None if nothing answers yet."""
        if self.url is None:
            return None
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None

    def metric(self, name: str, labels: str = "") -> float:
        found = self.get("/metrics")
        value = re.search(rf"^slotstream_{name}{re.escape(labels)} (\S+)$", found[1] if found else "", re.MULTILINE)
        return float(value[1]) if value else 0.0

    def wait_ready(self, timeout_s=90.0):
        def ready():
            assert self.process.poll() is None, f"the service ended with {self.process.returncode}:\n{self.said()[-3000:]}"
            found = self.get("/readyz")
            return found is not None and found[0] == 200

        wait_for(ready, lambda: f"ready:\n{self.said()[-3000:]}", timeout_s)
        return self

    def wait_answered(self, count: int, timeout_s=90.0):
        """Until predictions and dead letters together are this many, whoever wrote them."""
        self.wait_ready(timeout_s)

        def answered():
            assert self.process.poll() is None, f"the service ended with {self.process.returncode}:\n{self.said()[-3000:]}"
            return len(self.topics.read(self.topics.output)) + len(self.topics.read(self.topics.dead_letter)) >= count

        wait_for(answered, lambda: f"{count} answers:\n{self.said()[-3000:]}", timeout_s, every_s=0.2)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def stop(self, timeout_s=30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def wait_end(self, timeout_s=60.0) -> int:
        return self.process.wait(timeout_s)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Stream:
    """A seeded stream of records of every kind, produced piece by piece."""

    def __init__(self, topics: Topics, count: int, seed: int = 1):
        sensors = 8 * topics.partitions
        self._topics = topics
        self._left = readings(np.random.default_rng(seed), count, features=3, sensors=sensors, partitions=topics.partitions)
        self.due = 0

    @property
    def left(self) -> int:
        return len(self._left)

    def feed(self, count: int | None = None) -> int:
        """Produces the next records, all by default; returns how many answers are due for everything produced so far."""
        count = len(self._left) if count is None else count
        assert len(self._left) >= count, "the stream is used up"
        records, self._left = self._left[:count], self._left[count:]
        self._topics.produce(records)
        self.due += answers_due(records)
        return self.due

    def feed_until(self, condition, what, records: int = 5, timeout_s: float = 90.0):
        """Produces some records again and again until the condition holds, so that it comes true while the service works."""

        def step():
            if self._left:
                self.feed(min(records, len(self._left)))
            return condition()

        wait_for(step, what, timeout_s, every_s=0.1)


class Group:
    """A consumer group's offsets in a topic, as an operator sees and moves them."""

    def __init__(self, bootstrap: str, name: str, topic: str):
        self.bootstrap, self.name, self.topic = bootstrap, name, topic
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def committed(self) -> dict[int, TopicPartition]:
        """By partition; without those that have none."""
        request = [ConsumerGroupTopicPartitions(self.name)]
        wanted = self.admin.list_consumer_group_offsets(request, require_stable=True)[self.name].result(30)
        return {tp.partition: tp for tp in wanted.topic_partitions if tp.topic == self.topic and tp.offset >= 0}

    def positions(self) -> dict[int, int]:
        return {number: tp.offset for number, tp in self.committed().items()}

    def move(self, positions: dict[int, int]) -> None:
        """As kafka-consumer-groups.sh does it: the metadata goes."""
        moved = [TopicPartition(self.topic, p, offset) for p, offset in positions.items()]
        self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name, moved)])[self.name].result(30)

    def commit(self, offsets: dict[int, tuple[int, str]]) -> None:
        """(position, metadata) by partition, as an instance would have left them."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.name, "enable.auto.commit": False})
        try:
            told = [TopicPartition(self.topic, p, offset, metadata) for p, (offset, metadata) in offsets.items()]
            consumer.commit(offsets=told, asynchronous=False)
        finally:
            consumer.close()


def group_of(service: Service) -> Group:
    return Group(service.topics.bootstrap, service.settings.group_id, service.topics.input)


def checkpoints(service: Service) -> dict[int, list[Path]]:
    """Each partition's checkpoint files, newest first."""
    settings = service.settings
    store = Directory(settings.checkpoint.path, settings.group_id, settings.input.topic, keep=2)
    found = {}
    for partition in range(service.topics.partitions):
        folder = store.folder(partition)
        files = [path for path in folder.iterdir() if Name.parse(path.name)] if folder.is_dir() else []
        found[partition] = sorted(files, reverse=True)
    return found


def newest(service: Service) -> dict[int, int]:
    """The positions of the newest checkpoints, by partition."""
    return {p: Name.parse(files[0].name).position for p, files in checkpoints(service).items() if files}


def served(service: Service, topics: Topics, schemas=None):
    """The service's model, and its step as the reference oracle runs it: what each input record must be answered with.

    schemas: the text of each schema that framed records name, by id.
    """
    model = load_model(service.settings)
    model_id = json.loads(topics.read(topics.output)[0].value())["model"]
    return model, Reference(model, service.settings, model_id, schemas=schemas)


def assert_same(got, want):
    missing, foreign = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
    assert not missing, f"{len(missing)} records were lost: {missing[:5]}"
    assert not foreign, f"{len(foreign)} answers to nothing: {foreign[:5]}"
    for at, answer in want.items():
        assert got[at] == answer, f"differs at {at}"


def assert_exact(service: Service, topics: Topics):
    """Every record of the input was answered once, as the reference oracle would."""
    _, reference = served(service, topics)
    assert_same(topics.answers(), reference.expect(topics.inputs()))


def answers_due(records) -> int:
    """How many of these records must be answered: all but the null values, which only reset."""
    return sum(1 for _, key, value, _, _ in records if value is not None or key is None)


def readings(rng, count, *, features, sensors, partitions, bad=0.02, resets=0.03, several=0.05, jitter_ms=0):
    """Seeded records of every kind: readings, several steps, resets of each form, null values, and records that are none."""
    out, now_ms = [], int(time.time() * 1000) - 3_600_000  # a topic keeps a week of record time
    for i in range(count):
        sensor = int(rng.integers(sensors))
        partition, key, record_ms = sensor % partitions, f"sensor-{sensor}".encode(), now_ms + 10 * i
        draw, headers = rng.random(), ()
        steps = int(rng.integers(2, 6)) if rng.random() < several else 1
        values = rng.normal(size=(steps, features)).round(3).tolist()
        event_ms = record_ms - 5 - (int(rng.integers(jitter_ms)) if jitter_ms else 0)
        value = json.dumps({"timestamp": event_ms, "values": values if steps > 1 else values[0]}).encode()
        if draw < resets:
            kind = rng.choice(["null", "start", "end", "single"])
            value = None if kind == "null" else value
            headers = () if kind == "null" else (("sequence", kind.encode()),)
        elif draw < resets + bad:
            key, value = BAD[int(rng.integers(len(BAD)))](key, value, features)
        out.append((partition, key, value, record_ms, headers))
    return out


BAD = [
    lambda key, value, f: (None, value),
    lambda key, value, f: (key, b"\xff\xfe stray"),
    lambda key, value, f: (key, b'{"values": [NaN]}'),
    lambda key, value, f: (key, json.dumps({"values": [1.0] * (f + 1)}).encode()),
    lambda key, value, f: (key, json.dumps({"values": [None] * f}).encode()),
    lambda key, value, f: (key, b'{"values": [' + b",".join([b"1e999"] * f) + b"]}"),
    lambda key, value, f: (key, json.dumps({"values": [1e39] * f}).encode()),
    lambda key, value, f: (key, json.dumps({"values": [0.0] * f, "timestamp": "2199-01-01T00:00:00Z"}).encode()),
    lambda key, value, f: (key * 200, value),
]


def numbers(x: np.ndarray) -> bytes:
    return json.dumps({"values": x.tolist()}).encode()


def rewritten(value, settings):
    """A record of the harness as the settings' format has it. What is no reading stays as it is."""
    try:
        found = json.loads(value)
        first = np.atleast_2d(np.array(found["values"], np.float64))
    except (TypeError, ValueError, KeyError):
        return value
    if settings.input.format == "float32":
        with np.errstate(over="ignore"):
            return first[0].astype("<f4").tobytes()  # of several steps the first: those need a header
    if settings.input.features and first.shape[1] == 3:
        a, c, d = first[0].tolist()
        return json.dumps({"timestamp": found.get("timestamp"), "a": a, "b": {"d": d, "c": c}}).encode()
    return value


def feed_into_open_transaction(service: Service, stream: Stream, count: int) -> None:
    """Produces records, and is back while a transaction with the first of them is open."""
    before = service.metric("batch_readings_count")
    stream.feed(count)
    wait_for(lambda: service.metric("batch_readings_count") > before, "work under way", every_s=0.01)
