"""The step of a model that is run on whole windows: its state row is the window.

Responsible for running a model's graph on the last readings of each row, with operations whose bits do not depend on where in a tile a
row stands. Not responsible for proving that they do not: the ladder compares its rungs (tiles.py).
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any, cast

from processor.model.backend import keras, tf
from processor.model.names import output_names
from processor.model.step import Stepped, call_kwargs, flat, is_training_only, side_by_side, through, whole_note

L = keras.layers
CONVOLUTIONS = (L.Conv1D, L.DepthwiseConv1D, L.SeparableConv1D)
SHAPE_KEYS = ("batch_shape", "batch_input_shape", "build_input_shape", "input_shape", "shape")


def windowed(model: Any, window: int, *, every_step: bool = False, names: Sequence[str] | None = None) -> Stepped:
    """The step of a model that is run on the last `window` readings: its one state is the window, oldest reading first [B, window * F].

    An output [T, ...] whose T is the window has a time axis: its last step is given, or all of them with `every_step`. A T of another
    length is a horizon of the model's own, such as a decoder's: given whole in any case, row by row. `every_step` keeps its rows apart.
    names: of the outputs, where the model does not have those of its file any more.
    """
    features = int(model.inputs[0].shape[2])
    shapes, row_numbers = _traced(model, window, features)
    last_only = [len(shape) > 1 and shape[0] == window and not every_step for shape in shapes]

    def step(x: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        readings = tf.concat([tf.reshape(states[0], (-1, window, features))[:, 1:], x], axis=1)
        ys = zip(_on_window(model, readings), last_only, strict=True)
        return flat([y[:, -1] if last else y for y, last in ys]), [tf.reshape(readings, (-1, window * features))]

    outputs = [
        (name, prod(shape[1:] if last else shape), False, shape[0] if every_step and len(shape) > 1 else None)
        for name, shape, last in zip(names or output_names(model), shapes, last_only, strict=True)
    ]
    notes = [_shape_note(shape, window, every_step=every_step) for shape in shapes]
    return Stepped(step, (window * features,), *side_by_side(outputs, notes), max(row_numbers, window * features))


def _traced(model: Any, window: int, features: int) -> tuple[list[tuple[int, ...]], int]:
    """The shapes of a window's outputs, and the largest number of numbers that a row has on the way: found without running anything."""
    trace = tf.function(lambda x: _on_window(model, x), autograph=False)
    traced = trace.get_concrete_function(tf.TensorSpec((None, window, features)))
    shapes = [tuple(output.shape[1:]) for output in traced.structured_outputs]
    for shape in shapes:
        if None in shape:
            raise ValueError(f"its output's shape is not known: {shape}")
    # What has an open axis has one row for each sensor; the rest are weights.
    sizes = [list(tensor.shape) for operation in traced.graph.get_operations() for tensor in operation.outputs if tensor.shape.rank]
    return shapes, max((prod(d for d in size if d) for size in sizes if None in size), default=0)


def _on_window(model: Any, readings: Any) -> list[Any]:
    """The model's outputs for whole windows, float32 [B, steps, F]."""
    outputs: list[Any] = keras.tree.flatten(through(model, readings, _window_operation))
    return outputs


def _window_operation(operation: Any) -> Callable[..., Any]:
    if isinstance(operation, keras.Model):
        return lambda inputs, **_: through(operation, inputs, _window_operation)
    if is_training_only(operation):
        return lambda x, **_: x
    if type(operation) is L.TimeDistributed:
        return partial(_distributed, operation)
    if isinstance(operation, CONVOLUTIONS) and operation.data_format == "channels_last":
        return lambda x, **_: _convolved(operation, x)
    if isinstance(operation, L.Layer):
        return lambda *args, **kwargs: operation(*args, **call_kwargs(operation, kwargs))
    return cast(Callable[..., Any], operation)


def _distributed(distributed: Any, x: Any, **kwargs: Any) -> Any:
    """A TimeDistributed: its steps as so many rows, so that the layer within is replaced like any other."""
    if getattr(x, "_keras_mask", None) is not None:  # which only Keras itself hands on
        return distributed(x, **call_kwargs(distributed, kwargs))
    steps = int(x.shape[1])
    y = _window_operation(distributed.layer)(tf.reshape(x, (-1, *x.shape[2:])))
    return tf.reshape(y, (-1, steps, *y.shape[1:]))


