"""model.code: layers of a user's own are served as Keras runs them, stepped where numbers show that they keep steps apart; nothing else
is run, and nothing because a model file says so."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from processor.app.fit import fingerprint_of, load_model
from processor.cli import main
from processor.errors import ModelRefused
from processor.model.file.own_code import CodeFile, run
from processor.model.load import load
from processor.model.rungs import REFERENCE
from processor.model.tiles import Tiles
from processor.settings import load_settings

L = keras.layers
F = 3
SOURCE = """
from os import system
from pathlib import Path

import keras
from keras import ops

Path(__file__).with_suffix(".ran").touch()


class Scaled(keras.layers.Layer):
    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


@keras.saving.register_keras_serializable("mine")
class Attend(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 1))

    def call(self, x):
        return ops.sum(x * ops.softmax(ops.matmul(x, self.w), axis=1), axis=1)


class Slightly(keras.layers.Layer):
    def call(self, x):
        return x + 1e-6 * ops.mean(x, axis=1, keepdims=True)


class Place(keras.layers.Layer):
    def call(self, x):
        return x + ops.expand_dims(ops.cast(ops.arange(ops.shape(x)[1]), "float32"), -1)


class Last(keras.layers.Layer):
    def call(self, x):
        return x[:, -1]


class Gate(keras.layers.Layer):
    def call(self, a, b):
        return a * ops.sigmoid(b)


@keras.saving.register_keras_serializable("mine")
class Cell(keras.layers.Layer):
    def __init__(self, units, begin=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.begin = begin

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))
        self.recurrent = self.add_weight(shape=(self.units, self.units))

    def call(self, x, states):
        h = ops.tanh(ops.matmul(x, self.kernel) + ops.matmul(states[0], self.recurrent))
        return h, [h]

    def get_initial_state(self, batch_size=None):
        return [ops.full((batch_size, self.units), self.begin)]

    def get_config(self):
        return {**super().get_config(), "units": self.units, "begin": self.begin}


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memory, self.head = keras.layers.LSTM(4), keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.head(self.memory(x))


class Opaque(Net):
    def call(self, x, training=False):
        return super().call(x) + ops.cast(0 * len(self.weights) + (x.shape[0] is None), "float32") * 0


