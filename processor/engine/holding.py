"""Values that are held: where a feature is missing, the sensor's last one stands for it, as far back as its last reset.

A sensor's last reading as it was fed is its held values, since each hole in it was filled. They lie in its state row (Shapes.held), and so
they are checkpointed, undone, moved and replayed with it. Which feature is missing is the codec's to say.
"""

import numpy as np
from numpy.typing import NDArray

from processor.engine.grouping import Group
from processor.records import Batch
from processor.slots.rows import Indices

Floats = NDArray[np.float32]


class Fill:
    """Fills the holes of a part of a batch, record by record in order, as rules.judge asks.

    missing: bool [n], of the part's records: one that is left out, since there is nothing to hold, or only what is too old.
    """

    def __init__(
        self, batch: Batch, missing: NDArray[np.bool_], of: Group, hold: tuple[int, ...], held: Floats, max_age_ms: int | None
    ) -> None:
        """missing: the batch's. held: of each sensor its part of the row, float32 [G, H] or, with ages, [G, 3H]."""
        self.missing = np.zeros(len(of.record), np.bool_)
        self._batch, self._hold, self._max_age_ms = batch, np.array(hold), max_age_ms
        self._holes = missing[:, hold]
        self._ends = np.cumsum(batch.steps)
        with_holes = np.bincount(np.repeat(np.arange(len(batch)), batch.steps), self._holes.any(1), len(batch))[of.record] > 0
        self._of_interest = np.isin(of.group, of.group[with_holes])
        self._record, self._group = of.record.tolist(), of.group.tolist()
        # Of the sensors with holes: their values, and since when each is known; None before the first reading.
        exists, wanted = of.exists, np.unique(of.group[with_holes]).tolist()
        values = held[:, : len(hold)]
        since = times_of(held, len(hold)) if max_age_ms is not None else np.zeros(values.shape, np.int64)
        self._known = {g: (values[g], since[g]) if exists[g] else None for g in wanted}

    def __bool__(self) -> bool:
        return bool(self._known)

    def admit(self, i: int, anew: bool) -> bool:
        """Fills the record at place i of the part; False where it must be left out. anew: its sensor begins a sequence with it."""
        if not self._of_interest[i]:
            return True
        sensor, record = self._group[i], self._record[i]
        known = None if anew else self._known[sensor]
        last, event_ms = int(self._ends[record]), int(self._batch.event_ms[record])
        for at in range(last - int(self._batch.steps[record]), last):
            holes = self._holes[at]
            if holes.any():
                too_old = self._max_age_ms is not None and known is not None and (event_ms - known[1][holes] > self._max_age_ms).any()
                if known is None or too_old:
                    self.missing[i] = True
                    return False
                self._batch.x[at, self._hold[holes]] = known[0][holes]
            since = np.full(len(holes), event_ms) if known is None else np.where(holes, known[1], event_ms)
            known = self._batch.x[at, self._hold], since
        self._known[sensor] = known
        return True


def last_values(batch: Batch, readings: Indices, at: Indices, hold: tuple[int, ...]) -> Floats:
    """What sensors hold after a part, float32 [G, H]. at: places in `readings` of their last ones."""
    values: Floats = batch.x[readings[at]][:, hold]
    return values


def last_times(
    batch: Batch, readings: Indices, event_ms: Indices, first: Indices, at: Indices, before: NDArray[np.int64], hold: tuple[int, ...]
) -> NDArray[np.int64]:
    """When each of these values was measured, int64 [G, H].

    event_ms: of each reading. first, at: the places in `readings` of the first and the last of each sensor's sequence.
    before: the times before the sequence's first reading here; meaningless where it begins anew.
    """
    if batch.missing is None:
        return np.repeat(event_ms[at][:, None], len(hold), 1)
    measured = np.where(~batch.missing[readings][:, hold], np.arange(len(readings))[:, None], -1)
    newest = np.maximum.accumulate(measured)[at]
    return np.where(newest >= first[:, None], event_ms[np.maximum(newest, 0)], before)


def times_of(held: Floats, features: int) -> NDArray[np.int64]:
    """The times in the held part of rows, int64 [n, H]: their bits lie in two numbers each, behind the values."""
    return np.ascontiguousarray(held[:, features:]).view(np.int64)


def packed(values: Floats, times: NDArray[np.int64] | None) -> Floats:
    """The held part of rows: float32 [n, H], or [n, 3H] with times."""
    return values if times is None else np.concatenate([values, np.ascontiguousarray(times).view(np.float32)], axis=1)
