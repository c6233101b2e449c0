"""The rungs of the ladder: the shapes that a tile can have, and the memory that they take.

Owns shapes alone and imports no TensorFlow, so that the engine's tests and the reference oracle know them without it. Compiles nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Run = Callable[[Float32, NDArray[np.int32], int, Float32], tuple[Float32, Float32, NDArray[np.bool_]]]


@dataclass(frozen=True)
class RungShape:
    """rows: sensors in a tile. steps_max: time steps its buffers hold; at least 2, since XLA unrolls a loop of one and changes bits."""

    rows: int
    steps_max: int


REFERENCE = RungShape(512, 16)  # every other rung must give a row the bits that this one gives it
LADDER = (
    RungShape(8, 256),
    RungShape(64, 64),
    RungShape(128, 32),
    RungShape(256, 16),
    REFERENCE,
    RungShape(1024, 16),
    RungShape(2048, 8),
    RungShape(4096, 8),
)
TILE_BYTES_MAX = 128 << 20  # of the largest value in a tile; several such are there at once
VALUES = 8  # values of that size at once: 4 were measured for two Bidirectional LSTMs; twice as many are allowed for


def compiled_rungs(rows_max: int, row_numbers: int) -> tuple[RungShape, ...]:
    """The rungs to compile: up to the first that holds rows_max rows, as far as memory allows, and always the reference rung.

    row_numbers: float32 numbers a row of the model's largest value has.
    """
    largest = next((shape.rows for shape in LADDER if shape.rows >= rows_max), LADDER[-1].rows)
    affordable = TILE_BYTES_MAX // (4 * max(row_numbers, 1))
    return tuple(shape for shape in LADDER if shape.rows <= min(largest, affordable) or shape == REFERENCE)


def memory_bytes(row_numbers: int) -> int:
    """Roughly what compiling and running a model's largest rung takes: VALUES of its largest value at once."""
    largest = max(shape.rows for shape in compiled_rungs(LADDER[-1].rows, row_numbers))
    return VALUES * 4 * largest * row_numbers
