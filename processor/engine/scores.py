"""How far predictions are off: residuals against the readings that they forecast, reconstructions against their own readings.

Pure functions of a part of a batch that has been stepped; knows no state but the one that its sequences began with.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.engine.shapes import Shapes
from processor.records import Applied, Batch
from processor.slots.rows import Indices, Rows
from processor.units import clipped

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sequences:
    """How a part's records lie in sequences.

    record     of each record its index in the batch
    sequence   and its sequence
    inside     readings of the sequence up to and including the record's last
    readings   the indices in batch.x of all their readings, in order
    start      of each sequence the row that it began with
    """

    record: Indices
    sequence: Indices
    inside: Indices
    readings: Indices
    start: Rows


class Scores:
    """Falsy where nothing is scored. Sums go number by number, so that their bits do not depend on the number of records.

    What is beyond float32 becomes its greatest number. Non-finite predictions are handled later, with their records.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def __bool__(self) -> bool:
        return bool(self._shapes.residual) or self._shapes.reconstruction is not None

    def write(self, batch: Batch, of: Sequences, y: Floats, applied: Applied) -> None:
        """y: the part's predictions, one for each of its readings. A sensor that is stepped a second time is scored anew."""
        steps = batch.steps[of.record]
        last = np.cumsum(steps) - 1
        full = self._shapes.window or 1
        if self._shapes.residual:
            there = np.flatnonzero((steps > 0) & (applied.steps[of.record] - 1 >= full))
            self._residuals(batch, of, there, last, y, applied)
        if applied.reconstruction is not None:
            there = np.flatnonzero((steps > 0) & (applied.steps[of.record] >= full))
            applied.reconstruction[of.record] = np.nan
            applied.reconstruction[of.record[there]] = self._reconstruction(batch, of, there, last[there], y)

    def _residuals(self, batch: Batch, of: Sequences, there: Indices, last: Indices, y: Floats, applied: Applied) -> None:
        """The absolute differences between each record's last reading and the prediction before it, and their mean."""
        shapes, record = self._shapes, of.record[there]
        previous = of.start.state[:, shapes.previous][of.sequence[there]]
        within = of.inside[there] > 1
        previous[within] = y[last[there][within] - 1]
        seen, expected = batch.x[applied.last[record]].astype(np.float64), previous.astype(np.float64)
        total = np.zeros(len(there))
        each = np.empty((len(there), len(shapes.residual)), np.float32) if applied.residuals is not None else None
        for i, (number, feature) in enumerate(zip(shapes.forecasts, shapes.residual, strict=True)):
            off = np.abs(seen[:, feature] - expected[:, number])
            total += off
            if each is not None:
                each[:, i] = clipped(off)
        applied.residual[of.record] = np.nan
        applied.residual[record] = clipped(total / len(shapes.residual))
        if applied.residuals is not None:
            applied.residuals[of.record] = np.nan
            applied.residuals[record] = each

    def _reconstruction(self, batch: Batch, of: Sequences, there: Indices, last: Indices, y: Floats) -> Floats:
        """The mean absolute difference between the prediction at each of these records' last reading and the readings that it is of.

        Of a prediction of several rows, which is a whole window, the readings before the sequence are in its first row's window.
        """
        wanted, features = self._shapes.reconstruction, self._shapes.features
        if wanted is None:
            raise ValueError("nothing is reconstructed")
        inside, sequence, total = of.inside[there], of.sequence[there], np.zeros(len(there))
        for row in range(wanted.rows):
            back = wanted.rows - 1 - row
            seen = batch.x[of.readings[np.maximum(last - back, 0)]].astype(np.float64)
            earlier = np.flatnonzero(back >= inside)
            if len(earlier):
                place = (wanted.rows - 1 - back + inside[earlier]) * features
                seen[earlier] = of.start.state[sequence[earlier][:, None], place[:, None] + np.arange(features)]
            first = wanted.first + row * features
            given = y[last, first : first + features].astype(np.float64)
            for feature in range(features):
                total += np.abs(given[:, feature] - seen[:, feature])
        return clipped(total / (wanted.rows * features))
