"""Models through real files: what stepping in tiles gives is what Keras gives on whole sequences, and the same bits in every rung."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings, strategies
from tiers import few

from processor.model.convolutions import replaced
from processor.model.load import ServableModel, load
from processor.model.rungs import REFERENCE, Run, RungShape
from processor.model.tiles import reference_rung

L = keras.layers
F = 3
STEPS = 9
ROWS = 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)


def sequential(*layers: object, steps: int | None = None) -> keras.Model:
    return keras.Sequential([keras.Input((steps, F)), *layers])


def randomised(model: keras.Model) -> keras.Model:
    """Weights without structure: normalisation layers begin as the identity and would hide a wrong axis."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        positive = "variance" in weight.path
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, 0.3, weight.shape))
    return model


def saved(model: keras.Model, tmp_path: Path, name: str = "model.keras") -> Path:
    path = tmp_path / name
    model.save(path)
    return path


def readings(rows: int = ROWS, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(11).normal(size=(rows, steps, F)).astype(np.float32)


def stepped(model: ServableModel, run: Run, shape: RungShape, x: np.ndarray, *, calls: tuple[int, ...] = (1, 2, 3, STEPS)) -> np.ndarray:
    """y [rows, steps, O] of whole sequences fed in several calls that end at `calls`, the states handed from one to the next."""
    state = np.zeros((shape.rows, model.width), np.float32)
    ys = []
    for first, last in zip((0, *calls[:-1]), calls, strict=True):
        tile = np.zeros((shape.steps_max, shape.rows, F), np.float32)
        tile[: last - first, : len(x)] = x[:, first:last].swapaxes(0, 1)
        y, state, finite = run(tile, np.full(shape.rows, last - first, np.int32), last - first, state)
        assert finite.all()
        ys.append(y[: last - first, : len(x)])
    return np.concatenate(ys).swapaxes(0, 1)


def on_whole_sequences(model: keras.Model, x: np.ndarray, *, per_step: bool) -> np.ndarray:
    """The Keras oracle: y [rows, steps, O]; without an output a step, each prefix is a sequence of its own."""
    if per_step:
        return np.asarray(model(x)).reshape(*x.shape[:2], -1)
    return np.stack([np.asarray(model(x[:, :t])).reshape(len(x), -1) for t in range(1, x.shape[1] + 1)], axis=1)


# --- architectures that are carried


def nested_sequential() -> keras.Model:
    x = keras.Input((None, F))
    inner = keras.Sequential([keras.Input((None, F)), L.LSTM(4, return_sequences=True), L.Dense(5, activation="relu")])
    return keras.Model(x, L.Dense(2)(L.GRU(4)(inner(x))))


def nested_functional() -> keras.Model:
    a = keras.Input((None, F))
    inner = keras.Model(a, L.Concatenate()([L.LSTM(3, return_sequences=True)(a), a]))
    x = keras.Input((None, F))
    return keras.Model(x, L.SimpleRNN(4)(inner(x)))


def branched() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.Dense(2)(L.Concatenate()([L.LSTM(4)(x), L.GRU(3)(x)])))


def residual() -> keras.Model:
    x = keras.Input((None, F))
    y = L.LSTM(F, return_sequences=True)(x) + x
    return keras.Model(x, L.Multiply()([y, L.Dense(F, activation="sigmoid")(x)]))


def last_by_index() -> keras.Model:
    x = keras.Input((None, F))
    return keras.Model(x, L.Dense(2)(L.GRU(4, return_sequences=True)(x[..., 1:])[:, -1, :]))


def states_used() -> keras.Model:
    x = keras.Input((None, F))
    y, h, c = L.LSTM(4, return_sequences=True, return_state=True)(x)
    return keras.Model(x, L.Dense(2)(L.Concatenate()([L.SimpleRNN(3)(y), h, c])))


def distributed_model() -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(6, activation="tanh"), L.BatchNormalization(), L.Dense(2)])
    return sequential(L.LSTM(4, return_sequences=True), L.TimeDistributed(inner))


def shared_twice() -> keras.Model:
    x = keras.Input((None, F))
    lstm = L.LSTM(F, return_sequences=True)
    return keras.Model(x, L.Add()([lstm(lstm(x)), x]))


