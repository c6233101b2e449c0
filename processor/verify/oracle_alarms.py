"""What the oracle expects of alarms: one record after another, in plain numbers, written once more from the contract.

Shares nothing with the service's own alarms: neither columns nor state rows. docs/architecture/alarms.md is the contract.
"""

import fnmatch
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from processor.settings import Clear, Learnt, Raise, Settings
from processor.verify.oracle_records import InputRecord

TOP = 3


@dataclass(slots=True)
class Past:
    """What a sensor's records have left for its alarms."""

    scores: list[float] = field(default_factory=list)  # the last ones
    judged: list[float] = field(default_factory=list)  # the first few, while markers are made of them
    learnt: int = 0  # scores that were learnt of
    mean: float = 0.0
    deviation: float = 0.0
    places: list[float] = field(default_factory=list)
    in_a_row: int = 0
    active: dict[str, Any] | None = None  # id and since of the alarm that lasts
    told_ms: int = 0
    heard_ms: int = 0  # the partition's time as of the last record, and that record's offset
    heard_at: int = 0
    silent: bool = False
    said: dict[str, Any] = field(default_factory=dict)  # in the last record's prediction
    last: "Record | None" = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record, its sensor, and its time."""

    record: InputRecord
    key: bytes
    event_ms: int


class AlarmReference:
    """settings: with alarm.raise. model_id: as in the outputs."""

    def __init__(self, settings: Settings, model_id: str) -> None:
        # Where only silence is an alarm, nothing is judged.
        raised = settings.alarm.raise_ or Raise(True, math.inf, 1)
        self._settings, self._alarm, self._raised, self._model_id = settings, settings.alarm, raised, model_id
        self._clear = settings.alarm.clear or Clear(None, None, 1)
        self._published: list[tuple[bytes, dict[str, Any]]] = []

    def take(self) -> list[tuple[bytes, dict[str, Any]]]:
        """What was published since the last call, each with its sensor."""
        told, self._published = self._published, []
        return told

    def forgotten(self, past: Past, of: Record) -> None:
        """A sensor is deleted."""
        self._heard(past, of, reason="reset")
        self._lose(past, of)

    def follow(
        self,
        known: Past | None,
        of: Record,
        time_ms: int,
        score: float | None,
        parts: Sequence[tuple[Any, float]],
        *,
        goes_on: bool,
    ) -> Past:
        """A record with readings, at this partition time. known: what its sensor had before; parts: the features' share of the score."""
        if known is not None:
            self._heard(known, of)
            if not goes_on:
                self._lose(known, of)
        past = known if known is not None and goes_on else Past()
        past.heard_ms, past.heard_at = time_ms, of.record.offset
        past.said = {}
        if self._alarm.raise_ is not None:
            judged = None if score is None else self._smoothed(past, score)
            if judged is not None:
                self._judge(past, of, judged, parts)
            past.said = {"score": judged, "alarm": past.active is not None}
        past.last = of
        return past

    def said(self, past: Past, *, ends: bool) -> dict[str, Any]:
        """What the prediction says. ends: the sensor's sequence ends with it."""
        if ends and past.last is not None:
            self._lose(past, past.last)
        return past.said

    def passed(self, pasts: Sequence[tuple[bytes, Past]], record: InputRecord, event_ms: int, time_ms: int) -> None:
        """The partition's time is now this. pasts: of its sensors."""
        limit_s = self._alarm.silent
        if limit_s is None:
            return
        gone = [(key, past) for key, past in pasts if not past.silent and time_ms - past.heard_ms > round(limit_s * 1000)]
        for key, past in sorted(gone, key=lambda each: each[1].heard_at):
            past.silent = True
            self._silence("raised", past, Record(record, key, event_ms))

    def _heard(self, past: Past, of: Record, reason: str | None = None) -> None:
        if past.silent:
            past.silent = False
            self._silence("cleared", past, of, reason)

    def _lose(self, past: Past, of: Record) -> None:
        """A sensor is reset."""
        if past.active is not None:
            self._publish("cleared", past.active, of, reason="reset")
            past.active = None

    def _silence(self, state: str, past: Past, of: Record, reason: str | None = None) -> None:
        name = f"{self._settings.input.topic}-{of.record.partition}-{past.heard_at}-silent"
        self._publish(state, {"id": name, "since": past.heard_ms}, of, level="silent", reason=reason)

    def _judge(self, past: Past, of: Record, score: float, parts: Sequence[tuple[Any, float]]) -> None:
        raise_at, clear_at = self._thresholds(past, of.key)
        if raise_at is not None:
            state = self._step(past, score, raise_at, clear_at, of.record, of.event_ms)
            if state is not None and past.active is not None:
                threshold = clear_at if state == "cleared" and clear_at is not None else raise_at
                self._publish(state, past.active, of, score, threshold, parts)
                if state == "cleared":
                    past.active = None
        self._learn(past, score)

    def _smoothed(self, past: Past, score: float) -> float | None:
        n = self._alarm.mean_of
        past.scores = [*past.scores, score][-n:]
        if len(past.scores) < n:
            return None
        total = 0.0
        for number in past.scores:
            total += number
        return score if n == 1 else float(np.float32(total / n))

    def _step(self, past: Past, score: float, raise_at: float, clear_at: float | None, record: InputRecord, event_ms: int) -> str | None:
        above = self._raised.above
        beyond = score > raise_at if above else score < raise_at
        if past.active is None:
            past.in_a_row = past.in_a_row + 1 if beyond else 0
            if past.in_a_row < self._raised.readings:
                return None
            past.in_a_row, past.told_ms = 0, event_ms
            name = f"{self._settings.input.topic}-{record.partition}-{record.offset}"
            past.active = {"id": name, "since": event_ms}
            return "raised"
        back = not beyond if clear_at is None else score < clear_at if above else score > clear_at
        past.in_a_row = past.in_a_row + 1 if back else 0
        if past.in_a_row >= self._clear.readings:
            past.in_a_row = 0
            return "cleared"
        repeat_s = self._alarm.repeat
        if repeat_s is not None and event_ms - past.told_ms >= round(repeat_s * 1000):
            past.told_ms = event_ms
            return "repeated"
        return None

    def _publish(
        self,
        state: str,
        alarm: dict[str, Any],
        of: Record,
        score: float | None = None,
        threshold: float | None = None,
        parts: Sequence[tuple[Any, float]] = (),
        *,
        level: str = "alarm",
        reason: str | None = None,
    ) -> None:
        try:
            name = of.key.decode()
        except UnicodeDecodeError:
            name = "0x" + of.key.hex()
        told = {
            **alarm,
            "sensor": name,
            "state": state,
            "level": "normal" if state == "cleared" else level,
            "previous_level": "normal" if state == "raised" else level,
            "timestamp": of.event_ms,
            "score": score,
            "threshold": threshold,
            "partition": of.record.partition,
            "offset": of.record.offset,
            "model": self._model_id,
        }
        if reason is not None:
            told["reason"] = reason
        if parts:
            largest = sorted(parts, key=lambda part: -part[1])[:TOP]
            told["features"] = [{"feature": feature, "residual": residual} for feature, residual in largest]
        self._published.append((of.key, told))

    # Thresholds.

    def _thresholds(self, past: Past, key: bytes) -> tuple[float | None, float | None]:
        """To raise and to clear; None while they are learnt, and to clear where it is the one to raise."""
        name = key.decode(errors="backslashreplace")
        for pattern, threshold in self._alarm.thresholds.items():
            if fnmatch.fnmatchcase(name, pattern):
                return threshold.raise_, threshold.clear
        fixed = self._clear.at if isinstance(self._clear.at, float) else None
        at = self._raised.at
        if not isinstance(at, Learnt):
            return at, fixed
        if past.learnt < at.warmup:
            return None, fixed
        if at.kind == "quantile":
            return past.judged[2], fixed
        deviations = self._clear.at.number if isinstance(self._clear.at, Learnt) else None
        return self._at(past, at.number), fixed if deviations is None else self._at(past, deviations)

    def _at(self, past: Past, deviations: float) -> float:
        distance = deviations * past.deviation
        return past.mean + distance if self._raised.above else past.mean - distance

    def _learn(self, past: Past, score: float) -> None:
        at = self._raised.at
        if not isinstance(at, Learnt):
            return
        if at.kind == "mad":
            self._learn_deviation(past, score, at)
        elif past.learnt < 5:
            past.judged = sorted([*past.judged, score])
            past.places = [1.0, 2.0, 3.0, 4.0, 5.0]
        else:
            _follow(past, score, at.number)
        past.learnt += 1

    def _learn_deviation(self, past: Past, score: float, at: Learnt) -> None:
        if past.learnt >= at.warmup and past.deviation > 0:
            limit = self._at(past, at.number)
            score = min(score, limit) if self._raised.above else max(score, limit)
        weight = 1.0 / min(past.learnt + 1, at.warmup)
        past.mean += weight * (score - past.mean)
        past.deviation += weight * (abs(score - past.mean) - past.deviation)


