"""The frame by which a record names its writer's schema: byte 0 and a 4-byte id before the payload, or the id in a header.

Says which id that is and where the payload begins. Knows no schema.
"""

import struct
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from processor.codec.reject import RejectError

HEADER = "__value_schema_id"
MAGIC, MAGIC_GUID = 0, 1
ID_BYTES, GUID_BYTES = 4, 16
FRAME_BYTES = 1 + ID_BYTES
APICURIO_BYTES = 1 + 8
_ID = struct.Struct(">I")
INDEXES_MAX = 32  # messages within messages; more is no schema that anybody writes

EXPECTED = "expected byte 0 and the schema's id in 4 bytes, most significant first (or the id in the header __value_schema_id)"
# What is written in place of this frame, by its first bytes.
_OTHERS = (
    (b"{", "JSON without a frame: set input.format: json"),
    (b"[", "JSON without a frame: set input.format: json"),
    (b"Obj\x01", "an Avro file: send each record by itself"),
    (b"\xc3\x01", "Avro's single-object encoding: send the registry's frame, or set input.schema and send the payload alone"),
    (b"\x03", "the frame of AWS Glue's registry: send Confluent's"),
)


class Frame(NamedTuple):
    """
    schema_id  digits, or a GUID
    start      where the payload begins in the value
    indexes    the path to a Protobuf message among the schema's messages; empty for other formats
    """

    schema_id: str
    start: int
    indexes: tuple[int, ...] = ()


def frame_of(value: bytes, headers: Sequence[tuple[str, bytes | None]] | None, *, with_indexes: bool) -> Frame:
    """with_indexes: the list of a Protobuf frame follows the id. Raises RejectError (bad_encoding)."""
    if headers:
        for name, text in headers:
            if name == HEADER:
                schema_id, at = _of_header(text or b"")
                return Frame(schema_id, 0, _indexes(text or b"", at)[0] if with_indexes else ())
    if len(value) < FRAME_BYTES or value[0] != MAGIC:
        raise RejectError("bad_encoding", f"{_instead(value)}; {EXPECTED}")
    (number,) = _ID.unpack_from(value, 1)
    if number == 0 and len(value) >= APICURIO_BYTES:
        told = "the schema's id is 0, as where Apicurio's 8-byte ids are read as 4 bytes: set the producer's id handler to 4 bytes"
        raise RejectError("bad_encoding", f"{told} (apicurio.registry.id-handler); {EXPECTED}")
    indexes, start = _indexes(value, FRAME_BYTES) if with_indexes else ((), FRAME_BYTES)
    return Frame(str(number), start, indexes)


def _of_header(text: bytes) -> tuple[str, int]:
    if text[:1] == bytes([MAGIC]) and len(text) >= FRAME_BYTES:
        return str(_ID.unpack_from(text, 1)[0]), FRAME_BYTES
    if text[:1] == bytes([MAGIC_GUID]) and len(text) > GUID_BYTES:
        return str(uuid.UUID(bytes=text[1 : 1 + GUID_BYTES])), 1 + GUID_BYTES
    told = f"header {HEADER} is {text[:20]!r}"
    raise RejectError("bad_encoding", f"{told}; expected byte 0 and an id in 4 bytes, or byte 1 and a GUID in 16")


def _indexes(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """The list of message indexes, and where it ends. A count of 0 is the list of the first message."""
    try:
        count, at = _zigzag(data, at)
        if count == 0:
            return (0,), at
        if not 0 < count <= INDEXES_MAX:
            raise IndexError
        indexes = []
        for _ in range(count):
            index, at = _zigzag(data, at)
            indexes.append(index)
    except IndexError:
        raise RejectError("bad_encoding", "the frame has no list of message indexes after its id, as one of Protobuf has") from None
    return tuple(indexes), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    """Raises IndexError where the number does not end, or is longer than any index."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        if shift > 28:
            raise IndexError


def _instead(value: bytes) -> str:
    """What the value is, as far as its first bytes show."""
    if not value:
        return "the value is empty"
    for start, what in _OTHERS:
        if value.startswith(start):
            return f"the value looks like {what}"
    if value[0] != MAGIC:
        return f"the value begins with byte {value[0]}, so it has no registry's frame (set input.schema to a file if no record has one)"
    return f"the value has {len(value)} bytes, too few for a frame"
