"""Inputs and outputs in the forms that people's files have: a step is what Keras gives on the whole sequence. Nothing is compiled."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import few

from processor.model.load import load
from processor.verify.keras_judge import keras_last

L = keras.layers
F = 3


def inputs(*shapes: tuple[int | None, ...]) -> list:
    return [keras.Input(shape) for shape in shapes]


def static_initial_state() -> keras.Model:
    x, s = inputs((6, F), (4,))
    return keras.Model([x, s], L.Dense(1)(L.LSTM(8)(x, initial_state=[L.Dense(8)(s), L.Dense(8)(s)])))


def static_first() -> keras.Model:
    s, x = inputs((4,), (None, F))
    return keras.Model([s, x], L.Dense(2)(L.Concatenate()([L.Dense(3, activation="relu")(s), L.LSTM(5)(x)])))


def dict_inputs() -> keras.Model:
    b, a = keras.Input((5, 2), name="b"), keras.Input((5, F), name="a")
    return keras.Model({"b": b, "a": a}, L.Dense(1)(L.Concatenate()([L.LSTM(4)(b), L.GRU(4)(a)])))


def two_windows() -> keras.Model:
    a, b = inputs((5, 2), (9, F))
    return keras.Model([a, b], L.Dense(1)(L.Concatenate()([L.LSTM(4)(a), L.GRU(4)(b)])))


def nested_inputs() -> keras.Model:
    a, s, inner_a, inner_s = inputs((5, 2), (F,), (5, 2), (F,))
    inner = keras.Model([inner_a, inner_s], L.Concatenate()([L.LSTM(4)(inner_a), L.Dense(2)(inner_s)]))
    return keras.Model([a, s], L.Dense(1)(inner([a, s])))


def nested_embedding() -> keras.Model:
    a, s = keras.Input((5, 2)), keras.Input((1,), dtype="int32")
    embedded = keras.Sequential([keras.Input((1,), dtype="int32"), L.Embedding(6, 3), L.Flatten()])
    return keras.Model([a, s], L.Dense(1)(L.Concatenate()([L.LSTM(4)(a), embedded(s)])))


def distributed_model() -> keras.Model:
    layers = [L.Conv2D(2, 2, activation="relu"), L.BatchNormalization(), L.GlobalAveragePooling2D()]
    frame = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    return keras.Sequential([keras.Input((5, 4, 4, 1)), L.TimeDistributed(frame), L.GRU(4), L.Dense(1)])


def expanded_row() -> keras.Model:
    (x,) = inputs((8,))
    return keras.Model(x, L.Dense(1)(L.LSTM(4)(keras.ops.expand_dims(x, -1))))


def stacked_states() -> keras.Model:
    x, h1, c1, h2 = inputs((None, F), (4,), (4,), (5,))
    y, *first = L.LSTM(4, return_sequences=True, return_state=True)(x, initial_state=[h1, c1])
    z, second = L.GRU(5, return_sequences=True, return_state=True)(y, initial_state=h2)
    return keras.Model([x, h1, c1, h2], [L.Dense(2)(z), *first, second])


def states_in_a_list() -> keras.Model:
    x, h, c = inputs((1, F), (4,), (4,))
    y, *states = L.LSTM(4, return_sequences=True, return_state=True)(x, initial_state=[h, c])
    return keras.Model([x, [h, c]], [L.Dense(2)(y), states])


def one_layer_twice() -> keras.Model:
    (x,) = inputs((None, F))
    dense = L.Dense(2, name="dense")
    return keras.Model(x, [dense(L.LSTM(4)(x)), dense(L.GRU(4)(x))])


def the_input_again() -> keras.Model:
    (x,) = inputs((None, F))
    return keras.Model(x, [L.Dense(1)(L.LSTM(4)(x)), x])


KINDS: dict[str, tuple[Callable[[], keras.Model], str, int]] = {
    "static values as the state to begin with": (static_initial_state, "windowed", 7),
    "static values first": (static_first, "carried", 7),
    "inputs as a dict": (dict_inputs, "windowed", 5),
    "windows of two lengths": (two_windows, "windowed", 5),
    "a model within of two inputs": (nested_inputs, "windowed", 5),
    "an Embedding in a model within": (nested_embedding, "windowed", 3),
    "categories alone, zeros masked": (
        lambda: keras.Sequential([keras.Input((7,)), L.Embedding(20, 4, mask_zero=True), L.LSTM(5), L.Dense(3)]), "windowed", 1
    ),
    "TimeDistributed of a model": (distributed_model, "windowed", 16),
    "frames, steps free": (
        lambda: keras.Sequential([
            keras.Input((None, 4, 4, 1)), L.TimeDistributed(L.Conv2D(2, 2)), L.TimeDistributed(L.Flatten()), L.LSTM(4), L.Dense(1)
        ]), "carried", 16
    ),
    "ConvLSTM1D": (
        lambda: keras.Sequential([keras.Input((4, 6, 2)), L.ConvLSTM1D(3, 2, padding="same"), L.Flatten(), L.Dense(1)]), "windowed", 12
    ),
    "ConvLSTM to the end": (
        lambda: keras.Sequential([
            keras.Input((4, 3, 3, 2)), L.ConvLSTM2D(2, 2, padding="same", return_sequences=True), L.Conv3D(1, (2, 2, 2), padding="same")
        ]), "windowed", 18
    ),
    "depthwise and separable": (
        lambda: keras.Sequential([
            keras.Input((6, 5, 2)), L.DepthwiseConv2D(2, padding="same"), L.SeparableConv2D(3, 2, strides=2), L.Flatten(), L.Dense(1)
        ]), "windowed", 10
    ),
    "a row that is expanded": (expanded_row, "windowed", 1),
    "states of two layers": (stacked_states, "carried", F),
    "states in a list": (states_in_a_list, "carried", F),
    "one layer that gives two outputs": (one_layer_twice, "carried", F),
    "the input among the outputs": (the_input_again, "carried", F),
    "whole numbers": (
        lambda: keras.Sequential([keras.Input((None, F), dtype="int32"), L.Rescaling(0.1), L.LSTM(4), L.Dense(1)]), "carried", F
    ),
    "float64 on windows": (
        lambda: keras.Sequential([keras.Input((5, F), dtype="float64"), L.Conv1D(4, 2, dtype="float64"), L.GRU(3, dtype="float64")]),
        "windowed", F
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", few(KINDS, "inputs as a dict", "static values first", "states in a list", "ConvLSTM1D", long=KINDS))
def test_a_step_is_what_keras_gives_on_the_whole_sequence(name: str, tmp_path: Path) -> None:
    build, mode, features = KINDS[name]
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    path = tmp_path / "model.keras"
    build().save(path)
    model = load(path)
    assert (model.mode, model.features) == (mode, features)
    x = model.inputs.plausible(np.random.default_rng(0).normal(size=(12, features)))
    for given in model.inputs.each:
        if given.kind == "static":
            x[:, given.first : given.last] = x[0, given.first : given.last]
    states = [tf.zeros((1, width)) for width in model.widths]
    for reading in x:
        y, states = model.step(tf.constant(reading[None, None]), states)
    assert y.dtype == tf.float32
    np.testing.assert_allclose(y[0], keras_last(model, x), atol=1e-5, rtol=0)


def test_outputs_of_one_layer_have_names_apart(tmp_path: Path) -> None:
    one_layer_twice().save(tmp_path / "model.keras")
    assert [output.name for output in load(tmp_path / "model.keras").named_outputs] == ["dense", "dense_1"]


def test_a_state_that_is_not_given_back_is_a_value_of_the_machine(tmp_path: Path) -> None:
    x, h, c = inputs((5, F), (4,), (4,))
    keras.Model([x, h, c], L.Dense(1)(L.LSTM(4)(x, initial_state=[h, c]))).save(tmp_path / "model.keras")
    model = load(tmp_path / "model.keras")
    assert (model.mode, model.features) == ("windowed", F + 8)
    assert [given.kind for given in model.inputs.each] == ["sequence", "static", "static"]


@pytest.mark.parametrize("key", [2, slice(2, 3), -1])
def test_a_feature_that_is_cut_out_for_an_embedding_is_a_category(key: object, tmp_path: Path) -> None:
    (x,) = inputs((6, F))
    embedded = L.Embedding(5, 2)(x[:, :, key])
    embedded = embedded if isinstance(key, int) else L.Reshape((6, 2))(embedded)
    keras.Model(x, L.Dense(1)(L.LSTM(4)(L.Concatenate()([x[..., :2], embedded])))).save(tmp_path / "model.keras")
    assert load(tmp_path / "model.keras").inputs.categories == (None, None, 5)
