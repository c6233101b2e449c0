"""The promise, whole: the service on a real Kafka, judged by both oracles, while it is killed with -9."""

import json
import time

import numpy as np
import pytest
from harness import Service, Topics, answers_due, assert_same, keras, readings, rewritten, save_model, served

from processor.verify.keras_judge import keras_last

pytestmark = pytest.mark.long

L = keras.layers

MODELS = {
    "lstm": lambda: [L.LSTM(16), L.Dense(3)],
    "by rules": lambda: [L.GRU(8), L.Dense(2)],
    "stacked": lambda: [L.GRU(8, return_sequences=True), L.LayerNormalization(), L.LSTM(12, return_sequences=True), L.Dense(3)],
}


FIELDS = ["--input.features=[a, b.c, b.d]", "--input.scale={mean: [1, 0, -1], std: 2}", "--output.residual=[b.d, a]"]
TOPIC = "--checkpoint.store=topic"
RULES = ["--reset.after_gap=2s", "--reset.after_steps=20", "--late=dead_letter"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("lstm", ["--slots=5", "--output.residual=true", TOPIC], marks=pytest.mark.soak),  # as test_verify.py's
        pytest.param("stacked", ["--slots=64"], marks=pytest.mark.soak),
        ("by rules", ["--slots=9", TOPIC, *FIELDS, *RULES]),
    ],
)
def test_every_prediction_comes_once_and_bit_for_bit_through_kills(kafka, unique, tmp_path, name, options):
    rng = np.random.default_rng(7)
    topics = Topics(kafka.bootstrap, unique("readings"))
    model = save_model(tmp_path / "model.keras", *MODELS[name]())
    service = Service(topics, model, tmp_path, *options, "--dead_letter.max_ratio=1")
    made = readings(rng, 1500, features=3, sensors=40, partitions=3, jitter_ms=1000)
    records = [(partition, key, rewritten(value, service.settings), *rest) for partition, key, value, *rest in made]
    for part in np.array_split(np.arange(len(records)), 2):
        with service:
            service.wait_ready()
            answered = service.metric("transactions_total", '{result="committed"}')
            for chunk in np.array_split(part, 8):
                topics.produce([records[i] for i in chunk])
            # Killed at some point within the work, not after it.
            pause = rng.random() * 0.4
            until = service.metric("readings_total") + pause * len(part)
            while service.metric("readings_total") < until and service.process.poll() is None:
                time.sleep(0.01)
            service.kill()
            assert answered >= 0
    with service:
        service.wait_answered(answers_due(records))
        assert service.stop() == 0
    model, reference = served(service, topics)
    want = reference.expect(topics.inputs())
    assert_same(topics.answers(), want)
    assert sum(isinstance(answer, str) for answer in want.values()) > 10, "the stream held bad records"
    if name == "by rules":
        assert {"late"} < {answer for answer in want.values() if isinstance(answer, str)}
    else:
        check_with_keras(model, topics, want)


def check_with_keras(model, topics, want):
    """The last prediction of sensors that were never reset, from one call on their whole sequences."""
    sequences, reset = {}, set()
    for record in topics.inputs():
        sensor = (record.partition, record.key)
        if record.value is None or record.headers:
            reset.add(sensor)
        elif isinstance(want.get((record.partition, record.offset)), dict):
            values = np.array(json.loads(record.value)["values"], np.float32).reshape(-1, model.features)
            sequences.setdefault(sensor, []).append((values, want[(record.partition, record.offset)]["prediction"]))
    checked = 0
    for sensor in sequences.keys() - reset:
        whole = np.concatenate([values for values, _ in sequences[sensor]])
        last = np.array(sequences[sensor][-1][1])
        np.testing.assert_allclose(last.reshape(-1, model.outputs)[-1], keras_last(model, whole), atol=1e-5)
        checked += 1
    assert checked >= 3, "some sensors were never reset"


