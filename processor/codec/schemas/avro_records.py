"""Reads Avro's binary encoding by its writer's schema, one record at a time, into Python's own types.

Every byte must be accounted for: what is too short, too long or out of range is no record of this schema. A library that does the same in
C follows a recursive schema into the bytes until its stack is gone; here depth is limited. avro_plan reads many records at a time.

    record, map -> dict     enum, string -> str     decimal -> float     bytes, fixed -> bytes     array -> list     a union -> its branch
"""

import math
import struct
from collections.abc import Callable
from typing import Any

from processor.codec.reject import RejectError
from processor.codec.schemas.avro_schema import Avro, fields_of

LEVELS_MAX = 100
VARINT_BYTES = 10
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")

Read = Callable[[bytes, int, int], tuple[Any, int]]  # data, where, levels around it -> value, where it ends


class _NotOfSchemaError(Exception):
    pass


class AvroReader:
    """schema: of a record; others are read as well, and hold no fields."""

    def __init__(self, schema: Avro) -> None:
        self.schema, self.fields = schema, fields_of(schema)
        self._read = _Compiler().reader(schema)

    def read(self, data: bytes, start: int) -> Any:
        try:
            found, end = self._read(data, start, 0)
        except (IndexError, struct.error, UnicodeDecodeError):
            told = f"the value is no record of its Avro schema: it ends too early, or a text is not UTF-8{_n(data)}"
            raise RejectError("bad_encoding", told) from None
        except _NotOfSchemaError as error:
            raise RejectError("bad_encoding", f"the value is no record of its Avro schema: {error}{_n(data)}") from None
        if end != len(data):
            left = len(data) - end
            raise RejectError("bad_encoding", f"{left} bytes are left after the Avro record{_n(data)}; it was written by another schema")
        return found


def _n(data: bytes) -> str:
    return f" ({len(data)} bytes)"


class _Compiler:
    """Makes a function of each type; a named type has one, which may be inside itself."""

    def __init__(self) -> None:
        self._named: dict[str, list[Read]] = {}

    def reader(self, schema: Avro) -> Read:
        if schema.name:
            if schema.name in self._named:
                inner = self._named[schema.name]
                return lambda data, at, level: inner[0](data, at, level)
            place = self._named[schema.name] = []
            place.append(made := self._made(schema))
            return made
        return self._made(schema)

    def _made(self, schema: Avro) -> Read:
        if schema.is_decimal:
            return _decimal(schema)
        if schema.kind == "record":
            return _record(list(zip(schema.names, map(self.reader, schema.parts), strict=True)))
        if schema.kind == "union":
            return _union([self.reader(part) for part in schema.parts])
        if schema.kind == "enum":
            return _enum(schema.names)
        if schema.kind == "fixed":
            return _fixed(schema.size)
        if schema.kind == "array":
            return _array(self.reader(schema.parts[0]))
        if schema.kind == "map":
            return _map(self.reader(schema.parts[0]))
        return _PRIMITIVES[schema.kind]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number of at most 64 bits, and where it ends. Raises IndexError, or _NotOfSchemaError for more bits."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number, shift = byte & 0x7F, 7
    for end in range(at + 2, at + 1 + VARINT_BYTES):
        byte = data[end - 1]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 64:
                break
            return (number >> 1) ^ -(number & 1), end
        shift += 7
    raise _NotOfSchemaError("a whole number has more than 64 bits")


def _long(data: bytes, at: int, _level: int) -> tuple[int, int]:
    return varint(data, at)


def _null(_data: bytes, at: int, _level: int) -> tuple[None, int]:
    return None, at


def _float(data: bytes, at: int, _level: int) -> tuple[float, int]:
    return _FLOAT.unpack_from(data, at)[0], at + 4


def _double(data: bytes, at: int, _level: int) -> tuple[float, int]:
    return _DOUBLE.unpack_from(data, at)[0], at + 8


