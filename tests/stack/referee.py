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
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, Message, TopicPartition

from processor.settings import load_settings

SETTINGS = load_settings(Path(os.environ["SLOTSTREAM_CONFIG"]), [], os.environ)
PATIENCE_S = 120.0


class Topic:
    """A topic from its first record to the end that it has now, and from there on at the next call."""

    def __init__(self, name: str) -> None:
        config = {"group.id": "referee", "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True}
        self._consumer = Consumer({**SETTINGS.kafka_config(), **config})
        count = len(self._consumer.list_topics(name, timeout=15).topics[name].partitions)
        self._consumer.assign([TopicPartition(name, partition, 0) for partition in range(count)])
        self._partitions = set(range(count))

    def read(self) -> Iterator[Message]:
        ended: set[int] = set()
        deadline = time.monotonic() + PATIENCE_S
        while ended < self._partitions:
            if time.monotonic() > deadline:
                raise SystemExit("a topic could not be read to its end")
            for message in self._consumer.consume(10_000, 0.5):
                if message.error() is None:
                    ended.discard(message.partition())
                    yield message
                else:
                    ended.add(message.partition())


def count() -> dict[str, int]:
    due = {(message.partition(), message.offset()) for message in Topic(SETTINGS.input.topic).read()}
    predictions, dead_letters = Topic(SETTINGS.output.topic), Topic(SETTINGS.dead_letter_topic)
    times: Counter[tuple[int, int]] = Counter()
    dead = 0
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for message in predictions.read():
            answer = json.loads(message.value())
            times[answer["partition"], answer["offset"]] += 1
        for message in dead_letters.read():
            headers = dict(message.headers() or ())
            times[int(headers["source_partition"]), int(headers["source_offset"])] += 1
            dead += 1
        lost = len(due - times.keys())
        if lost == 0 or time.monotonic() > deadline:
            return {"readings": len(due), "lost": lost, "twice": sum(n > 1 for n in times.values()), "dead_letters": dead}


def exact() -> dict[str, int]:
    from processor.service import load_model
    from processor.tools.oracle import InputRecord, Reference, as_published

    got = {}
    for message in Topic(SETTINGS.output.topic).read():
        answer = as_published(message.value())
        got[answer["partition"], answer["offset"]] = answer
    reference = Reference(load_model(SETTINGS), SETTINGS, next(iter(got.values()))["model"])
    inputs = [
        InputRecord(m.partition(), m.offset(), m.key(), m.value(), m.timestamp()[1], tuple(m.headers() or ()))
        for m in Topic(SETTINGS.input.topic).read()
    ]
    want = reference.expect(sorted(inputs, key=lambda record: (record.partition, record.offset)))
    return {"readings": len(inputs), "same": sum(got.get(at) == answer for at, answer in want.items()), "answers": len(got)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"count": count, "exact": exact}[sys.argv[1]]()) + "\n")
