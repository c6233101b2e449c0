"""What keeps time steps apart: layers and operations of which each output step depends on the input of that step only.

Responsible for the lists, and for the options by which a listed layer mixes steps after all. Not responsible for walking a graph (step.py).
"""

from typing import Any

from processor.model.backend import keras, tf
from processor.model.names import in_file

L = keras.layers

# Each output step depends on the input of that step only, so long as any axis they name lies behind the time axis.
POINTWISE = (
    L.Dense, L.Activation, L.ReLU, L.LeakyReLU, L.PReLU, L.ELU, L.Softmax, L.Rescaling,
    L.BatchNormalization, L.LayerNormalization, L.RMSNormalization, L.UnitNormalization, L.Normalization,
    L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate, L.Embedding,
)  # fmt: skip
POINTWISE_OPS = frozenset({
    "Abs", "Absolute", "Add", "Clip", "Divide", "Elu", "Exp", "Expm1", "Gelu", "HardSigmoid", "LeakyRelu", "Log", "Log1p", "Maximum",
    "Minimum", "Multiply", "Negative", "Power", "Relu", "Relu6", "Selu", "Sigmoid", "Sign", "Silu", "Softplus", "Softsign", "Sqrt",
    "Square", "Subtract", "Tanh", "TrueDivide",
})  # fmt: skip
# Past the end of the sequence there is no time axis left to mix.
AFTER_THE_END = (*POINTWISE, L.Flatten, L.Reshape, L.Permute, L.Dot, L.EinsumDense, L.GroupNormalization)


class CannotStepError(Exception):
    """The model cannot be fed one step at a time. The text says which layer is in the way and why, without a full stop."""


def is_pointwise_op(operation: Any) -> bool:
    return type(operation).__module__.startswith("keras.src.ops.") and type(operation).__name__ in POINTWISE_OPS


def refuse_unless_pointwise(operation: Any, inputs: list[Any], args: Any, kwargs: Any) -> None:
    if not isinstance(operation, POINTWISE) and not is_pointwise_op(operation):
        raise CannotStepError(f"{named(operation)} mixes time steps, or is not known to keep them apart")
    if len({s.rank for s in inputs}) > 1:
        raise CannotStepError(f"{named(operation)} joins sequences of different ranks")
    if any(getattr(v, "shape", ()) for v in keras.tree.flatten((args, kwargs)) if not hasattr(v, "timed")):
        raise CannotStepError(f"{named(operation)} joins a sequence with a constant of several numbers")
    refuse_axes(operation, inputs, first=2)
    if isinstance(operation, L.PReLU) and operation.alpha.shape[0] != 1:
        raise CannotStepError(f"{named(operation)} has weights of its own for each time step")
    if isinstance(operation, L.Rescaling) and max(_rank(operation.scale), _rank(operation.offset)) > 1:
        raise CannotStepError(f"{named(operation)} has a scale of its own for each time step")


def refuse_axes(operation: Any, inputs: list[Any], *, first: int) -> None:
    """Refuses an operation that works along an axis before `first`."""
    axes = getattr(operation, "axis", None)
    for axis in keras.tree.flatten(() if axes is None else axes):
        if int(axis) % inputs[0].rank < first:
            raise CannotStepError(f"{named(operation)} works along axis {axis}, not along the features only")


def _rank(value: Any) -> int:
    return len(getattr(tf.convert_to_tensor(value), "shape", ()))


def whole_key(key: Any, rank: int) -> tuple[Any, ...]:
    """An index with one entry for each axis."""
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    at = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
    missing = rank - sum(k is not Ellipsis for k in key)
    return (*key[:at], *[slice(None)] * missing, *key[at + 1 :])


def named(operation: Any) -> str:
    return f"{in_file(operation)} ({type(operation).__name__})"
