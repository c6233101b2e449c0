"""TensorFlow's operations between the layers of an old model (`x[:, -1]`, `x + y`, `tf.concat`), as operations of Keras 3.

Responsible for the list of operations that are converted, under TensorFlow's names of their arguments. Everything else is refused by its
own name. Not responsible for how a graph is written (graph.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from processor.errors import ModelRefused
from processor.model.backend import keras

ops = keras.ops
DO = "write it as a layer of Keras, or as one of these, in the program that made the model, and save it again"
CLASSES = ("TFOpLambda", "SlicingOpLambda")


def apply(label: str, function: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """What an operation gives. inputs: tensors of Keras 3 and numbers, in order, or one list of them. Raises ModelRefused."""
    operation = OPERATIONS.get(function)
    if operation is None:
        raise ModelRefused(
            f"layer {label} is TensorFlow's operation tf.{function}", expected=f"one of {', '.join(sorted(OPERATIONS))}", do=DO
        )
    named = {key: value for key, value in options.items() if value is not None and key != "name"}
    try:
        return operation(*inputs, **named)
    except TypeError as error:
        found = f"layer {label}, TensorFlow's operation tf.{function}, is called with {', '.join(named) or 'nothing more'}"
        raise ModelRefused(f"{found}: {error}", expected="a call that is known", do=DO) from error


def _item(tensor: Any, slice_spec: Any) -> Any:
    """x[...]; slices and what stands for `...` and a new axis are dicts in the file."""
    return tensor[tuple(_key(part) for part in (slice_spec if isinstance(slice_spec, list) else [slice_spec]))]


def _key(part: Any) -> Any:
    if part is None or (isinstance(part, int) and not isinstance(part, bool)):
        return part
    if isinstance(part, dict) and set(part) == {"start", "stop", "step"}:
        return slice(*(part[key] for key in ("start", "stop", "step")))
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return Ellipsis
    raise TypeError(f"an index of {str(part)[:60]}")


def _two(operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any) -> Any:
        return operation(x, y)

    return call


def _one(operation: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """An operation on one tensor, which has one of these names where it is given by name."""

    def call(*given: Any, **named: Any) -> Any:
        value, *more = (*given, *(named.pop(name) for name in names if name in named))
        if more or named:
            raise TypeError(f"unexpected {', '.join(named) or 'values'}")
        return operation(value)

    return call


def _reduced(operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return operation(input_tensor, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)

    return call


def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    del conjugate  # of complex numbers, which no model here has
    return ops.transpose(a, perm)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    turned = [ops.swapaxes(x, -1, -2) if turn else x for x, turn in ((a, transpose_a), (b, transpose_b))]
    return ops.matmul(*turned)


def _squeeze(input: Any, axis: Any = None) -> Any:  # noqa: A002 (TensorFlow's name)
    return ops.squeeze(input, axis=tuple(axis) if isinstance(axis, list) else axis)


def _expand_dims(input: Any, axis: int) -> Any:  # noqa: A002 (TensorFlow's name)
    return ops.expand_dims(input, axis)


def _cast(x: Any, dtype: Any) -> Any:
    if dtype != "float32":
        raise TypeError(f"a dtype of {str(dtype)[:60]}")
    return x


UNARY = {
    "abs": ops.abs, "exp": ops.exp, "expm1": ops.expm1, "log": ops.log, "log1p": ops.log1p, "negative": ops.negative, "sign": ops.sign,
    "sqrt": ops.sqrt, "square": ops.square, "sigmoid": ops.sigmoid, "softplus": ops.softplus, "tanh": ops.tanh, "rsqrt": ops.rsqrt,
    "sin": ops.sin, "cos": ops.cos,
}  # fmt: skip
ACTIVATIONS = {"relu": ops.relu, "relu6": ops.relu6, "elu": ops.elu, "selu": ops.selu, "silu": ops.silu, "swish": ops.silu}
OPERATIONS: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": _item,
    "__operators__.add": _two(ops.add),
    "math.add": _two(ops.add),
    "math.subtract": _two(ops.subtract),
    "math.multiply": _two(ops.multiply),
    "math.truediv": _two(ops.divide),
    "math.divide": _two(ops.divide),
    "math.pow": _two(ops.power),
    "math.maximum": _two(ops.maximum),
    "math.minimum": _two(ops.minimum),
    "math.squared_difference": _two(lambda x, y: ops.square(ops.subtract(x, y))),
    "linalg.matmul": _matmul,
    **{f"math.{name}": _one(operation, "x", "features") for name, operation in UNARY.items()},
    **{f"nn.{name}": _one(operation, "x", "features") for name, operation in {**UNARY, **ACTIVATIONS}.items()},
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "math.reduce_mean": _reduced(ops.mean),
    "math.reduce_sum": _reduced(ops.sum),
    "math.reduce_max": _reduced(ops.max),
    "math.reduce_min": _reduced(ops.min),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "compat.v1.squeeze": _squeeze,
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "transpose": _transpose,
    "compat.v1.transpose": _transpose,
    "reverse": lambda tensor, axis: ops.flip(tensor, axis=axis),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "cast": _cast,
    "identity": _one(lambda x: x, "input"),
    "stop_gradient": _one(lambda x: x, "input"),
}

