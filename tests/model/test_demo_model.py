"""The demo's model is small, is served as it is, and forecasts a plant that it never saw."""

import json

import numpy as np

from processor.demo.plant import Plant
from processor.demo.processes import HERE
from processor.demo.watch import threshold_of
from processor.model.load import describe_file

MODEL = HERE / "demo.keras"
UNSEEN_SEED, SENSORS, TICKS, WARMUP = 4711, 90, 240, 16


def test_it_is_small_and_carries_state() -> None:
    assert MODEL.stat().st_size < 500_000
    found = describe_file(MODEL)
    assert (found["servable"], found["mode"], found["features"], found["outputs"]) == (True, "carried", 4, 4)


def test_it_beats_persistence_and_stays_below_its_threshold_on_healthy_machines_it_never_saw() -> None:
    import keras

    plant = Plant(UNSEEN_SEED, SENSORS, faulty=False)
    readings = np.stack([plant.tick()[1] for _ in range(TICKS)], axis=1)
    forecast = keras.models.load_model(MODEL, compile=False).predict(readings, verbose=0)
    residual = np.abs(readings[:, 1:] - forecast[:, :-1]).mean(axis=2)[:, WARMUP:]
    persistence = np.abs(np.diff(readings, axis=1))[:, WARMUP:].mean()
    assert residual.mean() < 0.8 * persistence
    mean_of = json.loads((HERE / "demo_model.json").read_text())["mean_of"]
    means = np.lib.stride_tricks.sliding_window_view(residual, mean_of, axis=1).mean(axis=-1)
    assert (means > threshold_of(HERE / "demo_model.json")).mean() < 1e-3
