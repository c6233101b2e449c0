"""Files of Keras 1, which nothing of today writes: made here by hand as it laid them out, and computed here by its equations in NumPy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from processor.errors import ModelRefused
from processor.model.convert.convert import convert_file
from processor.model.load import load

F, STEPS, ROWS = 3, 7, 5
WITHIN = 1e-6
Array = Any
Layer = tuple[str, dict[str, Any], list[tuple[str, Array]]]
# What Keras 1.2 wrote of every recurrent layer beside what matters.
RECURRENT = {
    "trainable": True, "go_backwards": False, "stateful": False, "unroll": False, "init": "glorot_uniform", "inner_init": "orthogonal",
    "input_dim": None, "input_length": None, "consume_less": "cpu", "dropout_W": 0.1, "dropout_U": 0.2, "W_regularizer": None,
    "U_regularizer": {"l1": 0.0, "l2": 0.01, "name": "L1L2Regularizer"}, "b_regularizer": None, "return_sequences": False,
}  # fmt: skip


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def x(rng: np.random.Generator) -> Array:
    return rng.normal(size=(ROWS, STEPS, F)).astype(np.float32)


def first(layer: Layer, **shape: Any) -> Layer:
    """The layer as the first of its model."""
    kind, config, weights = layer
    return kind, {**config, "batch_input_shape": [None, STEPS, F], "input_dtype": "float32", **shape}, weights


def write(path: Path, model: dict[str, Any], layers: Sequence[Layer], *, version: str | None = "1.2.2", chunked: bool = False) -> Path:
    """A whole model as Keras 1 saved it: no backend, no word on the version before 1.2."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model).encode()
        if version:
            file.attrs["keras_version"] = version.encode()
        group = file.create_group("model_weights")
        names = [config["name"].encode() for _, config, _ in layers]
        for i, part in enumerate(np.array_split(np.array(names), 2) if chunked else [names]):
            group.attrs[f"layer_names{i}" if chunked else "layer_names"] = part
        for _, config, weights in layers:
            inner = group.create_group(config["name"])
            inner.attrs["weight_names"] = [name.encode() for name, _ in weights]
            for name, values in weights:
                inner[name] = values
    return path


def sequential(layers: Sequence[Layer]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": [{"class_name": kind, "config": config} for kind, config, _ in layers]}


def converted(path: Path, tmp_path: Path) -> tuple[Any, tuple[str, ...]]:
    new = tmp_path / "new.keras"
    changed = convert_file(path, new, force=True).changed
    return keras.saving.load_model(new, compile=False, safe_mode=True), changed


def assert_computes(tmp_path: Path, layers: Sequence[Layer], x: Array, y: Array, **options: Any) -> tuple[str, ...]:
    model, changed = converted(write(tmp_path / "old.h5", sequential(layers), layers, **options), tmp_path)
    np.testing.assert_allclose(model(x, training=False), y, atol=WITHIN, rtol=WITHIN)
    return changed


# --- Keras 1's equations


def hard_sigmoid(x: Array) -> Array:
    return np.clip(0.2 * x + 0.5, 0, 1)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def lstm(x: Array, w: dict[str, Array]) -> Array:
    """[rows, steps, units] in double precision."""
    h = c = np.zeros((len(x), w["b_i"].size))
    found = []
    for t in range(x.shape[1]):
        i, f, o = (hard_sigmoid(x[:, t] @ w[f"W_{g}"] + h @ w[f"U_{g}"] + w[f"b_{g}"]) for g in "ifo")
        c = f * c + i * np.tanh(x[:, t] @ w["W_c"] + h @ w["U_c"] + w["b_c"])
        h = o * np.tanh(c)
        found.append(h)
    return np.stack(found, axis=1)


def gru(x: Array, w: dict[str, Array]) -> Array:
    h, found = np.zeros((len(x), w["b_z"].size)), []
    for t in range(x.shape[1]):
        z, r = (hard_sigmoid(x[:, t] @ w[f"W_{g}"] + h @ w[f"U_{g}"] + w[f"b_{g}"]) for g in "zr")
        h = z * h + (1 - z) * np.tanh(x[:, t] @ w["W_h"] + (r * h) @ w["U_h"] + w["b_h"])
        found.append(h)
    return np.stack(found, axis=1)


def rnn(x: Array, w: dict[str, Array]) -> Array:
    h, found = np.zeros((len(x), w["b"].size)), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ w["W"] + h @ w["U"] + w["b"])
        found.append(h)
    return np.stack(found, axis=1)


