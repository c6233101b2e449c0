"""Bytes to batches of readings, whatever the format: keys, headers, times, sizes, scales, and the verdict on each record.

Decides what is a reading and what is a dead letter, from the record alone: never from the clock, other records or the
batch it came in. What a value looks like is the format's (json_records, float32_records). Knows nothing of states, topics or
transactions.

The order of faults is fixed, so that a record with several has the same verdict at every replay: encoding, schema, finite
numbers, timestamp, size, feature count, float32.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from processor.records import Batch, Rejected
from processor.settings import Scale

KEY_BYTES_MAX = 1024
# Times that milliseconds in a double hold exactly; more than any clock will say.
TIMESTAMP_MS_MAX = 2**53
DETAIL_MAX = 300

UTC = datetime.UTC
SEQUENCE = {b"start": (True, False), b"end": (False, True), b"single": (True, True)}


class Message(Protocol):
    """The part of confluent_kafka.Message that is read here."""

    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...


class RejectError(Exception):
    """The record is a dead letter: one of records.ERRORS, and a sentence for whoever mends the sender."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail[:DETAIL_MAX]


class Numbers(Protocol):
    """The numbers of a batch, as its format collects them record by record."""

    def parse(self, value: bytes, /) -> tuple[Any, int | float | str | None]:
        """What the value holds, and its timestamp if it has one. Raises RejectError."""

    def take(self, parsed: Any, /) -> int:
        """Collects what was parsed, all of it or nothing; returns its steps. Raises RejectError."""

    def array(self) -> NDArray[Any]:
        """All numbers taken, float64 or float32 [readings, F]; may hold NaN and infinities."""


class Format(Protocol):
    def numbers(self) -> Numbers: ...


@dataclass(slots=True)
class Decoded:
    """A batch, and what was left out of it.

    source    for each record of the batch, its message's index
    rejected  (message index, reason) in message order
    resets    how many of each kind the batch holds
    """

    batch: Batch
    source: list[int]
    rejected: list[tuple[int, Rejected]]
    resets: Counter[str]


@dataclass(slots=True)
class _Columns:
    source: list[int] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    key: list[bytes] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    event_ms: list[int] = field(default_factory=list)
    record_ms: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    before: list[bool] = field(default_factory=list)
    after: list[bool] = field(default_factory=list)


