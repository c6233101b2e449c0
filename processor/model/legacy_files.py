"""Old model files, opened: what wrote them, their configuration, and the arrays of each layer.

Responsible for the two formats, HDF5 (Keras 1, Keras 2, tf.keras) and the zip of TensorFlow 2.13 to 2.15, and for never following a
file's links out of it. Not responsible for what a configuration or an array means (legacy_config.py, legacy_weights.py).
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from processor.errors import ModelRefused
from processor.model.files import BYTES_MAX, broken, check_file, is_old, kind_of, version_of
from processor.model.legacy_config import MODELS, OldLayer, OldModel
from processor.model.legacy_weights import GATES, Stored, count, roles, share_out

SAVE_WHOLE = "load it with the Keras that wrote it and save the whole model: model.save('model.h5')"


class Arrays(Protocol):
    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]: ...


@dataclass(frozen=True)
class OldFile:
    """version: of the Keras that wrote it. backend: "tensorflow", "theano" ..., or None where it does not say so."""

    version: str
    backend: str | None
    config: Any
    arrays: Arrays


@contextmanager
def opened(path: Path) -> Iterator[OldFile]:
    """Raises ModelRefused for every file that is not a whole model of Keras 1 or 2."""
    check_file(path)
    kind = kind_of(path)
    try:
        with _h5(path) if kind == ".h5" else _zip(path) as file:
            yield file
    except ModelRefused:
        raise
    except Exception as error:
        raise broken(path, error) from error


@contextmanager
def _h5(path: Path) -> Iterator[OldFile]:
    with h5py.File(path, "r") as file:
        config, weights = file.attrs.get("model_config"), file.get("model_weights")
        if config is None or weights is None:
            what = "weights only, no model" if config is None else "an architecture without weights"
            raise ModelRefused(f"{path} holds {what}", expected="a whole model", do=SAVE_WHOLE)
        version = version_of(file.attrs.get("keras_version"))
        _check_old(path, version)
        backend = file.attrs.get("backend")
        yield OldFile(version, backend.decode() if isinstance(backend, bytes) else backend, json.loads(config), _H5Arrays(weights))


@contextmanager
def _zip(path: Path) -> Iterator[OldFile]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if not {"config.json", "metadata.json"} <= names:
            raise ModelRefused(f"{path} is a zip file without a Keras model in it", expected="a whole model", do=SAVE_WHOLE)
        version = version_of(json.loads(archive.read("metadata.json")).get("keras_version"))
        _check_old(path, version)
        if "model.weights.h5" not in names:
            raise ModelRefused(f"{path} holds an architecture without weights", expected="a whole model", do=SAVE_WHOLE)
        size = sum(info.file_size for info in archive.infolist())
        if size > BYTES_MAX:
            raise ModelRefused(f"{path} has {size:,} bytes in it", expected=f"at most {BYTES_MAX:,}", do="serve a smaller model")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
            yield OldFile(version, "tensorflow", json.loads(archive.read("config.json")), _ZipArrays(weights, version))


def _check_old(path: Path, version: str) -> None:
    if version.startswith("3"):
        raise ModelRefused(f"{path} was saved by Keras {version}", expected="a file of Keras 1 or 2", do="serve it as it is")
    if not is_old(version):
        raise ModelRefused(f"{path} was saved by Keras {version}", expected="a file of Keras 1 or 2", do=SAVE_WHOLE)


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
        _check_bytes(self._bytes)
        return Stored(name, np.asarray(dataset))


class _ZipArrays:
    """A group for each layer, named after its class and numbered among those of its class; arrays as numbers.

    Each version walked a model in another way (WALKS). A way is taken only if it reaches every group that holds arrays, each once, and
    finds there as many as the layer has: one that passes over the other's numbers would give layers of one class each other's weights.
    """

    def __init__(self, group: Any, version: str | None) -> None:
        self._groups, self._bytes = _groups(group), 0
        self._walks = _walks({path.partition("/")[0] for path in self._groups}, version)

    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        tried = [list(_walk(model, *walk)) for walk in self._walks]
        misfits = [self._misfit(places) for places in tried]
        if all(misfits):
            raise ModelRefused(misfits[0], expected="a group of weights for each layer, and no other", do=SAVE_WHOLE)
        for layer, path in tried[misfits.index("")]:
            yield layer, self._stored(layer, path)

    def _misfit(self, places: Sequence[tuple[OldLayer, str]]) -> str:
        """What of the file contradicts these places, or an empty text."""
        for layer, path in places:
            found = len(self._groups.get(path, ()))
            if found != len(roles(layer)):
                return f"the file keeps {found} arrays in {path}, where layer {layer.label} has {len(roles(layer))}"
        reached, top = [path for _, path in places], places[0][1].partition("/")[0]
        twice = next((path for path in reached if reached.count(path) > 1), None)
        if twice is not None:
            return f"the file keeps the weights of two layers in {twice}"
        left = [path for path, group in self._groups.items() if len(group) and path.startswith(f"{top}/") and path not in set(reached)]
        return f"the file keeps arrays in {left[0]}, which are of no layer" if left else ""

    def _stored(self, layer: OldLayer, path: str) -> Sequence[Stored]:
        names = roles(layer)
        if not names:
            return []
        group = self._groups[path]
        self._bytes += sum(_bytes(_inside(group, str(number))) for number in range(len(names)))
        _check_bytes(self._bytes)
        return [Stored(name, np.asarray(_inside(group, str(number)))) for number, name in enumerate(names)]


# The attribute of a model that was walked, and whether each layer with weights counted twice: Keras 2.12 and 2.13 listed it under two
# names, and numbered the second one too; 2.14 passed over what it had seen; 2.15 walked the layers themselves.
DEPENDENCIES = "_layer_checkpoint_dependencies"
WALKS = {"2.12": (DEPENDENCIES, True), "2.13": (DEPENDENCIES, True), "2.14": (DEPENDENCIES, False), "2.15": ("layers", False)}


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


def _walk(model: OldModel, top: str, doubled: bool, path: str = "") -> Iterator[tuple[OldLayer, str]]:
    """Each layer without layers in it, with the path of its group."""
    seen: dict[str, int] = {}
    for layer in model.layers:
        name = _snake("Functional" if layer.saved_as in MODELS[1:] else layer.saved_as)
        number = seen[name] = seen.get(name, -1) + 1
        seen[name] += doubled and sum(count(layer)) > 0
        yield from _walk_layer(layer, top, doubled, f"{path}{top}/{name}_{number}" if number else f"{path}{top}/{name}")


def _walk_layer(layer: OldLayer, top: str, doubled: bool, path: str) -> Iterator[tuple[OldLayer, str]]:
    if layer.model is not None:
        yield from _walk(layer.model, top, doubled, f"{path}/")
    elif layer.inner:
        names = ("layer",) if len(layer.inner) == 1 else ("forward_layer", "backward_layer")
        for name, inner in zip(names, layer.inner, strict=True):
            yield from _walk_layer(inner, top, doubled, f"{path}/{name}")
    else:
        yield layer, f"{path}/cell" if layer.kind in GATES else path


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


def _check_bytes(size: int) -> None:
    if size > BYTES_MAX:
        raise ModelRefused(f"the weights have {size:,} bytes", expected=f"at most {BYTES_MAX:,}", do="serve a smaller model")