def alarm_as_published(value: bytes) -> dict[str, Any]:
    """What is published of an alarm, as take_alarms() has it."""
    found: dict[str, Any] = json.loads(value)
    if found["score"] is not None:
        found["score"] = float(np.float32(found["score"]))
    for part in found.get("features", ()):
        part["residual"] = float(np.float32(part["residual"]))
    return found


def _follow(past: Past, score: float, quantile: float) -> None:
    """P2, as Jain and Chlamtac wrote it down in 1985: boxes B of their table."""
    height, place = past.judged, past.places
    if score < height[0]:
        height[0], cell = score, 0
    elif score >= height[4]:
        height[4], cell = max(score, height[4]), 3
    else:
        cell = next(i for i in range(4) if height[i] <= score < height[i + 1])
    for i in range(cell + 1, 5):
        place[i] += 1
    for i, share in ((1, quantile / 2), (2, quantile), (3, (1 + quantile) / 2)):
        off = 1 + float(past.learnt) * share - place[i]
        if (off >= 1 and place[i + 1] - place[i] > 1) or (off <= -1 and place[i - 1] - place[i] < -1):
            s = 1.0 if off > 0 else -1.0
            up = (place[i] - place[i - 1] + s) * (height[i + 1] - height[i]) / (place[i + 1] - place[i])
            down = (place[i + 1] - place[i] - s) * (height[i] - height[i - 1]) / (place[i] - place[i - 1])
            curved = height[i] + s / (place[i + 1] - place[i - 1]) * (up + down)
            if not height[i - 1] < curved < height[i + 1]:
                j = i + int(s)
                curved = height[i] + s * ((height[j] - height[i]) / (place[j] - place[i]))
            height[i] = curved
            place[i] += s
