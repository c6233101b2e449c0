"""Folders that Keras 2 saved as TensorFlow SavedModels, opened: the configuration in their metadata, the arrays in their checkpoint.

Responsible for finding each layer's variables by the names under which TensorFlow's graph of objects holds them. The graph of the
folder, which could run code, is not loaded. Not responsible for what a configuration or an array means (configuration.py,
weights.py).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.errors import ModelRefused
from processor.model.backend import saved_model_pb2, tf, trackable_object_graph_pb2
from processor.model.convert.arrays import SAVE_WHOLE, OldFile, check_bytes_of_weights, check_old, parts
from processor.model.convert.old_model import OldLayer, OldModel
from processor.model.convert.weights import Stored, count, roles
from processor.model.file.admission import BYTES_MAX, check_bytes, version_of

OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
# Attributes that are not called what they hold.
ATTRIBUTES = {"mean": ("adapt_mean", "mean"), "variance": ("adapt_variance", "variance")}


@contextmanager
def opened(folder: Path) -> Iterator[OldFile]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_bytes(f"{folder} has", size, bytes_max=BYTES_MAX)
    metadata = _root_metadata(folder)
    described = metadata.get("model_config") or metadata
    if not isinstance(described.get("config"), dict):
        raise ModelRefused(
            f"{folder} holds a model of a class of your own ({metadata.get('class_name')}), or only its graph",
            expected="a Sequential or Functional model that was saved by model.save()", do=SAVE_WHOLE,
        )  # fmt: skip
    version = version_of(metadata.get("keras_version") or "2")
    check_old(folder, version)
    yield OldFile(version, "tensorflow", described, _CheckpointArrays(folder / "variables" / "variables"))


def _root_metadata(folder: Path) -> dict[str, Any]:
    """What Keras wrote of the model: from TensorFlow 2.5 on in a file of its own, before within the graph's objects."""
    own = folder / "keras_metadata.pb"
    texts = _from_own_file(own.read_bytes()) if own.exists() else _from_graph((folder / "saved_model.pb").read_bytes())
    found: Any = json.loads(texts, object_hook=_plain) if texts else {}
    return found if isinstance(found, dict) else {}


def _plain(item: dict[str, Any]) -> Any:
    """Tuples and shapes, which are written as objects here, as the lists that every other file has."""
    return item["items"] if set(item) == {"class_name", "items"} and isinstance(item["items"], list) else item


def _from_own_file(content: bytes) -> str:
    """The root's metadata of keras_metadata.pb: repeated nodes = 1, of each node_path = 3 and metadata = 5."""
    for number, node in _fields(content):
        if number == 1 and isinstance(node, bytes):
            fields = dict(_fields(node))
            if fields.get(3) == b"root":
                return bytes(fields.get(5, b"")).decode()
    return ""


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: numbers, and bytes for all that has a length."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if tag & 7 == 0:
            value, at = _varint(content, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            size, at = _varint(content, at)
            yield tag >> 3, content[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of type {tag & 7} in keras_metadata.pb")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _from_graph(content: bytes) -> str:
    nodes = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].object_graph_def.nodes
    return str(nodes[0].user_object.metadata) if nodes else ""


class _CheckpointArrays:
    """The model's checkpoint: objects that hold each other under names, and below them the keys of the variables."""

    def __init__(self, prefix: Path) -> None:
        self._reader, self._bytes = tf.train.load_checkpoint(str(prefix)), 0
        if not self._reader.has_tensor(OBJECTS):
            raise ModelRefused(f"{prefix.parent} names no objects", expected="the variables of a SavedModel", do=SAVE_WHOLE)
        self._nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(self._reader.get_tensor(OBJECTS)).nodes
        self._shapes = self._reader.get_variable_to_shape_map()
        self._used: set[str] = set()

    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        return self._model(model, 0)

    def _model(self, model: OldModel, node: int) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        with_weights = 0
        for layer in model.layers:
            if sum(count(layer)) == 0:
                yield from ((leaf, []) for leaf in _leaves(layer))
                continue
            yield from self._layer(layer, self._child(node, f"layer_with_weights-{with_weights}", layer))
            with_weights += 1
        if any(child.local_name == f"layer_with_weights-{with_weights}" for child in self._nodes[node].children):
            raise ModelRefused(
                f"the checkpoint holds more layers with weights than the {with_weights} of {model.name}", expected="as many", do=SAVE_WHOLE
            )

    def _layer(self, layer: OldLayer, node: int) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
        if layer.model is not None:
            yield from self._model(layer.model, node)
        elif layer.inner:
            held = ("layer",) if len(layer.inner) == 1 else ("forward_layer", "backward_layer")
            for name, inner in zip(held, layer.inner, strict=True):
                yield from self._layer(inner, self._child(node, name, layer))
        else:
            names = roles(layer)
            each = len(names) // len(parts(layer))
            holders = [self._child(node, part, layer) if part else node for part in parts(layer)] if names else []
            yield layer, [self._stored(holder, name, layer) for holder in holders for name in names[:each]]

    def _child(self, node: int, name: str, layer: OldLayer) -> int:
        found = next((child.node_id for child in self._nodes[node].children if child.local_name == name), None)
        if found is None:
            raise ModelRefused(f"the checkpoint has no {name} of layer {layer.label}", expected="the weights of each layer", do=SAVE_WHOLE)
        return int(found)

    def _stored(self, node: int, role: str, layer: OldLayer) -> Stored:
        names = ATTRIBUTES.get(role, (role,))
        held = next((name for name in names if any(child.local_name == name for child in self._nodes[node].children)), names[0])
        variable = self._nodes[self._child(node, held, layer)]
        key = next((attribute.checkpoint_key for attribute in variable.attributes if attribute.name == VALUE), None)
        if key is None or key not in self._shapes:
            raise ModelRefused(f"the checkpoint has no value of the {role} of layer {layer.label}", expected="one", do=SAVE_WHOLE)
        if key in self._used:
            raise ModelRefused(f"two layers share {key} of the checkpoint", expected="weights for each layer", do=SAVE_WHOLE)
        self._used.add(key)
        self._bytes += 4 * int(tf.TensorShape(self._shapes[key]).num_elements() or 0)
        check_bytes_of_weights(self._bytes)
        return Stored(role, self._reader.get_tensor(key))


def _leaves(layer: OldLayer) -> Iterator[OldLayer]:
    if not layer.children:
        yield layer
    for child in layer.children:
        yield from _leaves(child)
