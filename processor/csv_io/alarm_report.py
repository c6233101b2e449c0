"""What the alarms of a file come to: a table of them, a threshold that would have raised so many a day, and how well they match labels.

Judges nothing itself: scores and alarms are the service's own, reading by reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from processor.settings import Clear, Raise
from processor.words import counted

DAY_MS = 86_400_000
ALARMS_SHOWN = 50
THRESHOLDS_TRIED = 400


@dataclass(slots=True)
class _Sensor:
    times: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    alarms: list[bool] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Told:
    """An alarm: from one reading's time to another's, and its highest score; until None: it lasts at the end."""

    sensor: str
    since: int
    until: int | None
    score: float
    readings: int


class AlarmReport:
    """raise_for, clear_for: readings in a row. above: an alarm is a score above its threshold."""

    def __init__(self, *, above: bool, raise_for: int, clear_for: int) -> None:
        self._above, self._raise_for, self._clear_for = above, raise_for, clear_for
        self._sensors: dict[str, _Sensor] = {}
        self._labelled, self._timed = False, True

    def add(self, sensor: str, time: int | None, line: int, score: float | None, alarm: bool, label: bool | None) -> None:
        """The next reading that has an answer. time: Unix milliseconds; None: it has none, and its line stands for it."""
        of = self._sensors.setdefault(sensor, _Sensor())
        self._timed = self._timed and time is not None
        of.times.append(line if time is None else time)
        of.scores.append(np.nan if score is None else score)
        of.alarms.append(alarm)
        of.labels.append(bool(label))
        self._labelled = self._labelled or label is not None

    def lines(self, a_day: float | None) -> Iterator[str]:
        """All of it for people. a_day: alarms for which a threshold is proposed; None: none is."""
        yield from self.table()
        if a_day is not None:
            found = self.threshold(a_day)
            if found is None:
                yield "no threshold can be proposed: there are no scores, or no times (--timestamp)"
            else:
                side = "above" if self._above else "below"
                rule = f"{{{side}: {found[0]:.6g}, for: {self._raise_for}}}"
                yield f"proposed: alarm.raise: {rule}, which would have raised {counted(found[1], 'alarm')} here"
        if (judged := self.judged()) is not None:
            yield judged

    def alarms(self) -> list[Told]:
        """In the order of their beginnings."""
        found = []
        for sensor, of in self._sensors.items():
            scores = np.array(of.scores, float) if self._above else -np.array(of.scores, float)
            for first, last in _runs(np.array(of.alarms)):
                worst = np.nanmax(scores[first:last], initial=-np.inf)
                until = of.times[last] if last < len(of.times) else None
                found.append(Told(sensor, of.times[first], until, float(worst if self._above else -worst), last - first))
        return sorted(found, key=lambda told: (told.since, told.sensor))

    def table(self) -> Iterator[str]:
        """The alarms for people, one a line."""
        alarms = self.alarms()
        yield f"{counted(len(alarms), 'alarm')}" + (":" if alarms else "")
        for told in alarms[:ALARMS_SHOWN]:
            until = "the end" if told.until is None else _when(told.until, timed=self._timed)
            worst = "highest" if self._above else "lowest"
            yield (
                f"  {told.sensor}: {_when(told.since, timed=self._timed)} to {until}, {counted(told.readings, 'reading')}, {worst} score "
                f"{told.score:.6g}"
            )
        if len(alarms) > ALARMS_SHOWN:
            yield f"  and {len(alarms) - ALARMS_SHOWN:,} more"

    def threshold(self, a_day: float) -> tuple[float, int] | None:
        """The threshold that is passed most often without raising more alarms than this a day over the file, and their number.

        None where the file has no times or no scores. The number of a sensor's alarms need not fall as the threshold moves away, so those
        between the first one that raises too many and the farthest are what is looked among.
        """
        times = [time for of in self._sensors.values() for time in (of.times[0], of.times[-1])]
        span_ms = max(times, default=0) - min(times, default=0)
        scores = np.concatenate([np.array(of.scores, float) for of in self._sensors.values()] or [np.zeros(0)])
        scores = scores[np.isfinite(scores)] * (1 if self._above else -1)
        if span_ms <= 0 or not self._timed or not len(scores):
            return None
        allowed, farthest = a_day * span_ms / DAY_MS, float(scores.max())
        best = farthest if self._above else -farthest, 0  # raises none: a file of less than a day may have room for no other
        for share in 1 - np.geomspace(1 / (10 * len(scores)), 1, THRESHOLDS_TRIED):
            threshold = float(np.quantile(scores, share))
            raised = sum(self._raised(of, threshold) for of in self._sensors.values())
            if raised > allowed:
                break
            best = threshold if self._above else -threshold, raised
        return best

    def _raised(self, of: _Sensor, threshold: float) -> int:
        scores = np.array(of.scores, float) * (1 if self._above else -1)
        active, count, before = False, 0, 0
        for first, last in _runs(scores[np.isfinite(scores)] > threshold):
            active = active and first - before < self._clear_for
            if not active and last - first >= self._raise_for:
                active, count = True, count + 1
            before = last
        return count

    def judged(self) -> str | None:
        """How well the alarms match the labels, for people; None without labels."""
        if not self._labelled:
            return None
        alarms = [np.array(of.alarms) for of in self._sensors.values()]
        labels = [np.array(of.labels) for of in self._sensors.values()]
        both = sum(int((a & b).sum()) for a, b in zip(alarms, labels, strict=True))
        precision, recall = _ratio(both, sum(int(a.sum()) for a in alarms)), _ratio(both, sum(int(b.sum()) for b in labels))
        spans = [(a, span) for a, b in zip(alarms, labels, strict=True) for span in _runs(b)]
        met = sum(bool(a[first:last].any()) for a, (first, last) in spans)
        raised = [(b, span) for a, b in zip(alarms, labels, strict=True) for span in _runs(a)]
        false = sum(not b[first:last].any() for b, (first, last) in raised)
        spans_met = f"{met} of {counted(len(spans), 'labelled span')} met by an alarm"
        in_none = f"{false} of {counted(len(raised), 'alarm')} in none"
        return f"against the labels: precision {precision}, recall {recall} of readings; {spans_met}, {in_none}"


def report_of(raised: Raise | None, clear: Clear | None) -> AlarmReport | None:
    """None without a rule for alarms."""
    if raised is None:
        return None
    return AlarmReport(above=raised.above, raise_for=raised.readings, clear_for=1 if clear is None else clear.readings)


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "none"


def _runs(flags: NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """Where runs of true begin, and behind their ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags.astype(np.bool_), [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _when(time: int, *, timed: bool) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(sep=" ", timespec="seconds")[:19] if timed else f"line {time}"
