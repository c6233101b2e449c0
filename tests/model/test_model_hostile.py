"""Files made to harm, and files that chance has changed: nothing of them is imported, run or allocated; what comes out is a refusal.

The file of a mutation that fails stays in the test's folder, under the number of its seed.
"""

import json
import random
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from processor.errors import ModelRefused
from processor.model.file import admission, h5
from processor.model.load import load

L = keras.layers
F = 3
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A .keras file with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_config(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    def edit(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        change(config)
        members["config.json"] = json.dumps(config).encode()

    return rewritten(path, edit)


def layer(config: dict[str, Any], number: int) -> dict[str, Any]:
    return config["config"]["layers"][number]


# --- what a configuration may name


PLANTED: dict[str, tuple[dict[str, Any], str]] = {
    "a module of Python": ({"module": "os", "class_name": "system", "config": {}}, r"a class of your own \(system\)"),
    "a function of Keras": ({"module": "keras.utils", "class_name": "get_file", "config": {}}, r"of your own \(get_file\)"),
    "an inner part of Keras": (
        {"module": "keras.src.saving.saving_lib", "class_name": "load_model", "config": {}},
        r"of your own \(load_model\)",
    ),
    "a module not imported yet": ({"module": "keras.src.planted", "class_name": "Layer", "config": {}}, r"of your own \(Layer\)"),
    "a vocabulary of a file": (
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"name": "words", "vocabulary": "/etc/passwd"}},
        r"words works on text.*\(StringLookup\)",
    ),
    "text": ({"module": "keras.layers", "class_name": "TextVectorization", "config": {"name": "t"}}, r"\(TextVectorization\)"),
    "a program in a folder": (
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"name": "sm", "filepath": "/tmp"}},
        r"sm runs a program from outside the file \(TFSMLayer\)",
    ),
    "a type": ({"class_name": "__typespec__", "spec_name": "x", "module": "keras", "registered_name": None, "config": []}, "__typespec__"),
    "bytecode": ({"class_name": "__lambda__", "config": {"value": ["4wAAAA==", None, None]}}, "runs code stored in the file"),
    "an operation that takes functions": ({"module": "keras.src.ops.core", "class_name": "Map", "config": {}}, r"of your own \(Map\)"),
    "another registered name": (
        {"module": "keras.layers", "class_name": "ReLU", "registered_name": "mine>ReLU", "config": {}},
        r"of your own \(ReLU\)",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("place", ["layer", "activation", "initializer", "argument", "inner compile settings"])
def test_what_is_not_known_to_be_numbers_is_refused_wherever_it_stands(name: str, place: str, tmp_path: Path) -> None:
    planted, found = PLANTED[name]

    def plant(config: dict[str, Any]) -> None:
        if place == "layer":
            config["config"]["layers"].append(planted)
        elif place == "inner compile settings":
            layer(config, 1)["compile_config"] = {"loss": planted}
        else:
            key = {"activation": "activation", "initializer": "bias_initializer", "argument": "kernel_regularizer"}[place]
            layer(config, 2)["config"][key] = planted

    path = with_config(saved(sequential(L.LSTM(2), L.Dense(1, name="last")), tmp_path), plant)
    with pytest.raises(ModelRefused, match=found):
        load(path)
    assert "keras.src.planted" not in sys.modules


@pytest.mark.parametrize("activation", ["get_file", "keras.utils.get_file", "os.system", "__class__", "deserialise"])
def test_an_activation_that_keras_does_not_have_is_named(activation: str, tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2), L.Dense(1, name="last")), tmp_path)
    path = with_config(path, lambda config: layer(config, 2)["config"].update(activation=activation))
    with pytest.raises(ModelRefused, match=f"layer last has the activation '{activation}'"):
        load(path)


def test_how_the_model_itself_was_compiled_does_not_matter(tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path)
    path = with_config(path, lambda config: config.update(compile_config={"loss": PLANTED["a module of Python"][0]}))
    assert load(path).mode == "carried"


def test_a_nested_model_that_was_compiled_is_served(tmp_path: Path) -> None:
    inner = sequential(L.LSTM(2, return_sequences=True))
    inner.compile("adam", keras.losses.Huber())
    assert load(saved(sequential(inner, L.LSTM(2)), tmp_path)).widths == (2, 2, 2, 2)


# --- what a file may ask for


def test_a_layer_larger_than_the_files_weights_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2), L.Dense(1)), tmp_path)
    path = with_config(path, lambda config: layer(config, 2)["config"].update(units=1_500_000_000))
    with pytest.raises(ModelRefused, match=r"the layers in .* are larger than the weights in it, which have \d+ bytes"):
        load(path)


def test_an_output_that_no_tile_holds_is_refused(tmp_path: Path) -> None:
    model = sequential(L.LSTM(2), L.RepeatVector(2_000_000), L.Dense(1), steps=4)
    with pytest.raises(ModelRefused, match=r"one sensor takes 4,000,000 numbers at once"):
        load(saved(model, tmp_path))


def test_a_window_that_no_tile_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"set a shorter model\.window"):
        load(saved(sequential(L.Bidirectional(L.LSTM(2)), L.Dense(1)), tmp_path), window=1_000_000)


