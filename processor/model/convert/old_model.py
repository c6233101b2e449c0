"""A model of Keras 1 or 2 as data: its layers in the words of Keras 3, and how they are joined.

Owns what the readers of old files (configuration.py) fill in, and what weights.py and rebuild.py work from. Knows no file and no Keras.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from processor.model.convert.graph import Call, Ref


@dataclass(frozen=True, eq=False)
class OldLayer:
    """A layer of an old file.

    saved_as: its class in the file; kind: its class in Keras 3, or "Model". options: the arguments of that class. trainable: the file
    keeps the weights of a frozen layer behind all others. fused: its gates are in one array, not in one each as in Keras 1. calls: how a
    graph uses it. inner: of TimeDistributed the layer in it; of Bidirectional forward and backward. model: of a nested model, or None.
    input_shape: with the batch, if the file says so at this layer.
    """

    name: str
    saved_as: str
    kind: str
    options: Mapping[str, Any]
    trainable: bool = True
    fused: bool = True
    calls: tuple[Call, ...] = ()
    inner: tuple["OldLayer", ...] = ()
    model: "OldModel | None" = None
    input_shape: tuple[int | None, ...] | None = None

    @property
    def label(self) -> str:
        return f"{self.name} ({self.saved_as})"

    @property
    def children(self) -> tuple["OldLayer", ...]:
        """The layers that it holds, in the order of their weights."""
        return self.model.layers if self.model else self.inner


@dataclass(frozen=True)
class OldModel:
    """A model of an old file: a chain of layers (inputs and outputs empty), or a graph of calls."""

    name: str
    layers: tuple[OldLayer, ...]
    inputs: tuple[Ref, ...] = ()
    outputs: tuple[Ref, ...] = ()

    @property
    def is_chain(self) -> bool:
        return not self.outputs


def all_layers(model: OldModel) -> Iterator[OldLayer]:
    """Every layer in a file's order, each before those that it holds."""
    pending = list(model.layers)
    while pending:
        layer = pending.pop(0)
        yield layer
        pending = [*layer.children, *pending]
