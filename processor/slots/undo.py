"""The undo log: for every row that has changed since the last commit, its value at that commit.

Keyed by sensor, not by slot, because by the time a transaction aborts its sensors may be parked, reset or removed.
"""

import numpy as np
from numpy.typing import NDArray

from processor.slots.rows import Indices, Rows
from processor.slots.table import Sensor, Table


class Undo:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._saved: list[tuple[list[Sensor], Rows]] = []
        self._created: list[Sensor] = []
        self.transaction = 1

    @property
    def empty(self) -> bool:
        return not self._saved and not self._created

    def save(self, sensors: list[Sensor], locations: Indices, rows: Rows, exists: NDArray[np.bool_]) -> None:
        """Saves the rows of sensors that exist and that this transaction has not changed yet. The caller must not modify `rows` later."""
        first = np.flatnonzero(exists & (rows.saved_in != self.transaction))
        if not len(first):
            return
        every = len(first) == len(sensors)  # the common case with many sensors: avoids copying a copy
        self._saved.append((sensors, rows) if every else ([sensors[i] for i in first.tolist()], rows.take(first)))
        self._table.mark_saved(locations[first], self.transaction)

    def created(self, sensors: list[Sensor]) -> None:
        """Records sensors that had no row. They may include sensors that were removed earlier in the transaction."""
        self._created.extend(sensors)

    def commit(self) -> None:
        self._clear()

    def abort(self) -> None:
        # Created sensors first: a sensor that was removed and came back within one transaction is in both lists, and its saved row is
        # older.
        self._table.forget(self._created)
        for sensors, rows in self._saved:
            self._table.restore(sensors, rows)
        self._clear()

    def drop(self, partition: int) -> None:
        """Drops the entries of a partition, so that no abort restores them."""
        self._created = [sensor for sensor in self._created if sensor[0] != partition]
        kept: list[tuple[list[Sensor], Rows]] = []
        for sensors, rows in self._saved:
            stays = [i for i, sensor in enumerate(sensors) if sensor[0] != partition]
            kept.append(([sensors[i] for i in stays], rows.take(np.array(stays, np.int64))))
        self._saved = kept

    def _clear(self) -> None:
        self._saved.clear()
        self._created.clear()
        self.transaction += 1
