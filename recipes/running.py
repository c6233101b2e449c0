"""What the recipes share: a service with topics of its own for one model, readings in, predictions out.

    with Service(bootstrap, folder, model, settings) as service:
        service.feed([("pump-7", reading), ...])
        predictions = service.predictions(5)  # or outputs(5): the records as a consumer reads them

Responsible for the processes and the records; what a recipe feeds, expects and compares stands in the recipe alone.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import keras
import numpy as np
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from numpy.typing import ArrayLike

from processor.testbed import child_process as process
from processor.testbed.embedded_kafka import EmbeddedKafka

TOLERANCE = 1e-5
START_TIMEOUT_S = 180.0  # TensorFlow alone takes most of a minute on a machine that is busy
STOP_PATIENCE_S = 45.0
COMMAND = [sys.executable, "-m", "processor.cli"]  # the command slotstream of this very Python


@dataclass(frozen=True)
class Outcome:
    """One service run: `predictions` came for `records` fed, and differ from Keras by at most `difference`."""

    what: str
    records: int
    predictions: int
    difference: float

    @property
    def good(self) -> bool:
        return self.predictions == self.records and self.difference <= TOLERANCE

    def __str__(self) -> str:
        verdict = "equal" if self.good else "NOT EQUAL"
        counts = f"{self.records:,} records, {self.predictions:,} predictions"
        return f"  {self.what}: {counts}, largest difference {self.difference:.1e} (at most {TOLERANCE:.0e}): {verdict}"


class Record(NamedTuple):
    """A record to feed. values: F numbers are one reading, a list of such lists is several steps, None is a null record.

    timestamp_ms: Unix milliseconds, None: the record's own time. sequence: the header of that name, None: no header.
    """

    sensor: str
    values: ArrayLike | None
    timestamp_ms: int | None = None
    sequence: str | None = None


class Service:
    """`slotstream init`, then `slotstream run`, with topics, group and checkpoints that nothing else uses; SIGTERM at the end."""

    def __init__(
        self, bootstrap: str, folder: Path, model: keras.Model, settings: dict[str, Any] | None = None, *, partitions: int = 1
    ) -> None:
        name = f"recipe-{secrets.token_hex(4)}"
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._log = self._folder / "slotstream.log"
        self._bootstrap, self._partitions = bootstrap, partitions
        self._input, self._output = f"{name}.readings", f"{name}.predictions"
        self._group = f"slotstream.{self._output}"  # what `group` is when it is not set
        model.save(self._folder / "model.keras")
        content: dict[str, Any] = {
            "kafka": {"bootstrap.servers": bootstrap},
            "slots": 64,  # as many as the recipes have sensors, or more: fewer shapes to compile at the start
            "input": {"topic": self._input},
            "output": {"topic": self._output},
            "model": {"path": "model.keras"},
            "http": {"port": 0},
        }
        for key, value in (settings or {}).items():
            content[key] = content.get(key, {}) | value if isinstance(value, dict) else value
        (self._folder / "slotstream.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def __enter__(self) -> "Service":
        # What the user's own service is told by SLOTSTREAM_... is not meant for this one.
        env = {name: value for name, value in os.environ.items() if not name.startswith("SLOTSTREAM_")}
        options = ["--config", "slotstream.yaml"]
        init = process.spawn([*COMMAND, "init", *options, "--partitions", str(self._partitions)], self._log, env=env, cwd=self._folder)
        if init.wait(START_TIMEOUT_S) != 0:
            raise RuntimeError(process.with_log("slotstream init failed", self._log))
        self._running = process.spawn([*COMMAND, "run", *options], self._log, env=env, cwd=self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ended = process.stop(self._running, STOP_PATIENCE_S)
        admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 4})
        topics = [self._input, self._output, f"{self._input}.dead-letter", f"{self._group}.checkpoints"]
        for deleted in admin.delete_topics(topics).values():
            deleted.result(30)
        if kind is not None:
            return
        if ended != 0:
            raise RuntimeError(process.with_log(f"slotstream run ended with {ended}", self._log))
        for deleted in admin.delete_consumer_groups([self._group]).values():
            deleted.result(30)

    def feed(self, records: Iterable[Record | tuple[str, ArrayLike]]) -> None:
        """(sensor, values), and whatever else Record has."""
        # The partition that Java's clients and `slotstream feed` would choose for a key; librdkafka's default is another.
        producer = Producer({"bootstrap.servers": self._bootstrap, "partitioner": "murmur2_random"})
        for record in starmap(Record, records):
            producer.produce(self._input, key=record.sensor, value=_value(record), headers=_headers(record))
        if producer.flush(30):
            raise RuntimeError(f"the broker at {self._bootstrap} did not take the readings within 30 s")

    def predictions(self, count: int) -> dict[str, list[Any]]:
        """Waits for `count` outputs, stops the service, and returns the prediction of every committed one, by sensor in order."""
        by_sensor: dict[str, list[Any]] = {}
        for output in self.outputs(count):
            by_sensor.setdefault(output["sensor"], []).append(output["prediction"])
        return by_sensor

    def outputs(self, count: int) -> list[dict[str, Any]]:
        """Waits for `count` outputs, stops the service, and returns every committed one, in order within a partition."""
        self.wait(count)
        process.stop(self._running, STOP_PATIENCE_S)
        found, ended, until_s = list[dict[str, Any]](), 0, time.monotonic() + 30
        with closing(self._consumer()) as consumer:
            while ended < self._partitions and time.monotonic() < until_s:
                messages, ends = _read(consumer)
                found += [json.loads(message.value()) for message in messages]
                ended += ends
        return found

    def wait(self, count: int) -> None:
        """Returns when a consumer of committed data has read `count` outputs."""
        seen, until_s = 0, time.monotonic() + START_TIMEOUT_S
        with closing(self._consumer()) as consumer:
            while seen < count:
                if self._running.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError(process.with_log(f"no {count} predictions came", self._log))
                seen += len(_read(consumer)[0])

    def _consumer(self) -> Consumer:
        """Of the output topic from its beginning, without what was aborted or is not committed yet."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "recipes",  # the client wants one; nothing is committed under it
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(self._output, number, OFFSET_BEGINNING) for number in range(self._partitions)])
        return consumer


