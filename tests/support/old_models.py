"""Makes old model files and what they must compute: `python tests/old_models.py FOLDER`, in a process without Keras 3.

tf_keras is Keras 2 for today's TensorFlow. For every model of MODELS it writes NAME.h5, NAME.keras and NAME.npz: x and, for each output,
y0, y1 ... Weights are random, moving statistics too, and large enough for hard_sigmoid to meet all three of its pieces. The files that
tf_keras no longer writes (cuDNN's layers) are made from those that compute the same, with its own conversion of weights. For those of
IN_ALL_LAYOUTS it writes NAME-LAYOUT.keras too, as the versions in LAYOUTS laid weights out: as their sources do it, and for 2.13.1 as six
files of that version have it.
"""

import io
import json
import sys
import zipfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np


class Later:
    """A module of tf_keras, imported when something of it is called: the tests read the names in MODELS beside Keras 3."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return lambda *arguments, **options: getattr(import_module(self.module), name)(*arguments, **options)


tf_keras, L = Later("tf_keras"), Later("tf_keras.layers")
BATCH, STEPS, F = 4, 6, 3
HARD = {"recurrent_activation": "hard_sigmoid"}
RNN = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}
ACTIVATIONS = (
    "elu", "exponential", "gelu", "hard_sigmoid", "leaky_relu", "linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softmax", "softplus", "softsign", "swish", "tanh",
)  # fmt: skip
MERGE_MODES = ("concat", "sum", "mul", "ave", None)
MODELS = {}


def sequential(*layers, steps=STEPS, name=None):
    return tf_keras.Sequential([tf_keras.Input((steps, F)), *layers], name=name)


def model(function):
    MODELS[function.__name__] = function
    return function


def one(name, *makers, **options):
    """A model of these layers, made when it is asked for."""
    MODELS[name] = lambda: sequential(*(make() for make in makers), **options)


def layer(kind, *arguments, **options):
    return lambda: kind(*arguments, **options)


dense = layer(L.Dense, 2)
one("lstm", layer(L.LSTM, 5), dense)
one("lstm_hard", layer(L.LSTM, 5, **HARD), dense, steps=None)
sequences = {**HARD, "return_sequences": True}
one("lstm_hard_stacked", layer(L.LSTM, 7, **sequences), layer(L.LSTM, 5, **sequences), dense, steps=None)
one("lstm_hard_without_bias", layer(L.LSTM, 5, use_bias=False, **HARD), dense)
one("lstm_relu", layer(L.LSTM, 5, activation="relu", **HARD), dense)
one("lstm_activation_layer", lambda: L.LSTM(5, activation=L.LeakyReLU(0.1)), dense)
for after in (False, True):
    for name, options in {"": {}, "_hard": HARD, "_all_hard": {**HARD, "activation": "hard_sigmoid"}}.items():
        steps = None if name == "_hard" else STEPS
        one(f"gru_{'after' if after else 'before'}{name}", layer(L.GRU, 5, reset_after=after, **options), dense, steps=steps)
    one(f"gru_{'after' if after else 'before'}_without_bias", layer(L.GRU, 5, reset_after=after, use_bias=False, **HARD), dense)
one("rnn", layer(L.SimpleRNN, 5), dense)
one("rnn_hard", layer(L.SimpleRNN, 5, activation="hard_sigmoid"), dense)
for kind in RNN:
    one(f"{kind}_backwards", layer(RNN[kind], 5, go_backwards=True, return_sequences=True), dense)
    hard = {} if kind == "rnn" else HARD
    for mode in MERGE_MODES[:4]:
        one(f"bidirectional_{kind}_{mode}", layer(lambda k, m, h: L.Bidirectional(k(4, **h), merge_mode=m), RNN[kind], mode, hard), dense)
    one(f"bidirectional_{kind}_sequences", layer(lambda k, h: L.Bidirectional(k(4, return_sequences=True, **h)), RNN[kind], hard), dense)
one(
    "bidirectional_of_two",
    lambda: L.Bidirectional(L.LSTM(4, **HARD), backward_layer=L.LSTM(4, go_backwards=True, activation="relu", name="other")),
    dense,
)
one("dense_hard", layer(L.LSTM, 4), layer(L.Dense, 5, activation="hard_sigmoid"), layer(L.Dense, 2, activation="hard_sigmoid"))
activated = [layer(lambda a: L.Dense(5, activation=a()), layer(kind, 0.2)) for kind in (L.LeakyReLU, L.ELU, L.ReLU)]
one("dense_activation_layers", layer(L.LSTM, 4), *activated, dense)
one("activation_layer_in_time", layer(L.LSTM, 4, return_sequences=True), lambda: L.TimeDistributed(L.Activation("hard_sigmoid")), dense)
one("time_distributed", layer(L.LSTM, 4, return_sequences=True), lambda: L.TimeDistributed(L.Dense(2)), steps=None)
one("time_distributed_hard", layer(L.LSTM, 4, return_sequences=True), lambda: L.TimeDistributed(L.Dense(2, activation="hard_sigmoid")))
one("time_distributed_norm", lambda: L.TimeDistributed(L.BatchNormalization()), layer(L.LSTM, 4))
one("norm", layer(L.BatchNormalization), layer(L.LSTM, 4, return_sequences=True), layer(L.BatchNormalization), dense)
one("norm_of_steps", layer(L.BatchNormalization, axis=1), layer(L.LSTM, 4))
unscaled, uncentered = layer(L.BatchNormalization, scale=False, epsilon=0.1), layer(L.BatchNormalization, center=False)
one("norm_without_scale", unscaled, uncentered, layer(L.LSTM, 4))
one("norm_frozen", layer(L.BatchNormalization, trainable=False), layer(L.LSTM, 4, trainable=False), layer(L.BatchNormalization))
in_time = layer(L.LSTM, 5, return_sequences=True)
one("layer_norm", in_time, layer(L.LayerNormalization), layer(L.LayerNormalization, epsilon=0.1, scale=False))
one("conv", layer(L.Conv1D, 5, 3, activation="relu"), layer(L.Conv1D, 4, 2, padding="same", use_bias=False), layer(L.LSTM, 4))
one("conv_causal", layer(L.Conv1D, 5, 3, padding="causal", dilation_rate=2), layer(L.LSTM, 4))
one("conv_hard", layer(L.Conv1D, 5, 3, strides=2, activation="hard_sigmoid"), layer(L.LSTM, 4))
one("conv_groups", layer(L.Conv1D, 6, 1), layer(L.Conv1D, 4, 2, groups=2), layer(L.LSTM, 4))
averaged = layer(L.AveragePooling1D, 2, strides=1, padding="same")
one("pooling", layer(L.Conv1D, 5, 2), layer(L.MaxPooling1D, 2), averaged, layer(L.Flatten), dense)
one("max_of_steps", in_time, layer(L.GlobalMaxPooling1D), dense)
one("average_of_steps", in_time, layer(L.GlobalAveragePooling1D, keepdims=True), layer(L.Flatten), dense)
one("resized", layer(L.UpSampling1D, 3), layer(L.Cropping1D, (1, 2)), layer(L.ZeroPadding1D, 2), layer(L.Conv1D, 2, 3), layer(L.LSTM, 4))
one("autoencoder", layer(L.LSTM, 5, **HARD), layer(L.RepeatVector, STEPS), layer(L.LSTM, 5, return_sequences=True, **HARD), dense)
one("reshaped", layer(L.Permute, (2, 1)), layer(L.Reshape, (3, -1)), layer(L.LSTM, 4), layer(L.Reshape, (2, 2)), layer(L.Flatten), dense)
one("rectified", layer(L.LeakyReLU), layer(L.LeakyReLU, 0.1), layer(L.ELU, 0.5), layer(L.ReLU, 0.9, 0.1, 0.05), layer(L.LSTM, 4))
one("rectified_others", layer(L.ThresholdedReLU, 0.3), layer(L.PReLU), layer(L.PReLU, shared_axes=[1]), layer(L.Softmax), layer(L.LSTM, 4))
one(
    "noise", layer(L.Dropout, 0.3), layer(L.SpatialDropout1D, 0.2), layer(L.GaussianNoise, 0.5), layer(L.GaussianDropout, 0.1),
    layer(L.AlphaDropout, 0.1), layer(L.ActivityRegularization, 0.1), layer(L.LSTM, 5, dropout=0.2, recurrent_dropout=0.1), dense,
)  # fmt: skip
one("masking", layer(L.Masking, 0.0), layer(L.LSTM, 5, return_sequences=True, **HARD), layer(L.Activation, "hard_sigmoid"), layer(L.GRU, 4))
one("masking_both_ways", layer(L.Masking, 0.0), lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), layer(L.LSTM, 3), dense)


@model
def stateful():
    return tf_keras.Sequential([L.LSTM(5, stateful=True, batch_input_shape=(BATCH, STEPS, F), return_sequences=True, **HARD), L.Dense(2)])


@model
def built_by_a_call():
    made = tf_keras.Sequential([L.LSTM(5, return_sequences=True), tf_keras.Sequential([L.Dense(3)])])
    made(np.zeros((BATCH, STEPS, F), np.float32))
    return made


@model
def frozen_within():
    inner = tf_keras.Sequential([
        L.Dense(3, input_shape=(STEPS, F)), L.BatchNormalization(trainable=False), L.Dense(3, trainable=False), L.BatchNormalization()
    ])  # fmt: skip
    return sequential(inner, L.LSTM(4))


@model
def nested():
    x = tf_keras.Input((STEPS, F))
    deepest = tf_keras.Sequential([L.Dense(3, input_shape=(STEPS, 3), activation="hard_sigmoid"), L.BatchNormalization()])
    inner = tf_keras.Model(x, L.BatchNormalization()(deepest(L.LSTM(3, return_sequences=True, **HARD)(x))))
    return sequential(inner, L.BatchNormalization(), tf_keras.Sequential([L.LSTM(4), L.Activation("hard_sigmoid")]), L.Dense(2))


@model
def used_twice():
    x, shared = tf_keras.Input((STEPS, F), name="readings"), L.Dense(3, activation="tanh")
    inner = tf_keras.Sequential([L.LSTM(3, return_sequences=True, input_shape=(STEPS, 3)), L.Dense(3)])
    y = inner(shared(inner(shared(x))))
    return tf_keras.Model(x, L.Dense(2, name="head")(L.Add()([x, y, inner(y)])))


@model
def time_distributed_model():
    x, norm = tf_keras.Input((F,)), L.BatchNormalization()
    inner = tf_keras.Model(x, L.Dense(4)(norm(L.Dense(5)(x))))
    y = tf_keras.Input((STEPS, F))
    return tf_keras.Model(y, L.LSTM(3)(L.TimeDistributed(inner)(y)))


@model
def branches():
    x = tf_keras.Input((STEPS, F))
    a, b, c = L.LSTM(4, return_sequences=True)(x), L.Conv1D(4, 3, padding="same")(x), L.Dense(4, activation="hard_sigmoid")(x)
    merged = [L.Add()([a, b, c]), L.Subtract()([a, b]), L.Multiply()([a, c]), L.Average()([a, b]), L.Maximum()([b, c]), L.Minimum()([a, c])]
    return tf_keras.Model(x, L.Dense(2)(L.Concatenate()([L.Concatenate(axis=-1)(merged), x])))


@model
def activations():
    x = tf_keras.Input((STEPS, F))
    y = [L.Activation(name)(L.Dense(2, activation=name, name=f"dense_{name}")(x)) for name in ACTIVATIONS]
    y += [L.SimpleRNN(2, activation=name)(x) for name in ACTIVATIONS if name not in ("exponential", "elu", "linear", "gelu")]
    return tf_keras.Model(x, [L.Concatenate()(y[: len(ACTIVATIONS)]), L.Concatenate()(y[len(ACTIVATIONS) :])])


@model
def encoder_decoder():
    x = tf_keras.Input((STEPS, F))
    y, h, c = L.LSTM(4, return_sequences=True, return_state=True, **HARD)(x)
    z, h = L.GRU(4, return_state=True, return_sequences=True, **HARD)(y)
    y = L.LSTM(4, return_sequences=True)(x, initial_state=[h, c])
    both = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Add()([y, z]), initial_state=[h, c, h, c])
    return tf_keras.Model(x, L.Dense(2)(both))


@model
def two_directions_apart():
    x = tf_keras.Input((STEPS, F))
    ahead, back = L.Bidirectional(L.GRU(4, **HARD), merge_mode=None)(x)
    return tf_keras.Model(x, [L.Dense(2)(ahead), L.Dense(2)(back)])


@model
def dressed():
    """What only training uses, and names that Keras 3 does not take."""
    made = sequential(
        L.LSTM(5, kernel_regularizer="l2", recurrent_constraint="max_norm", kernel_initializer="he_normal", unroll=True, implementation=1),
        L.Dense(2, name="a/b", activity_regularizer="l1", bias_constraint="non_neg"),
    )
    made.compile("adam", "mse")
    made.fit(np.zeros((BATCH, STEPS, F)), np.zeros((BATCH, 2)), verbose=0)
    return made


@model
def long_names():
    """So many that HDF5 wants them in several attributes."""
    return sequential(*(L.Dense(3, name=f"{i:03}_{'x' * 1000}") for i in range(70)), L.LSTM(2))


@model
def many_of_a_class():
    """Layers of one class and one shape, with and without weights, on several levels: whoever miscounts swaps their weights in silence."""
    x = tf_keras.Input((STEPS, F))
    inner = [tf_keras.Sequential([L.Dense(3, input_shape=(STEPS, 3)), L.Dense(3), L.LayerNormalization(), L.Dense(3)]) for _ in range(3)]
    y = L.TimeDistributed(L.Activation("tanh"))(inner[0](L.Dense(3)(x)))
    y = L.TimeDistributed(L.Dense(3))(L.LayerNormalization(center=False, scale=False)(y))
    y = inner[1](L.TimeDistributed(L.Dense(3))(L.LayerNormalization()(y)))
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")(y))
    y = L.LSTM(3, return_sequences=True)(L.LSTM(3, return_sequences=True)(L.LSTM(3, return_sequences=True)(y)))
    return tf_keras.Model(x, L.Dense(3)(L.Dense(3)(inner[2](y))))


@model
def operations():
    tf = import_module("tensorflow")
    x = tf_keras.Input((STEPS, F))
    y = L.LSTM(4, return_sequences=True)(x)
    last, mean = y[:, -1], tf.reduce_mean(y, axis=1, keepdims=True)
    a = 1.0 - (last + y[:, -2, :]) * 2.0
    b = tf.squeeze(tf.nn.relu(mean) / 3.0, 1) - tf.maximum(last, 0.1)
    c = tf.transpose(tf.reshape(y, (-1, STEPS * 2, 2)), (0, 2, 1))[:, :, 0]
    d = tf.matmul(tf.expand_dims(a, 1), tf.expand_dims(b, 1), transpose_b=True)[:, 0]
    e = tf.clip_by_value(tf.math.tanh(-x[:, ::2, 1:]), -0.5, 0.5)[:, 0]
    return tf_keras.Model(x, L.Dense(2)(tf.concat([a, b**2.0, c, d, tf.sqrt(tf.abs(e)), tf.exp(a)], axis=-1)))


@model
def normalized():
    x = tf_keras.Input((STEPS, F))
    y = L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(x)
    return tf_keras.Model(x, L.LSTM(3)(L.Concatenate()([y, L.Normalization()(x), L.Normalization(axis=None)(x)])))


@model
def attention():
    x = tf_keras.Input((STEPS, F))
    y = L.LSTM(4, return_sequences=True)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 3, dropout=0.1)(y, y)]))
    z = L.MultiHeadAttention(1, 2, value_dim=3, use_bias=False)(y, x, key=L.Dense(5)(x), use_causal_mask=True)
    return tf_keras.Model(x, L.Dense(2)(L.Concatenate()([L.GlobalAveragePooling1D()(y), L.Flatten()(z)])))


@model
def names():
    """Which Keras 3 does not take as they are, and which come to one without what is replaced."""
    return sequential(L.LSTM(4, name="a/b"), L.Dense(3, name="a_b"), L.Dense(3, name="b/c"))


# Ascending attributes, the second name of a layer among them, and whether what was seen counts again.
LAYOUTS = {"2.13": (True, True), "2.14": (True, False), "2.15": (False, False)}
IN_ALL_LAYOUTS = ("lstm", "many_of_a_class", "nested", "frozen_within", "time_distributed_model", "attention")


@contextmanager
def laid_out(version):
    """Saves as this version walked a model, which differs from tf_keras in these two places."""
    library = import_module("tf_keras.src.saving.saving_lib")
    kept = {name: getattr(library, name) for name in ("ATTR_SKIPLIST", "_walk_trackable", "_save_container_state")}
    ascending, again = LAYOUTS[version]

    def walk(trackable):
        return reversed(list(kept["_walk_trackable"](trackable)))

    def save(container, weights_store, assets_store, inner_path, visited_trackables):
        used = {}
        for item in container.values() if isinstance(container, dict) else container:
            if library._is_keras_trackable(item):
                name = library.generic_utils.to_snake_case(type(item).__name__)
                used[name] = used.get(name, -1) + 1
                path = f"{inner_path}/{name}_{used[name]}" if used[name] else f"{inner_path}/{name}"
                library._save_state(item, weights_store, assets_store, path, visited_trackables)

    if ascending:
        library.ATTR_SKIPLIST = kept["ATTR_SKIPLIST"] - {"_layer_checkpoint_dependencies"}
        library._walk_trackable = walk
    if again:
        library._save_container_state = save
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(library, name, value)


def edited(path, target, edit, **metadata):
    """A copy of a .keras file with edited weights (an open HDF5 file) and other metadata."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as copy:
        members = {name: archive.read(name) for name in archive.namelist()}
        weights = io.BytesIO(members["model.weights.h5"])
        with h5py.File(weights, "r+") as file:
            edit(file)
        members["model.weights.h5"] = weights.getvalue()
        members["metadata.json"] = json.dumps({**json.loads(members["metadata.json"]), **metadata}).encode()
        for name, content in members.items():
            copy.writestr(name, content)


