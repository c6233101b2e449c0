"""The second judge: the Keras model itself on a whole sequence. What it gives must agree with the service within 1e-5.

Imports nothing of the engine, the step or the windows; knows only which numbers of a reading each input takes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # loading a model imports TensorFlow
    from processor.model.load import ServableModel


def keras_last(model: "ServableModel", x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keras's prediction after a whole sequence, float32 [T, F] -> [O]; a windowed model sees the last of it."""
    x = x[-model.window :] if model.mode == "windowed" and model.window else x
    keras_model = model.keras_model
    for layer in keras_model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state() if hasattr(layer, "reset_state") else layer.reset_states()
    if model.inputs.returned:
        return _handed_back(model, x)
    inputs = zip(model.inputs.each, keras_model.inputs, strict=True)
    taken = [_taken(x, given.first, given.last, tuple(tensor.shape)) for given, tensor in inputs]
    ys = [y[0] for y in _outputs(_called(keras_model, taken))]
    return np.concatenate([(y[-1] if y.ndim > 1 and len(y) == len(x) else y).reshape(-1) for y in ys])


def _called(keras_model: Any, taken: list[NDArray[np.float32]]) -> Any:
    """A Keras model on what its inputs take, as it wants them: one, a list, a dict, or lists in a list."""
    left = iter(taken)

    def packed(structure: Any) -> Any:
        if isinstance(structure, dict):
            return {key: packed(structure[key]) for key in sorted(structure)}
        return [packed(item) for item in structure] if isinstance(structure, (list, tuple)) else next(left)

    structure = getattr(keras_model, "_inputs_struct", None)
    return keras_model(taken[0] if len(taken) == 1 and not isinstance(structure, dict) else packed(structure), training=False)


def _outputs(given: Any) -> list[NDArray[np.float32]]:
    """What a Keras model gives, in the order of its outputs: of a dict, that of its keys."""
    given = [given[key] for key in sorted(given)] if isinstance(given, dict) else given
    if isinstance(given, (list, tuple)):
        return [y for inner in given for y in _outputs(inner)]
    return [np.asarray(given, np.float32)]


def _handed_back(model: "ServableModel", x: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a program runs a model that takes its states: one step a call, each with the states of the one before."""
    keras_model, ys = model.keras_model, list[NDArray[np.float32]]()
    states = [np.zeros((1, *tensor.shape[1:]), np.float32) for tensor in keras_model.inputs[1:]]
    for step in x:
        ys = _outputs(_called(keras_model, [step[None, None], *states]))
        states = ys[len(ys) - len(states) :]
    return np.concatenate([y.reshape(-1) for y in ys[: len(ys) - len(states)]])


def _taken(x: NDArray[np.float32], first: int, last: int, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """What one input of this shape takes of a sequence [T, F]: a batch of one."""
    own = x[:, first:last]
    if len(shape) > 2 or shape[1] is None:
        return own[-(shape[1] or len(own)) :].reshape(1, -1, *(size or 1 for size in shape[2:]))
    steps = (shape[1] or 1) // own.shape[1]
    return own[-steps:].reshape(1, -1)
