"""What the reference oracle reads in a record: the sensor, the time, the numbers, or the dead letter's error.

Written once more from the contract, with the standard library: imports nothing of the codec. Knows one record at a time, and no state.
"""

import datetime
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.settings import Scale, Settings

KEY_BYTES_MAX = 1024
NESTING_MAX = 100
_MS_OF = {"s": Fraction(1000), "us": Fraction(1, 1000), "ns": Fraction(1, 1_000_000)}
_NOTHING: Any = object()  # where a record has no field
TEN_YEARS_MS = 3652.5 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record of the input topic as a consumer sees it. record_ms: its Kafka timestamp, Unix milliseconds."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    record_ms: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


class BadError(Exception):
    """The record is a dead letter; the text is its error."""


class RecordReader:
    """
    features    F of the model
    categories  of each feature how many categories it has, None for a measurement; empty: all are measurements
    """

    def __init__(self, settings: Settings, features: int, categories: Sequence[int | None]) -> None:
        self._settings, self._features, self._categories = settings, features, categories
        self.policies = _policies(settings, features)
        source = settings.input
        self._may_miss = source.missing != "dead_letter" or len(source.missing_values) > 0 or source.quality is not None

    def key_of(self, record: InputRecord) -> bytes | None:
        """The sensor that a record names, None for none. Raises BadError where its value must be read for it and cannot be."""
        kind, _, name = (self._settings.input.key or "").partition(":")
        if kind == "header":
            named = [value for header, value in record.headers if header == name]
            if named or record.value is not None:
                return named[-1] if named else None
        if kind == "value" and record.value is not None:
            found = _at(name, self._object(record.value))
            if isinstance(found, str):
                return found.encode()
            return b"%d" % found if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 10**300 else None
        return record.key

    def resets(self, record: InputRecord) -> tuple[bool, bool]:
        """Whether the sensor begins anew before the record, and after it."""
        before = after = self._settings.reset.each_record
        for name, value in record.headers:
            if name == "sequence":
                if value not in (b"start", b"end", b"single"):
                    raise BadError("bad_schema")
                before, after = before or value != b"end", after or value != b"start"
        return before, after

    def _unit_given(self, record: InputRecord) -> str | None:
        """The unit that the sender names."""
        texts = [text for name, text in record.headers if name == "timestamp_unit"]
        if any(text not in (b"ms", self._settings.input.timestamp_unit.replace("auto", "ms").encode()) for text in texts):
            raise BadError("bad_schema")
        return (texts[-1] or b"").decode() if texts else None

    def parse(self, record: InputRecord) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
        """The record's readings, scaled, float32 [steps, F], which of their numbers are missing, and its time."""
        unit_given = self._unit_given(record)  # a header that is wrong comes before what is wrong in the value
        value, floats = record.value or b"", self._settings.input.format == "float32"
        asked = self._steps_asked(record) if floats else None
        steps, timestamp = self._float32(value) if floats else self._json(value)
        event_ms = self._event_ms(timestamp, record.record_ms, unit_given=unit_given)
        if (len(steps) if asked is None else asked) > self._settings.input.record_steps_max:
            raise BadError("too_large")
        if asked is not None and len(steps) != asked:
            raise BadError("wrong_feature_count")
        if any(len(step) != self._features for step in steps):
            raise BadError("wrong_feature_count")
        holes = np.array([[n is None for n in step] for step in steps], np.bool_)
        for step in steps:
            for i, n in enumerate(step):
                if n is None:
                    step[i] = self._stand_in(i)
        numbers = [abs(n) for step, missing in zip(steps, holes, strict=True) for n, hole in zip(step, missing, strict=True) if not hole]
        expected = self._features * len(steps)
        if floats and 2 * sum(0 < n < 2.0**-126 or 1e30 < n < math.inf for n in numbers) > expected:
            raise BadError("bad_encoding")
        scale = self._settings.input.scale
        if scale is not None:
            steps = [[self._scaled(scale, i, n) for i, n in enumerate(step)] for step in steps]
        with np.errstate(over="ignore"):
            readings = np.array(steps, np.float64).astype(np.float32)
        if not np.isfinite(readings).all():
            raise BadError("not_finite")
        for feature, categories in enumerate(self._categories):
            if categories is not None and any(number not in range(categories) for number in readings[:, feature].tolist()):
                raise BadError("unknown_category")
        return readings, holes, event_ms

    def _stand_in(self, feature: int) -> float:
        """What stands for a missing number before it is scaled; for a held one anything that fits will do, it is written over."""
        policy, scale = self.policies[feature], self._settings.input.scale
        if policy == "dead_letter":
            raise BadError("missing")
        if policy in ("mean", "hold"):
            return 0.0 if scale is None or self._is_category(feature) else column(scale.offset, feature)
        return float(policy)

    def _is_category(self, feature: int) -> bool:
        return feature < len(self._categories) and self._categories[feature] is not None

    def _scaled(self, scale: Scale, i: int, number: float) -> float:
        """A feature's number as the model takes it; a category is taken as it is."""
        if self._is_category(i):
            return number
        return (number - column(scale.offset, i)) / column(scale.divisor, i)

    def _steps_asked(self, record: InputRecord) -> int:
        """How many steps the last header `steps` says that a float32 record has."""
        asked = 1
        for name, text in record.headers:
            if name == "steps":
                if text is None or len(text) > 9 or not text.isdigit() or int(text) == 0:
                    raise BadError("bad_schema")
                asked = int(text)
        return asked

    def _float32(self, value: bytes) -> tuple[list[list[Any]], None]:
        if not value or len(value) % 4:
            raise BadError("bad_encoding")
        numbers: list[Any] = list(struct.unpack(f"<{len(value) // 4}f", value))
        features = self._features
        if self._may_miss:
            absent = [float(np.float32(n)) for n in self._settings.input.missing_values if isinstance(n, float)]
            numbers = [None if math.isnan(n) or n in absent else n for n in numbers]
        return [numbers[i : i + features] for i in range(0, len(numbers), features)], None

    def _object(self, value: bytes) -> Any:
        """What a JSON value holds."""
        def constant(name: str) -> None:
            if not (self._may_miss and name == "NaN"):
                raise BadError("bad_encoding")

        def integer(digits: str) -> int | float:
            return int(digits) if len(digits) <= 300 else float(digits)

        try:
            found = json.loads(value.decode(), parse_constant=constant, parse_int=integer, object_pairs_hook=_Object)
            json.dumps(found, ensure_ascii=False).encode()
            if _levels(found) > NESTING_MAX:
                raise ValueError
        except (ValueError, RecursionError):
            raise BadError("bad_encoding") from None
        return found

    def _json(self, value: bytes) -> tuple[list[Any], Any]:
        found = self._object(value)
        bad = self._bad_quality(found)
        steps = self._fields(found) if self._settings.input.features else [list(s) if isinstance(s, list) else s for s in _values(found)]
        for step in steps:
            if not isinstance(step, list):
                raise BadError("bad_schema")
            for i, n in enumerate(step):
                if self._may_miss and (n is None or n is _NOTHING or bad[i : i + 1] == [True] or self._stands_for_none(n)):
                    step[i] = None
                elif not isinstance(n, int | float) or isinstance(n, bool):
                    raise BadError("bad_schema")
        if any(isinstance(n, float) and math.isinf(n) for step in steps for n in step):
            raise BadError("not_finite")
        where = self._settings.input.timestamp
        timestamp = None if where is None else _at(where, found)
        return steps, None if timestamp is _NOTHING else timestamp

    def _fields(self, found: Any) -> list[Any]:
        """The one step of a record whose features are fields."""
        step = [_at(name, found) for name in self._settings.input.features or ()]
        if all(n is _NOTHING for n in step):
            raise BadError("bad_schema")
        return [step]

    def _stands_for_none(self, n: Any) -> bool:
        return not isinstance(n, bool) and isinstance(n, int | float | str) and n in self._settings.input.missing_values

    def _bad_quality(self, found: Any) -> list[bool]:
        """Of each feature, whether its quality is none of the good ones."""
        quality = self._settings.input.quality
        names = [str(name) for name in self._settings.input.features or range(self._features)]
        if quality is None:
            return [False] * len(names)
        if isinstance(quality.field, str):
            said = _at(quality.field, found)
            each = [said.get(name) for name in names] if isinstance(said, dict) else said if isinstance(said, list) else [said] * len(names)
            if len(each) != len(names):
                raise BadError("bad_schema")
        else:
            each = [_at(quality.field[name], found) if name in quality.field else None for name in names]

        def good(one: Any) -> bool:
            return one is None or one is _NOTHING or any(isinstance(one, bool) == isinstance(g, bool) and one == g for g in quality.good)

        return [not good(one) for one in each]

    def _event_ms(self, timestamp: Any, record_ms: int, *, unit_given: str | None) -> int:
        if timestamp is None:
            return record_ms
        if isinstance(timestamp, str):
            digits = timestamp.lstrip("+-") if timestamp[:2] not in ("++", "--", "+-", "-+") else ""
            whole, point, rest = digits.partition(".")
            if all(part.isascii() and part.isdecimal() for part in ([whole, rest] if point else [whole])):
                timestamp = math.inf if len(timestamp) > 40 else float(timestamp) if point else int(timestamp)
        if isinstance(timestamp, str):
            try:
                when = datetime.datetime.fromisoformat(timestamp)
            except ValueError:
                raise BadError("bad_timestamp") from None
            when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
            event_ms = (when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
        elif isinstance(timestamp, int | float) and not isinstance(timestamp, bool) and abs(timestamp) <= 1e300:
            unit = unit_given or self._settings.input.timestamp_unit
            exact = Fraction(timestamp if isinstance(timestamp, int) else repr(timestamp)) * _MS_OF.get(unit, 1)
            if unit != "auto" and unit != "ms":
                exact = Fraction(math.floor(exact))
            if abs(exact) > 2**53:
                raise BadError("bad_timestamp")
            event_ms = math.floor(exact)
        else:
            raise BadError("bad_timestamp")
        if unit_given is None and abs(event_ms - record_ms) > TEN_YEARS_MS:
            raise BadError("bad_timestamp")
        if event_ms > record_ms + round(self._settings.input.ahead_max * 1000):
            raise BadError("bad_timestamp")
        return event_ms


def _at(name: str, found: Any) -> Any:
    """What a record has at a path; _NOTHING if it has nothing there, and None if something on the way is null."""
    whole = '"' not in name and isinstance(found, dict) and name in found
    for part in [name] if whole else keys_of(name):
        if not isinstance(found, dict) or part not in found:
            return _NOTHING
        found = found[part]
        if found is None:
            return None
    return found


def field_of(name: str, found: Any) -> tuple[bool, Any]:
    """Whether a record has something at a path, and what."""
    there = _at(name, found)
    return there is not _NOTHING, None if there is _NOTHING else there


def keys_of(name: str) -> list[str]:
    """The keys of a field's name, between dots that stand outside quotes."""
    keys, quoted = [""], False
    for character in name:
        if character == '"':
            quoted = not quoted
        elif character == "." and not quoted:
            keys.append("")
        else:
            keys[-1] += character
    return keys


def _values(found: Any) -> list[Any]:
    if not isinstance(found, dict) or not isinstance(found.get("values"), list):
        raise BadError("bad_schema")
    values: list[Any] = found["values"]
    return values if values and isinstance(values[0], list) else [values]


def column(numbers: tuple[float, ...], i: int) -> float:
    return numbers[i] if len(numbers) > 1 else numbers[0]


def _policies(settings: Settings, features: int) -> list[Any]:
    """What stands for a missing number of each feature: dead_letter, hold, mean or a number."""
    given = settings.input.missing
    if not isinstance(given, dict):
        return [given] * features
    names = settings.input.features or range(features)
    return [given[str(name)] if str(name) in given else given.get(str(i), "dead_letter") for i, name in enumerate(names)]


class _Object(dict[str, Any]):
    """levels: how deep it nests, with what stands under a name that comes again later and is in the dict no more."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.levels = 1 + max((_levels(value) for _, value in pairs), default=0)


def _levels(found: Any) -> int:
    if isinstance(found, _Object):
        return found.levels
    return 1 + max(map(_levels, found), default=0) if isinstance(found, list) else 0
