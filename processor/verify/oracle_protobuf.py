"""What the reference oracle reads in a Protobuf record: its wire format, by the descriptors that protoc makes of the schema.

Written once more from the specification of the wire format: of Google's library only the descriptors are used, not its parser.
"""

import datetime
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LEVELS_MAX = 100
_FIXED = {1: "<d", 2: "<f", 6: "<Q", 7: "<I", 15: "<i", 16: "<q"}
_SIGNED_32, _SIGNED_64, _ZIGZAG, _TEXT, _MESSAGE, _BYTES, _ENUM, _BOOL = (5,), (3,), (17, 18), 9, 11, 12, 14, 8


class ProtobufOracle:
    """text: a .proto schema. imports: (name, text) of what it imports."""

    def __init__(self, text: str, imports: Sequence[tuple[str, str]] = ()) -> None:
        from google.protobuf import descriptor_pb2

        with tempfile.TemporaryDirectory() as folder:
            for name, inner in (*imports, ("record.proto", text)):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(inner, encoding="utf-8")
            words = [f"-I{folder}", "--include_imports", f"--descriptor_set_out={folder}/out", "record.proto"]
            subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True, capture_output=True)
            files = descriptor_pb2.FileDescriptorSet.FromString(Path(folder, "out").read_bytes()).file
        self._messages: dict[str, Any] = {}
        self._enums: dict[str, dict[int, str]] = {}
        for file in files:
            self._collect(file.message_type, file.enum_type, f".{file.package}" if file.package else "", file.syntax == "proto3")
        self._file = files[-1]

    def read(self, data: bytes, indexes: Sequence[int]) -> Any:
        """Raises ValueError. indexes: of the message; empty: the first that no other holds."""
        space, messages = f".{self._file.package}" if self._file.package else "", self._file.message_type
        held = {field.type_name for message in messages for field in message.field}
        if not indexes:
            indexes = [next((i for i, message in enumerate(messages) if f"{space}.{message.name}" not in held), 0)]
        for index in indexes:
            if not 0 <= index < len(messages):
                raise IndexError
            space, messages = f"{space}.{messages[index].name}", messages[index].nested_type
        try:
            return self._message(space, data, 0)
        except (IndexError, struct.error) as error:
            raise ValueError from error

    def _collect(self, messages: Any, enums: Any, space: str, proto3: bool) -> None:
        for enum in enums:
            self._enums[f"{space}.{enum.name}"] = {value.number: value.name for value in reversed(enum.value)}
        for message in messages:
            self._messages[f"{space}.{message.name}"] = (message, proto3)
            self._collect(message.nested_type, message.enum_type, f"{space}.{message.name}", proto3)

    def _message(self, name: str, data: bytes, level: int) -> Any:
        if level > LEVELS_MAX:
            raise ValueError
        message, proto3 = self._messages[name]
        fields = {field.number: field for field in message.field}
        found: dict[int, list[Any]] = {}
        for number, kind, raw in _wire(data):
            field = fields.get(number)
            if field is None:
                continue
            values = self._taken(field, kind, raw, proto3)
            if values is None:  # another type than the schema's: an unknown field
                continue
            if field.HasField("oneof_index"):
                for other in message.field:
                    if other.number != number and other.HasField("oneof_index") and other.oneof_index == field.oneof_index:
                        found.pop(other.number, None)
            found.setdefault(number, []).extend(values)
        if name == ".google.protobuf.Timestamp":
            return _time(found.get(1, [0])[-1], found.get(2, [0])[-1])
        if name.startswith(".google.protobuf.") and name.endswith("Value") and list(fields) == [1]:
            return self._one(fields[1], found.get(1), level, presence=False)
        return {field.name: self._field(field, found.get(field.number), level, proto3) for field in message.field}

    def _field(self, field: Any, values: list[Any] | None, level: int, proto3: bool) -> Any:
        if field.label != 3:
            presence = not proto3 or field.HasField("oneof_index") or field.type == _MESSAGE
            return self._one(field, values, level, presence=presence)
        found = [self._one(field, [value], level, presence=True) for value in values or []]
        if field.type == _MESSAGE:
            entry, _ = self._messages[field.type_name]
            if entry.options.map_entry:
                value = entry.field[1]
                return {str(one["key"]): one["value"] if one["value"] is not None else self._blank(value, level) for one in found}
            if len(entry.field) == 1 and entry.field[0].label == 3 and entry.field[0].type not in (_TEXT, _MESSAGE, _BYTES, _ENUM, _BOOL):
                return [one[entry.field[0].name] for one in found]
        return found

    def _blank(self, field: Any, level: int) -> Any:
        return self._message(field.type_name, b"", level + 1) if field.type == _MESSAGE else self._one(field, None, level, presence=False)

    def _one(self, field: Any, values: list[Any] | None, level: int, *, presence: bool) -> Any:
        if not values:
            if presence:
                return None
            values = [{_TEXT: "", _BYTES: b"", _BOOL: False}.get(field.type, 0)]
        if field.type == _MESSAGE:
            return self._message(field.type_name, b"".join(values), level + 1)
        if field.type == _ENUM:
            return self._enums[field.type_name].get(values[-1], str(values[-1]))
        return values[-1]

    def _taken(self, field: Any, kind: int, raw: Any, proto3: bool) -> list[Any] | None:
        """The values of one occurrence of a field; None if it is none of the schema's type."""
        of_numbers = field.type not in (_TEXT, _MESSAGE, _BYTES)
        if not of_numbers:
            if kind != 2:
                return None
            return [raw.decode() if field.type == _TEXT and proto3 else raw.decode(errors="replace") if field.type == _TEXT else raw]
        if kind == 2 and field.label == 3:
            if field.type in _FIXED:
                if len(raw) % struct.calcsize(_FIXED[field.type]):
                    raise ValueError
                return [number for (number,) in struct.iter_unpack(_FIXED[field.type], raw)]
            numbers, at = [], 0
            while at < len(raw):
                number, at = _varint(raw, at)
                numbers.append(_number(field.type, number))
            return numbers
        if field.type in _FIXED:
            return [struct.unpack(_FIXED[field.type], raw)[0]] if kind == {8: 1, 4: 5}[struct.calcsize(_FIXED[field.type])] else None
        return [_number(field.type, raw)] if kind == 0 else None


def _wire(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and bytes or number of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29 or tag >= 2**32:
            raise ValueError
        if kind == 0:
            found, at = _varint(data, at)
            yield number, kind, found
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for i in range(10):
        number |= (data[at + i] & 127) << (7 * i)
        if data[at + i] < 128:
            return number & (2**64 - 1), at + i + 1
    raise ValueError


def _number(kind: int, number: int) -> Any:
    if kind == _BOOL:
        return number != 0
    if kind in _ZIGZAG:
        number = number & (2**32 - 1) if kind == 17 else number
        return -(number + 1) // 2 if number % 2 else number // 2
    if kind in _SIGNED_32 or kind == _ENUM:
        number &= 2**32 - 1
        return number - 2**32 if number >= 2**31 else number
    if kind in _SIGNED_64:
        return number - 2**64 if number >= 2**63 else number
    return number & (2**32 - 1) if kind == 13 else number


def _time(seconds: int, nanos: int) -> str:
    try:
        when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return "no time"
    return f"{when.isoformat()}.{nanos:09d}+00:00" if 0 <= nanos < 10**9 else "no time"