def reused_elsewhere() -> keras.Model:
    lstm, a, x = L.LSTM(4), keras.Input((None, F)), keras.Input((None, F))
    keras.Model(a, L.Dense(1)(lstm(a)))
    return keras.Model(x, L.Dense(2)(lstm(x)))


CARRIED: dict[str, Callable[[], keras.Model]] = {
    "lstm": lambda: sequential(L.LSTM(4), L.Dense(1)),
    "lstm per step": lambda: sequential(L.LSTM(4, return_sequences=True), L.Dense(2)),
    "lstm variants": lambda: sequential(
        L.LSTM(4, recurrent_activation="hard_sigmoid", use_bias=False, return_sequences=True),
        L.LSTM(3, unit_forget_bias=False, activation="relu"),
    ),
    "gru": lambda: sequential(L.GRU(4), L.Dense(1)),
    "gru reset before": lambda: sequential(L.GRU(4, reset_after=False, return_sequences=True)),
    "simple rnn": lambda: sequential(L.SimpleRNN(4, return_sequences=True), L.SimpleRNN(4)),
    "rnn of a cell": lambda: sequential(L.RNN(L.LSTMCell(4)), L.Dense(1)),
    "stacked cells": lambda: sequential(L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(3), L.SimpleRNNCell(2)]))),
    "list of cells": lambda: sequential(L.RNN([L.GRUCell(3)], return_sequences=True)),
    "dropouts": lambda: sequential(
        L.Dropout(0.5),
        L.GaussianNoise(1.0),
        L.LSTM(4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True),
        L.SpatialDropout1D(0.5),
        L.LSTM(3),
    ),
    "normalisation": lambda: sequential(
        L.BatchNormalization(),
        L.LSTM(4, return_sequences=True),
        L.LayerNormalization(),
        L.GRU(3),
        L.BatchNormalization(),
        L.UnitNormalization(),
    ),
    "normaliser": lambda: sequential(
        L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0]), L.Rescaling(2.0, offset=1.0), L.LSTM(4)
    ),
    "activations": lambda: sequential(
        L.PReLU(shared_axes=[1]), L.LSTM(4, return_sequences=True), L.LeakyReLU(), L.Softmax(), L.GRU(2), L.ELU()
    ),
    "time distributed": lambda: sequential(
        L.TimeDistributed(L.Dense(4, "relu")), L.LSTM(4, return_sequences=True), L.TimeDistributed(L.Dense(2))
    ),
    "time distributed model": distributed_model,
    "reshape of a step": lambda: sequential(
        L.Reshape((-1, 3, 1)), L.TimeDistributed(L.Conv1D(2, 2)), L.TimeDistributed(L.Flatten()), L.LSTM(4)
    ),
    "reshape at the end": lambda: sequential(L.LSTM(6), L.Reshape((2, 3)), L.Dense(2)),
    "flatten at the end": lambda: sequential(L.LSTM(6), L.Reshape((2, 3)), L.Flatten(), L.Dense(2)),
    "nested sequential": nested_sequential,
    "nested functional": nested_functional,
    "branched": branched,
    "residual": residual,
    "last by index": last_by_index,
    "states used": states_used,
    "shared twice": shared_twice,
    "reused elsewhere": reused_elsewhere,
    "no recurrent layer": lambda: sequential(L.Dense(4, activation="tanh"), L.Dense(2)),
}


@pytest.mark.parametrize("name", few(CARRIED, "lstm variants", "gru", "time distributed model", "branched", long=CARRIED))
def test_a_carried_model_steps_as_keras_runs_whole_sequences(name: str, tmp_path: Path) -> None:
    original = randomised(CARRIED[name]())
    model = load(saved(original, tmp_path))
    assert model.mode == "carried"
    x = readings()
    expected = on_whole_sequences(original, x, per_step=model.per_step)
    found = stepped(model, reference_rung(model), REFERENCE, x)
    assert found.shape == expected.shape == (ROWS, STEPS, model.outputs)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_carried_model_of_fixed_steps_is_stepped_when_asked(tmp_path: Path) -> None:
    original = randomised(sequential(L.LSTM(4), L.Dense(1), steps=STEPS))
    path = saved(original, tmp_path)
    assert load(path).mode == "windowed"
    model = load(path, mode="carried")
    assert (model.mode, model.window) == ("carried", STEPS)
    found = stepped(model, reference_rung(model), REFERENCE, readings())
    np.testing.assert_allclose(found[:, -1], original(readings()), atol=1e-5, rtol=0)


