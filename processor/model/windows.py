"""The step of a model that is run on whole windows: its state row is the window.

Responsible for running a model's graph on the last readings of each row. Not responsible for the operations (stable.py).
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from processor.model.backend import keras, tf
from processor.model.graphs import through
from processor.model.inputs import Inputs
from processor.model.names import output_names
from processor.model.stable import stable
from processor.model.step import Stepped, flat, side_by_side, whole_note

SHAPE_KEYS = ("batch_shape", "batch_input_shape", "build_input_shape", "input_shape", "shape")


def windowed(model: Any, inputs: Inputs, window: int, *, every_step: bool = False, names: Sequence[str] | None = None) -> Stepped:
    """The step of a model that is run on the last `window` readings: its one state is the window, oldest reading first [B, window * F].

    An output [T, ...] whose T is the window has a time axis: its last step is given, or all of them with `every_step`. A T of another
    length is a horizon of the model's own, such as a decoder's: given whole in any case, row by row. `every_step` keeps its rows apart.
    names: of the outputs, where the model does not have those of its file any more.
    """
    features = inputs.features
    shapes, row_numbers = _traced(model, inputs, window)
    last_only = [len(shape) > 1 and shape[0] == window and not every_step for shape in shapes]

    def step(x: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
        readings = tf.concat([tf.reshape(states[0], (-1, window, features))[:, 1:], x], axis=1)
        ys = zip(_on_window(model, inputs, readings), last_only, strict=True)
        return flat([y[:, -1] if last else y for y, last in ys]), [tf.reshape(readings, (-1, window * features))]

    outputs = [
        (name, prod(shape[1:] if last else shape), False, shape[0] if every_step and len(shape) > 1 else None)
        for name, shape, last in zip(inputs.without_states(names or output_names(model)), shapes, last_only, strict=True)
    ]
    notes = [_shape_note(shape, window, every_step=every_step) for shape in shapes]
    return Stepped(step, (window * features,), *side_by_side(outputs, notes), max(row_numbers, window * features))


def _traced(model: Any, inputs: Inputs, window: int) -> tuple[list[tuple[int, ...]], int]:
    """The shapes of a window's outputs, and the largest number of numbers that a row has on the way: found without running anything."""
    trace = tf.function(lambda x: _on_window(model, inputs, x), autograph=False)
    traced = trace.get_concrete_function(tf.TensorSpec((None, window, inputs.features)))
    shapes = [tuple(output.shape[1:]) for output in traced.structured_outputs]
    for shape in shapes:
        if None in shape:
            raise ValueError(f"its output's shape is not known: {shape}")
    # What has an open axis has one row for each sensor; the rest are weights.
    sizes = [list(tensor.shape) for operation in traced.graph.get_operations() for tensor in operation.outputs if tensor.shape.rank]
    return shapes, max((prod(d for d in size if d) for size in sizes if None in size), default=0)


def _on_window(model: Any, inputs: Inputs, readings: Any) -> list[Any]:
    """The model's outputs for whole windows, float32 [B, steps, F]."""
    return inputs.without_states(keras.tree.flatten(through(model, inputs.of(readings), stable)))


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
