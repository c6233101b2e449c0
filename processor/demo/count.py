"""Whether every reading came out exactly once: the demo's arithmetic of offsets.

Responsible for counting. Not for reading topics: who does tells this room what lies in them.
"""

from array import array
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Count:
    """`lost`: readings without any output. `duplicated`: outputs beyond a reading's first, and outputs of no reading at all."""

    readings: int
    predictions: int
    dead_letters: int
    lost: int
    duplicated: int


class Tally:
    """The offsets of all readings and all outputs, 8 bytes each; duplicates are kept."""

    def __init__(self) -> None:
        self._readings: defaultdict[int, array[int]] = defaultdict(_offsets)
        self._outputs: defaultdict[int, array[int]] = defaultdict(_offsets)
        self.readings = 0
        self.predictions = 0
        self.dead_letters = 0

    def reading(self, partition: int, offset: int) -> None:
        """A record with a value lies in the input topic at this place."""
        self._readings[partition].append(offset)
        self.readings += 1

    def prediction(self, partition: int, offset: int) -> None:
        """A prediction says that it was made from the record at this place of the input topic."""
        self._outputs[partition].append(offset)
        self.predictions += 1

    def dead_letter(self, partition: int, offset: int) -> None:
        """A dead letter says that it is the record at this place of the input topic."""
        self._outputs[partition].append(offset)
        self.dead_letters += 1

    def count(self) -> Count:
        answered = sum(_answered(_view(read), _view(self._outputs[partition])) for partition, read in self._readings.items())
        outputs = self.predictions + self.dead_letters
        return Count(self.readings, self.predictions, self.dead_letters, self.readings - answered, outputs - answered)


def _answered(read: NDArray[np.int64], outputs: NDArray[np.int64]) -> int:
    """How many of the offsets `read` (each there once) are among `outputs`. One byte for each offset between the first and the last."""
    first, last = int(read.min()), int(read.max())
    seen = np.zeros(last - first + 1, np.bool_)
    seen[outputs[(outputs >= first) & (outputs <= last)] - first] = True
    return int(np.count_nonzero(seen[read - first]))


def _offsets() -> "array[int]":
    return array("q")


def _view(offsets: "array[int]") -> NDArray[np.int64]:
    return np.frombuffer(offsets, np.int64) if offsets else np.zeros(0, np.int64)
