"""What is said of a state that is carried past the steps a model was trained on: figures that a second way of computing them gives too."""

from pathlib import Path

import keras
import numpy as np
import pytest

from processor.model import advice
from processor.model.advice import past_window
from processor.model.load import ServableModel, describe, load

L = keras.layers
F = 2


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)


def carried(tmp_path: Path, *layers: object, steps: int | None) -> ServableModel:
    keras.Sequential([keras.Input((steps, F)), *layers]).save(tmp_path / "model.keras")
    return load(tmp_path / "model.keras", mode="carried")


def test_the_deviation_is_that_of_keras_on_the_whole_sequence_from_keras_on_its_last_readings(tmp_path: Path) -> None:
    window = 5
    model = carried(tmp_path, L.LSTM(8), L.Dense(3), steps=window)
    found = past_window(model)
    assert found is not None
    assert (found.window, found.steps) == (window, 21)
    free = keras.Sequential([keras.Input((None, F)), L.LSTM(8), L.Dense(3)])
    free.set_weights(model.keras_model.get_weights())
    x = advice._readings(model, found.steps).swapaxes(0, 1)
    ends = range(window + 1, found.steps + 1)
    whole, last = (np.stack([free(x[:, begin(t) : t]) for t in ends]) for begin in (lambda t: 0, lambda t: t - window))
    expected = 100 * np.sqrt(np.mean((whole - last) ** 2)) / last.std(axis=(0, 1)).mean()
    assert found.deviation_percent == pytest.approx(expected, rel=1e-3)
    assert found.deviation_percent > 10


def test_the_text_names_the_window_the_figure_and_the_two_ways_on(tmp_path: Path) -> None:
    model = carried(tmp_path, L.LSTM(8, activation="relu"), L.Dense(1), steps=4)
    found = past_window(model)
    assert found is not None
    assert "\n" not in found.text
    for words in ("trained on 4 readings", "past them", "which is much", "reset.after_steps: 4", "model.mode: windowed"):
        assert words in found.text
    assert describe(model)["past_window"] == found.text


def test_a_long_window_of_tanh_makes_little_difference(tmp_path: Path) -> None:
    model = carried(tmp_path, L.GRU(16), L.Dense(1), steps=30)
    found = past_window(model)
    assert found is not None
    assert found.deviation_percent < 2
    assert "which is little" in found.text


def test_a_state_that_grows_without_bound_is_said_to(tmp_path: Path) -> None:
    loud = keras.initializers.Constant(1e3)
    model = carried(tmp_path, L.SimpleRNN(4, activation="relu", recurrent_initializer=loud), L.Dense(1), steps=3)
    found = past_window(model)
    assert found is not None
    assert found.deviation_percent == float("inf")
    assert "its predictions grow without bound; reset.after_steps: 3 begins" in found.text


def test_made_up_readings_have_the_scale_that_the_model_was_trained_on(tmp_path: Path) -> None:
    model = carried(tmp_path, L.Normalization(mean=[100.0, -50.0], variance=[4.0, 0.25]), L.LSTM(4), steps=6)
    x = advice._readings(model, 400)
    np.testing.assert_allclose(x.mean(axis=(0, 1)), [100, -50], atol=0.5)
    np.testing.assert_allclose(x.std(axis=(0, 1)), [2, 0.5], rtol=0.15)


@pytest.mark.parametrize("steps", [None, 6])
def test_nothing_is_said_where_nothing_is_carried_past_a_window(steps: int | None, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((steps, F)), L.LSTM(4)])
    model.save(tmp_path / "model.keras")
    assert past_window(load(tmp_path / "model.keras")) is None
