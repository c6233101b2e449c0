"""Scaled numbers back to the units in which they were measured: what is published, shown and judged is one number, with the same bits.

Knows numbers alone; which column has which scale is the caller's to say.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)


def own_units(numbers: NDArray[np.float32], divisor: Any, offset: Any) -> NDArray[np.float32]:
    """numbers * divisor + offset in float64, as float32 of the same shape. divisor, offset: one number, or one a column."""
    return clipped(numbers.astype(np.float64) * divisor + offset)


def clipped(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The nearest float32; a number past float32 becomes its greatest or least."""
    nearest: NDArray[np.float32] = np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
    return nearest
