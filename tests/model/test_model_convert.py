"""Files of Keras 2: what is rebuilt computes what tf_keras computes, and everything else is refused by what was found."""

import copy
import json
import pickle
import random
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import old_models
import pytest

from processor import cli
from processor.errors import ConfigurationError, ModelRefused, SlotstreamError
from processor.model.convert.convert import convert_file
from processor.model.file import admission
from processor.model.load import load
from processor.model.rungs import REFERENCE
from processor.model.tiles import reference_rung

# The first test makes all old models: a minute and a half where nothing else runs.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
WITHIN, WITHIN_ATTENTION = 1e-6, 1e-5
NAMES = [*old_models.MODELS, "cudnnlstm", "cudnngru"]
# Names too long for a path in a zip, and layers of the graphics card, are found in .h5 files only.
H5_ONLY = ("long_names", "cudnnlstm", "cudnngru")
Json = Any


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model of old_models.py with its inputs and outputs, made by tf_keras in a process of its own."""
    folder = tmp_path_factory.mktemp("old")
    program = Path(old_models.__file__)
    made = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=False, timeout=900)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


def converted(path: Path, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    new = tmp_path / "new.keras"
    return new, convert_file(path, new, force=True).changed


def worst_error(new: Path, expected: Path) -> float:
    """Against what tf_keras computed; of numbers beyond 1 relative to them."""
    known = np.load(expected)
    model = keras.saving.load_model(new, compile=False, safe_mode=True)
    found = keras.tree.flatten(model(known["x"], training=False))
    wanted = [known[f"y{i}"] for i in range(len(found))]
    assert len(known.files) == 1 + len(found)
    worst = max(float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)))) for a, b in zip(map(np.asarray, found), wanted, strict=True))
    # Keras 2 and 3 round attention in another order: in float64 the new file gives what lies between the two. Scaled to the one limit.
    return worst * WITHIN / WITHIN_ATTENTION if expected.stem == "attention" else worst


@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_computes_what_the_old_one_did(name: str, kind: str, old: Path, tmp_path: Path) -> None:
    if kind == "keras" and name in H5_ONLY:
        return
    new, _ = converted(old / f"{name}.{kind}", tmp_path)
    assert worst_error(new, old / f"{name}.npz") < WITHIN


@pytest.mark.parametrize("where", ["", "-windows"])
@pytest.mark.parametrize("version", old_models.LAYOUTS)
@pytest.mark.parametrize("name", old_models.IN_ALL_LAYOUTS)
def test_weights_are_found_as_each_version_and_system_laid_them_out(
    name: str, version: str, where: str, old: Path, tmp_path: Path
) -> None:
    new, _ = converted(old / f"{name}-{version}{where}.keras", tmp_path)
    assert worst_error(new, old / f"{name}.npz") < WITHIN


@pytest.mark.parametrize(("version", "told"), [("2.13", "2.14.0"), ("2.14", "2.13.1"), ("2.15", "2.13.1"), ("2.13", "2.16.0-tf")])
def test_a_file_that_names_another_version_is_read_as_it_was_laid_out(version: str, told: str, old: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.keras"
    old_models.edited(old / f"many_of_a_class-{version}.keras", path, lambda file: None, keras_version=told)
    new, _ = converted(path, tmp_path)
    assert worst_error(new, old / "many_of_a_class.npz") < WITHIN


@pytest.mark.parametrize("weights", ["-weights.h5", ".weights.h5"])
@pytest.mark.parametrize("name", old_models.IN_PARTS)
def test_an_architecture_and_its_weights_in_two_files_are_one_model(name: str, weights: str, old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.keras"
    assert cli.main(["model", "convert", str(old / f"{name}.json"), str(old / f"{name}{weights}"), str(new)]) == 0
    assert worst_error(new, old / f"{name}.npz") < WITHIN


def test_two_files_that_are_no_halves_of_an_old_model_are_refused(old: Path, tmp_path: Path) -> None:
    new, weights = tmp_path / "new.keras", old / "attention-weights.h5"
    of_keras_3 = tmp_path / "3.json"
    of_keras_3.write_text(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)]).to_json())
    for first, second, found in (
        (weights, old / "attention.json", "is not JSON"),
        (old / "attention.json", old / "attention.json", "JSON: an architecture at most"),
        (old / "attention.json", old / "normalized-weights.h5", r"layer lstm \(LSTM\) has weights of \(9, 12\)"),
        (of_keras_3, weights, "was written by Keras 3.*model_from_json"),
    ):
        with pytest.raises(ModelRefused, match=found):
            convert_file(first, new, weights_file=second)


@pytest.mark.soak
def test_a_folder_of_a_saved_model_is_converted(tmp_path: Path) -> None:
    program = Path(old_models.__file__)
    made = subprocess.run([sys.executable, program, tmp_path, "--folders"], capture_output=True, text=True, check=False, timeout=900)
    assert made.returncode == 0, made.stderr[-3000:]
    for name in ("many_of_a_class", "normalized"):
        folder = tmp_path / name
        with pytest.raises(ModelRefused, match=r"a TensorFlow SavedModel folder.*slotstream model convert") as refused:
            load(folder)
        assert str(folder) in refused.value.do
        assert worst_error(converted(folder, tmp_path)[0], tmp_path / f"{name}.npz") < WITHIN
        (folder / "keras_metadata.pb").write_bytes(b"")
        with pytest.raises(ModelRefused, match="holds a model of a class of your own"):
            converted(folder, tmp_path)


@pytest.mark.parametrize("name", ["lstm.h5", "lstm.keras"])
@pytest.mark.parametrize("called", ["model.keras", "model.h5", "model", "model.pkl", "model.hdf5"])
def test_a_file_is_converted_as_what_it_is_whatever_it_is_called(name: str, called: str, old: Path, tmp_path: Path) -> None:
    (tmp_path / called).write_bytes((old / name).read_bytes())
    with pytest.raises(ModelRefused, match=r"was saved by Keras 2.*slotstream model convert"):
        load(tmp_path / called)
    assert worst_error(converted(tmp_path / called, tmp_path)[0], old / "lstm.npz") < WITHIN


def moved(of: str, to: str) -> Callable[[Any], None]:
    return lambda file: file.move(of, to)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda file: file.copy("layers/dense", "layers/dense_7"), "keeps arrays in layers/dense_7, which are of no layer"),
        (moved("layers/dense_1", "layers/dense_7"), r"keeps 0 arrays in layers/dense_1, where layer dense_\d+ \(Dense\) has 2"),
        (lambda file: file.copy("layers/dense/vars", "layers\\dense/vars"), "has two groups layers/dense"),
        (moved("layers", "mine"), "keeps its weights under mine. Expected: layers or _layer_checkpoint_dependencies"),
        (lambda file: file["layers"].__setitem__("lstm/loop", file["layers"]), "under two names"),
        (lambda file: file["layers/dense/vars"].__delitem__("1"), "keeps 1 arrays in layers/dense,"),
    ],
)
def test_groups_that_are_not_those_of_the_layers_are_refused(edit: Callable[[Any], None], found: str, old: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.keras"
    old_models.edited(old / "many_of_a_class-2.15.keras", path, edit)
    with pytest.raises(ModelRefused, match=found):
        converted(path, tmp_path)


def test_both_formats_give_one_model(old: Path, tmp_path: Path) -> None:
    digests = [load(converted(old / f"lstm_hard_stacked.{kind}", tmp_path)[0]).digest for kind in ("h5", "keras")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["lstm_hard", "lstm_hard_stacked", "gru_before_hard", "gru_after_hard"])
def test_a_converted_model_is_stepped_as_tf_keras_runs_whole_sequences(name: str, old: Path, tmp_path: Path) -> None:
    known, model = np.load(old / f"{name}.npz"), load(converted(old / f"{name}.h5", tmp_path)[0])
    assert model.mode == "carried"
    run, shape = reference_rung(model), REFERENCE
    x, state, found = known["x"], np.zeros((shape.rows, model.width), np.float32), []
    for at in range(x.shape[1]):
        tile = np.zeros((shape.steps_max, shape.rows, model.features), np.float32)
        tile[0, : len(x)] = x[:, at]
        y, state, _ = run(tile, np.ones(shape.rows, np.int32), 1, state)
        found.append(y[0, : len(x)])
    wanted = known["y0"]
    got = np.stack(found, axis=1) if wanted.ndim == 3 else found[-1]
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("lstm", ""),
        ("lstm_hard", "weights of its gates times 1.2"),
        ("gru_after_all_hard", "weights times 1.2"),
        ("dense_hard", "weights times 1.2"),
        ("masking", "a Rescaling by 1.2 before it"),
        ("cudnngru", "from cuDNN's layout"),
    ],
)
def test_what_was_changed_is_told(name: str, changed: str, old: Path, tmp_path: Path) -> None:
    told = "; ".join(converted(old / f"{name}.h5", tmp_path)[1])
    assert changed in told
    assert bool(changed) == bool(told)


# --- other forms of the same configuration


def with_config(path: Path, tmp_path: Path, edit: Callable[[Json], Json], **attributes: str | None) -> Path:
    """A copy of an .h5 file with an edited configuration, and other attributes (None: without)."""
    copied = tmp_path / "edited.h5"
    copied.write_bytes(path.read_bytes())
    with h5py.File(copied, "r+") as file:
        edited = edit(json.loads(file.attrs["model_config"]))
        file.attrs["model_config"] = edited if isinstance(edited, (str, bytes)) else json.dumps(edited)
        for key, value in attributes.items():
            del file.attrs[key]
            if value is not None:
                file.attrs[key] = value
    return copied


def as_list(config: Json) -> Json:
    """As Keras 1 and Keras 2 until 2.2.2 wrote a Sequential; the first layer says what is read."""
    first, *layers = config["config"]["layers"]
    layers[0]["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
    return {"class_name": "Sequential", "config": layers}


def without(*keys: str) -> Callable[[Json], Json]:
    """As files were written before Keras had these options."""

    def edit(node: Json) -> Json:
        if isinstance(node, list):
            return [edit(item) for item in node]
        return {key: edit(value) for key, value in node.items() if key not in keys} if isinstance(node, dict) else node

    return edit


def with_items(config: Json) -> Json:
    """As TensorFlow 2.2 wrote shapes."""
    first = config["config"]["layers"][0]["config"]
    first["batch_input_shape"] = {"class_name": "TensorShape", "items": first["batch_input_shape"]}
    return config


def with_policy(config: Json) -> Json:
    for layer in config["config"]["layers"][1:]:
        layer["config"]["dtype"] = {"class_name": "Policy", "config": {"name": "float32"}}
    return config


def with_states_in_the_call(config: Json) -> Json:
    """As some versions of tf.keras wrote an initial state."""
    for layer in config["config"]["layers"]:
        for node in layer["inbound_nodes"]:
            if layer["class_name"] == "LSTM" and len(node) == 3:
                node[0][3], node[1:] = {"initial_state": [entry[:3] for entry in node[1:]]}, []
    return config


def with_bare_entries(config: Json) -> Json:
    """As some versions of tf.keras wrote a layer with one input, and a model with one."""
    for layer in config["config"]["layers"]:
        layer["inbound_nodes"] = [node[0] if len(node) == 1 else node for node in layer["inbound_nodes"]]
    config["config"]["input_layers"] = config["config"]["input_layers"][0]
    config["config"]["output_layers"] = config["config"]["output_layers"][0]
    return {**config, "class_name": "Model"}


@pytest.mark.parametrize(
    ("name", "edit", "version"),
    [
        ("lstm_hard", as_list, "2.0.8"),
        ("norm", as_list, "2.2.2"),
        ("bidirectional_lstm_sum", as_list, "2.1.6-tf"),
        ("lstm_hard", without("recurrent_activation", "time_major", "implementation", "return_state"), "2.0.0"),
        ("gru_before_hard", without("recurrent_activation", "reset_after"), "2.0.9"),
        ("gru_after_hard", without("reset_after"), "2.2.4"),
        ("lstm", with_items, "2.3.0-tf"),
        ("lstm", with_policy, "2.4.0"),
        ("encoder_decoder", with_states_in_the_call, "2.3.0-tf"),
        ("used_twice", with_bare_entries, "2.2.4-tf"),
    ],
)
def test_older_forms_of_a_configuration_are_read(name: str, edit: Callable[[Json], Json], version: str, old: Path, tmp_path: Path) -> None:
    new, _ = converted(with_config(old / f"{name}.h5", tmp_path, edit, keras_version=version), tmp_path)
    assert worst_error(new, old / f"{name}.npz") < WITHIN


# --- what is refused


def of_layer(at: int, **options: Any) -> Callable[[Json], Json]:
    def edit(config: Json) -> Json:
        config["config"]["layers"][at]["config"].update(options)
        return config

    return edit


def of_class(at: int, name: str, **more: Any) -> Callable[[Json], Json]:
    def edit(config: Json) -> Json:
        config["config"]["layers"][at].update(class_name=name, **more)
        return config

    return edit


def twice_named(config: Json) -> Json:
    for layer in config["config"]["layers"]:
        layer["config"]["name"] = "one"
    return config


def circle(config: Json) -> Json:
    config["config"]["layers"][-1]["inbound_nodes"] = [[[config["config"]["layers"][-1]["name"], 0, 0, {}]]]
    return config


def training(config: Json) -> Json:
    config["config"]["layers"][1]["inbound_nodes"][0][0][3] = {"training": True}
    return config


def of_function(name: str) -> Callable[[Json], Json]:
    def edit(config: Json) -> Json:
        next(layer for layer in config["config"]["layers"] if layer["class_name"] == "TFOpLambda")["config"]["function"] = name
        return config

    return edit


def with_argument(name: str, value: Any) -> Callable[[Json], Json]:
    def edit(config: Json) -> Json:
        layer = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "TFOpLambda")
        layer["inbound_nodes"][0][3][name] = value
        return config

    return edit


REFUSED: dict[str, tuple[str, Callable[[Json], Json], str]] = {
    "time major": ("lstm", of_layer(1, time_major=True), r"lstm \(LSTM\) has time_major=True: it reads and gives \[steps, batch"),
    "its state through hard_sigmoid": ("lstm", of_layer(1, activation="hard_sigmoid"), r"lstm \(LSTM\) applies hard_sigmoid to its state"),
    "an unknown option": ("lstm", of_layer(1, peepholes=True), r"lstm \(LSTM\) has peepholes=True"),
    "an unknown activation": ("lstm", of_layer(2, activation="<lambda>"), r"dense.* has the activation '<lambda>'"),
    "tokens": ("lstm", of_class(1, "Embedding"), r"lstm looks up tokens \(Embedding\)"),
    "code": ("lstm", of_class(1, "Lambda"), r"lstm runs code stored in the file \(Lambda\)"),
    "an operation": ("operations", of_function("math.cumprod"), r"is TensorFlow's operation tf.math.cumprod.*one of __operators__.add"),
    "its argument": ("operations", with_argument("batch_dims", 1), r"tf\.\S+, is called with .*batch_dims"),
    "a node": ("lstm", of_class(1, "TensorFlowOpLayer"), r"lstm is a node of TensorFlow's graph"),
    "a layer of one's own": ("lstm", of_class(1, "LSTM", module="mine"), r"lstm is of a class of your own \(LSTM\)"),
    "a name of Keras's": ("lstm", of_class(1, "LSTM", registered_name="mine>LSTM"), r"lstm is of a class of your own \(LSTM\)"),
    "a registered layer": ("lstm", of_class(1, "Mine>Attention"), r"lstm is of a class of your own \(Attention\)"),
    "another layer": ("lstm", of_class(1, "ConvLSTM2D"), r"lstm is a ConvLSTM2D, which is not converted"),
    "half precision": ("lstm", of_layer(1, dtype="float16"), r"lstm \(LSTM\) computes in float16"),
    "mixed": ("lstm", of_layer(1, dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}), "computes in mixed_float16"),
    "by the batch": ("norm", of_layer(1, mode=1), "has mode=1: it normalises by the batch"),
    "other units": ("lstm", of_layer(1, units=6), r"lstm \(LSTM\) has weights of \(3, 20\)"),
    "huge": ("lstm", of_layer(0, batch_input_shape=[None, None, 2_000_000_000]), "has weights for 3 inputs and gets 2000000000"),
    "a huge batch": ("stateful", of_layer(0, batch_input_shape=[2_000_000_000, 6, 3]), "is stateful for 2000000000 rows"),
    "without a bias": ("lstm", of_layer(1, use_bias=False), "keeps 3 arrays for layer lstm.*Expected: 2"),
    "no weights": ("lstm", of_layer(1, name="other"), "keeps 0 arrays for layer other"),
    "one name": ("lstm", twice_named, "has two layers named one"),
    "a circle": ("branches", circle, "reads from"),
    "chance": ("branches", training, "called with training=True"),
    "no shape": ("lstm", lambda c: {"class_name": "Sequential", "config": c["config"]["layers"][1:]}, "does not say what it reads"),
    "no layers": ("lstm", lambda c: {"class_name": "Sequential", "config": []}, "has no layers"),
    "another model": ("lstm", lambda c: {"class_name": "Mine", "config": {}}, "the file holds a Mine"),
    "no configuration": ("lstm", lambda c: [], "configuration has '\\[\\]' in it"),
    "broken": ("lstm", lambda c: json.dumps(c)[:-9], "is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rebuilt_is_refused_by_what_was_found(name: str, old: Path, tmp_path: Path) -> None:
    model, edit, found = REFUSED[name]
    with pytest.raises(ModelRefused, match=found):
        converted(with_config(old / f"{model}.h5", tmp_path, edit), tmp_path)
    assert not (tmp_path / "new.keras").exists()


def swapped(group: Any) -> None:
    names = group.attrs["weight_names"]
    group.attrs["weight_names"] = [names[1], names[0], names[2]]


def of_integers(group: Any) -> None:
    name = group.attrs["weight_names"][2]
    del group[name]
    group[name] = np.zeros(20, np.int32)


def linked(kind: Callable[[str], Any]) -> Callable[[Any], None]:
    def edit(group: Any) -> None:
        name = group.attrs["weight_names"][0]
        group.move(name, "moved")
        group[name] = kind(f"{group.name}/moved")

    return edit


def of_another_file(group: Any) -> None:
    name = group.attrs["weight_names"][0]
    del group[name]
    group.create_dataset(name, (3, 20), "f4", external=[("/etc/hosts", 0, h5py.h5f.UNLIMITED)])


def endless(group: Any) -> None:
    name = group.attrs["weight_names"][0]
    del group[name]
    group.create_dataset(name, (1 << 40, 20), "f4", chunks=(1, 20))


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (swapped, "where layer lstm.* has its kernel"),
        (of_integers, "weights of layer lstm .* are int32"),
        (linked(h5py.SoftLink), "of its own"),
        (linked(lambda path: h5py.ExternalLink("edited.h5", path)), "of its own"),
        (of_another_file, "keeps .* elsewhere"),
        (endless, r"the weights have [\d,]+ bytes"),
        (lambda group: group.attrs.__delitem__("weight_names"), "has no weight_names"),
    ],
)
def test_weights_that_are_not_what_they_should_be_are_refused(edit: Callable[[Any], None], found: str, old: Path, tmp_path: Path) -> None:
    path = with_config(old / "lstm.h5", tmp_path, lambda config: config)
    with h5py.File(path, "r+") as file:
        edit(file["model_weights"]["lstm"])
    with pytest.raises(ModelRefused, match=found):
        converted(path, tmp_path)


def weights_only(tmp_path: Path, old: Path) -> Path:
    path = tmp_path / "weights.h5"
    path.write_bytes((old / "lstm.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
    return path


def of_keras_3(tmp_path: Path, old: Path) -> Path:
    path = tmp_path / "today.keras"
    keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)]).save(path)
    return path


def written(name: str, content: bytes) -> Callable[[Path, Path], Path]:
    def write(tmp_path: Path, old: Path) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def zipped(edit: Callable[[dict[str, bytes]], None]) -> Callable[[Path, Path], Path]:
    def write(tmp_path: Path, old: Path) -> Path:
        with zipfile.ZipFile(old / "lstm.keras") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        edit(members)
        with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tmp_path / "zip.keras"

    return write


NO_OLD_MODEL: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "weights only": (weights_only, "weights only, no model.*save the whole model"),
    "architecture only": (
        written("model.json", b'{"class_name": "Sequential"}'),
        "an architecture at most, without weights.*save the whole model",
    ),
    "keras 3": (of_keras_3, "saved by Keras 3.*convert nothing.*model show"),
    "pickle": (written("model.h5", pickle.dumps([1])), "is a Python pickle"),
    "folder": (lambda tmp_path, old: tmp_path, "is a directory"),
    "missing": (lambda tmp_path, old: tmp_path / "none.h5", "cannot be read: No such file"),
    "another zip": (zipped(lambda members: members.pop("config.json") and None), "without a Keras model in it"),
    "zip without weights": (zipped(lambda members: members.pop("model.weights.h5") and None), "architecture without weights"),
    "zip of a later keras": (zipped(lambda members: members.update({"metadata.json": b'{"keras_version": "5.0"}'})), "saved by Keras 5.0"),
}


@pytest.mark.parametrize("name", NO_OLD_MODEL)
def test_files_that_hold_no_old_model_are_refused(name: str, old: Path, tmp_path: Path) -> None:
    make, found = NO_OLD_MODEL[name]
    with pytest.raises(ModelRefused, match=found):
        converted(make(tmp_path, old), tmp_path)


def test_a_file_that_is_too_large_is_refused(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BYTES_MAX", 1000)
    with pytest.raises(ModelRefused, match=r"has [\d,]+ bytes. Expected: at most 1,000"):
        converted(old / "lstm.h5", tmp_path)


# --- damage: a refusal or a model, never anything else

STRANGE = [
    None, True, -1, 0, 3, 10**12, 1e300, float("nan"), "", "hard_sigmoid", "../x", [], [[]], [None, 2, 3], {}, {"class_name": "LSTM"},
]  # fmt: skip


def places(node: Json) -> Iterator[tuple[Any, Any]]:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()):
        yield node, key
        yield from places(value)


def mutated(config: Json, rng: random.Random) -> Json:
    """A value replaced by a strange one or by one from elsewhere, or removed; or bytes of the text altered."""
    if rng.random() < 0.3:
        text = bytearray(json.dumps(config).encode())
        for _ in range(rng.randint(1, 3)):
            text[rng.randrange(len(text))] = rng.randrange(32, 127)
        return bytes(text)
    config = copy.deepcopy(config)
    node, key = rng.choice(list(places(config)))
    other, at = rng.choice(list(places(config)))
    if rng.random() < 0.2 and isinstance(node, dict):
        del node[key]
    else:
        node[key] = copy.deepcopy(rng.choice([*STRANGE, other[at]]))
    return config


@pytest.mark.parametrize("name", ["bidirectional_gru_sum", "used_twice", "norm", "conv_hard"])
def test_an_altered_configuration_is_refused_or_rebuilt(name: str, old: Path, tmp_path: Path) -> None:
    rng, refused = random.Random(name), 0
    for _ in range(60):
        path = with_config(old / f"{name}.h5", tmp_path, lambda config: mutated(config, rng))
        try:
            converted(path, tmp_path)
        except ModelRefused:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("kind", ["h5", "keras"])
def test_a_truncated_file_is_refused(kind: str, old: Path, tmp_path: Path) -> None:
    content, path = (old / f"lstm.{kind}").read_bytes(), tmp_path / f"cut.{kind}"
    for part in range(1, 20):
        path.write_bytes(content[: len(content) * part // 20])
        with pytest.raises(ModelRefused):
            converted(path, tmp_path)


# --- the new file


def test_an_existing_file_is_overwritten_only_when_asked(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.keras"
    new.write_text("mine")
    with pytest.raises(ConfigurationError, match=r"is there already.*--force"):
        convert_file(old / "lstm.h5", new)
    assert new.read_text() == "mine"
    convert_file(old / "lstm.h5", new, force=True)
    assert load(new).features == 3
    assert [path.name for path in tmp_path.iterdir()] == ["new.keras"]


def test_a_name_that_cannot_be_written_to_is_refused(old: Path, tmp_path: Path) -> None:
    copied = tmp_path / "same.keras"
    copied.write_bytes((old / "lstm.keras").read_bytes())
    (tmp_path / "folder.keras").mkdir()
    for path, new, found in (
        (old / "lstm.h5", tmp_path / "new.h5", "does not end in .keras"),
        (copied, copied, "are one file"),
        (old / "lstm.h5", tmp_path / "folder.keras", "is a directory"),
        (old / "lstm.h5", tmp_path / "none" / "new.keras", "cannot be written: No such file"),
    ):
        with pytest.raises(SlotstreamError, match=found):
            convert_file(path, new, force=True)
    assert copied.read_bytes() == (old / "lstm.keras").read_bytes()


def test_nothing_is_left_when_writing_fails(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("processor.model.convert.convert.os.fsync", fail)
    with pytest.raises(SlotstreamError, match="No space left on device"):
        convert_file(old / "lstm.h5", tmp_path / "new.keras")
    assert list(tmp_path.iterdir()) == []


# --- the command


def test_the_command_tells_what_was_found_and_changed_and_how_it_is_served(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.keras"
    assert cli.main(["model", "convert", str(old / "lstm_hard.h5"), str(new)]) == 0
    printed = capsys.readouterr().out
    for text in ("Keras 2.", "lstm (LSTM)", "weights of its gates times 1.2", f"{new}", "servable", "carried"):
        assert text in printed
    assert cli.main(["model", "convert", str(old / "lstm_hard.h5"), str(new)]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["model", "convert", str(old / "lstm_hard.h5"), str(new), "--force"]) == 0


@pytest.mark.parametrize("kind", ["h5", "keras"])
def test_the_command_that_a_refusal_names_makes_the_file_servable(kind: str, old: Path, tmp_path: Path) -> None:
    path = tmp_path / f"my model.{kind}"
    path.write_bytes((old / f"lstm.{kind}").read_bytes())
    with pytest.raises(ModelRefused, match=r"was saved by Keras 2\.\d+") as refused:
        load(path)
    _, *words = shlex.split(refused.value.do)
    assert cli.main(words) == 0
    assert load(Path(words[-1])).mode == "windowed"