def correlation(x: Array, w: Array) -> Array:
    """x [rows, steps, inputs], w [taps, inputs, filters]; no padding."""
    return np.stack([np.einsum("bki,kif->bf", x[:, t : t + len(w)], w) for t in range(x.shape[1] - len(w) + 1)], axis=1)


def drawn(rng: np.random.Generator, gates: Sequence[str], inputs: int, units: int) -> dict[str, Array]:
    """In the order in which Keras 1 kept them; gates "" for a layer without."""
    shapes = {"W": (inputs, units), "U": (units, units), "b": (units,)}
    return {f"{part}_{gate}".rstrip("_"): rng.normal(size=shape) * 0.8 for gate in gates for part, shape in shapes.items()}


def kept(name: str, w: dict[str, Array], suffix: str = ":0") -> list[tuple[str, Array]]:
    return [(f"{name}_{key}{suffix}", values.astype(np.float32)) for key, values in w.items()]


def as_kept(w: dict[str, Array]) -> dict[str, Array]:
    return {key: values.astype(np.float32).astype(np.float64) for key, values in w.items()}


def recurrent(kind: str, name: str, w: dict[str, Array], units: int, **options: Any) -> Layer:
    gated = {} if kind == "SimpleRNN" else {"inner_activation": "hard_sigmoid"}
    forget = {"forget_bias_init": "one"} if kind == "LSTM" else {}
    return kind, {**RECURRENT, **gated, **forget, "name": name, "output_dim": units, "activation": "tanh", **options}, kept(name, w)


def dense(name: str, w: dict[str, Array], kind: str = "Dense", **options: Any) -> Layer:
    config = {
        "name": name, "trainable": True, "output_dim": w["W"].shape[1], "init": "glorot_uniform", "activation": "linear", "bias": "b" in w,
        "input_dim": None, "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None, "W_constraint": None,
        "b_constraint": None,
    }  # fmt: skip
    return kind, {**config, **options}, kept(name, w)


def plain(kind: str, name: str, **options: Any) -> Layer:
    return kind, {"name": name, "trainable": True, **options}, []


CELLS = {"LSTM": ("icfo", lstm), "GRU": ("zrh", gru), "SimpleRNN": (("",), rnn)}


# --- what it computes


@pytest.mark.parametrize("version", ["1.2.2", "1.1.0", None])
@pytest.mark.parametrize("kind", CELLS)
def test_a_recurrent_layer_with_its_gates_apart(
    kind: str, version: str | None, rng: np.random.Generator, x: Array, tmp_path: Path
) -> None:
    gates, run = CELLS[kind]
    w, head = drawn(rng, gates, F, 5), {"W": rng.normal(size=(5, 2)), "b": rng.normal(size=2)}
    layers = [
        first(recurrent(kind, "LSTM Layer 1", w, 5)),
        plain("Dropout", "dropout_1", p=0.5),
        dense("dense_1", head),
        plain("Activation", "activation_1", activation="softmax"),
    ]
    w, head = as_kept(w), as_kept(head)
    changed = assert_computes(tmp_path, layers, x, softmax(run(x, w)[:, -1] @ head["W"] + head["b"]), version=version)
    assert any("times 1.2" in line for line in changed) == (kind != "SimpleRNN")


