"""The weights of an old file, as the layers of Keras 3 take them.

Responsible for giving each layer the arrays that belong to it, for their order and layout in Keras 1, Keras 2 and cuDNN, and for the
factor that keeps hard_sigmoid what it was. Every shape is judged before anything is built, so that a size that a file invents costs no
memory. Not responsible for opening files (opening.py) nor for building layers (rebuild.py).

Keras 2's hard_sigmoid is clip(0.2 x + 0.5, 0, 1), Keras 3's is clip(x / 6 + 0.5, 0, 1). They are one function when Keras 3's gets
1.2 x. What a layer hands to its activation is linear in its weights, so the weights are multiplied by 1.2.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.errors import ModelRefused
from processor.model.convert.old_model import OldLayer
from processor.model.file.admission import BYTES_MAX

Array = NDArray[Any]
HARD_SIGMOID = 1.2
MOVING = ("moving_mean", "moving_variance")
STATISTICS = ("mean", "variance", "count")
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
ROLE = re.compile(
    r"(?:^|[/_])(recurrent_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance|running_mean|running_std|alphas?|"
    r"[WUb]_[icfozrh]|[WUb])(?:_\d+)?(?::\d+)?$"
)
# Keras 1 kept the variance under the name of its root.
ROLES_BEFORE = {"W": "kernel", "U": "recurrent_kernel", "b": "bias", "running_mean": MOVING[0], "running_std": MOVING[1], "alphas": "alpha"}


@dataclass(frozen=True)
class Stored:
    """An array of a file under the name that its variable had."""

    name: str
    values: Array


@dataclass(frozen=True)
class Weights:
    """What a layer of Keras 3 is given. arrays: in its own order, float32. options: what only the weights tell."""

    arrays: tuple[Array, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


# --- which arrays are whose


def roles(layer: OldLayer) -> tuple[str, ...]:
    """The arrays that an old layer keeps, in the order in which it keeps them."""
    biased = bool(layer.options.get("use_bias"))
    if layer.kind in GATES and not layer.fused:
        gates = "icfo" if layer.kind == "LSTM" else "zrh"
        return tuple(f"{part}_{gate}" for gate in gates for part in ("W", "U", "b"))
    if layer.kind in GATES:
        return ("kernel", "recurrent_kernel", "bias")[: 2 + biased]
    if layer.kind in ("Dense", "Conv1D"):
        return ("kernel", "bias")[: 1 + biased]
    if layer.kind in ("BatchNormalization", "LayerNormalization"):
        scaled = [name for name, key in (("gamma", "scale"), ("beta", "center")) if layer.options[key]]
        return (*scaled, *(MOVING if layer.kind == "BatchNormalization" else ()))
    if layer.kind == "MultiHeadAttention":
        return ("kernel", "bias")[: 1 + biased] * 4
    if layer.kind == "Normalization":
        return () if "mean" in layer.options else STATISTICS
    return ("alpha",) if layer.kind == "PReLU" else ()


def count(layer: OldLayer, *, frozen: bool = False) -> tuple[int, int]:
    """(trainable, not trainable) arrays of a layer and all that it holds."""
    frozen = frozen or not layer.trainable
    if layer.children:
        counts = [count(child, frozen=frozen) for child in layer.children]
        return sum(t for t, _ in counts), sum(n for _, n in counts)
    names = roles(layer)
    moving = sum(name in (*MOVING, *STATISTICS) for name in names)
    return (0, len(names)) if frozen else (len(names) - moving, moving)


def share_out(layer: OldLayer, stored: Sequence[Stored], *, frozen: bool = False) -> Iterator[tuple[OldLayer, Sequence[Stored]]]:
    """Each layer without layers in it, with its arrays. A layer's trainable arrays are stored before all others that it holds."""
    if sum(count(layer)) != len(stored):
        raise ModelRefused(
            f"the file keeps {len(stored)} arrays for layer {layer.label}", expected=f"{sum(count(layer))}", do="save the whole model again"
        )
    if not layer.children:
        yield layer, stored
        return
    frozen = frozen or not layer.trainable
    trainable, rest = list(stored[: count(layer, frozen=frozen)[0]]), list(stored[count(layer, frozen=frozen)[0] :])
    for child in layer.children:
        first, second = count(child, frozen=frozen)
        yield from share_out(child, trainable[:first] + rest[:second], frozen=frozen)
        trainable, rest = trainable[first:], rest[second:]


# --- what Keras 3 makes of them


