"""A record as a sender writes it who keeps to the settings under `input`: what the CSV tools, `verify` and `plan` send.

Knows where the settings want the time and the features. What becomes of such a record is decode.py's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from processor.settings import path_parts

_PER_MS = {"auto": 1, "ms": 1, "us": 1000, "ns": 1_000_000}


def in_unit(time_ms: int, unit: str) -> int | float:
    """Unix milliseconds in a unit of input.timestamp_unit."""
    if unit == "s":
        return time_ms / 1000 if time_ms % 1000 else time_ms // 1000
    return time_ms * _PER_MS[unit]


def unit_header(unit: str) -> tuple[str, bytes]:
    """The header by which a sender names its unit, so that a time long past is taken as it is meant."""
    return "timestamp_unit", b"ms" if unit == "auto" else unit.encode()


def put(record: dict[str, Any], name: str, value: Any) -> None:
    """Writes a field where its name leads: dots descend, but for those in quotes."""
    *outer, last = path_parts(name)
    for part in outer:
        record = record.setdefault(part, {})
    record[last] = value


def key_header(key: str | None, sensor: bytes) -> list[tuple[str, bytes]]:
    """The header in which the settings want the sensor (input.key), if they do."""
    return [(key.removeprefix("header:"), sensor)] if key is not None and key.startswith("header:") else []


def key_field(key: str | None) -> str | None:
    """The field in which they want it."""
    return key.removeprefix("value:") if key is not None and key.startswith("value:") else None


def features_of(names: Sequence[str] | None, steps: Sequence[Sequence[Any]]) -> Mapping[str, Any]:
    """The features as members of a record: fields of the first step where they have names, else `values`."""
    if names is None:
        return {"values": steps if len(steps) > 1 else steps[0]}
    record: dict[str, Any] = {}
    for name, number in zip(names, steps[0], strict=False):  # a row without values has none of the fields
        put(record, name, number)
    return record


def merged(record: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both in one record; objects of the same name are one."""
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(record.get(name), dict):
            merged(record[name], value)
        else:
            record[name] = value
    return record
