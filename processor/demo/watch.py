"""What the demo sees in the topics: every record counted, latencies, and the sensors whose residual stands out.

Responsible for reading the readings, predictions and dead letters of a run from their first record on, read committed, and for
keeping what the display and the final count need. Not for processes, nor for how anything is shown.

A sensor stands out when the mean of its last residuals exceeds the threshold that was chosen on healthy machines
(demo_model.json says how). The truth about the faults comes from the plant's own plan, never from the topic.
"""

import heapq
import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from processor.demo.count import Tally
from processor.demo.plant import START_MS, TICK_MS, Fault, FaultPlan, names
from processor.errors import SlotstreamError

BATCH_MAX = 10_000
RECENT_S = 5.0
END_TIMEOUT_S = 30.0


class Prediction(msgspec.Struct):
    """The parts of an output record that are looked at."""

    sensor: str
    timestamp: int
    partition: int
    offset: int
    residual: float | None = None
    warming_up: bool = False


@dataclass(frozen=True)
class Recent:
    """The last seconds: records a second, and milliseconds from a reading's record to its prediction's arrival here (None: none came)."""

    readings_per_s: float
    predictions_per_s: float
    p50_ms: float | None
    p99_ms: float | None


class Watch:
    def __init__(self, bootstrap: str, *, readings: str, predictions: str, dead_letters: str, residuals: "Residuals") -> None:
        self.tally = Tally()
        self.residuals = residuals
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
        self._handlers = {readings: self._reading, predictions: self._prediction, dead_letters: self._dead_letter}
        self._next = {(topic, partition): 0 for topic in self._handlers for partition in self._partitions(topic)}
        self._decode = msgspec.json.Decoder(Prediction).decode
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
        if prediction.residual is not None and not prediction.warming_up:
            self.residuals.add(prediction.sensor, (prediction.timestamp - START_MS) // TICK_MS, prediction.residual)

    def _dead_letter(self, message: Message, _arrived_ms: int) -> None:
        headers = dict(message.headers() or [])
        try:
            self.tally.dead_letter(int(headers["source_partition"]), int(headers["source_offset"]))
        except (KeyError, ValueError, TypeError):
            self.tally.dead_letter(-1, -1)


@dataclass(frozen=True)
class Threshold:
    """A sensor stands out when the mean of its last `mean_of` residuals exceeds `level`."""

    level: float
    mean_of: int

    @classmethod
    def read(cls, path: Path) -> "Threshold":
        figures = json.loads(path.read_text())
        return cls(float(figures["threshold"]), int(figures["mean_of"]))


class Residuals:
    """The mean of every sensor's last residuals, and which of the plant's faults it has shown."""

    def __init__(self, plan: FaultPlan, sensors: int, threshold: Threshold) -> None:
        self.names = names(sensors)
        self.threshold = threshold
        self.tick = -1  # the plant's latest minute among the predictions
        self.found_tick: dict[Fault, int] = {}
        self._plan = plan
        self._index = {name: i for i, name in enumerate(self.names)}
        self._last = [0.0] * (sensors * threshold.mean_of)
        self._sums = [0.0] * sensors
        self._counts = [0] * sensors
        self._open: dict[int, Fault] = {}

    def add(self, sensor: str, tick: int, residual: float) -> None:
        index, mean_of = self._index[sensor], self.threshold.mean_of
        place = index * mean_of + self._counts[index] % mean_of
        self._sums[index] += residual - self._last[place]
        self._last[place] = residual
        self._counts[index] += 1
        if tick > self.tick:
            self.tick = tick
            self._open = {fault.sensor: fault for fault in self._plan.until(tick) if tick < fault.end_tick}
        if self.mean(index) > self.threshold.level and (fault := self._open.get(index)) is not None:
            self.found_tick.setdefault(fault, tick)

    def mean(self, index: int) -> float:
        """0 until there are as many residuals as the mean is of."""
        return self._sums[index] / self.threshold.mean_of if self._counts[index] >= self.threshold.mean_of else 0.0

    def highest(self, count: int) -> list[tuple[str, float]]:
        """The sensors with the largest means, largest first."""
        return [(self.names[i], self.mean(i)) for i in heapq.nlargest(count, range(len(self.names)), key=self.mean)]

    def begun(self) -> list[Fault]:
        """The faults that the plant has really had so far, the latest last."""
        return self._plan.until(self.tick)

    def open_fault(self, sensor: str) -> Fault | None:
        return self._open.get(self._index[sensor])
