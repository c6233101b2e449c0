"""Which number of a record is judged: the one place that knows every score there is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from processor.records import ALARM_FEATURES_MAX, Applied
from processor.units import own_units


@dataclass(frozen=True, slots=True)
class Score:
    """column: of the prediction, with its scale as the encoder applies it. features: of which residuals are, in their order."""

    kind: Literal["residual", "reconstruction", "prediction"]
    column: int = 0
    offset: float = 0.0
    divisor: float = 1.0
    features: tuple[int, ...] = ()

    def of(self, applied: Applied, record: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of these records, of each one's last reading: float32 [n], NaN where there is none."""
        if self.kind == "residual":
            return applied.residual[record]
        if self.kind == "reconstruction" and applied.reconstruction is not None:
            return applied.reconstruction[record]
        y = applied.y[applied.last[record], self.column] if len(applied.y) else np.full(len(record), np.nan, np.float32)
        if (self.offset, self.divisor) == (0.0, 1.0):
            return y
        return own_units(y, self.divisor, self.offset)

    def largest(self, applied: Applied, record: int) -> tuple[tuple[int, float], ...]:
        """The features that contribute most to a record's residual, and how much; of equal ones the first."""
        if self.kind != "residual" or applied.residuals is None:
            return ()
        each = applied.residuals[record]
        return tuple((self.features[i], float(each[i])) for i in np.argsort(-each, kind="stable")[:ALARM_FEATURES_MAX].tolist())
