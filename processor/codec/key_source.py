"""Which sensor a record is of: its own key, or what the settings name in its place, a header or a field of its value.

A record without a value names its sensor by its own key where it does not say so otherwise: so `state reset` reaches every sensor.
"""

from collections.abc import Callable
from typing import Any, Protocol

from processor.codec.json_records import DIGITS_MAX, loaded
from processor.codec.paths import ABSENT, FieldPath
from processor.codec.reject import RejectError


class Keyed(Protocol):
    """The part of confluent_kafka.Message that is read here."""

    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...


class KeySource:
    """wanted: input.key, value:PATH or header:NAME; None: the record's own key."""

    def __init__(self, wanted: str | None) -> None:
        kind, _, name = (wanted or "").partition(":")
        self.in_value = kind == "value"
        self._header = name if kind == "header" else None
        self._path = FieldPath(name) if kind == "value" else None

    def key(self, message: Keyed, found: Any) -> bytes:
        """The sensor. found: what the value holds, where the key is in it and there is a value. Raises RejectError (no_key)."""
        if self._path is not None and message.value() is not None:
            return _written(self._path.find(found), self._path.name)
        key = message.key()
        if self._header is not None:
            given = [value for name, value in message.headers() or [] if name == self._header]
            key = given[-1] if given else key if message.value() is None else None
            if key is None:
                raise RejectError("no_key", f"there is no header {self._header}; expected the sensor's name in it (input.key)")
        if key is None:
            raise RejectError("no_key", "the record has no key; expected the sensor's name")
        return key


def _written(found: Any, name: str) -> bytes:
    if isinstance(found, str):
        return found.encode()
    if type(found) is int and len(digits := str(found)) <= DIGITS_MAX:
        return digits.encode()
    what = "is missing or null" if found is None or found is ABSENT else "is neither text nor a whole number"
    raise RejectError("no_key", f"the field {name} {what}; expected the sensor's name in it (input.key)")


def sensor_of(wanted: str | None) -> Callable[[Keyed], bytes | None]:
    """Reads the sensor of one message by itself, None where it names none. wanted: as of KeySource."""
    source = KeySource(wanted)

    def read(message: Keyed) -> bytes | None:
        value = message.value()
        try:
            return source.key(message, loaded(value) if source.in_value and value is not None else None)
        except RejectError:
            return None

    return read
