"""Models that are graphs of layers: which are, and running one with other operations in place of its own.

The one place that reaches into Keras's graphs.
"""

from collections.abc import Callable
from typing import Any

from processor.model.backend import keras

GRAPHS = ("Sequential", "Functional")


def is_graph(operation: Any) -> bool:
    """Whether it is a model of Keras's own kinds, whose layers can be walked. A subclass may call them as it likes."""
    kind = type(operation)
    return kind.__name__ in GRAPHS and kind.__module__.partition(".")[0] == "keras"


def through(model: Any, inputs: Any, operation: Callable[[Any], Callable[..., Any]]) -> Any:
    """Runs a model's graph with other operations in place of its own. inputs: one, or all in the model's order."""
    graph = keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model
    return graph._run_through_graph(inputs, operation_fn=operation)  # Keras has no public way to do this
