"""What the values of the section `alarm` may be: the score's name, the thresholds, and for how many records they must be passed."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from processor.settings.values import Allowed, listed

READINGS_MAX = 1_000_000
WARMUP = 1000
WARMUP_MIN = 10
_SCORE = re.compile(r"residual|reconstruction|prediction(\[\d{1,6}\])?|predicted_.{1,200}")


@dataclass(frozen=True, slots=True)
class Learnt:
    """A threshold that is learnt from a sensor's own scores. number: deviations of `mad`, or the `quantile`."""

    kind: Literal["mad", "quantile"]
    number: float
    warmup: int


@dataclass(frozen=True, slots=True)
class Raise:
    """above: an alarm is a score above the threshold, else one below. readings: for so many records in a row."""

    above: bool
    at: float | Learnt
    readings: int


@dataclass(frozen=True, slots=True)
class Clear:
    """above: an alarm ends above `at`, else below. at: None: where raise ends; Learnt: with the deviations of a learnt `mad`."""

    above: bool | None
    at: float | Learnt | None
    readings: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """clear: None: where raise ends."""

    raise_: float
    clear: float | None = None


def score_name() -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not _SCORE.fullmatch(value):
            raise ValueError
        return value

    return Allowed("residual, reconstruction, prediction[I] or predicted_OUTPUT", parse)


def raise_rule() -> Allowed:
    def parse(value: Any) -> Raise:
        if isinstance(value, Raise):
            return value
        side, at, readings = _side(listed(value))
        if side is None:
            raise ValueError
        learnt = _learnt(at, WARMUP) if isinstance(at, Mapping) else _number(at)
        return Raise(side == "above", learnt, readings)

    words = (
        "{above: THRESHOLD, for: N} or {below: THRESHOLD, for: N}, where THRESHOLD is a number, {mad: DEVIATIONS, warmup: N} or "
        "{quantile: Q, warmup: N}; for: 1 and warmup: 1000 may be left out"
    )
    return Allowed(words, parse)


def clear_rule() -> Allowed:
    def parse(value: Any) -> Clear:
        if isinstance(value, Clear):
            return value
        side, at, readings = _side(listed(value))
        if isinstance(at, Mapping):
            if set(at) != {"mad"}:
                raise ValueError
            at = _learnt(at, WARMUP)
        elif side is not None:
            at = _number(at)
        return Clear(None if side is None else side == "above", at, readings)

    words = "{below: NUMBER, for: N} or {above: NUMBER, for: N}, where NUMBER may be {mad: DEVIATIONS} if raise has mad; or {for: N}"
    return Allowed(words, parse)


def threshold_patterns() -> Allowed:
    def parse(value: Any) -> dict[str, Threshold]:
        found = listed(value)
        if not isinstance(found, Mapping):
            raise TypeError
        return {_pattern(name): of if isinstance(of, Threshold) else _threshold(of) for name, of in found.items()}

    return Allowed('a map of thresholds by pattern ({"pump-*": 0.5, "fan-??": {raise: 2, clear: 1.5}})', parse)


def _side(found: Any) -> tuple[str | None, Any, int]:
    """above, below or None; what stands there; and for how many records."""
    if not isinstance(found, Mapping) or not found or not set(found) <= {"above", "below", "for"} or {"above", "below"} <= set(found):
        raise ValueError
    readings = found.get("for", 1)
    if isinstance(readings, bool) or not isinstance(readings, int) or not 1 <= readings <= READINGS_MAX:
        raise ValueError
    side = next((name for name in ("above", "below") if name in found), None)
    return side, found.get(side), readings


def _learnt(found: Mapping[Any, Any], warmup: int) -> Learnt:
    kinds = [kind for kind in ("mad", "quantile") if kind in found]
    if len(kinds) != 1 or not set(found) <= {*kinds, "warmup"}:
        raise ValueError
    number, warmup = _number(found[kinds[0]]), found.get("warmup", warmup)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or not WARMUP_MIN <= warmup <= READINGS_MAX:
        raise ValueError
    if kinds[0] == "quantile":
        if not 0 < number < 1:
            raise ValueError
        return Learnt("quantile", number, warmup)
    if number < 0:
        raise ValueError
    return Learnt("mad", number, warmup)


def _threshold(found: Any) -> Threshold:
    if not isinstance(found, Mapping):
        return Threshold(_number(found))
    if not {"raise"} <= set(found) <= {"raise", "clear"}:
        raise ValueError
    return Threshold(_number(found["raise"]), _number(found["clear"]) if "clear" in found else None)


def _pattern(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError
    return name


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number
