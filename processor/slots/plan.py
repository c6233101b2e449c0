"""A ragged batch as tiles: how many calls of which rung advance many sequences of different lengths.

Sorted by length, longest first, the sequences that still have a reading at step t are a prefix. So the steps from one width
of that prefix to the next fit one tile, and a batch costs about one call a rung whatever its shape: one hot sensor is one
row of many steps, thousands of sensors with a reading each are one step of many rows.

Numbers only: no readings, no states, no model.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Shape(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def steps_max(self) -> int: ...


class Tile(NamedTuple):
    """One call: rung, the sequences first..last (in the order of `counts`), their steps from..to."""

    rung: int
    first: int
    last: int
    step_from: int
    step_to: int


def plan(counts: NDArray[np.int64], shapes: Sequence[Shape]) -> Iterator[Tile]:
    """Tiles that cover sequences of counts[i] >= 1 steps, longest first. `shapes` ascend by rows."""
    rows_max = shapes[-1].rows
    for first in range(0, len(counts), rows_max):
        yield from _block(counts[first : first + rows_max], first, shapes)


def _block(counts: NDArray[np.int64], first: int, shapes: Sequence[Shape]) -> Iterator[Tile]:
    step, steps = 0, int(counts[0])
    active = len(counts)  # sequences longer than `step`: a prefix
    while step < steps:
        rung = next(i for i, shape in enumerate(shapes) if shape.rows >= active)
        smaller = shapes[rung - 1].rows if rung else 0
        # As far as more sequences go on than the next smaller rung could hold.
        to = min(int(counts[smaller]), step + shapes[rung].steps_max)
        yield Tile(rung, first, first + active, step, to)
        step = to
        # counts descend: how many are greater than `step`
        active = int(np.searchsorted(-counts, -step, side="left"))
