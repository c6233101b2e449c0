"""Counts readings and predictions by the bins of a profile, so that drift from the training data shows in the metrics.

Owns the counts of the open transaction: what is counted was committed. Must not change what is published.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from processor.metrics import Metrics
from processor.records import Applied, Batch

Floats = NDArray[np.float32]


class Bins:
    """Columns with the inner edges of their bins: a value belongs to the first bin whose edge is not below it."""

    def __init__(self, columns: Sequence[int], edges: Sequence[Sequence[float]]) -> None:
        """columns: their numbers. edges: of each column, rising."""
        self.columns = np.array(columns, np.int64)
        self.sizes = [len(of_column) + 1 for of_column in edges]
        most = max(self.sizes, default=1)
        self._edges = np.full((most - 1, len(edges), 1), np.inf, np.float32)
        for i, of_column in enumerate(edges):
            self._edges[: len(of_column), i, 0] = of_column
        self.nothing = np.zeros((len(edges), most), np.int64)

    def count(self, numbers: Floats) -> NDArray[np.int64]:
        """float32 [n, all columns] -> int64 [columns, bins]; NaN is in no bin. Bins that a column does not have stay 0."""
        chosen = np.ascontiguousarray(numbers.T[self.columns])
        # A comparison with each edge takes a third of the time of a binary search for each number: there are few edges.
        below, up_to = np.empty(chosen.shape, np.bool_), np.empty((len(self._edges) + 1, len(chosen)), np.int64)
        for edge, counts in zip((*self._edges, np.float32(np.inf)), up_to, strict=True):
            np.less_equal(chosen, edge, out=below)
            counts[:] = np.add.reduce(below.view(np.uint8), axis=1, dtype=np.uint32)
        return np.diff(up_to, axis=0, prepend=0).T


def counted_readings(batch: Batch, applied: Applied) -> Floats:
    """The readings of records that were not left out, float32 [n, F], NaN where a value was missing."""
    published = applied.published(batch)
    x = batch.x if published.all() else batch.x[np.repeat(published, batch.steps)]
    if batch.missing is None or not batch.missing.any():
        return x
    return np.where(batch.missing[np.repeat(published, batch.steps)], np.float32(np.nan), x)


def counted_predictions(batch: Batch, applied: Applied) -> Floats:
    """The predictions of these readings, float32 [n, O], without those of windows that are not full."""
    published = applied.published(batch) & ~applied.filling
    return applied.y if published.all() else applied.y[np.repeat(published, batch.steps)]


class DriftCounts:
    """An observer of the loop. features, outputs: a name for each column of the bins, as the metrics' labels have them."""

    def __init__(self, metrics: Metrics, features: Sequence[str], of_features: Bins, outputs: Sequence[str], of_outputs: Bins) -> None:
        self._metrics, self._bins = metrics, (of_features, of_outputs)
        self._labels = [
            [(name, str(i)) for name, size in zip(names, bins.sizes, strict=True) for i in range(size)]
            for names, bins in zip((features, outputs), self._bins, strict=True)
        ]
        self._counts = [of_features.nothing.copy(), of_outputs.nothing.copy()]
        self._report()

    def applied(self, batch: Batch, applied: Applied) -> None:
        for counts, bins, numbers in zip(
            self._counts, self._bins, (counted_readings(batch, applied), counted_predictions(batch, applied)), strict=True
        ):
            counts += bins.count(numbers)

    def commit(self) -> None:
        self._report()

    def abort(self) -> None:
        for counts in self._counts:
            counts[:] = 0

    def drop(self, partition: int) -> None:
        pass

    def _report(self) -> None:
        for name, labels, counts, bins in zip(("feature_total", "prediction_total"), self._labels, self._counts, self._bins, strict=True):
            there = [number for row, size in zip(counts.tolist(), bins.sizes, strict=True) for number in row[:size]]
            self._metrics.add_each(name, dict(zip(labels, there, strict=True)))
        self.abort()
