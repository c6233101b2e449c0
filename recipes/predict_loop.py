"""Away from a loop with model.predict: a deque of the last readings for each sensor, one call a message.

    python -m recipes.predict_loop [--bootstrap HOST:PORT]
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, say

WINDOW, FEATURES, SENSORS, STEPS = 20, 4, 50, 120
LOOP_MESSAGES = 100  # what the loop is timed on; slotstream gets all of them
READINGS = np.random.default_rng(20).normal(size=(STEPS, SENSORS, FEATURES)).astype(np.float32)
MESSAGES = [(f"sensor-{sensor:02d}", READINGS[step, sensor]) for step in range(STEPS) for sensor in range(SENSORS)]


def windowed_model() -> keras.Model:
    keras.utils.set_random_seed(20)
    return keras.Sequential([keras.Input((WINDOW, FEATURES)), keras.layers.LSTM(64), keras.layers.Dense(1)])


# The code that people have.


class Loop:
    def __init__(self, predict: Callable[[np.ndarray], Any]) -> None:
        self._predict = predict
        self._windows: dict[str, deque[np.ndarray]] = {}

    def on_message(self, sensor: str, values: np.ndarray) -> np.ndarray | None:
        window = self._windows.setdefault(sensor, deque(maxlen=WINDOW))
        window.append(values)
        if len(window) < WINDOW:
            return None
        return np.asarray(self._predict(np.array(window)[None]))[0]


def timed_loop(predict: Callable[[np.ndarray], Any]) -> tuple[list[np.ndarray], float]:
    """The predictions of the first LOOP_MESSAGES messages with full windows, and how many of them a second were answered."""
    loop, first = Loop(predict), (WINDOW - 1) * SENSORS
    for message in MESSAGES[:first]:
        loop.on_message(*message)
    predict(np.zeros((1, WINDOW, FEATURES), np.float32))  # the first call compiles
    begin_s = time.perf_counter()
    found = [loop.on_message(*message) for message in MESSAGES[first : first + LOOP_MESSAGES]]
    return [y for y in found if y is not None], LOOP_MESSAGES / (time.perf_counter() - begin_s)


def all_windows(model: keras.Model) -> np.ndarray:
    """Every full window's prediction in one call, [windows of a sensor, sensors, 1]: what the loop would give in the end."""
    windows = np.lib.stride_tricks.sliding_window_view(READINGS, WINDOW, axis=0).swapaxes(2, 3)
    return model.predict(windows.reshape(-1, WINDOW, FEATURES), batch_size=256, verbose=0).reshape(-1, SENSORS, 1)


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("Away from a loop with model.predict")
    model = windowed_model()
    expected = all_windows(model)
    by_predict, predict_rate = timed_loop(lambda window: model.predict(window, verbose=0))
    by_call, call_rate = timed_loop(lambda window: model(window, training=False))
    off = max(difference(found, expected.reshape(-1, 1)[:LOOP_MESSAGES]) for found in (by_predict, by_call))
    say(f"  the loop differs from one call on all windows by at most {off:.1e}")

    full = (WINDOW - 1) * SENSORS
    with Service(bootstrap, folder, model, partitions=4) as service:
        service.feed(MESSAGES[:full])
        service.wait(full)  # it runs now, and the windows are full but for one reading
        begin_s = time.perf_counter()
        service.feed(MESSAGES[full:])
        service.wait(len(MESSAGES))
        service_rate = (len(MESSAGES) - full) / (time.perf_counter() - begin_s)
        found = service.predictions(len(MESSAGES))

    say(f"  model.predict a message: {predict_rate:,.0f} messages a second; model(...) a message: {call_rate:,.0f}")
    ratios = f"{service_rate / predict_rate:,.0f} and {service_rate / call_rate:,.0f} times as many"
    say(f"  slotstream, from Kafka to Kafka, exactly once: {service_rate:,.0f}, {ratios}")
    windows = {sensor: predictions[WINDOW - 1 :] for sensor, predictions in found.items()}
    largest = max(difference(windows[f"sensor-{sensor:02d}"], expected[:, sensor]) for sensor in range(SENSORS))
    outcome = Outcome("slotstream", len(MESSAGES), sum(map(len, found.values())), max(largest, off))
    say(str(outcome))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main([run]))
