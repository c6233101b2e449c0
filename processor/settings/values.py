"""The kinds of values: each parses a value from text or YAML, and describes in words what it accepts.

Responsible only for values: no keys, sources or defaults. Durations are float seconds here; in a source they are text with a unit,
because a bare number would be ambiguous.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_MAX_S = 36_500 * _SECONDS["d"]


class FaultError(ValueError):
    """The part of a value that is not allowed, and the reason."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Parses one value. `words` appear in the error, in --help and in docs/configuration.md."""

    words: str
    parse: Callable[[Any], Any]  # raises ValueError or TypeError for values that are not allowed

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def read(self, value: Any) -> Any:
        try:
            return self.parse(value)
        except FaultError as fault:
            context = {"words": self.words, "fault": str(fault)}
            raise PydanticCustomError("expected", "expected {words}; {fault}", context) from None
        except (ValueError, TypeError):
            raise PydanticCustomError("expected", "expected {words}", {"words": self.words}) from None


def choice(*available: str) -> Allowed:
    def parse(value: Any) -> Any:
        if not isinstance(value, str) or value not in available:
            raise ValueError
        return value

    return Allowed(_either(available), parse)


def or_null(allowed: Allowed) -> Allowed:
    return Allowed(f"{allowed.words}, or null", lambda value: None if value is None else allowed.parse(value))


def integer(low: int, high: int | None = None) -> Allowed:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return Allowed(f"a whole number from {low} to {high:,}" if high is not None else f"a whole number, {low} or more", parse)


def slots_number() -> Allowed:
    number = integer(1)
    return Allowed(f"auto, or {number.words}", lambda value: value if value == "auto" else number.parse(value))


def ratio() -> Allowed:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        number = float(value)
        if not 0.0 <= number <= 1.0:
            raise ValueError
        return number

    return Allowed("a number from 0 to 1", parse)


def truth(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    if not isinstance(value, bool):
        raise TypeError
    return value


def flag() -> Allowed:
    return Allowed("true or false", truth)


def listed(value: Any) -> Any:
    """A list or mapping from YAML; an option or a variable contains it as one line of YAML, or a list of names separated by commas."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError):
            raise ValueError from None
    elif isinstance(value, str) and "," in value:
        value = [item.strip() for item in value.split(",")]
    return list(value) if isinstance(value, tuple) else value


def path_parts(name: str) -> tuple[str, ...]:
    """The keys of the nested objects that a field's name selects: dots descend, except in quotes ('"PR03.TT229".value').

    Raises ValueError for an invalid name.
    """
    if not _FIELD.fullmatch(name):
        raise ValueError
    return tuple(part[1:-1] if part.startswith('"') else part for part in _PART.findall(name))


def field_path(name: str) -> tuple[str, ...]:
    """path_parts() for a feature's name. Also raises ValueError for `timestamp`, which contains the time."""
    path = path_parts(name)
    if path[0] == "timestamp":
        raise ValueError
    return path


_PART = re.compile(r'"[^"]*"|[^".]+')
_FIELD = re.compile(r'(?:"[^"\\\x00-\x1f]+"|[^".\\\x00-\x1f]+)(?:\.(?:"[^"\\\x00-\x1f]+"|[^".\\\x00-\x1f]+))*')


class Features(tuple[str, ...]):
    """The names of all features in the model's order. by_input: how many are of each input, where the setting says so; else empty."""

    by_input: dict[str, int]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)


def feature_names() -> Allowed:
    def parse(value: Any) -> Features:
        if isinstance(value, Features):
            return value
        found = listed(value)
        if isinstance(found, Mapping) and not all(isinstance(of, list) for of in found.values()):
            raise ValueError
        groups = {str(name): _named_features(of) for name, of in found.items()} if isinstance(found, Mapping) and found else {}
        features = Features(_named_features([name for group in groups.values() for name in group] if groups else found))
        features.by_input = {name: len(group) for name, group in groups.items()}
        return features

    words = (
        "a list of different field names ([temperature, motor.current]: the key as it is written, else dots descend; "
        "in quotes they do not: ['\"PR03.TT229\".value']), none of them timestamp; or such lists by input ({INPUT: [names], ...})"
    )
    return Allowed(words, parse)


