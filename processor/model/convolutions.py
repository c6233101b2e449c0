"""Convolutions as matrix products: XLA's own give a row bits that depend on its place in the tile.

Responsible for the same numbers as Keras's layers, within rounding. Takes layers whose channels are last; `replaced` says which.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import product
from math import prod
from typing import Any

from processor.model.backend import keras, tf

L = keras.layers
SEPARABLE = (L.SeparableConv1D, L.SeparableConv2D)
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)
PLAIN = (L.Conv1D, L.Conv2D, L.Conv3D)
CONV_LSTM = (L.ConvLSTM1D, L.ConvLSTM2D)
UNROLLED_STEPS_MAX = 1000


def replaced(layer: Any) -> Callable[..., Any] | None:
    """What is called in a layer's place; None where it is called itself."""
    if type(layer) in (*SEPARABLE, *DEPTHWISE, *PLAIN) and layer.data_format == "channels_last":
        return lambda x, **_: _convolved(layer, x)
    if type(layer) in CONV_LSTM and layer.data_format == "channels_last" and not (layer.go_backwards or layer.return_state):
        return partial(_conv_lstm, layer)
    return None


def _convolved(layer: Any, x: Any) -> Any:
    cast = partial(tf.cast, dtype=layer.compute_dtype)  # as Keras does at the door of a layer
    taps = _taps(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, cast(x))
    if isinstance(layer, SEPARABLE):
        depths = _depthwise(taps, cast(layer.depthwise_kernel))
        y = _matmul(depths, tf.reshape(cast(layer.pointwise_kernel), layer.pointwise_kernel.shape[-2:]))
    elif isinstance(layer, DEPTHWISE):
        y = _depthwise(taps, cast(layer.kernel))
    else:
        y = _grouped(taps, cast(layer.kernel), layer.groups)
    return layer.activation(y + cast(layer.bias) if layer.use_bias else y)


def _conv_lstm(layer: Any, x: Any, **kwargs: Any) -> Any:
    """A ConvLSTM from zeros, [B, steps, ..., channels], its steps unrolled."""
    masked = getattr(x, "_keras_mask", None) is not None
    if masked or any(kwargs.get(name) is not None for name in ("initial_state", "mask")) or x.shape[1] > UNROLLED_STEPS_MAX:
        return layer(x, **{**kwargs, "training": False})
    cell, h, c, ys = layer.cell, None, None, []
    once, cast = (1,) * cell.rank, partial(tf.cast, dtype=layer.compute_dtype)
    x = cast(x)
    for t in range(x.shape[1]):
        gates = _grouped(_taps(cell.kernel_size, cell.strides, cell.dilation_rate, cell.padding, x[:, t]), cast(cell.kernel), 1)
        gates = gates + cast(cell.bias) if cell.use_bias else gates
        if h is not None:
            gates += _grouped(_taps(cell.kernel_size, once, once, "same", h), cast(cell.recurrent_kernel), 1)
        i, f, new, o = tf.split(gates, 4, axis=-1)
        added = cell.recurrent_activation(i) * cell.activation(new)
        c = added if c is None else cell.recurrent_activation(f) * c + added
        h = cell.recurrent_activation(o) * cell.activation(c)
        ys.append(h)
    return tf.stack(ys, axis=1) if layer.return_sequences else h


def _taps(size: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: str, x: Any) -> list[Any]:
    """For each tap of the kernel what it sees: [B, ..., channels]."""
    reach = [(taps - 1) * dilation for taps, dilation in zip(size, dilations, strict=True)]
    given = [int(steps) for steps in x.shape[1:-1]]
    pads = [_padding(padding, *of) for of in zip(given, strides, reach, strict=True)]
    x = tf.pad(x, ((0, 0), *pads, (0, 0))) if any(map(any, pads)) else x
    last = [int(steps) - far for steps, far in zip(x.shape[1:-1], reach, strict=True)]
    if min(last) < 1:
        raise ValueError(f"a convolution looks at {max(reach) + 1} steps and is given {min(given)}")
    seen = []
    for place in product(*map(range, size)):
        begin = [i * dilation for i, dilation in zip(place, dilations, strict=True)]
        seen.append(x[(slice(None), *(slice(b, b + n, s) for b, n, s in zip(begin, last, strides, strict=True)))])
    return seen


def _grouped(taps: list[Any], kernel: Any, groups: int) -> Any:
    """kernel: [..., channels a group, filters]; a group's channels go to its own share of the filters."""
    kernels = tf.split(kernel, groups, axis=-1)
    channels = list(zip(*(tf.split(tap, groups, axis=-1) for tap in taps), strict=True))
    flat = [tf.reshape(k, (-1, k.shape[-1])) for k in kernels]
    parts = [_matmul(tf.concat(c, axis=-1), k) for c, k in zip(channels, flat, strict=True)]
    return parts[0] if groups == 1 else tf.concat(parts, axis=-1)


def _depthwise(taps: list[Any], kernel: Any) -> Any:
    """kernel: [..., channels, multiplier]; each channel is convolved with its own taps alone."""
    each = tf.reshape(kernel, (len(taps), *kernel.shape[-2:]))
    y = reduce(operator.add, (tap[..., None] * each[i] for i, tap in enumerate(taps)))
    return tf.reshape(y, (-1, *y.shape[1:-2], y.shape[-2] * y.shape[-1]))


def _matmul(x: Any, kernel: Any) -> Any:
    width = prod(x.shape[-1:])
    return tf.reshape(tf.matmul(tf.reshape(x, (-1, width)), kernel), (-1, *x.shape[1:-1], kernel.shape[1]))


def _padding(kind: str, steps: int, stride: int, reach: int) -> tuple[int, int]:
    """Zeros before and after, as Keras pads."""
    if kind == "causal":
        return reach, 0
    if kind == "valid":
        return 0, 0
    missing = max((-(-steps // stride) - 1) * stride + reach + 1 - steps, 0)
    return missing // 2, missing - missing // 2
