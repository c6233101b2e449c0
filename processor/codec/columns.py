"""What decoding reads of Kafka's messages, and the columns that it fills with them."""

from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np

KEY_BYTES_MAX = 1024

# What a record's headers say of it: reset before, reset after, steps, whether timestamp_unit names milliseconds.
Header = tuple[bool, bool, int, bool]


class Message(Protocol):
    """The part of confluent_kafka.Message that is read here."""

    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...


@dataclass(slots=True)
class Columns:
    """Of the records that can be used, in message order: lists, or arrays of what is a number.

    source: the index of each one's message. The rest is as of records.Batch.
    """

    source: list[int] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    key: list[bytes] = field(default_factory=list)
    offset: Any = field(default_factory=list)
    event_ms: Any = field(default_factory=list)
    record_ms: Any = field(default_factory=list)
    steps: Any = field(default_factory=list)
    before: Any = field(default_factory=list)
    after: Any = field(default_factory=list)

    def add(
        self, source: int, message: Message, key: bytes, *, event_ms: int, record_ms: int, steps: int, before: bool, after: bool
    ) -> None:
        """One more record. before, after: whether its sensor is reset there. Only while the columns are lists."""
        self.source.append(source)
        self.partition.append(message.partition())
        self.key.append(key)
        self.offset.append(message.offset())
        self.event_ms.append(event_ms)
        self.record_ms.append(record_ms)
        self.steps.append(steps)
        self.before.append(before)
        self.after.append(after)


LISTS = ("source", "partition", "key")
ARRAYS = {"offset": np.int64, "event_ms": np.int64, "record_ms": np.int64, "steps": np.int64, "before": np.bool_, "after": np.bool_}


def joined(parts: list[Columns]) -> Columns:
    """The parts, one after another, their numbers as arrays."""
    if len(parts) == 1:
        return parts[0]
    lists: dict[str, Any] = {name: list(chain.from_iterable(getattr(part, name) for part in parts)) for name in LISTS}
    arrays: dict[str, Any] = {
        name: np.concatenate([np.asarray(getattr(part, name), kind) for part in parts]) for name, kind in ARRAYS.items()
    }
    return Columns(**lists, **arrays)