def test_a_stateful_model_of_a_fixed_batch_is_carried_for_any_number_of_rows(tmp_path: Path) -> None:
    layers = lambda stateful: [L.LSTM(4, stateful=stateful, return_sequences=True), L.GRU(3, stateful=stateful), L.Dense(2)]  # noqa: E731
    file = randomised(keras.Sequential([keras.Input(batch_shape=(2, 1, F)), *layers(True)]))
    free = sequential(*layers(False))
    free.set_weights(file.get_weights())
    model = load(saved(file, tmp_path))
    assert (model.mode, model.window, model.widths) == ("carried", 1, (4, 4, 3))
    assert "stateful" in model.why
    found = stepped(model, reference_rung(model), REFERENCE, readings())
    np.testing.assert_allclose(found, on_whole_sequences(free, readings(), per_step=False), atol=1e-5, rtol=0)


def test_states_are_packed_in_graph_order(tmp_path: Path) -> None:
    model = load(saved(sequential(L.LSTM(4, return_sequences=True), L.GRU(3), L.Dense(1)), tmp_path))
    assert (model.widths, model.width, model.state_bytes) == ((4, 4, 3), 11, 44)
    assert (model.features, model.outputs, model.per_step, model.window) == (F, 1, False, None)


# --- windowed

WINDOW = 6


def autoencoder() -> keras.Model:
    layers = [L.LSTM(4), L.RepeatVector(WINDOW), L.LSTM(4, return_sequences=True), L.TimeDistributed(L.Dense(F))]
    return sequential(*layers, steps=WINDOW)


def encoder_decoder() -> keras.Model:
    x = keras.Input((WINDOW, F))
    _, h, c = L.LSTM(4, return_state=True)(x)
    return keras.Model(x, L.Dense(2)(L.LSTM(4)(x, initial_state=[h, c])))


def attention() -> keras.Model:
    x = keras.Input((WINDOW, F))
    y = L.LSTM(4, return_sequences=True)(x)
    return keras.Model(x, L.Dense(1)(L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(y, y))))


def self_attention() -> keras.Model:
    x = keras.Input((WINDOW, F))
    y = L.Dense(8)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 4)(y, y, use_causal_mask=True)]))
    return keras.Model(x, L.Dense(2)(L.Concatenate()([L.GlobalMaxPooling1D()(y), L.GlobalAveragePooling1D()(y)])))


def attention_layers() -> keras.Model:
    x = keras.Input((WINDOW, F))
    y = L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode="sum")(x)
    y = L.Concatenate()([L.Attention(use_scale=True)([y, y]), L.AdditiveAttention()([y, y])])
    return keras.Model(x, L.Dense(2)(L.Flatten()(y)))


def attention_pooling() -> keras.Model:
    x = keras.Input((WINDOW, F))
    y = L.LSTM(4, return_sequences=True)(x)
    share = keras.ops.softmax(L.Dense(1, activation="tanh")(y), axis=1)
    return keras.Model(x, L.Dense(1)(keras.ops.sum(y * share, axis=1)))


def operations() -> keras.Model:
    x, ops = keras.Input((WINDOW, F)), keras.ops
    y = L.SimpleRNN(4, return_sequences=True)(x)
    scores = ops.softmax(ops.einsum("btf,bsf->bts", y, y) / 2.0)
    ends = [ops.mean(ops.matmul(scores, y), axis=1), ops.std(y, axis=1), y[:, 0]]
    return keras.Model(x, L.Dense(1)(ops.concatenate(ends, axis=1)))


def dilations() -> keras.Model:
    y = x = keras.Input((WINDOW, F))
    for dilation in (1, 2, 4):
        y = L.Concatenate()([y, L.Conv1D(3, 2, padding="causal", dilation_rate=dilation, activation="relu")(y)])
    return keras.Model(x, L.Dense(1)(y[:, -1]))


