"""Anomalies by residual: a forecaster of the next reading says how far off it was, and a consumer flags what is off for long.

    python -m recipes.residuals [--bootstrap HOST:PORT]
"""

import sys
from collections import defaultdict, deque
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, say

FEATURES, SENSORS, STEPS = 3, 24, 120
WARMUP_STEPS, MEAN_OF, MARGIN = 10, 6, 1.1
FAULTY, FAULT_STEPS = 8, 25  # the first sensors have a fault each, which lasts so long


def plant(seed: int, sensors: int, steps: int) -> np.ndarray:
    """Healthy readings, [sensors, steps, features]: each sensor goes round at a pace of its own."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, (sensors, 1)) + rng.uniform(0.15, 0.3, (sensors, 1)) * np.arange(steps)
    readings = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle)], axis=2)
    return (readings + rng.normal(0, 0.05, readings.shape)).astype(np.float32)


def plant_with_faults() -> tuple[np.ndarray, np.ndarray]:
    """Readings of a plant that training never saw, and where they are faulty, bool [sensors, steps]."""
    readings, faulty = plant(3, SENSORS, STEPS), np.zeros((SENSORS, STEPS), np.bool_)
    for sensor, start in enumerate(np.random.default_rng(4).integers(30, STEPS - FAULT_STEPS, FAULTY)):
        there = slice(int(start), int(start) + FAULT_STEPS)
        faulty[sensor, there] = True
        if sensor % 2:
            readings[sensor, there, 0] = readings[sensor, start, 0]  # one measurement is stuck
        else:
            readings[sensor, there] += np.linspace(0, 1, FAULT_STEPS, dtype=np.float32)[:, None]  # all of them drift
    return readings, faulty


@cache
def trained_forecaster() -> keras.Model:
    """Each output is the forecast of the next reading. Training sees healthy sensors only."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, FEATURES))
    hidden = keras.layers.LSTM(24, return_sequences=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(FEATURES)(keras.layers.Concatenate()([inputs, hidden])))
    healthy = plant(1, 128, 101)
    model.compile(keras.optimizers.Adam(0.01), loss="mae")
    model.fit(healthy[:, :-1], healthy[:, 1:], batch_size=16, epochs=8, verbose=0)
    return model


def residuals_of_keras(model: keras.Model, readings: np.ndarray) -> np.ndarray:
    """[sensors, steps - 1]: how far each forecast was from the reading that came next, as output.residual defines it."""
    return np.abs(model.predict(readings, verbose=0)[:, :-1] - readings[:, 1:]).mean(axis=2)


def threshold_of(residuals: np.ndarray) -> float:
    """A margin above the largest mean of MEAN_OF residuals in a row that healthy sensors have."""
    windows = np.lib.stride_tricks.sliding_window_view(residuals[:, WARMUP_STEPS:], MEAN_OF, axis=1)
    return MARGIN * float(windows.mean(axis=2).max())


# What a consumer of the predictions does.


class Flags:
    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MEAN_OF))

    def flagged(self, output: dict[str, Any]) -> bool:
        if output.get("warming_up") or output["residual"] is None:
            return False
        last = self._last[output["sensor"]]
        last.append(output["residual"])
        return len(last) == MEAN_OF and sum(last) / MEAN_OF > self._threshold


def precision_and_recall(flags: np.ndarray, faulty: np.ndarray) -> tuple[float, float]:
    """Of the flags, the share with a fault among the residuals that they are the mean of; of the faults, the share with a flag in it."""
    right = np.stack([faulty[:, max(0, t + 1 - MEAN_OF) : t + 1].any(axis=1) for t in range(STEPS)], axis=1)
    return float(right[flags].mean()), float((flags & faulty).any(axis=1)[faulty.any(axis=1)].mean())


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("Anomalies by residual")
    model, (readings, faulty) = trained_forecaster(), plant_with_faults()
    threshold = threshold_of(residuals_of_keras(model, plant(2, 100, STEPS)))
    say(f"  threshold from 100 healthy sensors: {threshold:.4f}, {MARGIN} times their largest mean of {MEAN_OF} residuals")

    with Service(bootstrap, folder, model, {"output": {"residual": True}, "model": {"warmup_steps": WARMUP_STEPS}}) as service:
        service.feed((str(sensor), readings[sensor, step]) for step in range(STEPS) for sensor in range(SENSORS))
        outputs = service.outputs(STEPS * SENSORS)

    consumer, flags, residuals = Flags(threshold), np.zeros(faulty.shape, np.bool_), np.zeros(faulty.shape)
    for output in outputs:
        at = int(output["sensor"]), output["steps"] - 1
        flags[at], residuals[at] = consumer.flagged(output), output["residual"] or 0.0
    precision, recall = precision_and_recall(flags, faulty)
    say(f"  {FAULTY} faults, {flags.sum()} readings flagged: precision {precision:.3f}, recall {recall:.3f}")
    expected = residuals_of_keras(model, readings)
    outcome = Outcome("slotstream, the residuals", STEPS * SENSORS, len(outputs), difference(residuals[:, 1:], expected))
    say(str(outcome))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main([run]))
