"""Which numbers of a carried model's state row are whose, for people who look into one.

Responsible for names: layers, their states, and which of them are saturated near 1. Not responsible for the order of the states, which is
the step's, nor for what follows them in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from processor.model.backend import keras
from processor.model.load import ServableModel
from processor.model.names import in_file
from processor.model.precision import parts_of
from processor.model.step import state_widths, stepped_layers

# Activations that end at 1: a unit close to it hardly answers to its input any more.
BOUNDED = frozenset({"tanh", "sigmoid", "hard_sigmoid", "hard_tanh", "softsign"})


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers begin to end of a row, not including end. state: h, c; bounded: they stay between -1 and 1."""

    layer: str
    type: str
    state: str
    begin: int
    end: int
    bounded: bool


def parts(model: ServableModel) -> list[Part]:
    """One for each state of a carried model, in row order. Of float64 states, the greater of the two halves."""
    found, begin = list[Part](), 0
    for layer in stepped_layers(model.keras_model, model.inputs):
        for (state, bounded), width in zip(_states(layer), state_widths(layer), strict=True):
            found.append(Part(in_file(layer), _type(layer), state, begin, begin + width, bounded))
            begin += width * parts_of(layer)
    return found


def _type(layer: Any) -> str:
    """RNN(StackedRNNCells) where the layer's own name does not say which cell it runs."""
    name = type(layer).__name__
    return f"RNN({type(layer.cell).__name__})" if name == "RNN" else name


def _states(layer: Any) -> Iterator[tuple[str, bool]]:
    """The name of each state, and whether it is bounded."""
    cell = layer.cell
    if not isinstance(cell, keras.layers.StackedRNNCells):
        yield from _of_cell(cell, "")
        return
    for i, inner in enumerate(cell.cells):
        yield from _of_cell(inner, f" of cell {i}")


def _of_cell(cell: Any, of: str) -> Iterator[tuple[str, bool]]:
    names = ("h", "c") if isinstance(cell, keras.layers.LSTMCell) else ("h",)
    bounded = getattr(getattr(cell, "activation", None), "__name__", "") in BOUNDED
    count = len(keras.tree.flatten(cell.state_size))
    for i in range(count):
        # c is a sum, which no activation bounds.
        yield (names[i] if i < len(names) else f"state {i}") + of, bounded and i == 0