class Decoder:
    """
    scale         how the features were scaled in training, None: they are taken as they are
    ahead_max_s   how far a timestamp may lie ahead of its record's own
    each_record   every record is a sequence of its own
    """

    def __init__(self, format: Format, *, scale: Scale | None = None, ahead_max_s: float, each_record: bool) -> None:  # noqa: A002
        self._format = format
        self._scale = (np.array(scale.offset), np.array(scale.divisor)) if scale else None
        self._ahead_ms = round(ahead_max_s * 1000)
        self._each_record = each_record

    def decode(self, messages: Sequence[Message]) -> Decoded:
        """Every message ends in the batch or among the rejected."""
        columns, numbers, rejected = _Columns(), self._format.numbers(), list[tuple[int, Rejected]]()
        for i, message in enumerate(messages):
            try:
                self._decode_one(i, message, columns, numbers)
            except RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return self._finish(columns, numbers, rejected)

    def _decode_one(self, i: int, message: Message, columns: _Columns, numbers: Numbers) -> None:
        key = message.key()
        if key is None:
            raise RejectError("no_key", "the record has no key; expected the sensor's name")
        if len(key) > KEY_BYTES_MAX:
            raise RejectError("too_large", f"the key has {len(key)} bytes; expected at most {KEY_BYTES_MAX}")
        value, (kind, record_ms) = message.value(), message.timestamp()
        before = after = self._each_record
        event_ms, steps = record_ms, 0
        if value is not None:
            headers = message.headers()
            if headers:
                before, after = self._sequence(headers)
            parsed, timestamp = numbers.parse(value)
            event_ms = self._event_ms(timestamp, record_ms if kind else None)
            steps = numbers.take(parsed)
        columns.source.append(i)
        columns.partition.append(message.partition())
        columns.key.append(key)
        columns.offset.append(message.offset())
        columns.event_ms.append(event_ms)
        columns.record_ms.append(record_ms)
        columns.steps.append(steps)
        columns.before.append(before)
        columns.after.append(after)

    def _sequence(self, headers: list[tuple[str, bytes | None]]) -> tuple[bool, bool]:
        before = after = self._each_record
        for name, text in headers:
            if name == "sequence":
                marks = SEQUENCE.get(text or b"")
                if marks is None:
                    raise RejectError("bad_schema", f"header sequence is {(text or b'')[:40]!r}; expected start, end or single")
                before, after = before or marks[0], after or marks[1]
        return before, after

    def _event_ms(self, timestamp: float | str | None, record_ms: int | None) -> int:
        if timestamp is None:
            if record_ms is None:
                raise RejectError("bad_timestamp", "neither the value nor the record has a timestamp")
            return record_ms
        event_ms = _iso_ms(timestamp) if isinstance(timestamp, str) else _number_ms(timestamp)
        if record_ms is not None and event_ms > record_ms + self._ahead_ms:
            ahead_s = (event_ms - record_ms) / 1000
            found = f"{timestamp} lies {ahead_s:.0f} s ahead of the record's own"
            raise RejectError("bad_timestamp", f"{found}; expected at most {self._ahead_ms / 1000:.0f} s (input.ahead_max)")
        return event_ms

    def _finish(self, columns: _Columns, numbers: Numbers, rejected: list[tuple[int, Rejected]]) -> Decoded:
        batch = Batch(
            partition=columns.partition,
            key=columns.key,
            offset=np.array(columns.offset, np.int64),
            event_ms=np.array(columns.event_ms, np.int64),
            record_ms=np.array(columns.record_ms, np.int64),
            steps=np.array(columns.steps, np.int64),
            reset_before=np.array(columns.before, np.bool_),
            reset_after=np.array(columns.after, np.bool_),
            x=self._scaled(numbers.array()),
        )
        finite = np.isfinite(batch.x).all(1)
        if finite.all():
            return Decoded(batch, columns.source, rejected, self._resets(batch))
        record = np.repeat(np.arange(len(batch)), batch.steps)
        bad = np.unique(record[~finite])
        for i in bad.tolist():
            detail = "a value, scaled as the settings say, is NaN or lies past float32; expected less than 3.4e38"
            rejected.append((columns.source[i], Rejected(batch.partition[i], int(batch.offset[i]), "not_finite", detail)))
        rejected.sort(key=lambda pair: pair[0])
        good = np.setdiff1d(np.arange(len(batch)), bad)
        batch = select(batch, good)
        return Decoded(batch, [columns.source[i] for i in good.tolist()], rejected, self._resets(batch))

    def _scaled(self, found: NDArray[Any]) -> NDArray[np.float32]:
        """float32 [readings, F], C-contiguous. Scaled in float64: a large offset takes float32's digits."""
        with np.errstate(over="ignore", invalid="ignore"):  # past float32 is infinite, and found by the caller
            if self._scale is not None:
                offset, divisor = self._scale
                found = (found.astype(np.float64) - offset) / divisor
            return np.ascontiguousarray(found, np.float32)

    def _resets(self, batch: Batch) -> Counter[str]:
        reading = batch.steps > 0
        null, records = int((~reading).sum()), int(reading.sum())
        if self._each_record:
            return Counter(null=null, each_record=records)
        return Counter(null=null, start=int((batch.reset_before & reading).sum()), end=int((batch.reset_after & reading).sum()))


def select(batch: Batch, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Batch:
    """The batch with these records alone."""
    ends = np.cumsum(batch.steps)
    readings = [np.arange(e - n, e) for e, n in zip(ends[which].tolist(), batch.steps[which].tolist(), strict=True)]
    return Batch(
        partition=[batch.partition[i] for i in which.tolist()],
        key=[batch.key[i] for i in which.tolist()],
        offset=batch.offset[which],
        event_ms=batch.event_ms[which],
        record_ms=batch.record_ms[which],
        steps=batch.steps[which],
        reset_before=batch.reset_before[which],
        reset_after=batch.reset_after[which],
        x=batch.x[np.concatenate([np.zeros(0, np.int64), *readings])],
    )


def _iso_ms(text: str) -> int:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise RejectError("bad_timestamp", f"timestamp is {text[:40]!r}; expected Unix milliseconds or ISO 8601") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(milliseconds=1)


def _number_ms(number: float) -> int:
    if not -TIMESTAMP_MS_MAX <= number <= TIMESTAMP_MS_MAX:
        raise RejectError("bad_timestamp", f"timestamp is {str(number)[:40]}; expected Unix milliseconds")
    return int(number // 1)
