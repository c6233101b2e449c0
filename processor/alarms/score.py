"""Which number of a record is judged: the one place that knows every score there is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.records import Applied

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Score:
    """column: of the prediction; None: the residual. offset, divisor: the column's scale, as the encoder applies it."""

    column: int | None = None
    offset: float = 0.0
    divisor: float = 1.0

    def of(self, applied: Applied, record: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of these records, of each one's last reading: float32 [n], NaN where there is none."""
        if self.column is None:
            return applied.residual[record]
        y = applied.y[applied.last[record], self.column] if len(applied.y) else np.full(len(record), np.nan, np.float32)
        if (self.offset, self.divisor) == (0.0, 1.0):
            return y
        unscaled = y.astype(np.float64) * self.divisor + self.offset
        return np.clip(unscaled, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
