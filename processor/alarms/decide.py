"""Decides a batch's alarms: sensor by sensor in the order of their records, in columns wherever one record does not depend on another.

The scores are smoothed and compared for all sensors at once. Thresholds are learnt in rounds, the first score of every sensor, then the
second. Only the few sensors with a score beyond a threshold, or with an alarm, are gone through one record after another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.alarms.memory import ACTIVE, COUNT, RAISED_AT, SINCE_MS, STREAK, TOLD_MS, Layout, Memory
from processor.alarms.rule import Patterns, Rule
from processor.alarms.score import Score
from processor.records import CLEARED, RAISED, REPEATED, RESET, AlarmEvent

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Float32 = NDArray[np.float32]
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Sequences:
    """n records of a part, sensor by sensor, in S sequences: unbroken runs of a sensor's records.

    first    where each sequence begins, int64 [S]
    sensor   whose it is, int64 [S]; sequences of a sensor follow one another
    goes_on  it continues what the sensor had before the batch, bool [S]
    after    the sensor is reset after the record, bool [n]
    event_ms, offset  of each record, int64 [n]
    """

    first: Indices
    sensor: Indices
    goes_on: Bools
    after: Bools
    event_ms: Indices
    offset: Indices

    @property
    def last(self) -> Indices:
        """Behind each sequence's last record, int64 [S]."""
        return np.append(self.first[1:], len(self.offset))


@dataclass(slots=True)
class Decided:
    """score float32 [n]: what was judged, NaN where nothing was; active bool [n]; memory float32 [S, numbers]: after each sequence.

    events: by position in the part, in their order.
    """

    score: Float32
    active: Bools
    memory: Float32
    events: list[AlarmEvent]


@dataclass(slots=True)
class _Scores:
    """The m records with a score, in order: their sequence, its place there from 0, and what follows."""

    at: Indices
    sequence: Indices
    rank: Indices
    judged: NDArray[np.float64]  # NaN where there are not enough yet to take the mean of
    raise_at: NDArray[np.float64]
    clear_at: NDArray[np.float64]


