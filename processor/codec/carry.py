"""Fields and headers of input records that outputs have too, exactly as the sender wrote them (output.carry).

A value is copied as the text that it is in the record: a number keeps its digits, an object its spaces. Nothing here is read as a number.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from processor.codec.columns import Message
from processor.codec.paths import FieldPath
from processor.records import Headers

CARRIED_BYTES_MAX = 64_000  # of one record: more is left out, and the output says so
LEFT_OUT = b',"carried":false}'

Members = dict[str, Any]  # of an object, each its text, as bytes or msgspec.Raw
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Carrier:
    """wanted: the entries of output.carry, PATH, header:NAME or header:*."""

    def __init__(self, wanted: Sequence[str]) -> None:
        headers = [name.removeprefix("header:") for name in wanted if name.startswith("header:")]
        self._all, self._headers = "*" in headers, frozenset(headers)
        paths = [FieldPath(name) for name in wanted if not name.startswith("header:")]
        self._fields = [(b"," + orjson.dumps(path.parts[-1]) + b":", path) for path in paths]

    def add(self, messages: Sequence[Message], source: Sequence[int], values: list[bytes | None]) -> list[Headers | None]:
        """Adds fields to the outputs, and returns their headers. source: of each output the index of its record among the messages."""
        headers = list[Headers | None]()
        for i, value in enumerate(values):
            fields, own = (b"", []) if value is None else self._carried(messages[source[i]])
            if value is not None and len(fields) + sum(len(name) + len(text or b"") for name, text in own) > CARRIED_BYTES_MAX:
                values[i], own = value[:-1] + LEFT_OUT, []
            elif value is not None and fields:
                values[i] = b"%b%b}" % (value[:-1], fields)
            headers.append(own or None)
        return headers

    def _carried(self, message: Message) -> tuple[bytes, Headers]:
        headers = message.headers() or [] if self._headers else []
        own = headers if self._all else [header for header in headers if header[0] in self._headers]
        value = message.value()
        return self._of_value(value) if self._fields and value is not None else b"", own

    def _of_value(self, value: bytes) -> bytes:
        found = _object(value) or {}
        texts = [(name, _text(path, found)) for name, path in self._fields]
        return b"".join(name + text for name, text in texts if text is not None)


def _text(path: FieldPath, found: Members) -> bytes | None:
    """What lies at a path, as it is written; None for nothing. What lies in null is null."""
    way = path.way(found)
    at: Members | None = found
    text = b""
    for i, part in enumerate(way, 1):
        if at is None or part not in at:
            return None
        text = bytes(at[part])
        if text == b"null":
            return text
        at = _object(text) if text[:1] == b"{" and i < len(way) else None
    return text


def _object(text: bytes) -> Members | None:
    """The members of an object, each as it is written. None for what is no object."""
    try:
        found: Members = _OBJECT.decode(text)
        return found
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        loaded = json.loads(text, parse_int=_Digits, parse_float=_Digits, parse_constant=lambda _: None)
        return {name: _written(of) for name, of in loaded.items()} if isinstance(loaded, dict) else None


class _Digits(str):
    """A number as it is written."""


def _written(found: Any) -> bytes:
    """The JSON of a record with NaN in it, which is written as null."""
    if isinstance(found, _Digits):
        return found.encode()
    if isinstance(found, dict):
        return b"{%b}" % b",".join(orjson.dumps(name) + b":" + _written(of) for name, of in found.items())
    return b"[%b]" % b",".join(map(_written, found)) if isinstance(found, list) else orjson.dumps(found)


def carried_bytes_max(wanted: Sequence[str]) -> int:
    """The most that one output has more."""
    return CARRIED_BYTES_MAX + len(LEFT_OUT) if wanted else 0