def _named_features(value: Any) -> tuple[str, ...]:
    names = listed(value)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError
    paths = [field_path(name) for name in names]
    if any(a == b[: len(a)] for i, a in enumerate(paths) for j, b in enumerate(paths) if i != j):
        raise ValueError  # twice the same, or a field that holds another one
    if {name for name, path in zip(names, paths, strict=True) if len(path) > 1} & {path[0] for path in paths}:
        raise ValueError  # a key that may be a number by one name and holds a field by another
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Scale:
    """value = (measured - offset) / divisor; both are one number for all columns, or one for each column."""

    offset: tuple[float, ...]
    divisor: tuple[float, ...]

    def column(self, i: int) -> "Scale":
        """The scale of one column."""
        return self if len(self.offset) == 1 else Scale((self.offset[i],), (self.divisor[i],))


@dataclass(frozen=True, slots=True)
class RangeScale(Scale):
    """One that was written as min and max: its offset is no mean."""


def scaling() -> Allowed:
    def parse(value: Any) -> Scale:
        if isinstance(value, Scale):
            return value
        found = listed(value)
        if not isinstance(found, Mapping) or set(found) not in ({"mean", "std"}, {"min", "max"}):
            raise ValueError
        first, second = (_numbers(found[key]) for key in (("mean", "std") if "mean" in found else ("min", "max")))
        if len(first) != len(second) and 1 not in (len(first), len(second)):
            raise FaultError(f"the lists hold {len(first)} and {len(second)} numbers")
        n = max(len(first), len(second))
        first, second = (numbers * n if len(numbers) == 1 else numbers for numbers in (first, second))
        divisor = second if "mean" in found else tuple(high - low for low, high in zip(first, second, strict=True))
        for column, width in enumerate(divisor, 1):
            if not (math.isfinite(width) and width > 0):
                what = f"std is {width:g}" if "mean" in found else f"max is not above min, {first[column - 1]:g}"
                raise FaultError(f"in column {column} {what}: a column that never changed takes std: 1, or max: min + 1")
        return Scale(first, divisor) if "mean" in found else RangeScale(first, divisor)

    return Allowed("{mean: M, std: S} or {min: A, max: B}, each a number or one a column; std above 0, max above min", parse)


def output_scaling() -> Allowed:
    one = scaling()

    def parse(value: Any) -> Scale | dict[str, Scale]:
        found = listed(value)
        if not (isinstance(found, Mapping) and found and all(isinstance(of, Mapping | Scale) for of in found.values())):
            scale: Scale = one.parse(value)
            return scale
        return {str(name): one.parse(of) for name, of in found.items()}

    return Allowed(f"{one.words}; or {{OUTPUT: one of these, ...}}", parse)


def _numbers(value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, list) else [value]
    # YAML parses 1e-5 as text.
    numbers = tuple(float(item) for item in items if isinstance(item, int | float | str) and not isinstance(item, bool))
    if not items or len(numbers) < len(items) or not all(map(math.isfinite, numbers)):
        raise ValueError
    return numbers


def kafka_name(limit: int = 249) -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(rf"[a-zA-Z0-9._-]{{1,{limit}}}", value) or value in {".", ".."}:
            raise ValueError
        return value

    return Allowed(f"1 to {limit} letters, digits, dots, underscores or hyphens (all digits: in quotes)", parse)


def text(words: str) -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            raise ValueError
        return str(value)

    return Allowed(words, parse)


def parse_duration(value: object) -> float:
    """Converts '100ms', '30s', '15m', '1h', '2d' to seconds. Raises ValueError for anything else, including a bare number."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) <= 32 else None
    if match is None:
        raise ValueError(f"found {value!r}, expected a duration such as 100ms, 30s, 15m, 1h or 2d")
    return float(match["number"]) * _SECONDS[match["unit"]]


def format_duration(seconds: float) -> str:
    """The shortest text that parses back to `seconds`: 0.1 is '100ms', 3600.0 is '1h'."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def duration(low: str = "1ms", high: str | None = None) -> Allowed:
    low_s, high_s = parse_duration(low), parse_duration(high) if high else _DURATION_MAX_S

    def parse(value: Any) -> float:
        seconds = parse_duration(value)
        if not low_s <= seconds <= high_s:
            raise ValueError
        return seconds

    limits = f"from {low} to {high}" if high else f"of {low} or more"
    return Allowed(f"a duration {limits}, with its unit (100ms, 30s, 15m, 1h, 2d)", parse)


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def reason_of(error: OSError | ValueError) -> str:
    return str(error.strerror).lower() if isinstance(error, OSError) else "text that is not UTF-8"
