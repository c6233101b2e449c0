"""Thresholds that are learnt from a sensor's own scores, one score after another, in a few numbers a sensor.

Everything here is float64, in a fixed order of operations, and the same for a sensor whichever others are learnt of beside it. A learner
has a memory of `words` numbers a sensor, zeros at first; `count` is how many scores it has seen.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Learner(Protocol):
    @property
    def words(self) -> int: ...
    def thresholds(self, memory: Floats, count: Counts, /) -> tuple[Floats, Floats]:
        """What follows from memory [n, words]: the threshold to raise, and to clear, float64 [n] each; NaN while nothing is known yet.

        The one to clear is NaN where it is the one to raise.
        """
    def learn(self, memory: Floats, count: Counts, score: Floats, /) -> Floats:
        """The memory after one more score of each sensor, [n, words]. count: before it."""


@dataclass(frozen=True, slots=True)
class Deviations:
    """So many mean absolute deviations from the mean, both of which forget: the newest score weighs 1/warmup, and the first ones as much
    as in a plain mean. A score beyond the threshold counts as one at the threshold, so that an alarm does not teach what is normal.
    """

    above: bool
    number: float
    warmup: int
    clear: float | None = None  # deviations at which an alarm ends

    @property
    def words(self) -> int:
        return 2

    def thresholds(self, memory: Floats, count: Counts) -> tuple[Floats, Floats]:
        known = count >= self.warmup
        clear = np.nan if self.clear is None else self.clear
        return np.where(known, self._at(memory, self.number), np.nan), np.where(known, self._at(memory, clear), np.nan)

    def learn(self, memory: Floats, count: Counts, score: Floats) -> Floats:
        mean, deviation = memory[:, 0], memory[:, 1]
        limit = self._at(memory, self.number)
        capped = np.minimum(score, limit) if self.above else np.maximum(score, limit)
        score = np.where((count >= self.warmup) & (deviation > 0), capped, score)
        weight = 1.0 / np.minimum(count + 1, self.warmup)
        mean = mean + weight * (score - mean)
        return np.stack([mean, deviation + weight * (np.abs(score - mean) - deviation)], axis=1)

    def _at(self, memory: Floats, number: float) -> Floats:
        distance = number * memory[:, 1]
        return memory[:, 0] + distance if self.above else memory[:, 0] - distance


MARKERS = 5


@dataclass(frozen=True, slots=True)
class Quantile:
    """The quantile of all scores so far by the P2 algorithm: five markers, whose heights follow the quantiles 0, q/2, q, (1+q)/2 and 1.

    Source: R. Jain, I. Chlamtac, The P2 algorithm for dynamic calculation of quantiles and histograms without storing observations,
    Communications of the ACM 28 (1985). Memory: five heights, then the positions of the last four markers.
    """

    number: float
    warmup: int

    @property
    def words(self) -> int:
        return 2 * MARKERS - 1

    def thresholds(self, memory: Floats, count: Counts) -> tuple[Floats, Floats]:
        known = np.where(count >= self.warmup, memory[:, 2], np.nan)
        return known, np.full(len(known), np.nan)

    def learn(self, memory: Floats, count: Counts, score: Floats) -> Floats:
        memory = memory.copy()
        first, later = np.flatnonzero(count < MARKERS), np.flatnonzero(count >= MARKERS)
        if len(first):
            memory[first] = self._begun(memory[first], count[first], score[first])
        if len(later):
            memory[later] = self._followed(memory[later], count[later], score[later])
        return memory

    @staticmethod
    def _begun(memory: Floats, count: Counts, score: Floats) -> Floats:
        """The first five scores are the heights, in ascending order."""
        heights = np.where(np.arange(MARKERS) < count[:, None], memory[:, :MARKERS], np.inf)
        heights[np.arange(len(count)), count] = score
        heights.sort(axis=1)
        memory[:, :MARKERS] = np.where(np.isinf(heights), 0.0, heights)
        memory[:, MARKERS:] = np.arange(2, MARKERS + 1)
        return memory

    def _followed(self, memory: Floats, count: Counts, score: Floats) -> Floats:
        heights, places = memory[:, :MARKERS], np.ones((len(count), MARKERS))
        places[:, 1:] = memory[:, MARKERS:]
        heights[:, 0] = np.minimum(heights[:, 0], score)
        heights[:, 4] = np.maximum(heights[:, 4], score)
        # Markers above the score move up by one; the last one always does.
        places[:, 1:4] += score[:, None] < heights[:, 1:4]
        places[:, 4] += 1
        q, total = self.number, count.astype(np.float64)  # the scores but this one
        for i, share in ((1, q / 2), (2, q), (3, (1 + q) / 2)):
            self._adjust(heights, places, i, 1 + total * share)
        memory[:, MARKERS:] = places[:, 1:]
        return memory

    @staticmethod
    def _adjust(heights: Floats, places: Floats, i: int, wanted: Floats) -> None:
        """Moves marker i one place towards the one that it should have, if there is room, and its height with it."""
        below, here, above = places[:, i - 1], places[:, i], places[:, i + 1]
        off = wanted - here
        step = np.where((off >= 1) & (above - here > 1), 1.0, np.where((off <= -1) & (below - here < -1), -1.0, 0.0))
        moved = np.flatnonzero(step)
        if not len(moved):
            return
        s, n0, n1, n2 = step[moved], below[moved], here[moved], above[moved]
        q0, q1, q2 = (heights[moved, at] for at in (i - 1, i, i + 1))
        up, down = (n1 - n0 + s) * (q2 - q1) / (n2 - n1), (n2 - n1 - s) * (q1 - q0) / (n1 - n0)
        curved = q1 + s / (n2 - n0) * (up + down)
        straight = q1 + s * np.where(s > 0, (q2 - q1) / (n2 - n1), (q0 - q1) / (n0 - n1))
        heights[moved, i] = np.where((q0 < curved) & (curved < q2), curved, straight)
        places[moved, i] = n1 + s
