"""One sensor, one step at a time: LSTM(64) + Dense(1), input (1, 1, 1).

    python -m recipes.one_sensor [--bootstrap HOST:PORT]
"""

import sys
from pathlib import Path

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, refusal, say

READINGS = np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32).reshape(5, 1)


# As found on the web: Keras 3 refuses both.


def model_from_the_web() -> keras.Model:
    model = keras.Sequential()
    model.add(keras.layers.LSTM(64, batch_input_shape=(1, 1, 1), stateful=True))
    model.add(keras.layers.Dense(1))
    return model


def reset_from_the_web(model: keras.Model) -> None:
    model.reset_states()


# The same for Keras 3.


def stateful_model() -> keras.Model:
    keras.utils.set_random_seed(64)
    return keras.Sequential([keras.Input(batch_shape=(1, 1, 1)), keras.layers.LSTM(64, stateful=True), keras.layers.Dense(1)])


def step_by_step(model: keras.Model, *, reset_each: bool) -> np.ndarray:
    lstm = model.layers[0]
    lstm.reset_states()
    predictions = []
    for reading in READINGS:
        predictions.append(model.predict(reading.reshape(1, 1, 1), verbose=0)[0])
        if reset_each:
            lstm.reset_states()  # often shown inside the loop: it removes the memory
    return np.array(predictions)


def whole_sequence(model: keras.Model) -> np.ndarray:
    """One call on the sequence of five, by a model of the same weights that is not stateful."""
    stateless = keras.Sequential([keras.Input((None, 1)), keras.layers.LSTM(64), keras.layers.Dense(1)])
    stateless.set_weights(model.get_weights())
    return stateless.predict(READINGS[None], verbose=0)[0]


# With slotstream.


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("One sensor, one step at a time")
    model = stateful_model()
    say(f"  found on the web, the model:  {refusal(model_from_the_web)}")
    say(f"  found on the web, the reset:  {refusal(lambda: reset_from_the_web(model))}")

    carried, independent, whole = step_by_step(model, reset_each=False), step_by_step(model, reset_each=True), whole_sequence(model)
    say(f"  Keras, five steps, the state goes on:      {carried[:, 0]}")
    say(f"  Keras, one call on the sequence of five:   {whole}, which is the last of these to {difference(carried[-1], whole):.1e}")
    say(f"  Keras, five steps, reset after each:       {independent[:, 0]}")

    outcomes = []
    for what, settings, expected in [
        ("slotstream", {"slots": 1}, carried),
        ("slotstream with reset.each_record", {"slots": 1, "reset": {"each_record": True}}, independent),
    ]:
        with Service(bootstrap, folder, model, settings) as service:
            service.feed(("pump-7", reading) for reading in READINGS)
            found = service.predictions(len(READINGS))["pump-7"]
        outcomes.append(Outcome(what, len(READINGS), len(found), difference(found, expected)))
        say(str(outcomes[-1]))
    return outcomes


if __name__ == "__main__":
    sys.exit(main([run]))