def convert(layer: OldLayer, stored: Sequence[Stored], *, backend: str | None, changed: list[str]) -> Weights:
    """A layer's weights for Keras 3; what was done to them is added to `changed`."""
    _check_roles(layer, stored)
    if layer.kind == "Normalization":
        mean, variance = (_float32(layer, item.values) for item in stored[:2]) if stored else (None, None)
        return Weights((), {"mean": mean, "variance": variance} if stored else {})
    arrays = [_float32(layer, item.values) for item in stored]
    options: dict[str, Any] = {}
    if layer.kind in GATES:
        arrays, options = _recurrent(layer, arrays, changed)
    elif layer.kind == "Conv1D":
        arrays[0] = _conv_kernel(layer, arrays[0], changed, theano=_is_theano(backend, stored))
        _check_shapes(layer, arrays, [(layer.options["kernel_size"], None, layer.options["filters"]), (layer.options["filters"],)])
    elif layer.kind == "Dense":
        _check_shapes(layer, arrays, [(None, layer.options["units"]), (layer.options["units"],)])
    elif layer.kind == "MultiHeadAttention":
        _check_attention(layer, arrays)
    elif layer.kind != "PReLU":
        _check_shapes(layer, arrays, [arrays[0].shape[:1]] * len(arrays) if arrays else [])
    if layer.kind in ("Dense", "Conv1D", "SimpleRNN") and layer.options["activation"] == "hard_sigmoid":
        changed.append(_scaled(layer, "weights"))
        arrays = [_times(array, HARD_SIGMOID) for array in arrays]
    return Weights(tuple(arrays), options)


def _check_roles(layer: OldLayer, stored: Sequence[Stored]) -> None:
    """The names of variables are not what decides; but one that says something else means that the order was misread."""
    for item, wanted in zip(stored, roles(layer), strict=True):
        said = ROLE.search(item.name)
        if said and ROLES_BEFORE.get(said[1], said[1]) != wanted:
            found = f"the file keeps {item.name} where layer {layer.label} has its {wanted}"
            raise ModelRefused(found, expected="the usual order", do="save the whole model again")


def _float32(layer: OldLayer, values: Array) -> Array:
    if values.dtype.kind != "f":
        raise ModelRefused(f"the weights of layer {layer.label} are {values.dtype}", expected="float32", do="save the whole model again")
    return values.astype(np.float32)


def _check_shapes(layer: OldLayer, arrays: Sequence[Array], wanted: Sequence[tuple[int | None, ...]]) -> None:
    for array, shape in zip(arrays, wanted, strict=False):
        if array.ndim != len(shape) or any(size not in (None, found) for size, found in zip(shape, array.shape, strict=True)):
            raise ModelRefused(
                f"layer {layer.label} has weights of {array.shape}", expected=f"{shape}, as it was told", do="save the whole model again"
            )


def _check_attention(layer: OldLayer, arrays: Sequence[Array]) -> None:
    heads, key = layer.options["num_heads"], layer.options["key_dim"]
    value = layer.options["value_dim"] or key
    kernels = [(None, heads, key), (None, heads, key), (None, heads, value), (heads, value, None)]
    biases = [(heads, key), (heads, key), (heads, value), (None,)]
    biased = bool(layer.options["use_bias"])
    _check_shapes(layer, arrays, [shape for pair in zip(kernels, biases, strict=True) for shape in pair[: 1 + biased]])


def _recurrent(layer: OldLayer, arrays: list[Array], changed: list[str]) -> tuple[list[Array], dict[str, Any]]:
    units, gates = layer.options["units"], GATES[layer.kind]
    if not layer.fused:
        arrays = _fused(layer, arrays)
    if len(arrays) == 3 and gates > 1 and arrays[2].shape == (2 * gates * units,):
        changed.append(f"{layer.label}: from cuDNN's layout")
        arrays = _from_cudnn(layer, arrays)
    options = {"reset_after": _resets_after(layer, arrays)} if layer.kind == "GRU" else {}
    width = gates * units
    _check_shapes(layer, arrays, [(None, width), (units, width), (2, width) if options.get("reset_after") else (width,)])
    factors = _factors(layer)
    if any(factor != 1.0 for factor in factors):
        changed.append(_scaled(layer, "weights" if all(factor != 1.0 for factor in factors) else "weights of its gates"))
        arrays = [_times(array, np.repeat(factors, units)) for array in arrays]
    return arrays, options