WINDOWED: dict[str, Callable[[], keras.Model]] = {
    "fixed steps": lambda: sequential(L.LSTM(4), L.Dense(1), steps=WINDOW),
    "per step": lambda: sequential(L.LSTM(4, return_sequences=True), L.Dense(2), steps=WINDOW),
    "bidirectional": lambda: sequential(L.Bidirectional(L.LSTM(4, unroll=True)), L.Dense(1), steps=WINDOW),
    "convolution": lambda: sequential(L.Conv1D(4, 3), L.MaxPooling1D(2), L.Flatten(), L.Dense(2), steps=WINDOW),
    "convolutions": lambda: sequential(
        L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        L.Conv1D(3, 2, strides=2, padding="same", use_bias=False),
        L.GRU(3),
        steps=WINDOW,
    ),
    "nested convolution": lambda: sequential(
        keras.Sequential([keras.Input((WINDOW, F)), L.Dropout(0.5), L.Conv1D(4, 3)]), L.LSTM(3), steps=WINDOW
    ),
    "masking": lambda: sequential(L.Masking(), L.GRU(4), L.Dense(1), steps=WINDOW),
    "dense on flatten": lambda: sequential(L.Flatten(), L.BatchNormalization(), L.Dense(2), steps=WINDOW),
    "autoencoder": autoencoder,
    "encoder decoder": encoder_decoder,
    "attention": attention,
    "self attention": self_attention,
    "attention layers": attention_layers,
    "attention pooling": attention_pooling,
    "operations": operations,
    "dilations": dilations,
    "grouped and depthwise": lambda: sequential(
        L.Conv1D(6, 2, groups=3, padding="same"),
        L.DepthwiseConv1D(2, depth_multiplier=2, padding="same", activation="tanh"),
        L.SeparableConv1D(3, 3, strides=2, padding="same"),
        L.GRU(3),
        steps=WINDOW,
    ),
    "pooling": lambda: sequential(
        L.MaxPooling1D(3, 2, padding="same"), L.LSTM(4, return_sequences=True), L.AveragePooling1D(2), L.Flatten(), L.Dense(2), steps=WINDOW
    ),
    "up and down": lambda: sequential(
        L.ZeroPadding1D(1),
        L.Conv1D(4, 2, strides=2),
        L.UpSampling1D(2),
        L.Cropping1D(1),
        L.Conv1DTranspose(F, 2, padding="same"),
        steps=WINDOW,
    ),
    "convolutions a part": lambda: sequential(
        L.Reshape((2, 3, F)), L.TimeDistributed(L.Conv1D(4, 2, activation="relu")), L.TimeDistributed(L.Flatten()), L.LSTM(4), steps=WINDOW
    ),
    "masking through a distributed layer": lambda: sequential(
        L.Masking(), L.TimeDistributed(L.Dense(4)), L.Bidirectional(L.GRU(3)), L.Dense(1), steps=WINDOW
    ),
    "normalised over steps": lambda: sequential(
        L.LayerNormalization(axis=[1, 2]), L.BatchNormalization(axis=1), L.Permute((2, 1)), L.Dense(4), L.GRU(3), steps=WINDOW
    ),
    "bidirectional and stateful": lambda: keras.Sequential(
        [keras.Input(batch_shape=(4, WINDOW, F)), L.Bidirectional(L.LSTM(3, stateful=True)), L.Dense(1)]
    ),
    "fixed batch": lambda: keras.Sequential([keras.Input(batch_shape=(4, WINDOW, F)), L.SimpleRNN(4), L.Dense(1)]),
    "stateful but mixing": lambda: keras.Sequential(
        [keras.Input(batch_shape=(4, WINDOW, F)), L.Conv1D(4, 3), L.LSTM(3, stateful=True), L.Dense(1)]
    ),
}


