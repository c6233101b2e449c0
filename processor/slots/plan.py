"""Plans a ragged batch as tiles: which rungs to call, and how often, to advance sequences of different lengths.

If sequences are sorted by length, longest first, those that still have a reading at step t form a prefix. So all steps at which the
prefix has the same width fit into one tile, and a batch of any shape costs about one call per rung: one hot sensor takes one row of many
steps, and thousands of sensors with one reading each take one step of many rows.

Works on numbers only: no readings, no states, no model.
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
    """One call: the rung, the sequences first..last (in the order of `counts`), and their steps from..to."""

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
        # As long as more sequences continue than the next smaller rung can hold.
        to = min(int(counts[smaller]), step + shapes[rung].steps_max)
        yield Tile(rung, first, first + active, step, to)
        step = to
        # counts descend: the number of those greater than `step`
        active = int(np.searchsorted(-counts, -step, side="left"))
