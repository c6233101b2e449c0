"""A fixed batch: LSTM(32) + Dense(1), 10 features, 32 sensors in 32 slots, 1,000 readings.

    python -m recipes.fixed_batch [--bootstrap HOST:PORT]
"""

import sys
from pathlib import Path

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, refusal, say

SENSORS, FEATURES, COUNT = 32, 10, 1000
# The sensors speak in turn, so that the first 8 have 32 readings in the end and the others 31.
READINGS = np.random.default_rng(32).normal(size=(COUNT, FEATURES)).astype(np.float32)


def sensor(number: int) -> str:
    return f"sensor-{number % SENSORS:02d}"


# As found on the web: Keras 3 refuses both.


def model_from_the_web() -> keras.Model:
    model = keras.Sequential()
    model.add(keras.layers.LSTM(32, batch_input_shape=(32, 1, 10), stateful=True))
    model.add(keras.layers.Dense(1))
    return model


def reset_from_the_web(model: keras.Model) -> None:
    model.reset_states()


# The same for Keras 3. Row i of a stateful batch goes on from row i of the batch before: a row is a sensor, not the next reading.


def stateful_model() -> keras.Model:
    keras.utils.set_random_seed(32)
    layers = [keras.Input(batch_shape=(SENSORS, 1, FEATURES)), keras.layers.LSTM(32, stateful=True), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def batch_by_batch(model: keras.Model) -> np.ndarray:
    """The predictions of all readings, in their order. The last batch is short, and Keras wants it full."""
    model.layers[0].reset_states()
    padding = np.zeros((-COUNT % SENSORS, FEATURES), np.float32)
    batches = np.concatenate([READINGS, padding]).reshape(-1, SENSORS, 1, FEATURES)
    return np.concatenate([model.predict(batch, batch_size=SENSORS, verbose=0) for batch in batches])[:COUNT]


def sensor_by_sensor(model: keras.Model) -> np.ndarray:
    """The same by one call for each sensor, on its whole sequence alone."""
    stateless = keras.Sequential([keras.Input((None, FEATURES)), keras.layers.LSTM(32, return_sequences=True), keras.layers.Dense(1)])
    stateless.set_weights(model.get_weights())
    predictions = np.zeros((COUNT, 1), np.float32)
    for number in range(SENSORS):
        predictions[number::SENSORS] = stateless.predict(READINGS[None, number::SENSORS], verbose=0)[0]
    return predictions


# With slotstream.


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("A fixed batch: 32 sensors in 32 slots")
    model = stateful_model()
    say(f"  found on the web, the model:  {refusal(model_from_the_web)}")
    say(f"  found on the web, the reset:  {refusal(lambda: reset_from_the_web(model))}")

    batched, alone = batch_by_batch(model), sensor_by_sensor(model)
    say(f"  Keras: batches of 32 and each sensor's sequence alone differ by at most {difference(batched, alone):.1e}")

    with Service(bootstrap, folder, model, {"slots": SENSORS}, partitions=4) as service:
        service.feed((sensor(number), reading) for number, reading in enumerate(READINGS))
        found = service.predictions(COUNT)
    largest = max(difference(found[sensor(number)], batched[number::SENSORS]) for number in range(SENSORS))
    outcome = Outcome("slotstream with slots: 32", COUNT, sum(map(len, found.values())), largest)
    say(str(outcome))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main([run]))
