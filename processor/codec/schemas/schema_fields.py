"""What a schema says of its fields, whatever its format: which are numbers, which is a time, and in which unit.

For messages and times; how a field is written is each format's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from processor.codec.paths import FieldPath

SHOWN = 8
DAY_MS = 86_400_000
# One of a unit in milliseconds: (factor, divisor).
_MS = {"ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000), "days": (DAY_MS, 1)}


@dataclass(slots=True)
class SchemaFields:
    """Fields by their path, outermost name first.

    numbers  fields that hold a number, or null
    lists    fields that hold a list
    open     fields that hold a map or one of several types: what lies in them, each record says
    units    of each field of a logical type that is a time: ms, us, ns, days
    """

    numbers: list[tuple[str, ...]] = field(default_factory=list)
    lists: list[tuple[str, ...]] = field(default_factory=list)
    open: list[tuple[str, ...]] = field(default_factory=list)
    units: dict[tuple[str, ...], str] = field(default_factory=dict)

    def may_hold(self, path: FieldPath) -> bool:
        """Whether a record may have a number there."""
        return path.parts in self.numbers or (path.name,) in self.numbers or any(path.parts[: len(way)] == way for way in self.open)

    def numeric(self) -> str:
        """The fields that may be features, in words."""
        measured = [".".join(path) for path in self.numbers if path not in self.units]
        if not measured:
            return "its schema has no numeric field"
        return f"its schema's numeric fields: {', '.join(measured[:SHOWN])}{', ...' if len(measured) > SHOWN else ''}"


class SchemaReader(Protocol):
    """Reads the records of one schema."""

    fields: SchemaFields

    def read(self, data: bytes, start: int, /) -> Any:
        """The record, a dict, from this byte to the last. Raises RejectError (bad_encoding)."""


class Record(dict[str, Any]):
    """A record and the fields of the schema that it was read by."""

    __slots__ = ("fields",)

    def __init__(self, found: Mapping[str, Any], fields: SchemaFields) -> None:
        super().__init__(found)
        self.fields = fields


def in_ms(found: Any, path: FieldPath, record: Record) -> Any:
    """A time of a logical type in Unix milliseconds, rounded down; anything else as it is."""
    unit = record.fields.units.get(path.way(record))
    if unit is None or type(found) is not int:
        return found
    factor, divisor = _MS[unit]
    return found * factor // divisor