@pytest.mark.parametrize(("kind", "order"), [("LSTM", "ifco"), ("GRU", "zrh")])
def test_a_recurrent_layer_with_its_gates_in_one(kind: str, order: str, rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    """`consume_less="gpu"`: an LSTM's gates then had the order of Keras 2."""
    gates, run = CELLS[kind]
    w = as_kept(drawn(rng, gates, F, 5))
    fused = {part: np.concatenate([w[f"{part}_{gate}"] for gate in order], axis=-1) for part in ("W", "U", "b")}
    assert_computes(tmp_path, [first(recurrent(kind, "memory", fused, 5, consume_less="gpu"))], x, run(x, w)[:, -1])


def test_stacked_backwards_and_stepwise(rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    a, b, head = as_kept(drawn(rng, "icfo", F, 4)), as_kept(drawn(rng, "zrh", 4, 5)), as_kept({"W": rng.normal(size=(5, 2))})
    layers = [
        first(recurrent("LSTM", "lstm_1", a, 4, return_sequences=True, go_backwards=True)),
        recurrent("GRU", "gru_1", b, 5, return_sequences=True),
        dense("timedistributeddense_1", head, "TimeDistributedDense", input_length=None),
    ]
    assert_computes(tmp_path, layers, x, gru(lstm(x[:, ::-1], a), b) @ head["W"], chunked=True)


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave"])
def test_both_directions(mode: str, rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    forward, backward = as_kept(drawn(rng, "icfo", F, 4)), as_kept(drawn(rng, "icfo", F, 4))
    kind, config, _ = recurrent("LSTM", "lstm_1", forward, 4, return_sequences=True)
    weights = kept("forward_lstm_1", forward) + kept("backward_lstm_1", backward)
    layer = ("Bidirectional", {"name": "both", "merge_mode": mode, "layer": {"class_name": kind, "config": config}}, weights)
    a, b = lstm(x, forward), lstm(x[:, ::-1], backward)[:, ::-1]
    y = {"concat": np.concatenate([a, b], axis=-1), "sum": a + b, "mul": a * b, "ave": (a + b) / 2}[mode]
    assert_computes(tmp_path, [first(layer)], x, y)


@pytest.mark.parametrize("backend", ["tensorflow", "theano"])
@pytest.mark.parametrize("form", ["1.2", "1.0"])
def test_a_convolution_in_both_layouts_and_of_both_backends(
    form: str, backend: str, rng: np.random.Generator, x: Array, tmp_path: Path
) -> None:
    w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((3, F, 4), (4,)))
    stored = w[:, None] if form == "1.2" else w.transpose(2, 1, 0)[..., None]
    suffix = ":0" if backend == "tensorflow" else ""
    config = {
        "name": "convolution1d_1", "trainable": True, "nb_filter": 4, "filter_length": 3, "init": "glorot_uniform", "activation": "relu",
        "border_mode": "valid", "subsample_length": 2, "bias": True, "input_dim": F, "input_length": STEPS, "W_regularizer": None,
    }  # fmt: skip
    layers = [
        first(("Convolution1D", config, [(f"c_W{suffix}", stored), (f"c_b{suffix}", b)])),
        plain("MaxPooling1D", "pool", pool_length=2, stride=1, border_mode="valid"),
        plain("Flatten", "flat"),
        plain("RepeatVector", "again", n=3),
    ]
    # Theano's convolution turns the kernel around.
    y = np.maximum(correlation(x.astype(np.float64), w if backend == "tensorflow" else w[::-1])[:, ::2] + b, 0)
    y = np.maximum(y[:, :-1], y[:, 1:]).reshape(ROWS, 1, -1).repeat(3, axis=1)
    changed = assert_computes(tmp_path, layers, x, y)
    assert any("Theano" in line for line in changed) == (backend == "theano")


def test_a_normalisation_whose_variance_is_called_its_root(rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    w = {"gamma": rng.normal(size=F), "beta": rng.normal(size=F), "running_mean": rng.normal(size=F), "running_std": rng.uniform(0.1, 3, F)}
    config = {"name": "norm", "mode": 0, "axis": -1, "epsilon": 1e-5, "momentum": 0.99, "beta_init": "zero", "gamma_init": "one"}
    w = as_kept(w)
    y = (x - w["running_mean"]) / np.sqrt(w["running_std"] + 1e-5) * w["gamma"] + w["beta"]
    assert_computes(tmp_path, [first(("BatchNormalization", config, kept("norm", w)))], x, y)


@pytest.mark.parametrize("mode", [1, 2])
def test_a_normalisation_by_the_batch_is_refused(mode: int, rng: np.random.Generator, tmp_path: Path) -> None:
    config = {"name": "norm", "mode": mode, "axis": -1, "epsilon": 1e-5}
    layers = [first(("BatchNormalization", config, []))]
    with pytest.raises(ModelRefused, match=rf"norm .* has mode={mode}: it normalises by the batch"):
        converted(write(tmp_path / "old.h5", sequential(layers), layers), tmp_path)


def test_a_graph_with_a_merge(rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    a, b, inner = as_kept(drawn(rng, "icfo", F, 4)), as_kept(drawn(rng, ("",), F, 4)), as_kept({"W": rng.normal(size=(8, 2))})
    left, right = recurrent("LSTM", "a", a, 4, return_sequences=True), recurrent("SimpleRNN", "b", b, 4, return_sequences=True)
    mixed = plain("Merge", "mixed", mode="concat", mode_type="raw", concat_axis=-1, dot_axes=-1, output_shape=None, arguments={})
    summed = plain("Merge", "summed", mode="sum", mode_type="raw", concat_axis=-1, dot_axes=-1, output_mask_type="raw")
    kind, config, weights = dense("dense_1", inner, activation="hard_sigmoid")
    each = ("TimeDistributed", {"name": "each", "layer": {"class_name": kind, "config": config}}, weights)
    joined: list[tuple[Layer, list[str]]] = [
        (plain("InputLayer", "in", batch_input_shape=[None, STEPS, F], input_dtype="float32", sparse=False), []),
        (left, ["in"]), (right, ["in"]), (mixed, ["a", "b"]), (each, ["mixed"]), (summed, ["each", "each"]),
    ]  # fmt: skip
    entries = [
        {"name": c["name"], "class_name": k, "config": c, "inbound_nodes": [[[n, 0, 0] for n in inputs]] if inputs else []}
        for (k, c, _), inputs in joined
    ]
    model = {
        "class_name": "Model",
        "config": {"name": "model_1", "layers": entries, "input_layers": [["in", 0, 0]], "output_layers": [["summed", 0, 0]]},
    }
    built, _ = converted(write(tmp_path / "old.h5", model, [layer for layer, _ in joined]), tmp_path)
    y = 2 * hard_sigmoid(np.concatenate([lstm(x, a), rnn(x, b)], axis=-1) @ inner["W"])
    np.testing.assert_allclose(built(x), y, atol=WITHIN, rtol=WITHIN)


def test_a_chain_that_begins_with_a_chain_keeps_its_layers_beside_its_own(rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    a, head = as_kept(drawn(rng, "zrh", F, 4)), as_kept({"W": rng.normal(size=(4, 2)), "b": rng.normal(size=2)})
    within, after = first(recurrent("GRU", "gru_1", a, 4)), dense("dense_1", head)
    inner = {"class_name": "Sequential", "config": sequential([within])["config"]}
    model = {"class_name": "Sequential", "config": [inner, *sequential([after])["config"]]}
    built, _ = converted(write(tmp_path / "old.h5", model, [within, after]), tmp_path)
    np.testing.assert_allclose(built(x), gru(x, a)[:, -1] @ head["W"] + head["b"], atol=WITHIN, rtol=WITHIN)


def test_a_shape_in_two_numbers(rng: np.random.Generator, x: Array, tmp_path: Path) -> None:
    w = as_kept(drawn(rng, "icfo", F, 4))
    layer = recurrent("LSTM", "lstm_1", w, 4, input_dim=F, input_length=None, return_sequences=True)
    path = write(tmp_path / "old.h5", sequential([layer]), [layer])
    model, _ = converted(path, tmp_path)
    np.testing.assert_allclose(model(x), lstm(x, w), atol=WITHIN, rtol=WITHIN)
    assert load(tmp_path / "new.keras").mode == "carried"


def test_a_stateful_layer_of_a_fixed_batch_is_carried(rng: np.random.Generator, tmp_path: Path) -> None:
    w = drawn(rng, "icfo", F, 4)
    layers = [first(recurrent("LSTM", "lstm_1", w, 4, stateful=True), batch_input_shape=[10, 1, F])]
    converted(write(tmp_path / "old.h5", sequential(layers), layers), tmp_path)
    assert load(tmp_path / "new.keras").mode == "carried"


def test_a_merge_at_the_head_of_a_chain_is_refused(tmp_path: Path) -> None:
    layers = [plain("Merge", "merge_1", mode="concat", layers=[{"class_name": "Sequential", "config": []}])]
    with pytest.raises(ModelRefused, match=r"merge_1 .* joins several inputs"):
        converted(write(tmp_path / "old.h5", sequential(layers), layers), tmp_path)


def test_the_refusal_of_an_old_file_names_version_and_command(tmp_path: Path) -> None:
    path = write(tmp_path / "old.h5", sequential([]), [], version=None)
    with pytest.raises(ModelRefused, match=r"was saved by Keras 1\..*slotstream model convert \S+old\.h5 \S+old\.keras"):
        load(path)
