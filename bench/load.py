"""What every measurement runs: a model, its topics, and readings in them."""

import json
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from processor.kafka.create_topics import init
from processor.settings import load_settings

FEATURES = 10
PARTITIONS = 8
VALUES = [
    json.dumps({"timestamp": 1_700_000_000_000, "values": values}).encode()
    for values in np.random.default_rng(2).normal(size=(1000, FEATURES)).round(3).tolist()
]


def save_model(folder: Path) -> Path:
    """LSTM(64) + Dense(1): a state of 512 bytes."""
    from processor.model.backend import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((None, FEATURES)), keras.layers.LSTM(64), keras.layers.Dense(1)])
    model.save(folder / "model.keras")
    return folder / "model.keras"


def options(bootstrap: str, folder: Path, model: Path, topic: str) -> list[str]:
    """A group of its own for each run: it begins at the start of the topic, with no state. Its checkpoint topic is made."""
    group = uuid.uuid4().hex[:8]
    chosen = [
        f"--kafka=bootstrap.servers={bootstrap}",
        f"--input.topic={topic}",
        f"--output.topic={topic}.out",
        f"--group={group}",
        f"--instance={group}",
        f"--model.path={model}",
        f"--checkpoint.path={folder / 'checkpoints'}",
    ]
    init(load_settings(None, chosen, {}), PARTITIONS, 1)
    return chosen


def new_topic(bootstrap: str) -> str:
    """An input topic with its outputs, of a name that nothing else has."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    client = AdminClient({"bootstrap.servers": bootstrap})
    topics = [NewTopic(name, PARTITIONS, 1) for name in (topic, f"{topic}.out", f"{topic}.dead-letter")]
    for future in client.create_topics(topics).values():
        future.result(30)
    return topic


def fill(bootstrap: str, topic: str, sensors: Iterable[int]) -> None:
    """One reading for each."""
    producer = make_producer(bootstrap)
    for i, sensor in enumerate(sensors):
        producer.produce(topic, VALUES[i % 1000], f"sensor-{sensor}".encode())
        if i % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the broker did not take the readings")


def make_producer(bootstrap: str, linger_ms: int = 20) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 2_000_000,
            "partitioner": "murmur2_random",
        }
    )
