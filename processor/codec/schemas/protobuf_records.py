"""Reads Protobuf by its writer's schema, one record at a time, into Python's own types.

    message -> dict    enum -> its name    map -> dict    google.protobuf.Timestamp -> ISO 8601 text    a wrapper (DoubleValue) -> its value
    repeated messages that hold nothing but repeated numbers -> lists of numbers

A field that can be absent and is (optional, oneof, a message) is None. A field without presence (proto3's plain ones) is never absent: what
was not sent is 0, as the format has it.
"""

import datetime
from collections.abc import Callable
from typing import Any

from processor.codec.reject import RejectError
from processor.codec.schemas.schema_fields import SchemaFields

LEVELS_MAX = 100
DEPTH_MAX = 8  # of messages within messages when fields are listed
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_TIMESTAMP = "google.protobuf.Timestamp"
_TEXTS = {f"google.protobuf.{kind}Value" for kind in ("Bool", "String", "Bytes")}
_WRAPPERS = _TEXTS | {f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32")}

Turn = Callable[[Any, int], Any]  # a field's value, levels around it -> Python's own type


class ProtobufReader:
    """message: its class (protobuf_schema.message_class)."""

    def __init__(self, message: Any) -> None:
        from google.protobuf.message import DecodeError

        self.message, self._error = message, DecodeError
        self.fields = SchemaFields()
        _list_fields(message.DESCRIPTOR, (), self.fields)
        self._turn = _Compiler().message(message.DESCRIPTOR)

    def read(self, data: bytes, start: int) -> Any:
        try:
            found = self.message.FromString(data[start:] if start else data)
        except self._error:
            name = self.message.DESCRIPTOR.full_name
            raise RejectError("bad_encoding", f"the value is no Protobuf message {name} ({len(data)} bytes)") from None
        return self._turn(found, 0)


class _Compiler:
    """Makes a function of each message type, which may be inside itself."""

    def __init__(self) -> None:
        self._made: dict[str, Turn] = {}

    def message(self, kind: Any) -> Turn:
        name = kind.full_name
        if name == _TIMESTAMP:
            return _iso
        if name in _WRAPPERS:
            return lambda found, _level: found.value
        if name not in self._made:
            fields: list[tuple[str, bool, Turn]] = []

            def turn(found: Any, level: int) -> Any:
                if level > LEVELS_MAX:
                    raise RejectError("bad_encoding", f"the value nests deeper than {LEVELS_MAX} levels")
                return {
                    name: None if presence and not found.HasField(name) else inner(getattr(found, name), level + 1)
                    for name, presence, inner in fields
                }

            self._made[name] = turn
            fields += [(field.name, field.has_presence, self._field(field)) for field in kind.fields]
        return self._made[name]

    def _field(self, field: Any) -> Turn:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = self._one(field.message_type.fields_by_name["value"])
            return lambda found, level: {str(key): inner(value, level) for key, value in found.items()}
        if field.is_repeated:
            if (only := _only_numbers(field)) is not None:
                return lambda found, _level: [list(getattr(one, only)) for one in found]
            one = self._one(field)
            return lambda found, level: [one(value, level) for value in found]
        return self._one(field)

    def _one(self, field: Any) -> Turn:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            names = {value.number: value.name for value in reversed(field.enum_type.values)}
            return lambda found, _level: names.get(found, str(found))
        return lambda found, _level: found


def _iso(found: Any, _level: int) -> str:
    """Any time is text; one that no calendar has is no time to the reader."""
    seconds, nanos = found.seconds, found.nanos
    try:
        when = (_EPOCH + datetime.timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    except OverflowError:
        return f"{seconds} s"
    return f"{when}.{nanos:09d}Z" if 0 <= nanos < 10**9 else f"{nanos} ns"


def _only_numbers(field: Any) -> str | None:
    """The one field of a message that holds nothing but repeated numbers."""
    if field.message_type is None or len(field.message_type.fields) != 1:
        return None
    (inner,) = field.message_type.fields
    return str(inner.name) if inner.is_repeated and _is_number(inner) else None


def _is_number(field: Any) -> bool:
    if field.message_type is not None:
        return field.message_type.full_name in _WRAPPERS - _TEXTS
    return field.enum_type is None and field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_BOOL)


def _list_fields(kind: Any, path: tuple[str, ...], found: SchemaFields) -> None:
    for field in kind.fields:
        here = (*path, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found.open.append(here)
        elif field.is_repeated:
            found.lists.append(here)
        elif _is_number(field):
            found.numbers.append(here)
        elif field.message_type is not None and field.message_type.full_name not in _WRAPPERS | {_TIMESTAMP}:
            if len(here) > DEPTH_MAX:
                found.open.append(here)
            else:
                _list_fields(field.message_type, here, found)
