"""What the demo sees in the topics: every record counted, latencies, and the alarms beside the plant's faults.

Responsible for reading the readings, predictions, alarms and dead letters of a run from their first record on, read committed, and for
keeping what the display and the final count need. Not for processes, nor for how anything is shown.

The service raises the alarms, by the rule in demo.yaml, whose threshold was chosen on healthy machines (demo_model.json says how). The
truth about the faults comes from the plant's own plan, never from a topic.
"""

import heapq
import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from processor.demo.count import Tally
from processor.demo.plant import START_MS, TICK_MS, Fault, FaultPlan, names
from processor.errors import SlotstreamError

BATCH_MAX = 10_000
RECENT_S = 5.0
END_TIMEOUT_S = 30.0
GRACE_TICKS = 8  # a machine's scores are means of so many residuals, so they outlast its fault


class Prediction(msgspec.Struct):
    """The parts of an output record that are looked at."""

    sensor: str
    timestamp: int
    partition: int
    offset: int
    score: float | None = None


class Alarm(msgspec.Struct):
    """The same of an alarm's record."""

    sensor: str
    timestamp: int
    state: str


@dataclass(frozen=True)
class Recent:
    """The last seconds: records a second, and milliseconds from a reading's record to its prediction's arrival here (None: none came)."""

    readings_per_s: float
    predictions_per_s: float
    p50_ms: float | None
    p99_ms: float | None


class TopicNames(NamedTuple):
    readings: str
    predictions: str
    dead_letters: str
    alarms: str


class Watch:
    """topics: of the readings, predictions, dead letters and alarms."""

    def __init__(self, bootstrap: str, *, topics: "TopicNames", alarms: "Alarms") -> None:
        self.tally = Tally()
        self.alarms = alarms
        self._recent: deque[tuple[float, int, int, list[int]]] = deque()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "demo",  # never joined, nothing is committed
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 5,
            }
        )
        handlers = (self._reading, self._prediction, self._dead_letter, self._alarm)
        self._handlers = dict(zip(topics, handlers, strict=True))
        self._next = {(topic, partition): 0 for topic in self._handlers for partition in self._partitions(topic)}
        self._decode, self._decode_alarm = msgspec.json.Decoder(Prediction).decode, msgspec.json.Decoder(Alarm).decode
        self._latencies: list[int] = []
        self._assign()

    def close(self) -> None:
        self._consumer.close()

    def poll(self, wait_s: float) -> bool:
        """Takes in what has arrived, waiting up to `wait_s` for the first record; whether there was any."""
        messages = self._take(wait_s)
        now_s = time.monotonic()
        readings, predictions = self.tally.readings, self.tally.predictions
        self._latencies = []
        arrived_ms = int(time.time() * 1000)
        for message in messages:
            self._handle(message, arrived_ms)
        if messages:
            self._recent.append((now_s, self.tally.readings - readings, self.tally.predictions - predictions, self._latencies))
        return bool(messages)

    def read_to_end(self) -> None:
        """Returns when everything that lies in the topics now has been taken in."""
        self._assign()  # anew, so that every partition tells of its end once more
        ended: set[tuple[str, int]] = set()
        deadline = time.monotonic() + END_TIMEOUT_S
        while len(ended) < len(self._next):
            if time.monotonic() > deadline:
                raise SlotstreamError(
                    f"{len(self._next) - len(ended)} partitions could not be read to their end within {END_TIMEOUT_S:.0f} s",
                    expected="a broker that answers",
                    do="look whether the machine is overloaded",
                )
            for message in self._consumer.consume(BATCH_MAX, 0.2):
                if message.error() is None:
                    self._handle(message, 0)
                    deadline = time.monotonic() + END_TIMEOUT_S
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add((message.topic(), message.partition()))

    def recent(self) -> Recent:
        now_s = time.monotonic()
        while self._recent and self._recent[0][0] < now_s - RECENT_S:
            self._recent.popleft()
        # What the first batch brought came before its time, so it only begins the span.
        span_s = max(1.0, now_s - self._recent[0][0]) if self._recent else 1.0
        counted = list(self._recent)[1:]
        latencies = [latency for entry in self._recent for latency in entry[3]]
        p50_ms, p99_ms = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
        return Recent(sum(e[1] for e in counted) / span_s, sum(e[2] for e in counted) / span_s, p50_ms, p99_ms)

    def _partitions(self, topic: str) -> list[int]:
        found = self._consumer.list_topics(topic, timeout=20).topics[topic]
        if found.error is not None:
            raise SlotstreamError(f"topic {topic}: {found.error}", expected="the demo's topics", do="see the output of slotstream init")
        return list(found.partitions)

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in self._next.items()])

    def _take(self, wait_s: float) -> list[Message]:
        """One record as soon as there is one, then all that are here already: waiting for a full batch would add to the latency."""
        taken = [m for m in self._consumer.consume(1, wait_s) if m.error() is None]
        if taken:
            taken += [m for m in self._consumer.consume(BATCH_MAX, 0) if m.error() is None]
        return taken

    def _handle(self, message: Message, arrived_ms: int) -> None:
        topic = message.topic()
        self._next[topic, message.partition()] = message.offset() + 1
        self._handlers[topic](message, arrived_ms)

    def _reading(self, message: Message, _arrived_ms: int) -> None:
        if message.value() is not None:
            self.tally.reading(message.partition(), message.offset())

    def _prediction(self, message: Message, arrived_ms: int) -> None:
        try:
            prediction = self._decode(message.value() or b"")
        except msgspec.DecodeError:
            self.tally.prediction(-1, -1)
            return
        self.tally.prediction(prediction.partition, prediction.offset)
        self._latencies.append(arrived_ms - message.timestamp()[1])
        if prediction.score is not None:
            self.alarms.add(prediction.sensor, _tick(prediction.timestamp), prediction.score)

    def _alarm(self, message: Message, _arrived_ms: int) -> None:
        alarm = self._decode_alarm(message.value() or b"")
        if alarm.state == "raised":
            self.alarms.alarm(alarm.sensor, _tick(alarm.timestamp))

    def _dead_letter(self, message: Message, _arrived_ms: int) -> None:
        headers = dict(message.headers() or [])
        try:
            self.tally.dead_letter(int(headers["source_partition"]), int(headers["source_offset"]))
        except (KeyError, ValueError, TypeError):
            self.tally.dead_letter(-1, -1)


