"""What the reference oracle reads in a record of a schema: Avro's bytes as Python's own types, by the schema's JSON as it stands.

Written once more from the specifications, with the standard library: imports nothing of the codec. Knows one record at a time.
"""

import functools
import json
import math
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from processor.verify.oracle_protobuf import ProtobufOracle

LEVELS_MAX = 100
_UNITS = {"millis": Fraction(1), "micros": Fraction(1, 1000), "nanos": Fraction(1, 1_000_000)}


class NoRecordError(Exception):
    """The bytes are no record of the schema; the text is the dead letter's error."""


def written_by(value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> tuple[str, int]:
    """The id of a framed record's schema, and where its payload begins."""
    for name, text in headers:
        if name == "__value_schema_id":
            if text is not None and text[:1] == b"\0" and len(text) >= 5:
                return str(int.from_bytes(text[1:5], "big")), 0
            if text is not None and text[:1] == b"\1" and len(text) >= 17:
                return str(uuid.UUID(bytes=text[1:17])), 0
            raise NoRecordError("bad_encoding")
    number = int.from_bytes(value[1:5], "big")
    if len(value) < 5 or value[0] != 0 or (number == 0 and len(value) >= 9):
        raise NoRecordError("bad_encoding")
    return str(number), 5


class SchemaOracles:
    """The records of the formats that have a schema: of one in a file, or of those that frames name, by id.

    schemas: None for an id that the registry does not know.
    """

    def __init__(self, format_: str, alone: str | None, schemas: Mapping[str, str | None]) -> None:
        self._format, self._schemas = format_, schemas
        self._alone = None if alone is None or format_ == "json_schema" else _made(format_, alone)

    def read(self, value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> Any:
        """Raises NoRecordError."""
        indexes, end = list[int](), 0
        if self._format == "protobuf" and self._alone is None:
            written_by(value, headers)  # what is no frame has no list either
            framing = dict(headers).get("__value_schema_id") or value
            indexes, end = _indexes(framing, 17 if framing[:1] == b"\1" else 5)
        oracle, start = self._of(value, headers)
        if not isinstance(oracle, ProtobufOracle):
            return oracle.read(value[start:])
        try:
            return oracle.read(value if start == 0 else value[end:], indexes)
        except IndexError:
            raise NoRecordError("bad_schema") from None
        except ValueError:
            raise NoRecordError("bad_encoding") from None

    def time_ms(self, name: str, path: Sequence[str], number: int, value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> int:
        """The number at a path as Unix milliseconds. name: the path as the settings write it, which may be a key of its own."""
        oracle, _ = self._of(value, headers)
        if not isinstance(oracle, AvroOracle):
            return number
        return oracle.time_ms([name] if oracle.has(name) else path, number)

    def framed_at(self, value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> int:
        """Where the payload of a framed record begins, whose schema the registry knows. Raises NoRecordError."""
        schema_id, start = written_by(value, headers)
        if self._schemas.get(schema_id) is None:
            raise NoRecordError("unknown_schema")
        return start

    def _of(self, value: bytes, headers: Sequence[tuple[str, bytes | None]]) -> "tuple[AvroOracle | ProtobufOracle, int]":
        if self._alone is not None:
            return self._alone, 0
        schema_id, start = written_by(value, headers)
        text = self._schemas.get(schema_id)
        if text is None:
            raise NoRecordError("unknown_schema")
        return _made(self._format, text), start


@functools.lru_cache(maxsize=64)
def _made(format_: str, text: str) -> "AvroOracle | ProtobufOracle":
    return ProtobufOracle(text) if format_ == "protobuf" else AvroOracle(text)


def _indexes(data: bytes, at: int) -> tuple[list[int], int]:
    """The message indexes of a Protobuf frame, and where they end."""
    try:
        count, at = _long(data, at)
        found = []
        if not 0 <= count <= 32:
            raise ValueError
        for _ in range(count):
            index, at = _long(data, at)
            found.append(index)
    except (IndexError, ValueError):
        raise NoRecordError("bad_encoding") from None
    return found or [0], at


class AvroOracle:
    """text: the schema's JSON, whose named types are all in it."""

    def __init__(self, text: str) -> None:
        self._named: dict[str, Any] = {}
        self._schema = self._resolved(json.loads(text), "")

    def read(self, data: bytes) -> Any:
        """Raises NoRecordError."""
        try:
            found, end = self._value(self._schema, data, 0, 0)
        except (IndexError, struct.error, ValueError):
            raise NoRecordError("bad_encoding") from None
        if end != len(data):
            raise NoRecordError("bad_encoding")
        return found

    def has(self, name: str) -> bool:
        """Whether a record has a field of this name."""
        return isinstance(self._schema, dict) and name in self._schema.get("fields", ())

    def time_ms(self, path: Sequence[str], number: int) -> int:
        """The number in a field as Unix milliseconds, by the field's logical type; as it is without one."""
        at = self._schema
        for name in path:
            at = self._unwrapped(at)
            if not isinstance(at, dict) or at["type"] != "record" or name not in at["fields"]:
                return number
            at = at["fields"][name]
        at = self._unwrapped(at)
        if not isinstance(at, dict) or at["type"] not in ("int", "long"):
            return number
        logical = str(at.get("logicalType", ""))
        if logical == "date":
            return number * 86_400_000
        family, _, unit = logical.rpartition("-")
        return math.floor(number * _UNITS[unit]) if family in ("timestamp", "local-timestamp") and unit in _UNITS else number

    def _unwrapped(self, at: Any) -> Any:
        at = self._named[at] if isinstance(at, str) and at in self._named else at
        if isinstance(at, list):
            others = [branch for branch in at if branch != "null"]
            return self._unwrapped(others[0]) if len(others) == 1 else at
        return at

    def _resolved(self, given: Any, space: str) -> Any:
        """The schema with full names, and a record's fields as a dict."""
        if isinstance(given, list):
            return [self._resolved(one, space) for one in given]
        if isinstance(given, str):
            full = f"{space}.{given}" if space and "." not in given else given
            return full if full in self._named else given
        kind = given["type"]
        if kind in ("record", "enum", "fixed"):
            name = given["name"]
            space = name.rpartition(".")[0] if "." in name else given.get("namespace", space)
            made = self._named[name if "." in name or not space else f"{space}.{name}"] = dict(given)
            if kind == "record":
                made["fields"] = {field["name"]: None for field in given["fields"]}
                for field in given["fields"]:
                    made["fields"][field["name"]] = self._resolved(field["type"], space)
            return made
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            return {"type": kind, inner: self._resolved(given[inner], space)}
        return self._resolved(kind, space) if isinstance(kind, dict | list) else given

    def _value(self, schema: Any, data: bytes, at: int, level: int) -> tuple[Any, int]:
        if isinstance(schema, list):
            branch, at = _long(data, at)
            if not 0 <= branch < len(schema) or level > LEVELS_MAX:
                raise ValueError
            return self._value(schema[branch], data, at, level + 1)
        if isinstance(schema, str) and schema in self._named:
            schema = self._named[schema]
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(schema, dict) and kind in ("record", "array", "map"):
            if level > LEVELS_MAX:
                raise ValueError
            return self._record(schema, data, at, level) if kind == "record" else self._items(schema, data, at, level)
        if kind == "enum":
            index, at = _long(data, at)
            if not 0 <= index < len(schema["symbols"]):
                raise ValueError
            return schema["symbols"][index], at
        if kind == "fixed":
            text, at = _cut(data, at, schema["size"])
        else:
            text, at = _PRIMITIVES[kind](data, at)
        if isinstance(schema, dict) and schema.get("logicalType") == "decimal" and isinstance(text, bytes):
            exact = Fraction(int.from_bytes(text, "big", signed=True), 10 ** int(schema.get("scale", 0)))
            return _double(exact), at
        return text, at

    def _record(self, schema: Mapping[str, Any], data: bytes, at: int, level: int) -> tuple[dict[str, Any], int]:
        found = {}
        for name, kind in schema["fields"].items():
            found[name], at = self._value(kind, data, at, level + 1)
        return found, at

    def _items(self, schema: Mapping[str, Any], data: bytes, at: int, level: int) -> tuple[Any, int]:
        is_map = schema["type"] == "map"
        found: list[tuple[str, Any]] = []
        while True:
            count, at = _long(data, at)
            if count == 0:
                values = [value for _, value in found]
                return (dict(found) if is_map else values), at
            if count < 0:
                count, (_, at) = -count, _long(data, at)
            if len(found) + count > len(data):
                raise ValueError
            for _ in range(count):
                key, at = _text(data, at) if is_map else ("", at)
                value, at = self._value(schema["values" if is_map else "items"], data, at, level + 1)
                found.append((key, value))


def _double(exact: Fraction) -> float:
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf


def _long(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for i in range(10):
        number += (data[at + i] & 127) * 128**i
        if data[at + i] < 128:
            if number >= 2**64:
                raise ValueError
            return (-(number + 1) // 2 if number % 2 else number // 2), at + i + 1
    raise ValueError


def _cut(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size < 0 or at + size > len(data):
        raise ValueError
    return data[at : at + size], at + size


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(data, at)
    return _cut(data, at, size)


def _text(data: bytes, at: int) -> tuple[str, int]:
    text, at = _bytes(data, at)
    return text.decode(), at


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] not in (0, 1):
        raise ValueError
    return bool(data[at]), at + 1


_PRIMITIVES: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    "null": lambda _, at: (None, at),
    "boolean": _boolean,
    "int": _long,
    "long": _long,
    "float": lambda data, at: (struct.unpack_from("<f", data, at)[0], at + 4),
    "double": lambda data, at: (struct.unpack_from("<d", data, at)[0], at + 8),
    "bytes": _bytes,
    "string": _text,
}
