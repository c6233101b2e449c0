"""Short independent sequences: LSTM(128) with an output at each step + Dense(1), input (1, 5, 1), five predictions a record.

    python -m recipes.short_sequences [--bootstrap HOST:PORT]
"""

import sys
from pathlib import Path

import keras
import numpy as np

from recipes.running import Outcome, Service, difference, main, refusal, say

COUNT, STEPS = 20, 5
SEQUENCES = np.random.default_rng(128).normal(size=(COUNT, STEPS, 1)).astype(np.float32)


# As found on the web: Keras 3 refuses both.


def model_from_the_web() -> keras.Model:
    model = keras.Sequential()
    model.add(keras.layers.LSTM(128, batch_input_shape=(1, 5, 1), return_sequences=True, stateful=True))
    model.add(keras.layers.Dense(1))
    return model


def reset_from_the_web(model: keras.Model) -> None:
    model.reset_states()


# The same for Keras 3.


def stateful_model() -> keras.Model:
    keras.utils.set_random_seed(128)
    lstm = keras.layers.LSTM(128, return_sequences=True, stateful=True)
    return keras.Sequential([keras.Input(batch_shape=(1, STEPS, 1)), lstm, keras.layers.Dense(1)])


def sequence_by_sequence(model: keras.Model) -> np.ndarray:
    """Each sequence alone: the state that a stateful layer keeps is reset before it."""
    predictions = []
    for sequence in SEQUENCES:
        model.layers[0].reset_states()
        predictions.append(model.predict(sequence[None], verbose=0)[0])
    return np.array(predictions)


# With slotstream. A key is still needed, and sensors may share one: each record stands for itself.


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("Short independent sequences")
    model = stateful_model()
    say(f"  found on the web, the model:  {refusal(model_from_the_web)}")
    say(f"  found on the web, the reset:  {refusal(lambda: reset_from_the_web(model))}")

    expected = sequence_by_sequence(model)
    say(f"  Keras, the first sequence alone:  {expected[0, :, 0]}")

    with Service(bootstrap, folder, model, {"slots": 1, "reset": {"each_record": True}}) as service:
        service.feed(("line-1", sequence) for sequence in SEQUENCES)
        found = service.predictions(COUNT)["line-1"]
    outcome = Outcome("slotstream with reset.each_record", COUNT, len(found), difference(found, expected))
    say(str(outcome))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main([run]))