def with_backslashes(file):
    """As h5py names groups on Windows, where the parts of a path are joined by backslashes: one name, and only vars below it."""
    groups = []
    file.visititems(lambda name, item: groups.append(name) if name.endswith("/vars") else None)
    for name in groups:
        file.copy(name, "\\".join(name.split("/")[:-1]) + "/vars")
    for name in {name.split("/")[0] for name in groups}:
        del file[name]


def write_layouts(name, made, folder):
    plain = folder / "plain.keras"
    for version in LAYOUTS:
        target = folder / f"{name}-{version}.keras"
        with laid_out(version):
            made.save(plain)
        edited(plain, target, lambda file: None, keras_version=f"{version}.1")
        edited(target, folder / f"{name}-{version}-windows.keras", with_backslashes)
    plain.unlink()


def with_random_weights(made, rng):
    for weight in made.weights:
        if weight.dtype.is_integer:
            continue
        scale = 0.8 if len(weight.shape) > 1 else 0.6
        values = rng.normal(size=weight.shape) * scale
        weight.assign(np.abs(values) + 0.3 if "variance" in weight.name or "gamma" in weight.name else values)
    for layer in made.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return made


def write(name, folder):
    rng = np.random.default_rng(len(name))
    import_module("tf_keras.backend").clear_session()
    made = with_random_weights(MODELS[name](), rng)
    x = rng.normal(size=(BATCH, STEPS, F)).astype(np.float32)
    if name.startswith("masking"):
        x[0, 4:] = x[1, :2] = x[2, 3] = 0
    found = made(x, training=False)
    found = found if isinstance(found, (list, tuple)) else [found]
    np.savez(folder / f"{name}.npz", x=x, **{f"y{i}": y.numpy() for i, y in enumerate(found)})
    made.save(folder / f"{name}.h5")
    if name != "long_names":
        made.save(folder / f"{name}.keras")
    if name in IN_ALL_LAYOUTS:
        write_layouts(name, made, folder)
    if name in IN_PARTS:
        write_in_parts(name, made, folder)
    return made


