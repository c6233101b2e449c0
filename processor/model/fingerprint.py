"""The digest of a model: what it computes, whatever its layers are called and however it was trained.

Responsible for reducing an architecture to what decides its results. Not responsible for the settings that decide; the caller adds them.
"""

import hashlib
import json
from typing import Any

import numpy as np

# Keys of a layer's configuration that change no output of a trained model.
IGNORED = frozenset({
    "name", "trainable", "dtype", "seed", "build_config", "build_input_shape", "compile_config", "shared_object_id", "module",
    "registered_name", "autocast", "unroll", "implementation", "use_cudnn", "stateful",
})  # fmt: skip
IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
REFERENCES = ("keras_history", "input_layers", "output_layers")


def digest(model: Any) -> str:
    """sha256, in hex, of a Keras model's architecture without names, and its weights in graph order."""
    total = hashlib.sha256(json.dumps(_architecture(model.get_config(), {}), sort_keys=True, default=repr).encode())
    for weight in model.get_weights():
        array = np.ascontiguousarray(weight)
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _architecture(node: Any, numbers: dict[str, int]) -> Any:
    """A configuration with each layer's name replaced by its number in its own graph, and without what changes no output."""
    if isinstance(node, (list, tuple)):
        return [_architecture(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("layers"), list):
        names = [layer.get("name", layer["config"]["name"]) for layer in node["layers"]]
        numbers = {name: number for number, name in enumerate(names)}
    kept = {key: value for key, value in node.items() if key not in IGNORED and not key.endswith(IGNORED_ENDINGS)}
    if (precision := _precision(node.get("dtype"))) is not None:
        kept["dtype"] = precision
    return {key: _number(value, numbers) if key in REFERENCES else _architecture(value, numbers) for key, value in kept.items()}


def _precision(dtype: Any) -> str | None:
    """What a layer computes in, where that is not float32."""
    policy = dtype.get("config") if isinstance(dtype, dict) else None
    name = policy.get("name") if isinstance(policy, dict) else dtype
    return name if isinstance(name, str) and name != "float32" else None


def _number(value: Any, numbers: dict[str, int]) -> Any:
    """References to layers, however nested, by number. Those of a dict are in the order of its keys, as Keras flattens it."""
    if isinstance(value, dict):
        return [_number(value[key], numbers) for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [_number(item, numbers) for item in value]
    return numbers.get(value, value) if isinstance(value, str) else value