class Noise(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(ops.shape(x))


class Dropout(keras.layers.Layer):
    def call(self, x):
        return x * 0.5


def swish2(x):
    return x * ops.sigmoid(2 * x)


def over_steps(x):
    return ops.softmax(x, axis=1)


def last_step(x):
    return x[:, -1, :]
"""


@pytest.fixture
def code(tmp_path: Path) -> Iterator[CodeFile]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    path = tmp_path / "my_layers.py"
    path.write_text(SOURCE, encoding="utf-8")
    yield CodeFile("my_layers", path, hashlib.sha256(path.read_bytes()).hexdigest())
    forget()


def forget() -> None:
    keras.saving.get_custom_objects().clear()
    sys.modules.pop("my_layers", None)


def saved(code: CodeFile, build: Callable[[Any], keras.Model], name: str = "model.keras") -> tuple[Path, keras.Model]:
    """A file as it leaves the program that trains it, and the model; of the program itself nothing is left here."""
    model = build(lambda name: run(code).objects[name])
    model.save(code.path.parent / name)
    forget()
    code.path.with_suffix(".ran").unlink()
    return code.path.parent / name, model


def sequential(*layers: Any, steps: int | None = None) -> keras.Model:
    return keras.Sequential([keras.Input((steps, F)), *layers])


def gated(own: Any) -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.LSTM(3)(own("Gate")()(x, L.Dense(F)(x))))


def called(model: keras.Model) -> keras.Model:
    model(np.zeros((2, 6, F), np.float32))
    return model


KINDS: dict[str, tuple[Callable[[Any], keras.Model], str, str]] = {
    "a pointwise layer": (lambda own: sequential(own("Scaled")(3.0), L.LSTM(4)), "carried", "carried"),
    "a layer of two inputs": (gated, "carried", "carried"),
    "the last step": (lambda own: sequential(L.LSTM(4, return_sequences=True), own("Last")(), L.Dense(2)), "carried", "carried"),
    "a Lambda of a named function": (
        lambda own: sequential(L.LSTM(4, return_sequences=True), L.Lambda(own("last_step"))), "carried", "carried"
    ),
    "a cell": (lambda own: sequential(L.RNN(own("Cell")(5)), L.Dense(1)), "carried", "carried"),
    "a cell among cells": (lambda own: sequential(L.RNN(L.StackedRNNCells([own("Cell")(5), L.LSTMCell(3)]))), "carried", "carried"),
    "an activation": (lambda own: sequential(L.LSTM(4, activation=own("swish2")), L.Dense(2, own("swish2"))), "carried", "carried"),
    "Keras's name for another layer": (lambda own: sequential(own("Dropout")(), L.LSTM(4)), "carried", "carried"),
    "a model": (lambda own: called(own("Net")()), "windowed", "carried"),
    "a model that is no graph": (lambda own: called(own("Opaque")()), "windowed", "carried"),
    "attention": (lambda own: sequential(L.LSTM(4, return_sequences=True), own("Attend")(), steps=6), "windowed", "mixes time steps"),
    "a little of each step": (lambda own: sequential(own("Slightly")(), L.LSTM(4), steps=6), "windowed", "mixes time steps"),
    "the number of a step": (lambda own: sequential(own("Place")(), L.LSTM(4), steps=6), "windowed", "mixes time steps, or counts"),
    "an activation over the steps": (lambda own: sequential(L.Dense(4, own("over_steps")), L.LSTM(4), steps=6), "windowed", "mixes"),
    "a cell that begins at one": (
        lambda own: sequential(L.RNN(own("Cell")(5, begin=1.0)), steps=6), "windowed", "other numbers one step at a time"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_layers_of_ones_own_give_what_keras_gives(name: str, code: CodeFile) -> None:
    build, mode, forced = KINDS[name]
    path, original = saved(code, build)
    model = load(path, code=code)
    assert model.mode == mode
    assert_equal(model, original)
    if forced == "carried":
        assert_equal(load(path, mode="carried", code=code), original)
    else:
        with pytest.raises(ModelRefused, match=forced):
            load(path, mode="carried", code=code)


def assert_equal(model: Any, original: keras.Model) -> None:
    x = np.random.default_rng(0).normal(size=(model.window or 9, F)).astype(np.float32)
    states = [tf.zeros((1, width)) for width in model.widths]
    for reading in x:
        y, states = model.step(tf.constant(reading[None, None]), states)
    np.testing.assert_allclose(y[0], original(x[None])[0], atol=1e-6, rtol=0)


def test_an_h5_file_names_no_modules_and_is_served_all_the_same(code: CodeFile) -> None:
    path, original = saved(code, lambda own: sequential(own("Scaled")(3.0), L.LSTM(4), L.Dense(2, own("swish2"))), "model.h5")
    assert_equal(load(path, code=code), original)


def test_rungs_of_code_of_ones_own_are_compiled_and_compared(code: CodeFile) -> None:
    path, _ = saved(code, lambda own: sequential(L.LSTM(4, return_sequences=True), own("Attend")(), steps=6))
    assert REFERENCE in Tiles(load(path, code=code), rows_max=8).shapes


def test_nothing_is_run_without_the_setting(code: CodeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved(code, lambda own: sequential(own("Scaled")(), L.LSTM(4)))
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(ModelRefused, match=r"scaled is of a class of your own \(Scaled\)"):
        load(path)
    assert not code.path.with_suffix(".ran").exists()
    assert "my_layers" not in sys.modules


@pytest.mark.parametrize("build", [KINDS["a pointwise layer"][0], KINDS["an activation"][0], KINDS["a model"][0]])
def test_the_refusal_names_the_settings_that_cure_it(
    build: Any, code: CodeFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = saved(code, build)
    monkeypatch.chdir(path.parent)
    with pytest.raises(ModelRefused) as refused:
        load(path)
    option = re.search(r'add (--model\.code=".*?") to the command', str(refused.value))
    assert option
    shell = subprocess.run(["sh", "-c", f"printf %s {option[1]}"], capture_output=True, text=True, check=True)
    assert main(["model", "show", str(path), shell.stdout]) == 0
    assert "servable        true" in capsys.readouterr().out


def test_a_file_of_another_digest_is_not_run(code: CodeFile) -> None:
    path, _ = saved(code, lambda own: sequential(own("Scaled")(), L.LSTM(4)))
    code.path.write_text(SOURCE + "\n", encoding="utf-8")
    with pytest.raises(ModelRefused, match=f"has the sha256 [0-9a-f]{{64}}, and model.code names {code.sha256}"):
        load(path, code=code)
    assert not code.path.with_suffix(".ran").exists()


def test_what_the_file_imports_is_not_reached_by_a_model_file(code: CodeFile) -> None:
    assert "system" not in run(code).objects
    path, _ = saved(code, lambda own: sequential(L.LSTM(2), L.Dense(1, own("swish2"), name="last")), "model.h5")
    import h5py

    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("swish2", "system")
    with pytest.raises(ModelRefused, match=r"function of your own \(system\).* does not define|activation 'system'"):
        load(path, code=code)


def test_a_class_that_the_file_does_not_define_is_named(code: CodeFile) -> None:
    path, _ = saved(code, lambda own: sequential(own("Scaled")(), L.LSTM(4)))
    other = code.path.with_name("others.py")
    other.write_text("def nothing(): ...\n")
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(ModelRefused, match=r"\(Scaled\), which .*others.py does not define.*\(nothing\)"):
        load(path, code=CodeFile("others", other, digest))


def test_a_file_that_cannot_be_run_says_why(code: CodeFile) -> None:
    code.path.write_text("import not_there\n")
    broken = CodeFile("my_layers", code.path, hashlib.sha256(code.path.read_bytes()).hexdigest())
    with pytest.raises(ModelRefused, match="cannot be run: ModuleNotFoundError: No module named 'not_there'"):
        run(broken)


def test_a_module_of_pythons_is_not_replaced(code: CodeFile) -> None:
    with pytest.raises(ModelRefused, match="names its module json, and another module has that name"):
        run(CodeFile("json", code.path, code.sha256))


def test_layers_of_chance_are_refused(code: CodeFile) -> None:
    path, _ = saved(code, lambda own: sequential(own("Noise")(), L.LSTM(4)))
    with pytest.raises(ModelRefused, match="give other numbers for the same readings"):
        load(path, code=code)


def test_the_digest_is_part_of_the_fingerprint(code: CodeFile) -> None:
    path, _ = saved(code, lambda own: sequential(own("Scaled")(), L.LSTM(4)))
    found = set()
    for source in (SOURCE, SOURCE.replace("x * self.by", "x + self.by")):
        code.path.write_text(source, encoding="utf-8")
        digest = hashlib.sha256(code.path.read_bytes()).hexdigest()
        options = [f"--model.path={path}", f"--model.code={{module: my_layers, path: {code.path}, sha256: {digest}}}"]
        settings = load_settings(None, options, {})
        found.add(fingerprint_of(settings, load_model(settings)))
    assert len(found) == 2
