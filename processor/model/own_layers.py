"""Layers of a user's own, judged by numbers: whether they keep steps apart, and whether they give the same for the same.

Nothing is believed of what such a layer says of itself. Not responsible for running the file that defines it (file/own_code.py).
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from processor.errors import ModelRefused
from processor.model.backend import keras, tf
from processor.model.file.admission import first_line
from processor.model.file.own_code import is_own, own_functions
from processor.model.graphs import is_graph
from processor.model.inputs import Inputs
from processor.model.pointwise import CannotStepError, named

ROWS, STEPS = 3, 5
TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2}  # else 1e-4: a product of another shape adds up in another order
Kept = Literal["each", "last"]


def has_own(operation: Any) -> bool:
    """Whether an operation runs code that is not Keras's, or a layer in place of an activation."""
    return is_own(operation) or any(own_functions(operation)) or isinstance(getattr(operation, "activation", None), keras.layers.Layer)


def as_graph(model: Any, config: dict[str, Any]) -> Any:
    """A model of a class of one's own as a graph: of the layers that it calls if that is all it does, else of itself alone."""
    shapes = (config.get("build_config") or {}).get("input_shape")
    if is_graph(model) or not isinstance(model, keras.Model) or not shapes:
        return model
    given = keras.tree.map_shape_structure(lambda shape: keras.Input(batch_shape=(None, *shape[1:])), _tuples(shapes))
    try:
        graph = keras.Model(given, model.call(given))
        if {id(weight) for weight in graph.weights} == {id(weight) for weight in model.weights} and _agree(graph, model):
            return graph
    except Exception:  # noqa: BLE001, S110 (its own code may do what no graph can hold, in any words)
        pass
    return keras.Model(given, model(given))


