"""State rows as columns: the only format in which states move between slots, parking, undo log and checkpoints."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(slots=True)
class Rows:
    """n sensors' rows.

    state       float32 [n, W]: all recurrent states, packed
    applied     int64 [n]: offset of the last record in the state
    steps       int64 [n]: readings since the last reset; 0: the sensor was deleted, in a partition whose earlier readings were lost
    event_ms    int64 [n]: greatest event time since the last reset, Unix milliseconds
    incomplete  bool [n]: earlier readings were lost, so the state does not reach back to the last reset
    saved_in    int64 [n]: the transaction whose undo log holds this sensor's first value; meaningless outside the process
    """

    state: NDArray[np.float32]
    applied: NDArray[np.int64]
    steps: NDArray[np.int64]
    event_ms: NDArray[np.int64]
    incomplete: NDArray[np.bool_]
    saved_in: NDArray[np.int64]

    @classmethod
    def zeros(cls, n: int, width: int) -> "Rows":
        def column() -> NDArray[np.int64]:
            return np.zeros(n, np.int64)

        return cls(np.zeros((n, width), np.float32), column(), column(), column(), np.zeros(n, np.bool_), column())

    def __len__(self) -> int:
        return len(self.applied)

    def take(self, at: Indices | slice) -> "Rows":
        """A copy of the rows at these places."""
        if isinstance(at, slice):
            at = np.arange(len(self))[at]
        return Rows(
            np.take(self.state, at, axis=0), self.applied[at], self.steps[at], self.event_ms[at], self.incomplete[at], self.saved_in[at]
        )

    def put(self, at: Indices, rows: "Rows") -> None:
        """Writes the rows to these places, which must differ from one another."""
        self.state[at] = rows.state
        self.applied[at] = rows.applied
        self.steps[at] = rows.steps
        self.event_ms[at] = rows.event_ms
        self.incomplete[at] = rows.incomplete
        self.saved_in[at] = rows.saved_in

    def clear(self, at: Indices) -> None:
        """Sets the rows at these places to zeros, as for sensors without a row."""
        for name in Rows.__slots__:
            getattr(self, name)[at] = 0

    @staticmethod
    def join(parts: list["Rows"], width: int) -> "Rows":
        """Concatenates the parts."""
        if not parts:
            return Rows.zeros(0, width)
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__slots__))
