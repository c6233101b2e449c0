"""Layers by any name are compiled, and are called what they are called in their file."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from processor.model.load import describe_file, load
from processor.model.names import USABLE, make_usable, usable
from processor.model.rungs import RungShape
from processor.model.tiles import _compile

L = keras.layers
ODD = ["out put 1", "Ausgang ü", "出力", "_x", "-x", "x" * 300, "a>b", "a:b", "a\\b", "a\nb", " ", "%d", "{x}", "..", "a'b\""]


def named_oddly():
    """Every odd name at a layer, and more of them at the input, the model, and the layers in layers; nested models among them."""
    x = keras.Input((4, 3), name="in put")
    inner = keras.Sequential([keras.Input((4, 3), name="in put"), L.Dense(3, name="out put 1")], name="ein Modell")
    y = L.TimeDistributed(L.Dense(3, name="é"), name="é é")(inner(x))
    y = L.Bidirectional(L.LSTM(2, return_sequences=True, name="é"), name="è")(y)
    y = L.Dense(3, name="a?b")(L.Dense(3, name="a_b")(L.Dense(3, name="a b")(y)))
    for name in ODD:
        y = L.Dense(3, name=name)(y) + 1.0
    return keras.Model(x, y, name="mein Modell")


def test_a_model_of_odd_names_is_compiled_and_shown_under_them(tmp_path):
    model = named_oddly()
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    _compile(loaded, RungShape(8, 2))
    assert {"é é", "è", "a b", "a?b", *ODD} <= {layer["name"] for layer in describe_file(tmp_path / "model.keras")["layers"]}
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    y, _ = loaded.step(tf.constant(x[:, -1:]), [tf.constant(np.concatenate([x[:, :1], x[:, :-1]], axis=1).reshape(2, -1))])
    np.testing.assert_allclose(y, np.asarray(model(x))[:, -1], atol=1e-6)


def test_names_do_not_change_what_a_model_is(tmp_path):
    digests = []
    for name in ("dense", "out put 1"):
        keras.utils.set_random_seed(1)
        x = keras.Input((4, 3))
        keras.Model(x, L.Dense(2, name=name)(x)).save(tmp_path / "model.keras")
        digests.append(load(tmp_path / "model.keras").digest)
    assert digests[0] == digests[1]


def test_no_two_layers_come_to_one_name():
    model = named_oddly()
    make_usable(model)
    names = [operation.name for operation in model.operations]
    assert len(set(names)) == len(names)
    assert all(USABLE.fullmatch(name) for name in names)
    assert {"a_b", "a_b_2", "a_b_3"} <= set(names)


@pytest.mark.parametrize("name", [*ODD, "", "/", "é" * 1000])
def test_any_text_becomes_a_name(name):
    assert USABLE.fullmatch(usable(name))
    assert USABLE.fullmatch(usable(name, {usable(name)}))
    assert usable(name, {usable(name)}) != usable(name)
