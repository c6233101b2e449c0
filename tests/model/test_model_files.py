"""Files that cannot be served: each refusal names what was found. And what a file's digest depends on."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from processor.errors import ModelRefused
from processor.model.file import admission
from processor.model.load import describe, describe_file, load

L = keras.layers
F = 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)


def sequential(*layers: Any, steps: int | None = None) -> keras.Model:
    return keras.Sequential([keras.Input((steps, F)), *layers])


def saved(model: keras.Model, tmp_path: Path, name: str = "model.keras") -> Path:
    path = tmp_path / name
    model.save(path)
    return path


@keras.saving.register_keras_serializable()
class Registered(L.Layer):
    def call(self, x: Any) -> Any:
        return x


class Unregistered(L.Layer):
    def call(self, x: Any) -> Any:
        return x


class OwnCell(L.SimpleRNNCell):
    pass


def twice(x: Any) -> Any:
    return x * 2


def several_inputs() -> keras.Model:
    a, b = keras.Input((None, F), name="left"), keras.Input((None, F), name="right")
    return keras.Model([a, b], L.LSTM(2)(L.Concatenate()([a, b])))


def several_outputs() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, [L.LSTM(2, name="first")(x), L.GRU(2, name="second")(x)])


def of_input(shape: tuple[int | None, ...], *layers: Any, dtype: str = "float32") -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def random_at_inference() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.LSTM(2)(L.Dropout(0.5, name="noise")(x, training=True)))


def quantized() -> keras.Model:
    model = sequential(L.LSTM(2), L.Dense(1))
    model.layers[-1].quantize("int8")
    return model


class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = L.LSTM(2)

    def call(self, x: Any) -> Any:
        return self.inner(x)


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 4, F), np.float32))
    return model


NOT_SERVED: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "no time axis": (lambda: of_input((F,), L.Dense(1)), r"\(None, 3\) has no time axis"),
    "features unknown": (lambda: of_input((4, None), L.GlobalAveragePooling1D(data_format="channels_first")), r"\(None, 4, None\)"),
    "quantized": (quantized, "computes in QuantizedDTypePolicy.*before it was quantized"),
    "a registered layer of one's own": (
        lambda: sequential(Registered(name="mine"), L.LSTM(2)),
        r"mine is of a class of your own \(Registered\)",
    ),
    "a layer of one's own": (lambda: sequential(Unregistered(name="mine"), L.LSTM(2)), r"mine is of a class of your own \(Unregistered\)"),
    "a cell of one's own": (lambda: sequential(L.RNN(OwnCell(2, name="cell"))), r"cell is of a class of your own \(OwnCell\)"),
    "a function of one's own": (lambda: sequential(L.LSTM(2, name="r", activation=twice)), r"r uses a function of your own \(twice\)"),
    "lambda": (lambda: sequential(L.LSTM(2), L.Lambda(lambda x: x, name="code")), r"code runs code .*\(Lambda\)"),
    "a model of one's own": (subclassed, r"the model is of a class of your own \(Subclassed\)"),
    "text": (
        lambda: of_input((1,), L.TextVectorization(vocabulary=["a"], name="words"), dtype="string"),
        r"layer words works on text.*\(TextVectorization\)",
    ),
    "random at inference": (random_at_inference, "noise is called with training=True"),
    "mixes steps, steps free": (
        lambda: sequential(L.Conv1D(2, 2, name="edges"), L.LSTM(2)),
        r"edges \(Conv1D\).*leaves the number of steps free",
    ),
}


@pytest.mark.parametrize("name", NOT_SERVED)
def test_a_model_that_cannot_be_served_is_refused_by_what_was_found(name: str, tmp_path: Path) -> None:
    build, found = NOT_SERVED[name]
    with pytest.raises(ModelRefused, match=found):
        load(saved(build(), tmp_path))


@pytest.mark.parametrize(
    "name", ["a registered layer of one's own", "a layer of one's own", "a function of one's own", "lambda"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_h5_file_is_refused_as_a_keras_file_is(name: str, tmp_path: Path) -> None:
    build, found = NOT_SERVED[name]
    with pytest.raises(ModelRefused, match=found):
        load(saved(build(), tmp_path, "model.h5"))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_an_input_that_is_not_dense_is_refused(kind: str, tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(f'"{kind}": false'.encode(), f'"{kind}": true'.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelRefused, match=f"the input .* is {kind}"):
        load(path)


def encoder_decoder() -> keras.Model:
    x = keras.Input((None, F))
    _, h, c = L.LSTM(4, return_state=True)(x)
    return keras.Model(x, L.LSTM(4, name="decoder")(x, initial_state=[h, c]))


def context_added() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.Add(name="join")([L.LSTM(F)(x), x]))


def first_step() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.LSTM(4, return_sequences=True)(x)[:, 0])


def every_second_step() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.LSTM(4)(x[:, ::2]))


def time_sum() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, keras.ops.sum(L.LSTM(4, return_sequences=True)(x), axis=1))


NOT_CARRIED: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "bidirectional": (lambda: sequential(L.Bidirectional(L.LSTM(2), name="both")), r"both \(Bidirectional\) mixes time steps"),
    "backwards": (lambda: sequential(L.GRU(2, go_backwards=True, name="back")), r"back \(GRU\) reads backwards"),
    "initial state": (encoder_decoder, r"decoder \(LSTM\) takes its initial state from another layer"),
    "repeat vector": (lambda: sequential(L.LSTM(2), L.RepeatVector(3, name="again"), L.LSTM(2), steps=4), r"again \(RepeatVector\)"),
    "masking": (lambda: sequential(L.Masking(name="gaps"), L.LSTM(2)), r"gaps \(Masking\)"),
    "flatten": (lambda: sequential(L.Flatten(name="flat"), L.Dense(1), steps=4), r"flat \(Flatten\) mixes"),
    "reshape": (lambda: sequential(L.Reshape((-1, 1), name="cut"), L.LSTM(2)), r"cut \(Reshape\) moves numbers between steps"),
    "pooling": (lambda: sequential(L.LSTM(2, return_sequences=True), L.GlobalMaxPooling1D(name="top")), r"top \(GlobalMaxPooling1D\)"),
    "normalised over steps": (
        lambda: sequential(L.BatchNormalization(axis=1, name="norm"), L.LSTM(2), steps=4),
        r"norm \(BatchN.*along axis 1",
    ),
    "weights a step": (lambda: sequential(L.PReLU(name="steep"), L.LSTM(2), steps=4), r"steep \(PReLU\) has weights of its own"),
    "convolutional": (
        lambda: sequential(L.Reshape((4, F, 1)), L.ConvLSTM1D(2, 2, name="film"), L.Flatten(), steps=4),
        r"film \(ConvLSTM1D\)",
    ),
    "sequence and its end": (context_added, r"join \(Add\) joins a sequence with the end of a sequence"),
    "first step": (first_step, r"takes step 0 of a sequence"),
    "every second step": (every_second_step, r"takes step slice"),
    "sum over steps": (time_sum, r"\(Sum\) mixes time steps"),
}


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_a_layer_that_keeps_a_model_from_being_stepped_is_named(name: str, tmp_path: Path) -> None:
    build, found = NOT_CARRIED[name]
    with pytest.raises(ModelRefused, match=found):
        load(saved(build(), tmp_path), mode="carried")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"mode": "stepwise"}, "model.mode is 'stepwise'"),
        ({"output": "first"}, "model.output is 'first'"),
        ({"window": 0}, "model.window is 0"),
        ({"window": 5}, "model.window is 5, the file fixes 4 steps"),
        ({"window": 4, "mode": "carried"}, "model.window is 4 with model.mode carried"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], found: str, tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2, return_sequences=True), steps=4), tmp_path)
    with pytest.raises(ModelRefused, match=found):
        load(path, **options)


def test_a_window_that_the_model_rejects_is_refused(tmp_path: Path) -> None:
    path = saved(sequential(L.Conv1D(2, 5), L.LSTM(2)), tmp_path)
    with pytest.raises(ModelRefused, match="cannot be run on 3 steps"):
        load(path, window=3)


def test_windowed_without_a_number_of_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"leaves the number of steps free.*set model\.window"):
        load(saved(sequential(L.LSTM(2)), tmp_path), mode="windowed")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = sequential(L.LSTM(2), L.Dense(1, name="last"))
    model.get_layer("last").bias.assign([np.nan])
    with pytest.raises(ModelRefused, match=r"last/bias hold NaN"):
        load(saved(model, tmp_path))


# --- bytes that are no model


def bytes_of_a_model(tmp_path: Path) -> bytes:
    return saved(sequential(L.LSTM(2)), tmp_path, "whole.keras").read_bytes()


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "cut.keras"
    path.write_bytes(bytes_of_a_model(tmp_path)[:-500])
    return path


def altered(tmp_path: Path) -> Path:
    content, path = bytearray(bytes_of_a_model(tmp_path)), tmp_path / "altered.keras"
    middle = len(content) // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    return path


def truncated_h5(tmp_path: Path) -> Path:
    whole, path = tmp_path / "whole.h5", tmp_path / "cut.h5"
    sequential(L.LSTM(2)).save(whole)
    path.write_bytes(whole.read_bytes()[:4000])
    return path


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def folder(tmp_path: Path) -> Path:
    return tmp_path


def saved_model(tmp_path: Path) -> Path:
    (tmp_path / "saved_model.pb").touch()
    return tmp_path


def unpacked(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    with zipfile.ZipFile(saved(sequential(L.LSTM(2)), tmp_path)) as archive:
        archive.extractall(folder)
    return folder


def weights_only(tmp_path: Path) -> Path:
    path = tmp_path / "model.weights.h5"
    sequential(L.LSTM(2)).save_weights(path)
    return path


def h5_of(version: str | None) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        path = saved(sequential(L.LSTM(2)), tmp_path, "old.h5")
        with h5py.File(path, "r+") as file:
            del file.attrs["keras_version"]
            if version is not None:
                file.attrs["keras_version"] = version
        return path

    return write


def zip_of(**members: str) -> Callable[[Path], Path]:
    def write(tmp_path: Path) -> Path:
        path = tmp_path / "zip.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(f"{name}.json", text)
        return path

    return write


NO_MODEL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda tmp_path: tmp_path / "none.keras", "none.keras cannot be read: No such file"),
    "directory": (folder, "is a directory"),
    "saved model": (saved_model, "is a TensorFlow SavedModel folder"),
    "empty": (written("empty.keras", b""), "empty.keras is empty"),
    "text": (written("text.keras", b"hello, world"), "not a Keras file: it begins with b'hello, w'"),
    "pickle": (written("model.pkl", pickle.dumps({"weights": [1]})), "is a Python pickle"),
    "pickle by its name": (written("model.joblib", b"\x00\x01"), "is a Python pickle"),
    "tflite": (written("model.tflite", b"\x1c\0\0\0TFL3"), "is a TensorFlow Lite model.*go back to the Keras model"),
    "onnx": (written("model.onnx", b"\x08\x08\x12\x07pytorch"), "is an ONNX model"),
    "graph": (written("frozen.pb", b"\x0a\x10"), "is a TensorFlow graph"),
    "pytorch": (written("model.pth", b"PK\x03\x04" + bytes(40)), "is a PyTorch file.*build the same layers in Keras"),
    "json": (written("model.json", b'{"class_name": "Sequential"}'), "is JSON: an architecture at most"),
    "json under the name of a model": (written("model.keras", b'{"class_name": "Sequential"}'), "is JSON: an architecture at most"),
    "safetensors": (written("model.safetensors", bytes(16)), "is a set of weights"),
    "checkpoint": (written("model.index", b"\0\0"), "is part of a TensorFlow checkpoint"),
    "pointer": (written("model.keras", b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer.*git lfs pull"),
    "web page": (written("model.keras", b"<!doctype html><html>"), "is a web page"),
    "gzip": (written("model.keras", b"\x1f\x8b\x08\0"), "compressed by gzip"),
    "unpacked": (unpacked, r"is a \.keras file that was unpacked.*zip -r"),
    "truncated": (truncated, "cut.keras is damaged"),
    "altered": (altered, "altered.keras is damaged in its"),
    "truncated h5": (truncated_h5, "cut.h5 is damaged"),
    "weights only": (weights_only, "holds weights only"),
    "keras 2": (h5_of("2.15.0"), r"was saved by Keras 2\.15\.0\..*slotstream model convert \S+old\.h5 \S+old\.keras"),
    "keras 1": (h5_of(None), r"was saved by Keras 1\..*slotstream model convert"),
    "keras 2 in a keras file": (
        zip_of(config="{}", metadata='{"keras_version": "2.13.1"}'),
        r"was saved by Keras 2\.13\.1\..*slotstream model convert \S+zip\.keras \S+zip-3\.keras",
    ),
    "another zip": (zip_of(other="{}"), "without a Keras model in it"),
    "broken config": (zip_of(config="{"), "is damaged"),
    "a config of another kind": (zip_of(config='{"class_name": 1, "config": {"dtype": {}}}', metadata="{}"), "was saved by Keras 1"),
    "config without weights": (zip_of(config="{}", metadata='{"keras_version": "3.0.0"}'), "holds an architecture without weights"),
}


@pytest.mark.parametrize("name", NO_MODEL)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_that_are_no_model_are_refused(name: str, tmp_path: Path) -> None:
    make, found = NO_MODEL[name]
    with pytest.raises(ModelRefused, match=found):
        load(make(tmp_path))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path)
    monkeypatch.setattr(admission, "BYTES_MAX", 1000)
    with pytest.raises(ModelRefused, match=r"has [\d,]+ bytes. Expected: at most 1,000"):
        load(path)


# --- what is said of a file


def test_describe_names_layers_states_and_mode(tmp_path: Path) -> None:
    model = load(saved(sequential(L.LSTM(4, name="memory"), L.Dense(2, name="head")), tmp_path))
    said = describe(model)
    assert json.loads(json.dumps(said)) == said
    assert {key: said[key] for key in said if key not in ("why", "fingerprint", "layers")} == {
        "servable": True, "mode": "carried", "features": F, "outputs": 2, "per_step": False, "output_steps": None, "window": None,
        "named_outputs": None, "inputs": None,
        "trained_window": None, "past_window": None, "state_bytes": 32,
        "memory_mb": None, "tried": "sequences of 8 of zeros and of random numbers give finite outputs",
    }  # fmt: skip
    assert said["fingerprint"] == model.digest
    assert said["layers"] == [
        {"name": "memory", "type": "LSTM", "output_shape": [None, 4], "state_width": 8},
        {"name": "head", "type": "Dense", "output_shape": [None, 2], "state_width": 0},
    ]


def test_describe_names_several_inputs(tmp_path: Path) -> None:
    said = describe(load(saved(several_inputs(), tmp_path)))
    assert said["features"] == 2 * F
    inputs = [(given["name"], given["kind"], given["numbers"]) for given in said["inputs"]]
    assert inputs == [("left", "sequence", F), ("right", "sequence", F)]
    assert "a reading is 6 numbers: left's 3 numbers, then right's 3 numbers" in said["why"]


@pytest.mark.parametrize(("window", "features"), [(1, 12), (3, 4)])
def test_a_row_without_steps_is_served_as_its_refusal_says(window: int, features: int, tmp_path: Path) -> None:
    path = saved(of_input((12,), L.Dense(1)), tmp_path)
    with pytest.raises(ModelRefused, match=r"set model.window to the steps that the 12 numbers hold; model.window: 1 runs"):
        load(path)
    assert load(path, window=window).features == features
    with pytest.raises(ModelRefused, match=r"model.window is 5, and the input .* takes 12 numbers"):
        load(path, window=5)


def test_the_digest_of_outputs_as_a_dict_does_not_depend_on_the_layers_names(tmp_path: Path) -> None:
    def of(name: str) -> str:
        keras.utils.set_random_seed(1)
        x = keras.Input((None, F))
        model = keras.Model(x, {"a": L.LSTM(2, name=name)(x), "b": L.GRU(2)(x)})
        return load(saved(model, tmp_path)).digest

    assert of("one") == of("other")


def test_describe_names_several_outputs(tmp_path: Path) -> None:
    said = describe(load(saved(several_outputs(), tmp_path)))
    assert said["outputs"] == 4
    assert [(output["name"], output["numbers"]) for output in said["named_outputs"]] == [("first", 2), ("second", 2)]
    assert "a prediction is an object of its 2 outputs: first, second" in said["why"]


def test_describe_opens_nested_models(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((None, F)), L.GRU(4, name="inside", return_sequences=True)])
    model = load(saved(sequential(inner, L.LSTM(3, name="outside")), tmp_path))
    assert [(layer["name"], layer["state_width"]) for layer in describe(model)["layers"]] == [("inside", 4), ("outside", 6)]


def test_describe_file_says_why_a_file_is_not_servable(tmp_path: Path) -> None:
    path = saved(sequential(L.Bidirectional(L.LSTM(2), name="both")), tmp_path)
    said = describe_file(path)
    assert said["servable"] is False
    assert "both (Bidirectional)" in said["why"]
    assert describe_file(path, window=4)["servable"] is True


# --- the digest


def network(prefix: str = "", *, trainable: bool = True, units: int = 4, activation: str = "tanh", swapped: bool = False) -> keras.Model:
    keras.utils.set_random_seed(7)
    x = keras.Input((None, F), name=f"{prefix}in")
    a = L.LSTM(units, name=f"{prefix}a", activation=activation)(x)
    b = keras.Sequential([keras.Input((None, F)), L.GRU(units), L.BatchNormalization(name=f"{prefix}norm")], name=f"{prefix}b")(x)
    model = keras.Model(x, L.Dense(1, name=f"{prefix}c")(L.Subtract(name=f"{prefix}s")([b, a] if swapped else [a, b])), name=f"{prefix}m")
    model.trainable = trainable
    return model


@pytest.fixture
def digest_of(tmp_path: Path) -> Callable[..., str]:
    return lambda model, name="model.keras": load(saved(model, tmp_path, name)).digest


def test_the_digest_does_not_depend_on_names_compile_settings_or_trainable_flags(digest_of: Callable[..., str]) -> None:
    expected = digest_of(network())
    compiled = network()
    compiled.compile(optimizer="adam", loss="mse")
    assert digest_of(network("other_")) == expected
    assert digest_of(compiled) == expected
    assert digest_of(network(trainable=False)) == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_digest_is_the_same_for_both_formats(digest_of: Callable[..., str]) -> None:
    assert digest_of(network(), "model.h5") == digest_of(network())


def test_the_digest_depends_on_weights_and_architecture(digest_of: Callable[..., str]) -> None:
    changed = network()
    changed.layers[-1].bias.assign([1e-7])
    digests = [digest_of(model) for model in (network(), changed, network(units=5), network(activation="relu"), network(swapped=True))]
    assert len(set(digests)) == len(digests)
