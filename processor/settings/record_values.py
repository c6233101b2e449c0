"""What the values of settings may be that describe records: where a field lies, and what it holds.

As values.py, which has those of every other kind: no key, no source, no default.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from processor.settings.values import Allowed, listed, path_parts

FILL_MAX = 1e30
MISSING_WORDS = ("dead_letter", "hold", "mean")
Missing = float | Literal["dead_letter", "hold", "mean"]


def path_name() -> Allowed:
    def parse(value: Any) -> str:
        path_parts(_text(value))
        return str(value)

    return Allowed("a field's name (time, meta.time: the key as it is written, else dots descend; in quotes they do not)", parse)


def key_source() -> Allowed:
    def parse(value: str) -> str:
        kind, _, name = value.partition(":")
        if kind not in ("value", "header") or not name:
            raise ValueError
        if kind == "value":
            path_parts(name)
        return value

    return Allowed("value:PATH, a field of the record, or header:NAME", lambda value: parse(_text(value)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def clashes(name: str, others: Iterable[str]) -> bool:
    """Whether a field is one of the others, holds one, or lies in one."""
    mine = path_parts(name)
    return any(mine[: len(theirs)] == theirs[: len(mine)] for theirs in map(path_parts, others))


def stand_in() -> Allowed:
    """What stands for a missing value: of all features, or of each by its name or number."""

    def parse(value: Any) -> Any:
        found = listed(value)
        if not isinstance(found, Mapping):
            return one(found)
        if not found or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in found):
            raise ValueError
        return {str(name): one(policy) for name, policy in found.items()}

    def one(value: Any) -> Missing:
        if value in MISSING_WORDS:
            return value  # type: ignore[no-any-return]
        number = _number(value)
        if abs(number) > FILL_MAX:
            raise ValueError
        return number

    words = "dead_letter, hold, mean, a number, or a map of these by feature ({pressure: hold, 2: 0}), in which others are dead_letter"
    return Allowed(words, parse)


def no_values() -> Allowed:
    def parse(value: Any) -> tuple[float | str, ...]:
        found = listed(value)
        items = found if isinstance(found, list) else [found]
        if not all(isinstance(item, int | float | str) and not isinstance(item, bool) for item in items):
            raise ValueError
        return tuple(_number_or_text(item) for item in items if item != "")

    return Allowed("a list of numbers, and of texts in a number's place ([-200, 9999, N/A])", parse)


@dataclass(frozen=True, slots=True)
class Quality:
    """field: the path of a record's quality, or the path of each feature's by its name. good: what a good one is."""

    field: str | Mapping[str, str]
    good: tuple[str | int | float | bool, ...]


def qualities() -> Allowed:
    def parse(value: Any) -> Quality:
        if isinstance(value, Quality):
            return value
        found = listed(value)
        if not isinstance(found, Mapping) or set(found) != {"field", "good"}:
            raise ValueError
        field, good = found["field"], found["good"]
        for name in field.values() if isinstance(field, Mapping) else [field]:
            if not isinstance(name, str):
                raise TypeError
            path_parts(name)
        good = good if isinstance(good, list) else [good]
        if not good or not all(isinstance(item, str | int | float | bool) for item in good):
            raise ValueError
        return Quality({str(k): v for k, v in field.items()} if isinstance(field, Mapping) else field, tuple(good))

    return Allowed("{field: PATH, good: [GOOD, 192]}; in place of PATH a map of paths by feature", parse)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _number_or_text(item: Any) -> float | str:
    try:
        return _number(item)
    except ValueError:
        return str(item)