def _boolean(data: bytes, at: int, _level: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise _NotOfSchemaError(f"a boolean is {data[at]}")
    return data[at] == 1, at + 1


def _taken(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if not 0 <= size <= len(data) - at:
        raise _NotOfSchemaError(f"a field says that it has {size} bytes")
    return data[at : at + size], at + size


def _bytes(data: bytes, at: int, _level: int) -> tuple[bytes, int]:
    size, at = varint(data, at)
    return _taken(data, at, size)


def _string(data: bytes, at: int, level: int) -> tuple[str, int]:
    text, at = _bytes(data, at, level)
    return text.decode(), at


_PRIMITIVES: dict[str, Read] = {
    "null": _null,
    "boolean": _boolean,
    "int": _long,
    "long": _long,
    "float": _float,
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}


def _fixed(size: int) -> Read:
    return lambda data, at, _level: _taken(data, at, size)


def _decimal(schema: Avro) -> Read:
    take = _bytes if schema.kind == "bytes" else _fixed(schema.size)
    divisor = 10**schema.scale

    def read(data: bytes, at: int, level: int) -> tuple[float, int]:
        text, at = take(data, at, level)
        try:
            return int.from_bytes(text, "big", signed=True) / divisor, at
        except OverflowError:
            return math.inf, at

    return read


def _record(fields: list[tuple[str, Read]]) -> Read:
    def read(data: bytes, at: int, level: int) -> tuple[dict[str, Any], int]:
        if level > LEVELS_MAX:
            raise _NotOfSchemaError(f"it nests deeper than {LEVELS_MAX} levels")
        found = {}
        for name, inner in fields:
            found[name], at = inner(data, at, level + 1)
        return found, at

    return read


def _union(branches: list[Read]) -> Read:
    def read(data: bytes, at: int, level: int) -> tuple[Any, int]:
        branch, at = varint(data, at)
        if not 0 <= branch < len(branches):
            raise _NotOfSchemaError(f"a union's branch is {branch} of {len(branches)}")
        if level > LEVELS_MAX:
            raise _NotOfSchemaError(f"it nests deeper than {LEVELS_MAX} levels")
        return branches[branch](data, at, level + 1)

    return read


def _enum(symbols: list[str]) -> Read:
    def read(data: bytes, at: int, _level: int) -> tuple[str, int]:
        symbol, at = varint(data, at)
        if not 0 <= symbol < len(symbols):
            raise _NotOfSchemaError(f"an enum's symbol is {symbol} of {len(symbols)}")
        return symbols[symbol], at

    return read


def _blocks(data: bytes, at: int, level: int, one: Callable[[int], int]) -> int:
    """Calls `one` for each item of an array or map, which returns where it ends; returns where all end."""
    if level > LEVELS_MAX:
        raise _NotOfSchemaError(f"it nests deeper than {LEVELS_MAX} levels")
    items = 0
    while True:
        count, at = varint(data, at)
        if count == 0:
            return at
        if count < 0:  # then the block's size in bytes follows, for those who pass over it
            count = -count
            _, at = varint(data, at)
        items += count
        if items > len(data):  # items of no bytes could go on for ever
            raise _NotOfSchemaError(f"an array or map says that it has {items} items")
        for _ in range(count):
            at = one(at)


def _array(inner: Read) -> Read:
    numbers = _FLOATS.get(inner)
    if numbers is not None:
        return _array_of(*numbers)

    def read(data: bytes, at: int, level: int) -> tuple[list[Any], int]:
        found: list[Any] = []

        def one(at: int) -> int:
            value, end = inner(data, at, level + 1)
            found.append(value)
            return end

        return found, _blocks(data, at, level, one)

    return read


_FLOATS: dict[Read, tuple[str, int]] = {_float: ("f", 4), _double: ("d", 8)}


def _array_of(code: str, size: int) -> Read:
    """Of numbers of one size: a block at a time."""

    def read(data: bytes, at: int, _level: int) -> tuple[list[float], int]:
        found: list[float] = []
        while True:
            count, at = varint(data, at)
            if count == 0:
                return found, at
            if count < 0:
                count = -count
                _, at = varint(data, at)
            if count * size > len(data) - at:
                raise _NotOfSchemaError(f"an array says that it has {count} numbers")
            found += struct.unpack_from(f"<{count}{code}", data, at)
            at += count * size

    return read


def _map(inner: Read) -> Read:
    def read(data: bytes, at: int, level: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}

        def one(at: int) -> int:
            key, at = _string(data, at, level)
            found[key], end = inner(data, at, level + 1)
            return end

        return found, _blocks(data, at, level, one)

    return read
