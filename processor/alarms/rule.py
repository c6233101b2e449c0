"""The rule of a service's alarms, and the thresholds that it has for each sensor."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.alarms.learn import Learner

NAMES_MAX = 1 << 17  # sensors whose pattern is remembered; beyond that all are looked up again
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rule:
    """
    above         an alarm is a score above its threshold, else one below
    raise_at      the threshold; None: `learner` gives it, and the one to clear
    raise_for     records in a row with such a score, that raise an alarm
    clear_at      the score at which an alarm ends; None: where raise ends
    clear_for     records in a row that end one
    mean_of       scores whose mean is judged
    repeat_ms     an alarm is repeated after so long, by event time; None: never
    patterns      thresholds of sensors by the pattern of their names, of which the first counts: pattern, raise_at, clear_at
    """

    above: bool
    raise_at: float | None
    learner: Learner | None = None
    raise_for: int = 1
    clear_at: float | None = None
    clear_for: int = 1
    mean_of: int = 1
    repeat_ms: int | None = None
    patterns: Sequence[tuple[str, float, float | None]] = ()

    def beyond(self, score: Floats, threshold: Floats) -> NDArray[np.bool_]:
        """Which scores are an alarm's, bool [n]; none where either is NaN."""
        return score > threshold if self.above else score < threshold

    def back(self, score: Floats, raise_at: Floats, clear_at: Floats) -> NDArray[np.bool_]:
        """Which scores end an alarm, bool [n]. clear_at: NaN where raise's threshold is meant."""
        within = score < clear_at if self.above else score > clear_at
        # Where an alarm is raised above 1 and no other value is set to clear it, it ends at 1.
        return np.where(np.isnan(clear_at), ~self.beyond(score, raise_at), within)


class Patterns:
    """Finds each sensor's own thresholds by its name: UTF-8, with \\x in place of bytes that are none."""

    def __init__(self, rule: Rule) -> None:
        self._patterns = [(re.compile(fnmatch.translate(pattern)), i) for i, (pattern, *_) in enumerate(rule.patterns)]
        nan = float("nan")
        rows = [(raise_at, nan if clear_at is None else clear_at) for _, raise_at, clear_at in rule.patterns]
        self._thresholds = np.array([*rows, (nan, nan)])
        self._known: dict[bytes, int] = {}

    def of(self, keys: Sequence[bytes]) -> tuple[Floats, Floats] | None:
        """raise_at and clear_at of these sensors, float64 [G] each, NaN where no pattern matches; None where none of them has any."""
        if not self._patterns:
            return None
        if len(self._known) > NAMES_MAX:
            self._known.clear()
        at = np.fromiter(map(self._find, keys), np.int64, len(keys))
        found = self._thresholds[at]
        return found[:, 0], found[:, 1]

    def _find(self, key: bytes) -> int:
        found = self._known.get(key)
        if found is None:
            name = key.decode(errors="backslashreplace")
            found = self._known[key] = next((i for pattern, i in self._patterns if pattern.match(name)), len(self._patterns))
        return found
