"""A model trained on windows: LSTM(32) + Dropout + Dense(1), input (30, 2), the last output only, scaled outside.

    python -m recipes.trained_windows [--bootstrap HOST:PORT]
"""

import sys
from pathlib import Path

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, say, show_model

WINDOW, FEATURES, SENSORS, STEPS = 30, 2, 4, 75
# What the scalers of the training kept: of the readings in degrees and pascals, of the targets in bar.
MEAN, STD = np.array([71.5, 101_300.0]), np.array([4.2, 950.0])
LOW, HIGH = 2.0, 6.0
READINGS = MEAN + STD * np.random.default_rng(30).normal(size=(SENSORS, STEPS, FEATURES)).cumsum(axis=1) / 4


# The code that people have.


def windowed_model() -> keras.Model:
    keras.utils.set_random_seed(30)
    layers = keras.layers
    return keras.Sequential([keras.Input((WINDOW, FEATURES)), layers.LSTM(32), layers.Dropout(0.2), layers.Dense(1)])


def scaled(readings: np.ndarray) -> np.ndarray:
    return (readings - MEAN) / STD


def unscaled(targets: np.ndarray) -> np.ndarray:
    return targets * (HIGH - LOW) + LOW


def window_by_window(model: keras.Model, readings: np.ndarray) -> np.ndarray:
    """One sensor's predictions in bar, [steps - 29, 1]: the first comes with the 30th reading."""
    windows = np.lib.stride_tricks.sliding_window_view(scaled(readings), WINDOW, axis=0).swapaxes(1, 2)
    return unscaled(model.predict(windows, verbose=0))


def carried_on(model: keras.Model, readings: np.ndarray) -> np.ndarray:
    """What the same weights give with one state for the whole sequence, [steps, 1]: what model.mode carried does."""
    lstm = keras.layers.LSTM(32, return_sequences=True)
    free = keras.Sequential([keras.Input((None, FEATURES)), lstm, keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    free.set_weights(model.get_weights())
    return unscaled(free.predict(scaled(readings)[None], verbose=0)[0])


# With slotstream. The scales are settings, and the window is the sensor's state.

SCALES = {"input": {"scale": {"mean": MEAN.tolist(), "std": STD.tolist()}}, "output": {"scale": {"min": LOW, "max": HIGH}}}


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("A model trained on windows of 30")
    model = windowed_model()
    windows, carried = ([of(model, readings) for readings in READINGS] for of in (window_by_window, carried_on))
    say(f"  Keras: a state carried on moves the predictions by up to {difference(np.array(carried)[:, WINDOW - 1 :], windows):.2g} bar")
    say(f"  slotstream model show --mode carried: {show_model(model, folder, '--mode', 'carried')['past_window']}")

    outcomes = []
    for mode, expected in [("windowed", windows), ("carried", carried)]:
        settings = SCALES if mode == "windowed" else {**SCALES, "model": {"mode": "carried"}}
        with Service(bootstrap, folder, model, settings) as service:
            service.feed((f"pump-{sensor}", READINGS[sensor, step]) for step in range(STEPS) for sensor in range(SENSORS))
            found = service.predictions(SENSORS * STEPS)
        # While a window fills there is no prediction to compare: null.
        none = STEPS - len(expected[0])
        blank = all(prediction is None for predictions in found.values() for prediction in predictions[:none])
        largest = max(difference(found[f"pump-{sensor}"][none:], expected[sensor]) for sensor in range(SENSORS))
        count = sum(map(len, found.values()))
        outcomes.append(Outcome(f"slotstream, {mode}", SENSORS * STEPS, count, largest if blank else float("inf")))
        say(str(outcomes[-1]))
    return outcomes


if __name__ == "__main__":
    sys.exit(main([run]))
