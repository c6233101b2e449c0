"""Old model files, opened: what wrote them, their configuration, and the arrays of each layer.

Responsible for the two formats, HDF5 (Keras 1, Keras 2, tf.keras) and the zip of TensorFlow 2.13 to 2.15, and for never following a
file's links out of it. Not responsible for what a configuration or an array means (configuration.py, weights.py).
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from processor.errors import ModelRefused
from processor.model.convert import saved_model
from processor.model.convert.arrays import SAVE_WHOLE, OldFile, check_bytes_of_weights, check_old, parts
from processor.model.convert.configuration import MODELS
from processor.model.convert.old_model import OldLayer, OldModel
from processor.model.convert.weights import Stored, count, roles, share_out
from processor.model.file import formats
from processor.model.file.admission import BYTES_MAX, broken, check_file, kind_of, no_model_in_zip, version_of


@contextmanager
def opened(path: Path, weights: Path | None = None) -> Iterator[OldFile]:
    """weights: where a file of JSON keeps them. Raises ModelRefused for all that is not a whole model of Keras 1 or 2."""
    try:
        with _opened(path, weights) as file:
            yield file
    except ModelRefused:
        raise
    except Exception as error:
        raise broken(path, error) from error


def _opened(path: Path, weights: Path | None) -> AbstractContextManager[OldFile]:
    if weights is not None:
        return _apart(path, weights)
    if path.is_dir() and (path / "saved_model.pb").exists():
        return saved_model.opened(path)
    check_file(path)
    return _h5(path) if kind_of(path) == ".h5" else _zip(path)


@contextmanager
def _h5(path: Path) -> Iterator[OldFile]:
    with h5py.File(path, "r") as file:
        config, weights = file.attrs.get("model_config"), file.get("model_weights")
        if config is None or weights is None:
            what = "weights only, no model" if config is None else "an architecture without weights"
            raise ModelRefused(f"{path} holds {what}", expected="a whole model", do=formats.TWO_HALVES)
        version = version_of(file.attrs.get("keras_version"))
        check_old(path, version)
        yield OldFile(version, _text(file.attrs.get("backend")), json.loads(config), _H5Arrays(weights))


@contextmanager
def _zip(path: Path) -> Iterator[OldFile]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if not {"config.json", "metadata.json"} <= names:
            raise no_model_in_zip(path, names)
        version = version_of(json.loads(archive.read("metadata.json")).get("keras_version"))
        check_old(path, version)
        if "model.weights.h5" not in names:
            raise ModelRefused(f"{path} holds an architecture without weights", expected="a whole model", do=SAVE_WHOLE)
        size = sum(info.file_size for info in archive.infolist())
        if size > BYTES_MAX:
            raise ModelRefused(f"{path} has {size:,} bytes in it", expected=f"at most {BYTES_MAX:,}", do="serve a smaller model")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
            yield OldFile(version, "tensorflow", json.loads(archive.read("config.json")), _ZipArrays(weights, version))


@contextmanager
def _apart(path: Path, weights: Path) -> Iterator[OldFile]:
    """An architecture of `model.to_json()`, and what `model.save_weights()` wrote."""
    for file in (path, weights):
        check_file(file)
    text = path.read_bytes()
    if not text.lstrip().startswith(b"{"):
        raise ModelRefused(f"{path} is not JSON", expected="an architecture, as model.to_json() gives it", do="name its file first")
    if kind_of(weights) != ".h5":
        raise ModelRefused(f"{weights} is no HDF5 file", expected="weights, as model.save_weights('weights.h5') writes them", do=SAVE_WHOLE)
    config = json.loads(text)
    version = config.get("keras_version")
    if str(version or "").startswith("3") or (version is None and "build_config" in config):
        lines = f"m = keras.models.model_from_json(open('{path}').read()); m.load_weights('{weights}'); m.save('model.keras')"
        raise ModelRefused(
            f"{path} was written by Keras 3", expected="an architecture of Keras 1 or 2", do=f'python -c "import keras; {lines}"'
        )
    with h5py.File(weights, "r") as file:
        group = _inside(file, "model_weights") if "model_weights" in file else file
        listed = "layer_names" in group.attrs
        version = version_of(version or file.attrs.get("keras_version"))
        backend = _text(file.attrs.get("backend", config.get("backend")))
        yield OldFile(version, backend, config, _H5Arrays(group) if listed else _ZipArrays(file, version))


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


class _H5Arrays:
    """`model_weights`: a group for each layer of the model, with all arrays of what the layer holds in one list."""

    def __init__(self, group: Any) -> None:
        self._group, self._bytes = group, 0
        self._names = _texts(group, "layer_names")

    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        for layer in model.layers:
            if layer.name in self._names:
                group = _inside(self._group, layer.name)
                yield from share_out(layer, [self._stored(group, name) for name in _texts(group, "weight_names")])
            elif layer.model is not None:
                # Keras 1 opened a Sequential that another one begins with.
                yield from self.of(layer.model)
            else:
                yield from share_out(layer, [])

    def _stored(self, group: Any, name: str) -> Stored:
        dataset = _inside(group, name)
        self._bytes += _bytes(dataset)
        check_bytes_of_weights(self._bytes)
        return Stored(name, np.asarray(dataset))


class _ZipArrays:
    """A group for each layer, named after its class and numbered among those of its class; arrays as numbers.

    Each version walked a model in another way (WALKS). A way is taken only if it reaches every group that holds arrays, each once, and
    finds there as many as the layer has: one that passes over the other's numbers would give layers of one class each other's weights.
    """

    def __init__(self, group: Any, version: str | None) -> None:
        self._groups, self._bytes = _groups(group), 0
        self._walks = _walks({path.partition("/")[0] for path in self._groups if path}, version)

    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        tried = [list(_walk(model, *walk)) for walk in self._walks]
        misfits = [self._misfit(places) for places in tried]
        if all(misfits):
            raise ModelRefused(misfits[0], expected="a group of weights for each layer, and no other", do=SAVE_WHOLE)
        for layer, paths in tried[misfits.index("")]:
            yield layer, self._stored(layer, paths)

    def _misfit(self, places: Sequence["Place"]) -> str:
        """What of the file contradicts these places, or an empty text."""
        for layer, paths in places:
            for path in paths:
                found, wanted = len(self._groups.get(path, ())), len(roles(layer)) // len(paths)
                if found != wanted:
                    return f"the file keeps {found} arrays in {path}, where layer {layer.label} has {wanted}"
        reached, top = [path for _, paths in places for path in paths], places[0][1][0].partition("/")[0]
        twice = next((path for path in reached if reached.count(path) > 1), None)
        if twice is not None:
            return f"the file keeps the weights of two layers in {twice}"
        left = [path for path, group in self._groups.items() if len(group) and path.startswith(f"{top}/") and path not in set(reached)]
        return f"the file keeps arrays in {left[0]}, which are of no layer" if left else ""

    def _stored(self, layer: OldLayer, paths: Sequence[str]) -> Sequence[Stored]:
        names = roles(layer)
        of_each = len(names) // len(paths)
        arrays = [_inside(self._groups[path], str(number)) for path in paths for number in range(of_each)]
        self._bytes += sum(map(_bytes, arrays))
        check_bytes_of_weights(self._bytes)
        return [Stored(name, np.asarray(array)) for name, array in zip(names, arrays, strict=True)]


# The attribute of a model that was walked, and whether each layer with weights counted twice: Keras 2.12 and 2.13 listed it under two
# names, and numbered the second one too; 2.14 passed over what it had seen; 2.15 walked the layers themselves.
DEPENDENCIES = "_layer_checkpoint_dependencies"
WALKS = {"2.12": (DEPENDENCIES, True), "2.13": (DEPENDENCIES, True), "2.14": (DEPENDENCIES, False), "2.15": ("layers", False)}


Place = tuple[OldLayer, tuple[str, ...]]


def _walks(tops: set[str], version: str | None) -> list[tuple[str, bool]]:
    """The ways in which the file may have been walked, that of its version first."""
    told = WALKS.get(".".join((version or "").split(".")[:2]))
    found = [walk for walk in dict.fromkeys((told, *WALKS.values())) if walk is not None and walk[0] in tops]
    if not found:
        kept = ", ".join(sorted(tops)) or "nothing"
        raise ModelRefused(
            f"the file keeps its weights under {kept}", expected=f"layers or {DEPENDENCIES}, as Keras 2.12 to 2.15 wrote", do=SAVE_WHOLE
        )
    return found


def _walk(model: OldModel, top: str, doubled: bool, path: str = "") -> Iterator[Place]:
    """Each layer without layers in it, with the paths of its groups."""
    seen: dict[str, int] = {}
    for layer in model.layers:
        name = _snake("Functional" if layer.saved_as in MODELS[1:] else layer.saved_as)
        number = seen[name] = seen.get(name, -1) + 1
        seen[name] += doubled and sum(count(layer)) > 0
        yield from _walk_layer(layer, top, doubled, f"{path}{top}/{name}_{number}" if number else f"{path}{top}/{name}")


def _walk_layer(layer: OldLayer, top: str, doubled: bool, path: str) -> Iterator[Place]:
    if layer.model is not None:
        yield from _walk(layer.model, top, doubled, f"{path}/")
    elif layer.inner:
        names = ("layer",) if len(layer.inner) == 1 else ("forward_layer", "backward_layer")
        for name, inner in zip(names, layer.inner, strict=True):
            yield from _walk_layer(inner, top, doubled, f"{path}/{name}")
    else:
        yield layer, tuple(f"{path}/{part}" if part else path for part in parts(layer))


def _groups(file: Any) -> dict[str, Any]:
    """Every group of variables by the path of what it is of. On Windows that path is one name, with backslashes in it."""
    found: dict[str, Any] = {}
    pending, seen = [("", file)], set[int]()
    while pending:
        path, group = pending.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise ModelRefused(f"the file has {path} under two names", expected="a tree of groups", do=SAVE_WHOLE)
        seen.add(address)
        for name in group:
            inner = _inside(group, name)
            whole = f"{path}/{name}".replace("\\", "/").strip("/")
            if not isinstance(inner, h5py.Group):
                continue
            if name != "vars":
                pending.append((whole, inner))
            elif found.setdefault(path.strip("/"), inner) is not inner:
                raise ModelRefused(f"the file has two groups {path}", expected="one for each layer", do=SAVE_WHOLE)
    return found


def _snake(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _texts(group: Any, name: str) -> list[str]:
    """A list of names. Where it exceeds what HDF5 takes in one attribute, it is cut into name0, name1 ..."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while not parts or f"{name}{len(parts)}" in group.attrs:
        if f"{name}{len(parts)}" not in group.attrs:
            raise ModelRefused(f"{group.name} has no {name}", expected="a whole model", do=SAVE_WHOLE)
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in part]


def _inside(group: Any, path: str) -> Any:
    """What lies at a path, by hard links only: others may lead to other files of this machine."""
    for name in filter(None, path.split("/")):
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise ModelRefused(f"the file has no {path} of its own", expected="a whole model in one file", do=SAVE_WHOLE)
        group = group[name]
    return group


def _bytes(dataset: Any) -> int:
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ModelRefused(f"the file keeps {dataset.name} elsewhere", expected="a whole model in one file", do=SAVE_WHOLE)
    return int(dataset.nbytes)
