"""Detects sensors in several partitions, a result of producers with different partitioners: each partition has its own state.

Responsible for logging them once, and for the metric. The loop checks its own partitions, and at startup a thread checks the newest
records of all partitions once.
"""

import threading
from collections.abc import Callable, Iterable
from itertools import islice

import structlog
from confluent_kafka import KafkaException, Message

from processor.codec.encode import shown
from processor.errors import SlotstreamError
from processor.kafka.partition_log import in_several_partitions
from processor.metrics import Metrics

_log = structlog.get_logger(__name__)

KEYS_MAX = 1000  # sensors of a partition that are looked up in the others: takes a few milliseconds
RECORDS = 100  # per partition, at startup
TIMEOUT_S = 10.0
NAMED = 3


class SplitSensors:
    """The split sensors found since the start. Any thread may call the methods."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._found = dict[bytes, list[int]]()
        self._lock = threading.Lock()

    def found(self, sensors: dict[bytes, list[int]]) -> None:
        """Reports sensors, with the partitions that each is in."""
        if not sensors:
            return
        with self._lock:
            first = not self._found
            self._found.update(sensors)
            self._metrics.set("sensors_split", len(self._found))
        if first:
            _log.warning(
                "sensors have records in several partitions: each partition keeps a separate state for them, from a part of their readings",
                sensors=len(sensors),
                such_as=named(sensors),
                expected="one partition for each key",
                to_do="give every producer the same partitioner: murmur2_random for clients of librdkafka, Java's default for Java",
            )

    def look_into(self, newest: Callable[[int, float], Iterable[Message]], sensor: Callable[[Message], bytes | None]) -> None:
        """Starts a thread that checks the newest records of the input. Skips partitions for which the broker does not answer.

        newest: so many records of each partition, in so many seconds; called on a thread. sensor: which one a record is of.
        """
        threading.Thread(target=self._look, args=(newest, sensor), name="split-sensors", daemon=True).start()

    def _look(self, newest: Callable[[int, float], Iterable[Message]], sensor: Callable[[Message], bytes | None]) -> None:
        try:
            self.found(in_several_partitions(newest(RECORDS, TIMEOUT_S), sensor))
        except (KafkaException, SlotstreamError) as error:
            _log.debug("could not look at the newest records of the input", reason=str(error))


def named(sensors: dict[bytes, list[int]]) -> str:
    """The names of a few of them, for a message."""
    return ", ".join(f"{shown(key)[:80]} in {' and '.join(map(str, numbers[:4]))}" for key, numbers in islice(sensors.items(), NAMED))