def _fused(layer: OldLayer, arrays: list[Array]) -> list[Array]:
    """Keras 1: an array for each gate, an LSTM's in the order i, c, f, o. Since then in one, i, f, c, o; a GRU's z, r, h stay."""
    units, inputs = layer.options["units"], arrays[0].shape[:1]
    _check_shapes(layer, arrays, [(*inputs, units), (units, units), (units,)] * (len(arrays) // 3))
    order = (0, 2, 1, 3) if layer.kind == "LSTM" else (0, 1, 2)
    return [np.concatenate([arrays[3 * gate + part] for gate in order], axis=-1) for part in range(3)]


def _from_cudnn(layer: OldLayer, arrays: list[Array]) -> list[Array]:
    """cuDNN keeps each gate's matrices transposed, and a bias for the input and one for the state."""
    gates, (kernel, recurrent, bias) = GATES[layer.kind], arrays
    _check_shapes(layer, arrays, [(None, gates * layer.options["units"]), (layer.options["units"], gates * layer.options["units"])])
    kernel = np.concatenate([part.T.reshape(part.shape, order="F") for part in np.split(kernel, gates, axis=1)], axis=1)
    recurrent = np.concatenate([part.T for part in np.split(recurrent, gates, axis=1)], axis=1)
    bias = bias.reshape(2, -1)
    return [kernel, recurrent, bias.sum(axis=0) if layer.kind == "LSTM" else bias]


def _resets_after(layer: OldLayer, arrays: Sequence[Array]) -> bool:
    """Files of Keras 2.1 and before do not say it, and theirs reset before; later ones show it in their bias."""
    told = layer.options["reset_after"]
    return bool(told) if told is not None else len(arrays) == 3 and arrays[2].ndim == 2


def _factors(layer: OldLayer) -> list[float]:
    """What each gate's columns are multiplied by."""
    if layer.kind == "SimpleRNN":
        return [1.0]
    told = [layer.options["recurrent_activation"], layer.options["activation"]]
    gate, candidate = (HARD_SIGMOID if activation == "hard_sigmoid" else 1.0 for activation in told)
    if layer.kind == "LSTM" and candidate != 1.0:
        raise ModelRefused(
            f"layer {layer.label} applies hard_sigmoid to its state, and it is another function in Keras 3",
            expected="another activation; as recurrent_activation hard_sigmoid is converted, since weights can make up for it",
            do="train the model again in Keras 3",
        )
    return [gate, gate, candidate, gate] if layer.kind == "LSTM" else [gate, gate, candidate]


def _times(array: Array, factor: float | Array) -> Array:
    """Multiplied in double precision and rounded once."""
    return (array.astype(np.float64) * factor).astype(np.float32)


def _scaled(layer: OldLayer, what: str) -> str:
    return f"{layer.label}: {what} times {HARD_SIGMOID}, since hard_sigmoid is less steep in Keras 3"


def _is_theano(backend: str | None, stored: Sequence[Stored]) -> bool:
    """Keras 1 did not name its backend, but TensorFlow numbered its variables ("conv_W:0") and Theano did not ("conv_W")."""
    return backend == "theano" or (backend is None and re.search(r":\d+$", stored[0].name) is None)


def _conv_kernel(layer: OldLayer, kernel: Array, changed: list[str], *, theano: bool) -> Array:
    """[taps, inputs, filters] from it, or from Keras 1's [taps, 1, inputs, filters] or, before 1.2, [filters, inputs, taps, 1]."""
    taps, filters = layer.options["kernel_size"], layer.options["filters"]
    if kernel.ndim == 4:
        current = kernel.shape[:2] == (taps, 1) and kernel.shape[3] == filters
        kernel = kernel[:, 0] if current else kernel[..., 0].transpose(2, 1, 0)
    if theano and taps > 1:
        changed.append(f"{layer.label}: kernel turned around, since Theano's convolutions read it backwards")
        kernel = kernel[::-1]
    return kernel


def check_input(layer: OldLayer, weights: Weights, shape: Sequence[int | None]) -> None:
    """Refuses an input that the weights do not fit, before Keras makes room for its own."""
    if not weights.arrays:
        return
    axis: Any = layer.options.get("axis", -1)
    if layer.kind == "Conv1D":
        axis = 1 if layer.options["data_format"] == "channels_first" else -1
    found: Any = shape[axis] if -len(shape) <= axis < len(shape) else None
    wanted: Any = weights.arrays[0].shape[1 if layer.kind == "Conv1D" else 0]
    if layer.kind == "Conv1D":
        wanted *= layer.options["groups"]
    if layer.kind == "PReLU":
        shared = layer.options["shared_axes"] or ()
        found = tuple(1 if at in (shared if isinstance(shared, tuple) else (shared,)) else size for at, size in enumerate(shape) if at)
        wanted = weights.arrays[0].shape
    if found != wanted:
        said = f"layer {layer.label} has weights for {wanted} inputs and gets {found}"
        raise ModelRefused(said, expected="the same number", do="save the whole model again")
    if layer.options.get("stateful") and 4 * (shape[0] or 0) * layer.options["units"] > BYTES_MAX:
        said = f"layer {layer.label} is stateful for {shape[0]} rows"
        raise ModelRefused(said, expected="states that fit into memory", do="save the whole model again")