@pytest.mark.parametrize("name", few(WINDOWED, "autoencoder", "convolutions", "attention", "bidirectional", long=WINDOWED))
def test_a_windowed_model_gives_what_keras_gives_for_the_last_readings(name: str, tmp_path: Path) -> None:
    original = randomised(WINDOWED[name]())
    model = load(saved(original, tmp_path))
    assert (model.mode, model.window, model.widths) == ("windowed", WINDOW, (WINDOW * F,))
    x = readings(4)
    if "masking" in name:
        x[:2, 4:6] = 0
    found = stepped(model, reference_rung(model), REFERENCE, x)
    for t in range(WINDOW, STEPS + 1):
        if "stateful" in name:
            [layer.reset_state() for layer in original.layers if hasattr(layer, "reset_state")]
        expected = np.asarray(original(x[:, t - WINDOW : t]))
        np.testing.assert_allclose(found[:, t - 1], expected[:, -1] if expected.ndim == 3 else expected, atol=1e-5, rtol=0)


@given(data=strategies.data(), kind=strategies.sampled_from([L.Conv1D, L.DepthwiseConv1D, L.SeparableConv1D]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_convolution_as_products_is_keras_own(data: strategies.DataObject, kind: type) -> None:
    draw = data.draw
    taps, steps, channels = draw(strategies.integers(1, 4)), draw(strategies.integers(1, 9)), 2 * draw(strategies.integers(1, 2))
    stride, dilation = draw(strategies.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]))
    padding = draw(strategies.sampled_from(["valid", "same", "causal"] if kind is L.Conv1D else ["valid", "same"]))
    assume(padding != "valid" or steps > (taps - 1) * dilation)
    sizes = {"kernel_size": taps, "strides": stride, "dilation_rate": dilation, "padding": padding, "use_bias": draw(strategies.booleans())}
    sizes |= {"depth_multiplier": draw(strategies.integers(1, 3))} if kind is not L.Conv1D else {"groups": draw(strategies.integers(1, 2))}
    sizes |= {} if kind is L.DepthwiseConv1D else {"filters": 4}
    layer = kind(activation="tanh", **sizes)
    x = np.random.default_rng(steps).normal(size=(3, steps, channels)).astype(np.float32)
    expected = layer(x)  # builds it
    np.testing.assert_allclose(replaced(layer)(tf.constant(x)), expected, atol=1e-5, rtol=0)


def test_an_output_that_is_not_along_the_window_is_given_whole(tmp_path: Path) -> None:
    original = randomised(sequential(L.LSTM(4), L.RepeatVector(2), L.LSTM(4, return_sequences=True), L.Dense(F), steps=WINDOW))
    model = load(saved(original, tmp_path))
    assert (model.outputs, model.per_step) == (2 * F, False)
    assert "2 x 3 is given as 6 numbers" in model.why
    found = stepped(model, reference_rung(model), REFERENCE, readings())
    np.testing.assert_allclose(found[:, -1], np.asarray(original(readings()[:, -WINDOW:])).reshape(ROWS, -1), atol=1e-5, rtol=0)


def test_a_file_of_free_steps_is_windowed_by_the_window_given(tmp_path: Path) -> None:
    original = randomised(sequential(L.Bidirectional(L.LSTM(4)), L.Dense(1)))
    model = load(saved(original, tmp_path), window=4)
    assert (model.mode, model.window, model.width) == ("windowed", 4, 4 * F)
    found = stepped(model, reference_rung(model), REFERENCE, readings())
    np.testing.assert_allclose(found[:, -1], original(readings()[:, -4:]), atol=1e-5, rtol=0)


def test_all_steps_of_a_window_are_given_when_asked(tmp_path: Path) -> None:
    original = randomised(autoencoder())
    path = saved(original, tmp_path)
    last, model = load(path), load(path, output="all")
    assert (last.outputs, last.output_steps) == (F, None)
    assert (model.outputs, model.output_steps, model.per_step) == (WINDOW * F, WINDOW, False)
    assert "model.output all gives every one" in last.why
    assert "a prediction is all its 6 output steps of 3 numbers" in model.why
    found = stepped(model, reference_rung(model), REFERENCE, readings())[:, -1].reshape(ROWS, WINDOW, F)
    np.testing.assert_allclose(found, original(readings()[:, -WINDOW:]), atol=1e-5, rtol=0)


