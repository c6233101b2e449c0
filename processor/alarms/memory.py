"""What is remembered of each sensor for its alarms, and how it lies in the sensor's state row.

A row is float32; whole numbers and float64 lie in it by their bits, each in two of its numbers. Zeros are a sensor without a past.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Words of 64 bits: how many scores there were, the scores in a row that count for a change, 1 while an alarm lasts, and of the alarm that
# lasts the offset of the record that raised it, the time of that record, and the time at which it was last published.
COUNT, STREAK, ACTIVE, RAISED_AT, SINCE_MS, TOLD_MS = range(6)
FIXED = 6


@dataclass(frozen=True, slots=True)
class Layout:
    """learnt: numbers of the learner. earlier: scores that are kept to take the mean with the next one."""

    learnt: int
    earlier: int

    @property
    def numbers(self) -> int:
        """The float32 numbers that this takes in a row."""
        return 2 * (FIXED + self.learnt) + self.earlier


@dataclass(slots=True)
class Memory:
    """Of n sensors. words int64 [n, FIXED]; learnt float64 [n, learnt]; earlier float32 [n, earlier], the newest last."""

    words: NDArray[np.int64]
    learnt: NDArray[np.float64]
    earlier: NDArray[np.float32]

    @classmethod
    def read(cls, layout: Layout, numbers: NDArray[np.float32]) -> "Memory":
        """A copy of what lies in the alarms' part of rows, float32 [n, layout.numbers]."""
        words = np.ascontiguousarray(numbers[:, : 2 * (FIXED + layout.learnt)]).view(np.int64)
        learnt = np.ascontiguousarray(words[:, FIXED:]).view(np.float64)
        return cls(words[:, :FIXED].copy(), learnt, numbers[:, 2 * (FIXED + layout.learnt) :].copy())

    def packed(self) -> NDArray[np.float32]:
        """float32 [n, layout.numbers]."""
        parts = [np.ascontiguousarray(part).view(np.float32) for part in (self.words, self.learnt) if part.shape[1]]
        return np.concatenate([*parts, self.earlier], axis=1)
