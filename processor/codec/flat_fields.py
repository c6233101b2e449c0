"""Predictions and residuals as fields of their own: `predicted_temperature` in place of the second number of a list.

What stores outputs in tables takes an object of numbers, not lists in it. Knows names and rows of numbers, nothing of a record.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

PREDICTED, RESIDUAL = "predicted_", "residual_"
NUMBER_BYTES_MAX = 24  # of a float32's shortest decimals


class FlatFields:
    """names: of the numbers of a row, in their order."""

    def __init__(self, prefix: str, names: Sequence[str]) -> None:
        self._form = b",".join(orjson.dumps(f"{prefix}{name}") + b":%b" for name in names)
        self.nothing = self._form % ((b"null",) * len(names))

    def written(self, table: NDArray[np.float32]) -> list[bytes]:
        """The fields of each row, without braces; NaN is null."""
        rows = orjson.dumps(np.ascontiguousarray(table), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        return [self._form % tuple(row.split(b",")) for row in rows]


def flat_bytes_max(names: Sequence[str]) -> int:
    """More than all of these fields can take."""
    return sum(2 * len(orjson.dumps(name)) + len(PREDICTED) + len(RESIDUAL) + 2 * (NUMBER_BYTES_MAX + 4) for name in names)


def predicted(output: dict[str, Any], names: Sequence[str]) -> list[Any] | None:
    """The numbers of an output's flat prediction; None where it has none."""
    numbers = [output.get(f"{PREDICTED}{name}") for name in names]
    return None if None in numbers else numbers