def test_a_horizon_of_the_models_own_keeps_its_rows_apart_when_asked(tmp_path: Path) -> None:
    layers = [L.GRU(4), L.RepeatVector(2), L.GRU(4, return_sequences=True), L.Dense(F)]
    path = saved(randomised(sequential(*layers, steps=WINDOW)), tmp_path)
    whole, rows = load(path), load(path, output="all")
    assert (whole.outputs, whole.output_steps, rows.outputs, rows.output_steps) == (2 * F, None, 2 * F, 2)
    both = [stepped(model, reference_rung(model), REFERENCE, readings()) for model in (whole, rows)]
    np.testing.assert_array_equal(*both)


def test_asking_for_all_steps_changes_nothing_where_there_is_one_or_each_is_given(tmp_path: Path) -> None:
    single = load(saved(sequential(L.LSTM(4), steps=WINDOW), tmp_path), output="all")
    assert (single.outputs, single.output_steps) == (4, None)
    assert "one output a window, so model.output all changes nothing" in single.why
    each = load(saved(sequential(L.LSTM(4, return_sequences=True)), tmp_path), output="all")
    assert (each.per_step, each.output_steps) == (True, None)
    assert "model.output all changes nothing" in each.why


@pytest.mark.parametrize(
    ("build", "options", "trained"),
    [
        (lambda: sequential(L.LSTM(4), steps=WINDOW), {"mode": "carried"}, WINDOW),
        (lambda: sequential(L.LSTM(4), steps=WINDOW), {}, None),
        (lambda: sequential(L.LSTM(4)), {}, None),
        (lambda: keras.Sequential([keras.Input(batch_shape=(1, WINDOW, F)), L.LSTM(4, stateful=True)]), {}, None),
    ],
)
def test_a_trained_window_is_what_a_file_fixes_without_being_stateful(build, options, trained, tmp_path: Path) -> None:
    assert load(saved(build(), tmp_path), **options).trained_window == trained


def test_why_is_one_line_that_says_mode_reason_and_the_way_to_the_other(tmp_path: Path) -> None:
    def why(model: keras.Model, **options: object) -> str:
        return load(saved(model, tmp_path), **options).why

    assert why(sequential(L.LSTM(4))) == (
        "carried, because the file leaves the number of steps free: a sensor's state goes on from reading to reading; "
        "to run it on a sensor's last N readings instead, set model.window: N"
    )
    assert why(sequential(L.LSTM(4), steps=WINDOW)) == (
        "windowed, because the file fixes 6 steps and is not stateful: the model is run on each sensor's last 6 readings; "
        "to keep a state from reading to reading instead, set model.mode: carried"
    )
    stateful = keras.Sequential([keras.Input(batch_shape=(1, WINDOW, F)), L.LSTM(4, stateful=True)])
    assert why(stateful) == (
        "carried, because the file is stateful: a sensor's state goes on from reading to reading; "
        "to run it on a sensor's last 6 readings instead, set model.mode: windowed"
    )
    mixing = keras.Sequential([keras.Input(batch_shape=(1, WINDOW, F)), L.Conv1D(4, 3, name="edges"), L.LSTM(3, stateful=True)])
    assert why(mixing) == (
        "windowed, because it cannot be stepped: edges (Conv1D) mixes time steps, or is not known to keep them apart: "
        "the model is run on each sensor's last 6 readings; its states begin at zeros in every window, though the file is stateful"
    )
    fixed = why(sequential(L.Bidirectional(L.LSTM(4), name="both"), steps=WINDOW))
    assert fixed.endswith("it cannot be carried: both (Bidirectional) mixes time steps, or is not known to keep them apart")
    assert why(sequential(L.Conv1D(4, 3)), window=4).startswith("windowed, because model.window is set: the model is run on each sensor's")


def test_a_window_of_one_step_is_said_to_remember_nothing(tmp_path: Path) -> None:
    original = randomised(sequential(L.LSTM(4), L.Dense(1), steps=1))
    model = load(saved(original, tmp_path))
    assert (model.mode, model.window, model.width) == ("windowed", 1, F)
    assert "the model is run on each reading alone, from a state of zeros, and nothing is remembered" in model.why
    found = stepped(model, reference_rung(model), REFERENCE, readings())
    np.testing.assert_allclose(found.reshape(-1, 1), original(readings().reshape(-1, 1, F)), atol=1e-5, rtol=0)