def _convolved(layer: Any, x: Any) -> Any:
    """A convolution along time as matrix products: XLA's own gives a row bits that depend on its place in the tile."""
    if isinstance(layer, L.SeparableConv1D):
        depths = _depthwise(_taps(layer, x), layer.depthwise_kernel)
        y = _matmul(depths, layer.pointwise_kernel[0])
    elif isinstance(layer, L.DepthwiseConv1D):
        y = _depthwise(_taps(layer, x), layer.kernel)
    else:
        y = _grouped(_taps(layer, x), layer.kernel, layer.groups)
    return layer.activation(y + layer.bias if layer.use_bias else y)


def _taps(layer: Any, x: Any) -> list[Any]:
    """For each tap of the kernel what it sees: [B, steps, channels]."""
    taps, stride, dilation = layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0]
    reach = (taps - 1) * dilation
    x = tf.pad(x, ((0, 0), _padding(layer.padding, int(x.shape[1]), stride, reach), (0, 0)))
    last = x.shape[1] - reach
    if last < 1:
        raise ValueError(f"{layer.name} looks at {reach + 1} steps and is given {x.shape[1]}")
    return [x[:, i * dilation : i * dilation + last : stride] for i in range(taps)]


def _grouped(taps: list[Any], kernel: Any, groups: int) -> Any:
    """kernel: [taps, channels a group, filters]; a group's channels go to its own share of the filters."""
    kernels = tf.split(tf.convert_to_tensor(kernel), groups, axis=2)
    channels = list(zip(*(tf.split(tap, groups, axis=2) for tap in taps), strict=True))
    flat = [tf.reshape(k, (-1, k.shape[2])) for k in kernels]
    return tf.concat([_matmul(tf.concat(c, axis=2), k) for c, k in zip(channels, flat, strict=True)], axis=2)


def _depthwise(taps: list[Any], kernel: Any) -> Any:
    """kernel: [taps, channels, multiplier]; each channel is convolved with its own taps alone."""
    y = reduce(operator.add, (tap[..., None] * kernel[i] for i, tap in enumerate(taps)))
    return tf.reshape(y, (-1, y.shape[1], y.shape[2] * y.shape[3]))


def _matmul(x: Any, kernel: Any) -> Any:
    steps, width = x.shape[1:]
    return tf.reshape(tf.matmul(tf.reshape(x, (-1, width)), kernel), (-1, steps, kernel.shape[1]))


def _padding(kind: str, steps: int, stride: int, reach: int) -> tuple[int, int]:
    """Steps of zeros before and after, as Keras pads."""
    if kind == "causal":
        return reach, 0
    if kind == "valid":
        return 0, 0
    missing = max((-(-steps // stride) - 1) * stride + reach + 1 - steps, 0)
    return missing // 2, missing - missing // 2


def _shape_note(shape: tuple[int, ...], window: int, *, every_step: bool = False) -> str:
    """What a prediction is of an output of this shape, and how to get another."""
    if len(shape) < 2:
        return "it gives one output a window, so model.output all changes nothing" if every_step else ""
    steps, width = shape[0], prod(shape[1:])
    if every_step:
        return f"a prediction is all its {steps} output steps of {width} {_numbers(width)}"
    if steps == window:
        return f"of its {steps} output steps the last is given; model.output all gives every one"
    return f"{whole_note(shape)}; model.output all keeps its {steps} rows apart"


def _numbers(count: int) -> str:
    return "number" if count == 1 else "numbers"


def without_batch(model: Any, *, stateful: bool) -> Any:
    """The same model for any number of rows, and without states that Keras would keep between calls."""
    if model.inputs[0].shape[0] is None and not stateful:
        return model
    rebuilt = type(model).from_config(_freed(model.get_config()))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _freed(node: Any) -> Any:
    """A configuration with its batch dimensions open and nothing stateful."""
    if isinstance(node, (list, tuple)):
        return type(node)(_freed(item) for item in node)
    if not isinstance(node, dict):
        return node
    freed = {key: _freed(value) for key, value in node.items()}
    for key in SHAPE_KEYS:
        if isinstance(freed.get(key), (list, tuple)) and freed[key] and not isinstance(freed[key][0], (list, tuple)):
            freed[key] = [None, *freed[key][1:]]
    return {**freed, "stateful": False} if "stateful" in freed else freed