def _tuples(shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {key: _tuples(value) for key, value in shapes.items()}
    return tuple(shapes) if all(size is None or isinstance(size, int) for size in shapes) else [_tuples(shape) for shape in shapes]


def _agree(graph: Any, model: Any) -> bool:
    x = [_numbers(tuple(ROWS if size is None else size for size in tensor.shape), seed=1) for tensor in graph.inputs]
    packed = keras.tree.pack_sequence_as(graph._inputs_struct, x)
    pairs = zip(*(keras.tree.flatten(one(packed, training=False)) for one in (graph, model)), strict=True)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def check_pure(model: Any, inputs: Inputs) -> None:
    """Raises ModelRefused for a model that gives other numbers for the same readings, or keeps something from call to call."""
    stateful = [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    if stateful:
        return  # Keras's own: the step has their states in the open
    x = tf.constant(inputs.plausible(_numbers((ROWS, inputs.steps or STEPS, inputs.features), seed=2)))
    before = [variable.numpy() for variable in model.variables]
    try:
        once, again = (keras.tree.flatten(model(_packed(model, inputs.of(x)), training=False)) for _ in range(2))
    except Exception as error:  # in any words of its own code
        found = f"the model's own layers cannot be run on readings: {first_line(error)}"
        raise ModelRefused(found, expected="layers that take what the file says", do="correct the file of model.code") from error
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(once, again, strict=True))
    kept = all(np.array_equal(a, b.numpy(), equal_nan=True) for a, b in zip(before, model.variables, strict=True))
    if not same or not kept:
        raise ModelRefused(
            "the model's own layers give other numbers for the same readings, or change a variable when they are called",
            expected="layers without chance and without memory of their own: a recurrent layer has its memory in its cell's states",
            do="correct the file of model.code: draw random numbers, and assign to variables, in training only",
        )


def _packed(model: Any, flat: list[Any]) -> Any:
    structure = getattr(model, "_inputs_struct", None)
    return flat[0] if structure is None else keras.tree.pack_sequence_as(structure, flat)


def kept_apart(operation: Any, call: Callable[..., Any], signals: list[Any], steps: int | None) -> Kept:
    """What a layer does with its steps: "each" is worked on alone, or the "last" alone is given.

    call: the layer as a function of its inputs, [B, T, ...] each, of which signals are the shapes. steps: T where the file fixes it.
    Raises CannotStepError.
    """
    lengths = (steps or STEPS, (steps or STEPS) + 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras wonders at a softmax over one step
            found = {_kept(operation, call, signals, length) for length in lengths}
    except CannotStepError:
        raise
    except Exception as error:
        raise CannotStepError(f"{named(operation)} cannot be run on other numbers of steps: {first_line(error)}") from error
    if len(found) > 1:
        raise CannotStepError(f"{named(operation)} mixes time steps")
    return found.pop()


def _kept(operation: Any, call: Callable[..., Any], signals: list[Any], steps: int) -> Kept:
    x = [_numbers((ROWS, steps, *signal.shape[1:]), seed=3 + i) for i, signal in enumerate(signals)]
    whole, alone = _flat(operation, call(*x)), [_flat(operation, call(*[each[:, t : t + 1] for each in x])) for t in range(steps)]
    off = max((TOLERANCE.get(str(y.dtype), 1e-4) for y in whole), default=1e-4)
    if all(y.ndim > 1 and y.shape[1] == steps for y in whole):
        for t in range(steps):
            same = all(_close(y[:, t], mine[:, 0], off) for y, mine in zip(whole, alone[t], strict=True) if mine.shape[1:2] == (1,))
            others = [_elsewhere(each, t) for each in x]
            still = all(np.array_equal(y[:, t], z[:, t]) for y, z in zip(whole, _flat(operation, call(*others)), strict=True))
            if not same or not still or any(mine.shape[1:2] != (1,) for mine in alone[t]):
                raise CannotStepError(f"{named(operation)} mixes time steps, or counts them")
        return "each"
    others = [_elsewhere(each, steps - 1) for each in x]
    still = all(np.array_equal(y, z) for y, z in zip(whole, _flat(operation, call(*others)), strict=True))
    if still and all(y.shape == last.shape and _close(y, last, off) for y, last in zip(whole, alone[-1], strict=True)):
        return "last"
    raise CannotStepError(f"{named(operation)} mixes time steps")


def _elsewhere(x: NDArray[np.float32], kept: int) -> NDArray[np.float32]:
    """The same step `kept`, and other numbers of another scale at all others."""
    other = (_numbers(x.shape, seed=9) * 50).astype(x.dtype)
    other[:, kept] = x[:, kept]
    return other


def _flat(operation: Any, given: Any) -> list[NDArray[Any]]:
    outputs = keras.tree.flatten(given)
    if any(getattr(output, "_keras_mask", None) is not None for output in outputs):
        raise CannotStepError(f"{named(operation)} skips steps by their content, which is done on windows only")
    return [np.asarray(output) for output in outputs]


def _close(a: NDArray[Any], b: NDArray[Any], off: float) -> bool:
    return np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=off, atol=off)


def _numbers(shape: tuple[int, ...], *, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check_whole(model: Any, inputs: Inputs, step: Callable[..., Any], widths: tuple[int, ...]) -> None:
    """Raises CannotStepError where a step of a model with code of one's own does not give what the model gives on a whole sequence."""
    steps = inputs.steps or STEPS
    x = inputs.plausible(_numbers((ROWS, steps, inputs.features), seed=4))
    for given in inputs.each:
        if given.kind == "static":
            x[:, :, given.first : given.last] = x[:, :1, given.first : given.last]
    states = [tf.zeros((ROWS, width)) for width in widths]
    for t in range(steps):
        y, states = step(tf.constant(x[:, t : t + 1]), states)
    whole = inputs.without_states(keras.tree.flatten(model(_packed(model, inputs.of(tf.constant(x))), training=False)))
    ends = [np.asarray(out)[:, -1] if out.ndim > 2 and out.shape[1] == steps else np.asarray(out) for out in whole]
    expected = np.concatenate([end.reshape(ROWS, -1) for end in ends], axis=1)
    off = max((TOLERANCE.get(str(out.dtype.name), 1e-4) for out in whole), default=1e-4)
    if expected.shape != np.asarray(y).shape or not _close(np.asarray(y), expected, off):
        raise CannotStepError("its own code gives other numbers one step at a time than on a whole sequence")