IN_PARTS = ("many_of_a_class", "attention", "normalized")


def write_in_parts(name, made, folder):
    (folder / f"{name}.json").write_text(made.to_json())
    made.save_weights(folder / f"{name}-weights.h5")
    made.save_weights(folder / f"{name}.weights.h5")


class CuDNNLSTM:
    pass


class CuDNNGRU:
    pass


def write_cudnn(folder, source, target):
    """The file of a layer that computes what cuDNN's does, as cuDNN's."""
    name = target.__name__.lower()
    (folder / f"{name}.h5").write_bytes((folder / f"{source}.h5").read_bytes())
    (folder / f"{name}.npz").write_bytes((folder / f"{source}.npz").read_bytes())
    with h5py.File(folder / f"{name}.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        item = config["config"]["layers"][1]
        item["class_name"] = target.__name__
        for key in ("activation", "recurrent_activation", "use_bias", "reset_after", "unroll", "implementation"):
            item["config"].pop(key, None)
        file.attrs["model_config"] = json.dumps(config)
        group = file["model_weights"][item["config"]["name"]]
        names = [n.decode() if isinstance(n, bytes) else n for n in group.attrs["weight_names"]]
        to_cudnn = import_module("tf_keras.src.saving.legacy.hdf5_format")._convert_rnn_weights
        arrays = to_cudnn(target(), [group[n][()] for n in names])
        rng = np.random.default_rng(3)
        if target is CuDNNLSTM:  # any two that add up to the bias
            part = rng.normal(size=arrays[2].size // 2).astype(np.float32)
            arrays[2] = arrays[2] + np.concatenate([part, -part])
        for n, values in zip(names, arrays, strict=True):
            del group[n]
            group[n] = values


def main(folder):
    for name in MODELS:
        write(name, folder)
    write_cudnn(folder, "lstm", CuDNNLSTM)
    write_cudnn(folder, "gru_after", CuDNNGRU)


def write_folders(folder):
    """SavedModels, which take their time: each layer is traced."""
    for name in ("many_of_a_class", "normalized"):
        write(name, folder).save(folder / name, save_format="tf")


if __name__ == "__main__":
    (write_folders if "--folders" in sys.argv else main)(Path(sys.argv[1]))