class Decider:
    """Decides for the service. score: which number of a record is judged."""

    def __init__(self, rule: Rule, score: Score) -> None:
        self.score, self._rule, self._patterns = score, rule, Patterns(rule)
        self._learner = rule.learner
        self._layout = Layout(0 if rule.learner is None else rule.learner.words, rule.mean_of - 1)

    @property
    def numbers(self) -> int:
        """The float32 numbers that a sensor's row keeps for its alarms."""
        return self._layout.numbers

    def lasting(self, stored: Float32) -> Bools:
        """Which sensors have an alarm, by the alarms' part of their rows: bool [n]."""
        return Memory.read(self._layout, stored).words[:, ACTIVE] > 0

    def decide(self, keys: Sequence[bytes], stored: Float32, of: Sequences, score: Float32) -> Decided:
        """keys, stored: of each sensor its name, and the alarms' part of its row, float32 [G, numbers]. score: NaN for a record without."""
        start = Memory.read(self._layout, stored[of.sensor])
        for part in (start.words, start.learnt, start.earlier):
            part[~of.goes_on] = 0
        scores = self._scored(keys, of, start, score)
        end = self._remembered(start, scores, score, len(of.first))
        decided = Decided(np.full(len(score), np.nan, np.float32), np.zeros(len(score), np.bool_), stored, [])
        decided.score[scores.at] = scores.judged.astype(np.float32)
        had = Memory.read(self._layout, stored).words
        self._run(of, scores, start, end, had, decided)
        decided.memory = end.packed()
        return decided

    def _scored(self, keys: Sequence[bytes], of: Sequences, start: Memory, score: Float32) -> _Scores:
        at = np.flatnonzero(~np.isnan(score))
        sequence = np.searchsorted(of.first, at, side="right") - 1
        first = np.searchsorted(sequence, np.arange(len(of.first)))  # of each sequence, among the scores
        rank = np.arange(len(at)) - first[sequence]
        judged = self._means(start, score[at], sequence, rank)
        raise_at, clear_at = self._thresholds(start, judged, sequence, rank)
        if (own := self._patterns.of(keys)) is not None:
            own_raise, own_clear = (thresholds[of.sensor[sequence]] for thresholds in own)
            others = np.isnan(own_raise)
            raise_at, clear_at = np.where(others, raise_at, own_raise), np.where(others, clear_at, own_clear)
        return _Scores(at, sequence, rank, judged, raise_at, clear_at)

    def _means(self, start: Memory, score: Float32, sequence: Indices, rank: Indices) -> NDArray[np.float64]:
        """Each score's mean with those before it, rounded to float32; NaN where they are too few."""
        n = self._rule.mean_of
        if n == 1:
            return score.astype(np.float64)
        total = np.zeros(len(score))
        for back in range(n - 1, 0, -1):  # the oldest first
            inside = rank >= back
            earlier = np.where(inside, score[np.arange(len(score)) - np.where(inside, back, 0)], 0)
            kept = start.earlier[sequence, np.minimum(n - 1 - back + rank, n - 2)]
            total += np.where(inside, earlier, kept)
        total += score
        mean = (total / n).astype(np.float32).astype(np.float64)
        return np.where(start.words[sequence, COUNT] + rank + 1 >= n, mean, np.nan)

    def _thresholds(
        self, start: Memory, judged: NDArray[np.float64], sequence: Indices, rank: Indices
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each score, before it was learnt of. Writes what is learnt into `start`."""
        rule, learner = self._rule, self._learner
        clear_at = np.full(len(judged), NAN if rule.clear_at is None else rule.clear_at)
        if learner is None:
            return np.full(len(judged), NAN if rule.raise_at is None else rule.raise_at), clear_at
        raise_at, learnt_clear = np.full(len(judged), np.nan), np.full(len(judged), np.nan)
        # Means are learnt of, so a sensor has learnt of fewer than it has had scores.
        seen = np.maximum(start.words[:, COUNT] - (rule.mean_of - 1), 0)
        for i in _rounds(rank):
            i = i[~np.isnan(judged[i])]
            whose = sequence[i]
            memory, count = start.learnt[whose], seen[whose]
            raise_at[i], learnt_clear[i] = learner.thresholds(memory, count)
            start.learnt[whose] = learner.learn(memory, count, judged[i])
            seen[whose] += 1
        return raise_at, np.where(np.isnan(clear_at), learnt_clear, clear_at)

    def _remembered(self, start: Memory, scores: _Scores, score: Float32, sequences: int) -> Memory:
        """The memory after each sequence, but for what the alarms themselves become."""
        counts = np.bincount(scores.sequence, minlength=sequences)
        words = start.words.copy()
        words[:, COUNT] += counts
        kept = self._rule.mean_of - 1
        earlier = start.earlier
        if kept:
            # The newest `kept` of what was kept before and the scores, place by place: -1 is the newest.
            ends = np.cumsum(counts)
            earlier = np.empty_like(start.earlier)
            values = score[scores.at]
            for back in range(1, kept + 1):
                new = back <= counts
                of_scores = values[np.where(new, ends - back, 0)] if len(values) else np.zeros(sequences, np.float32)
                shifted = np.maximum(kept - back + counts, 0)
                earlier[:, kept - back] = np.where(new, of_scores, start.earlier[np.arange(sequences), np.minimum(shifted, kept - 1)])
        return Memory(words, start.learnt, earlier)

    def _run(self, of: Sequences, scores: _Scores, start: Memory, end: Memory, had: Indices, decided: Decided) -> None:
        """Goes through the records of every sequence in which something may change."""
        beyond = self._rule.beyond(scores.judged, scores.raise_at)
        counts = ~np.isnan(scores.judged) & ~np.isnan(scores.raise_at)
        back = self._rule.back(scores.judged, scores.raise_at, scores.clear_at)
        wanted = (start.words[:, ACTIVE] > 0) | (start.words[:, STREAK] > 0)
        wanted[scores.sequence[beyond]] = True
        new = np.ones(len(of.sensor), np.bool_)
        new[1:] = of.sensor[1:] != of.sensor[:-1]
        lost = new & ~of.goes_on & (had[of.sensor, ACTIVE] > 0)  # a sensor that is reset, and had an alarm before the batch
        # After an alarm's sequence comes one that may have to clear it.
        wanted[1:] |= wanted[:-1]
        place = np.full(len(decided.score), -1)
        place[scores.at] = np.arange(len(scores.at))
        last, before = of.last.tolist(), -1
        for s in np.flatnonzero(wanted | lost).tolist():
            first = int(of.first[s])
            if lost[s]:
                decided.events.append(_reset(first, had[of.sensor[s]]))
            elif not new[s] and before == s - 1 and end.words[before, ACTIVE]:
                decided.events.append(_reset(first, end.words[before]))
            active, before = end.words[s], s
            for i in range(first, last[s]):
                if (at := place[i]) >= 0 and counts[at]:
                    self._change(active, i, of, scores, at, bool(beyond[at]), bool(back[at]), decided.events)
                decided.active[i] = active[ACTIVE] > 0
            if of.after[last[s] - 1] and active[ACTIVE]:
                decided.events.append(_reset(last[s] - 1, active))
                active[ACTIVE] = 0

    def _change(
        self, active: Indices, i: int, of: Sequences, scores: _Scores, at: int, beyond: bool, back: bool, events: list[AlarmEvent]
    ) -> None:
        """One score of a sensor: whether it changes its alarm. active: the sensor's words."""
        rule, event_ms = self._rule, int(of.event_ms[i])
        state = None
        if not active[ACTIVE]:
            active[STREAK] = active[STREAK] + 1 if beyond else 0
            if active[STREAK] >= rule.raise_for:
                active[[ACTIVE, STREAK, RAISED_AT, SINCE_MS, TOLD_MS]] = 1, 0, of.offset[i], event_ms, event_ms
                state = RAISED
        else:
            active[STREAK] = active[STREAK] + 1 if back else 0
            if active[STREAK] >= rule.clear_for:
                active[[ACTIVE, STREAK]] = 0
                state = CLEARED
            elif rule.repeat_ms is not None and event_ms - active[TOLD_MS] >= rule.repeat_ms:
                active[TOLD_MS] = event_ms
                state = REPEATED
        if state is not None:
            threshold = scores.clear_at[at] if state == CLEARED and not np.isnan(scores.clear_at[at]) else scores.raise_at[at]
            score, since_ms = float(scores.judged[at]), int(active[SINCE_MS])
            events.append(AlarmEvent(i, state, int(active[RAISED_AT]), since_ms, score, float(threshold)))


def _reset(record: int, words: Indices) -> AlarmEvent:
    return AlarmEvent(record, CLEARED, int(words[RAISED_AT]), int(words[SINCE_MS]), reason=RESET)


def _rounds(rank: Indices) -> Iterator[Indices]:
    """The places of the scores that are each sequence's first, then of those that are its second, and so on."""
    if len(rank):
        order = np.argsort(rank, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(rank[order])) + 1)