def _value(record: Record) -> str | None:
    if record.values is None:
        return None
    timestamp = {} if record.timestamp_ms is None else {"timestamp": record.timestamp_ms}
    return json.dumps({**timestamp, "values": np.asarray(record.values).tolist()})


def _headers(record: Record) -> dict[str, str] | None:
    return {"sequence": record.sequence} if record.sequence else None


def _read(consumer: Consumer) -> tuple[list[Message], int]:
    """What comes within 0.1 s, and how many ends of partitions were reached in it."""
    messages, ends = list[Message](), 0
    for message in consumer.consume(1000, 0.1):
        error = message.error()
        if error is None:
            messages.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            ends += 1
        elif error.fatal():
            raise KafkaException(error)
    return messages, ends


def show_model(model: keras.Model, folder: Path, *options: str) -> dict[str, Any]:
    """What `slotstream model show --json` says of a model."""
    model.save(folder / "shown.keras")
    command = [*COMMAND, "model", "show", str(folder / "shown.keras"), "--json", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def refusal(call: Callable[[], object]) -> str:
    """What Keras raises when this is called, as it would be printed; empty if it raises nothing."""
    try:
        call()
    except (ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def difference(found: ArrayLike, expected: ArrayLike) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


Recipe = Callable[[str, Path], list[Outcome]]


def main(recipes: Sequence[Recipe]) -> int:
    """Runs recipes on the broker given, or on one of its own. Exit code 0 if every prediction came and is Keras's."""
    parser = argparse.ArgumentParser(description="Runs the recipes of docs/recipes.md and prints their numbers.")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a Kafka that runs already (without: an embedded one)")
    bootstrap = parser.parse_args().bootstrap
    with tempfile.TemporaryDirectory(prefix="slotstream-recipes-") as name:
        folder = Path(name)
        if bootstrap is not None:
            return _run(recipes, bootstrap, folder)
        with EmbeddedKafka(folder / "kafka") as kafka:
            return _run(recipes, kafka.bootstrap, folder)


def _run(recipes: Sequence[Recipe], bootstrap: str, folder: Path) -> int:
    outcomes = [outcome for recipe in recipes for outcome in recipe(bootstrap, folder)]
    return 0 if all(outcome.good for outcome in outcomes) else 1
