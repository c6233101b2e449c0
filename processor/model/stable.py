"""Operations of a model's graph, called so that a row's bits do not depend on its place among the rows.

Responsible for which operations are called in place of a graph's own. Not responsible for proving that bits are stable: the ladder
compares its rungs (tiles.py).
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, cast

from processor.model.backend import keras, tf
from processor.model.convolutions import replaced
from processor.model.file.contents import TRAINING_ONLY
from processor.model.file.own_code import is_own
from processor.model.graphs import is_graph, through

L = keras.layers


def call_kwargs(layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's own keywords; layers that behave differently in training are told that this is not."""
    return {**kwargs, "training": False} if "training" in signature(layer.call).parameters else kwargs


def is_training_only(operation: Any) -> bool:
    """Whether it gives what it is given, outside of training."""
    return type(operation).__name__ in TRAINING_ONLY and isinstance(operation, L.Layer) and not is_own(operation)


def stable(operation: Any) -> Callable[..., Any]:
    """What is called in an operation's place, on whole sequences."""
    if is_graph(operation):
        return partial(_nested, operation)
    if is_training_only(operation):
        return lambda x, **_: x
    if type(operation) is L.TimeDistributed:
        return partial(_distributed, operation)
    if (other := replaced(operation)) is not None:
        return other
    if isinstance(operation, L.Layer):
        return lambda *args, **kwargs: operation(*args, **call_kwargs(operation, kwargs))
    return cast(Callable[..., Any], operation)


def _nested(model: Any, inputs: Any, **_: Any) -> Any:
    """A model within a model; one output comes alone, as Keras gives it."""
    outputs = through(model, inputs, stable)
    flat = keras.tree.flatten(outputs)
    return flat[0] if len(flat) == 1 else outputs


def _distributed(distributed: Any, x: Any, **kwargs: Any) -> Any:
    """A TimeDistributed: its steps as so many rows, so that the layer within is replaced like any other."""
    if getattr(x, "_keras_mask", None) is not None:  # which only Keras itself hands on
        return distributed(x, **call_kwargs(distributed, kwargs))
    steps = int(x.shape[1])
    y = stable(distributed.layer)(tf.reshape(x, (-1, *x.shape[2:])))
    return tf.reshape(y, (-1, steps, *y.shape[1:]))