def test_endless_unrolling_is_refused(tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2, name="memory", unroll=True), steps=4), tmp_path)
    path = with_config(path, lambda config: layer(config, 0)["config"].update(batch_shape=[None, 10**9, F]))
    with pytest.raises(ModelRefused, match="layer memory is unrolled, over up to 1,000,000,000 steps"):
        load(path)


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50 << 20))
    monkeypatch.setattr(admission, "BYTES_MAX", 1 << 20)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelRefused, match=r"unpacked, has 52,[\d,]+ bytes"):
        load(path)


def test_an_architecture_of_many_megabytes_is_refused(tmp_path: Path) -> None:
    def swell(members: dict[str, bytes]) -> None:
        members["config.json"] += b" " * (17 << 20)

    with pytest.raises(ModelRefused, match=r"its config.json has 17,[\d,]+ bytes"):
        load(rewritten(saved(sequential(L.LSTM(2)), tmp_path), swell))


@pytest.mark.parametrize("depth", [300, 100_000])
def test_an_architecture_nested_without_end_is_refused(depth: int, tmp_path: Path) -> None:
    def nest(members: dict[str, bytes]) -> None:
        members["config.json"] = b'{"class_name": "Sequential", "config": ' + b"[" * depth + b"]" * depth + b"}"

    with pytest.raises(ModelRefused, match=r"nested (deeper than 200 levels|too deep)"):
        load(rewritten(saved(sequential(L.LSTM(2)), tmp_path), nest))


def linked(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def soft(file: h5py.File, name: str) -> None:
    file[name] = h5py.SoftLink("/")


def external(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (4,), np.float32, external=[("/etc/passwd", 0, 16)])


@pytest.mark.parametrize("add", [linked, soft, external])
def test_weights_outside_the_file_are_refused(add: Callable[[h5py.File, str], None], tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path, "model.h5")
    with h5py.File(path, "r+") as file:
        add(file, "model_weights/planted")
    with pytest.raises(ModelRefused, match=r"links to another place under planted|is kept in another file"):
        load(path)


def test_a_file_whose_reading_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path, "model.h5")
    monkeypatch.setattr(h5, "READ_S", 0.01)
    with pytest.raises(ModelRefused, match="is damaged: reading it does not end"):
        load(path)


def test_a_file_whose_reading_ends_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path, "model.h5")
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killed.chmod(0o700)
    monkeypatch.setattr(h5.sys, "executable", str(killed))
    with pytest.raises(ModelRefused, match="ends the process that does it, by signal 11"):
        load(path)


def test_groups_that_hold_each_other_do_not_stop_a_load(tmp_path: Path) -> None:
    path = saved(sequential(L.LSTM(2)), tmp_path, "model.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights"]["round"] = file["model_weights"]
    assert load(path).mode == "carried"


# --- chance

JUNK = (None, -1, 0, 1, 2, 7, 10**9, 10**30, 1e308, True, "", "os", "relu", "keras", "\ud800", [], {}, [None], {"class_name": "Dense"})


def nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON tree: (the dict or list, the key)."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from nodes(node[key])


def mutated_tree(tree: Any, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(nodes(tree))
        parent, key = draw.choice(places)
        if draw.random() < 0.2:
            del parent[key]
        elif draw.random() < 0.3:
            other, there = draw.choice(places)
            parent[key] = json.loads(json.dumps(other[there] if there in other or isinstance(other, list) else None))
        else:
            parent[key] = draw.choice(JUNK)


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 8, 64))):
        at = draw.randrange(len(changed))
        changed[at] = draw.choice((0, 0xFF, changed[at] ^ 1 << draw.randrange(8)))
    return bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.1 else changed)


def several() -> keras.Model:
    x = keras.Input((4, F))
    y = L.Conv1D(2, 2, padding="causal")(x)
    y = L.Bidirectional(L.LSTM(2, return_sequences=True))(y)
    return keras.Model(x, L.Dense(1)(keras.ops.mean(y, axis=1)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "carried": lambda: sequential(L.LSTM(2), L.Dropout(0.1), L.Dense(1)),
    "windowed": several,
}
ROUNDS, SECONDS = 40, 5.0
WEIGHTS = "model.weights.h5"


def judged(path: Path) -> None:
    """Served or refused; anything else fails."""
    try:
        load(path)
    except ModelRefused as refused:
        assert "\n" not in refused.found  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in MODELS for kind in ("config", "weights", "file")),
        *(("carried", kind) for kind in ("h5 config", "h5 file")),  # Keras loads no operations from an .h5 file
    ],
)
def test_a_mutated_file_is_served_or_refused(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5, "READ_S", 5.0)
    original = saved(MODELS[name](), tmp_path, "whole.h5" if "h5" in kind else "whole.keras")
    content, until_s = original.read_bytes(), time.monotonic() + SECONDS
    for seed in range(ROUNDS):
        if time.monotonic() > until_s:
            break
        draw, path = random.Random(f"{name} {kind} {seed}"), tmp_path / f"{seed}{original.suffix}"
        path.write_bytes(mutated_bytes(content, draw) if kind.endswith("file") else content)
        if kind == "config":
            with_config(path, lambda config, draw=draw: mutated_tree(config, draw))
        elif kind == "weights":
            rewritten(path, lambda members, draw=draw: members.update({WEIGHTS: mutated_bytes(members[WEIGHTS], draw)}))
        elif kind == "h5 config":
            with h5py.File(path, "r+") as file:
                config = json.loads(file.attrs["model_config"])
                mutated_tree(config, draw)
                file.attrs["model_config"] = json.dumps(config)
        judged(path)
        path.unlink()
