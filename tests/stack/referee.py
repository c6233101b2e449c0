"""Says whether what lies in the stack's topics is right; run inside the stack, since its broker is reached from nowhere else.

    python referee.py count     waits until each reading that is there now has its answer, and counts what was lost or came twice
    python referee.py exact     compares each answer with the reference, bit for bit; the plant must have ended

Prints one JSON object. Reads committed records, commits nothing, joins no group.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from confluent_kafka import Consumer, Message, TopicPartition

from processor.settings import load_settings

SETTINGS = load_settings(Path(os.environ["SLOTSTREAM_CONFIG"]), [], os.environ)
PATIENCE_S = 120.0


class Topic:
    """A topic's records from the first one on."""

    def __init__(self, name: str) -> None:
        config = {"group.id": "referee", "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True}
        self._consumer = Consumer({**SETTINGS.kafka_config(), **config})
        count = len(self._consumer.list_topics(name, timeout=15).topics[name].partitions)
        self._consumer.assign([TopicPartition(name, partition, 0) for partition in range(count)])
        self._partitions = set(range(count))
        self._ended: set[int] = set()

    def to_end(self) -> Iterator[Message]:
        """Until every partition's end was reached once. Others go on being written to meanwhile, and the plant never stops."""
        deadline = time.monotonic() + PATIENCE_S
        while self._ended < self._partitions:
            if time.monotonic() > deadline:
                raise SystemExit("a topic could not be read to its end")
            yield from self.some()

    def some(self) -> Iterator[Message]:
        """What comes within a moment."""
        for message in self._consumer.consume(10_000, 0.5):
            if message.error() is None:
                yield message
            else:
                self._ended.add(message.partition())


def answered(predictions: Iterable[Message], dead_letters: Iterable[Message]) -> Iterator[tuple[int, int]]:
    """The place of the reading that each one answers."""
    for message in predictions:
        answer = json.loads(message.value())
        yield answer["partition"], answer["offset"]
    for message in dead_letters:
        headers = dict(message.headers() or ())
        yield int(headers["source_partition"]), int(headers["source_offset"])


def count() -> dict[str, int]:
    due = {(message.partition(), message.offset()) for message in Topic(SETTINGS.input.topic).to_end()}
    predictions, dead_letters = Topic(SETTINGS.output.topic), Topic(SETTINGS.dead_letter_topic)
    times = Counter(answered(predictions.to_end(), dead_letters.to_end()))
    deadline = time.monotonic() + PATIENCE_S
    while (lost := len(due - times.keys())) and time.monotonic() < deadline:
        times.update(answered(predictions.some(), dead_letters.some()))
    return {"readings": len(due), "lost": lost, "twice": sum(n > 1 for n in times.values())}


def exact() -> dict[str, int]:
    from processor.app.fit import load_model
    from processor.verify.oracle import Reference, as_published
    from processor.verify.oracle_records import InputRecord

    values = [message.value() for message in Topic(SETTINGS.output.topic).to_end()]
    got = {(answer["partition"], answer["offset"]): answer for answer in map(as_published, values)}
    reference = Reference(load_model(SETTINGS), SETTINGS, next(iter(got.values()))["model"])
    inputs = [
        InputRecord(m.partition(), m.offset(), m.key(), m.value(), m.timestamp()[1], tuple(m.headers() or ()))
        for m in Topic(SETTINGS.input.topic).to_end()
    ]
    inputs.sort(key=lambda record: (record.partition, record.offset))
    same = sum(got.get((record.partition, record.offset)) == reference.feed(record) for record in inputs)
    return {"readings": len(inputs), "same": same, "answers": len(values)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"count": count, "exact": exact}[sys.argv[1]]()) + "\n")