def _tick(timestamp_ms: int) -> int:
    """The plant's minute."""
    return (timestamp_ms - START_MS) // TICK_MS


def threshold_of(path: Path) -> float:
    """The score above which the demo's model raises an alarm."""
    return float(json.loads(path.read_text())["threshold"])


class Alarms:
    """Every sensor's score, its alarms as the service published them, and which of the plant's faults they have found.

    raised, right: alarms so far, and those of a machine with a fault, or with one that ended at most GRACE_TICKS before.
    """

    def __init__(self, plan: FaultPlan, sensors: int, threshold: float) -> None:
        self.names = names(sensors)
        self.threshold = threshold
        self.tick = -1  # the plant's latest minute among the predictions
        self.found_tick: dict[Fault, int] = {}
        self.raised = self.right = 0
        self._plan = plan
        self._index = {name: i for i, name in enumerate(self.names)}
        self._scores = [0.0] * sensors
        self._open: dict[int, Fault] = {}

    def add(self, sensor: str, tick: int, score: float) -> None:
        """A prediction's score."""
        self._scores[self._index[sensor]] = score
        if tick > self.tick:
            self.tick = tick
            self._open = {fault.sensor: fault for fault in self._plan.until(tick) if tick < fault.end_tick}

    def alarm(self, sensor: str, tick: int) -> None:
        """An alarm was raised with this reading."""
        index = self._index[sensor]
        faults = [fault for fault in self._plan.until(tick) if fault.sensor == index and tick < fault.end_tick + GRACE_TICKS]
        self.raised += 1
        self.right += bool(faults)
        if faults and tick < faults[-1].end_tick:
            self.found_tick.setdefault(faults[-1], tick)

    def highest(self, count: int) -> list[tuple[str, float]]:
        """The sensors with the largest scores, largest first."""
        largest = heapq.nlargest(count, range(len(self.names)), key=lambda i: self._scores[i])
        return [(self.names[i], self._scores[i]) for i in largest]

    def begun(self) -> list[Fault]:
        """The faults that the plant has really had so far, the latest last."""
        return self._plan.until(self.tick)

    def open_fault(self, sensor: str) -> Fault | None:
        return self._open.get(self._index[sensor])
