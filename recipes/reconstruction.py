"""An autoencoder's reconstruction error: LSTM + RepeatVector + LSTM + TimeDistributed(Dense), input (12, 2).

    python -m recipes.reconstruction [--bootstrap HOST:PORT]
"""

import sys
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, say

WINDOW, FEATURES, SENSORS, STEPS = 12, 2, 5, 40
READINGS = np.random.default_rng(12).normal(size=(SENSORS, STEPS, FEATURES)).astype(np.float32)
FULL = STEPS - WINDOW + 1  # windows of one sensor


# The code that people have: the errors of all windows, [sensors, windows].


def autoencoder() -> keras.Model:
    keras.utils.set_random_seed(12)
    layers = keras.layers
    decoder = [layers.LSTM(16, return_sequences=True), layers.TimeDistributed(layers.Dense(FEATURES))]
    return keras.Sequential([keras.Input((WINDOW, FEATURES)), layers.LSTM(16), layers.RepeatVector(WINDOW), *decoder])


def errors_of_keras(model: keras.Model, *, last: bool) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(READINGS, WINDOW, axis=1).swapaxes(2, 3)
    flat = windows.reshape(-1, WINDOW, FEATURES)
    off = np.abs(model.predict(flat, verbose=0) - flat)
    return (off[:, -1] if last else off.mean(axis=1)).mean(axis=1).reshape(SENSORS, FULL)


# With slotstream. The service publishes the reconstruction; the window that it is of is what the consumer keeps of the input topic.


class Errors:
    """readings: what a consumer read of the input topic, by partition and offset, which every output names."""

    def __init__(self, readings: dict[tuple[int, int], np.ndarray], *, last: bool) -> None:
        self._readings, self._last = readings, last
        self._windows: defaultdict[str, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=WINDOW))

    def error(self, output: dict[str, Any]) -> float | None:
        window = self._windows[output["sensor"]]
        window.append(self._readings[output["partition"], output["offset"]])
        if output["prediction"] is None:  # the window is not full yet
            return None
        expected = window[-1] if self._last else np.array(window)
        return float(np.abs(output["prediction"] - expected).mean())


# Or the model itself gives the error: then the consumer keeps nothing.


def with_its_error(model: keras.Model) -> keras.Model:
    """The same weights; the outputs are the errors of the features, each the mean of the window's steps."""
    off = keras.ops.abs(keras.layers.Subtract()([model.outputs[0], model.inputs[0]]))
    return keras.Model(model.inputs, keras.layers.GlobalAveragePooling1D()(off))


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("An autoencoder's reconstruction error")
    model, outcomes = autoencoder(), []
    order = [(sensor, step) for step in range(STEPS) for sensor in range(SENSORS)]
    readings = {(0, offset): READINGS[at] for offset, at in enumerate(order)}  # as a consumer of the one partition reads them
    runs = [("output: all", model, "all"), ("output: last", model, "last"), ("the error inside the model", with_its_error(model), "last")]
    for what, served, output in runs:
        with Service(bootstrap, folder, served, {"model": {"output": output}}) as service:
            service.feed((f"pump-{sensor}", READINGS[sensor, step]) for sensor, step in order)
            outputs = service.outputs(len(order))
        found = defaultdict[str, list[float]](list)
        consumer = Errors(readings, last=output == "last")
        for record in outputs:
            error = consumer.error(record) if served is model else record["prediction"] and np.mean(record["prediction"])
            if error is not None:
                found[record["sensor"]].append(error)
        expected = errors_of_keras(model, last=what == "output: last")
        largest = max(difference(found[f"pump-{sensor}"], expected[sensor]) for sensor in range(SENSORS))
        outcomes.append(Outcome(f"slotstream, {what}", len(order), len(outputs), largest))
        say(str(outcomes[-1]))
    return outcomes


if __name__ == "__main__":
    sys.exit(main([run]))
