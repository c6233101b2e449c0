"""Bytes to batches of readings, whatever the format: keys, headers, times, sizes, scales, and the verdict on each record.

Decides what is a reading and what is a dead letter, from the record alone: never from the clock, other records or the
batch it came in. What a value looks like is the format's (json_records, float32_records). Knows nothing of states, topics or
transactions.

The order of faults is fixed, so that a record with several has the same verdict at every replay: encoding, schema, finite
numbers, timestamp, size, feature count, float32, categories. Numbers that are plainly of another type (bytes as float32) come before
those past float32.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from processor.codec import event_time
from processor.codec.columns import KEY_BYTES_MAX, Columns, Header, Message, joined
from processor.codec.reject import RejectError
from processor.codec.together import RECORDS_MAX, PlainFormat, Together
from processor.records import Batch, Rejected
from processor.settings import Scale

SEQUENCE = {b"start": (True, False), b"end": (False, True), b"single": (True, True)}
STEPS_DIGITS_MAX = 9
NOT_FINITE = ("not_finite", "a value, scaled as the settings say, is NaN or lies past float32; expected less than 3.4e38")
FOREIGN = (
    "bad_encoding",
    "most numbers are subnormal or beyond 1e30, as bytes of another type read as float32 are: float64, whole numbers, or the most "
    "significant byte first; expected float32, least significant byte first",
)
UNIT = b"ms"  # the one unit that the header timestamp_unit may name


class Numbers(Protocol):
    """The numbers of a batch, as their format collects them record by record."""

    def array(self) -> NDArray[Any]:
        """All numbers taken, float64 or float32 [readings, F]; may hold NaN and infinities."""

    def parse(self, value: bytes, /) -> tuple[Any, int | float | str | None]:
        """What the value holds, and its timestamp if it has one. Raises RejectError."""

    def take(self, parsed: Any, steps: int, /) -> int:
        """Collects what was parsed, all of it or nothing; returns its steps. steps: as the header says. Raises RejectError."""


class Format(PlainFormat, Protocol):
    """
    steps_in_header  the value does not tell how many steps it has: the header `steps` does, one without it
    """

    steps_in_header: bool

    def numbers(self) -> Numbers: ...

    def foreign(self, x: NDArray[Any], /) -> NDArray[np.bool_] | None:
        """Which numbers, of all that were taken, no sensor sends: bool [readings, F]. None: none, or the format cannot tell."""


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


class Decoder:
    """
    scale         how the features were scaled in training, None: they are taken as they are
    ahead_max_s   how far a timestamp may lie ahead of its record's own
    each_record   every record is a sequence of its own
    categories    of each feature how many categories it has, None for a measurement; empty: all are measurements
    """

    def __init__(
        self,
        format: Format,  # noqa: A002
        *,
        scale: Scale | None = None,
        ahead_max_s: float,
        each_record: bool,
        categories: Sequence[int | None] = (),
    ) -> None:
        self._format = format
        self._scale = (np.array(scale.offset), np.array(scale.divisor)) if scale else None
        self._ahead_ms = round(ahead_max_s * 1000)
        self._each_record = each_record
        self._categories = [(feature, count) for feature, count in enumerate(categories) if count is not None]
        self._no_header: Header = (each_record, each_record, 1, False)
        self._together = Together(format, self._header, self._no_header, ahead_max_ms=self._ahead_ms)

    def decode(self, messages: Sequence[Message]) -> Decoded:
        """Every message ends in the batch or among the rejected."""
        parts, rejected = list[tuple[Columns, NDArray[Any]]](), list[tuple[int, Rejected]]()
        for first in range(0, len(messages), RECORDS_MAX):
            some = messages[first : first + RECORDS_MAX]
            parts.append(self._together.read(some, first) or self._one_by_one(some, first, rejected))
        if not parts:
            return self._finish(Columns(), self._format.numbers().array(), rejected)
        numbers = [x for _, x in parts]
        return self._finish(joined([columns for columns, _ in parts]), numbers[0] if len(parts) == 1 else np.concatenate(numbers), rejected)

    def _one_by_one(self, messages: Sequence[Message], first: int, rejected: list[tuple[int, Rejected]]) -> tuple[Columns, NDArray[Any]]:
        """As Together.read(), of any records; those that are refused are added to `rejected`."""
        columns, numbers = Columns(), self._format.numbers()
        for i, message in enumerate(messages, first):
            try:
                self._decode_one(i, message, columns, numbers)
            except RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return columns, numbers.array()

    def _decode_one(self, i: int, message: Message, columns: Columns, numbers: Numbers) -> None:
        key = message.key()
        if key is None:
            raise RejectError("no_key", "the record has no key; expected the sensor's name")
        check_key(key)
        value, (kind, record_ms) = message.value(), message.timestamp()
        (before, after, asked, unit_given), event_ms, steps = self._no_header, record_ms, 0
        if value is not None:
            headers = message.headers()
            if headers:
                before, after, asked, unit_given = self._header(headers)
            parsed, timestamp = numbers.parse(value)
            own_ms = record_ms if kind else None
            event_ms = event_time.event_ms(timestamp, own_ms, ahead_max_ms=self._ahead_ms, unit_given=unit_given)
            steps = numbers.take(parsed, asked)
        columns.add(i, message, key, event_ms=event_ms, record_ms=record_ms, steps=steps, before=before, after=after)

    def _header(self, headers: list[tuple[str, bytes | None]]) -> Header:
        before, after, steps, unit_given = self._no_header
        for name, given in headers:
            text = given or b""
            if name == "sequence":
                marks = SEQUENCE.get(text)
                if marks is None:
                    raise RejectError("bad_schema", f"header sequence is {text[:40]!r}; expected start, end or single")
                before, after = before or marks[0], after or marks[1]
            elif name == "steps" and self._format.steps_in_header:
                if not (text.isdigit() and len(text) <= STEPS_DIGITS_MAX and int(text)):
                    raise RejectError("bad_schema", f"header steps is {text[:40]!r}; expected how many steps the value holds, such as 2")
                steps = int(text)
            elif name == "timestamp_unit":
                if text != UNIT:
                    raise RejectError("bad_schema", f"header timestamp_unit is {text[:40]!r}; expected ms")
                unit_given = True
        return before, after, steps, unit_given

    def _finish(self, columns: Columns, found: NDArray[Any], rejected: list[tuple[int, Rejected]]) -> Decoded:
        """found: the numbers of all readings in the columns, float64 or float32 [readings, F]."""
        batch = Batch(
            partition=columns.partition,
            key=columns.key,
            offset=np.array(columns.offset, np.int64),
            event_ms=np.array(columns.event_ms, np.int64),
            record_ms=np.array(columns.record_ms, np.int64),
            steps=np.array(columns.steps, np.int64),
            reset_before=np.array(columns.before, np.bool_),
            reset_after=np.array(columns.after, np.bool_),
            x=self._scaled(found),
        )
        foreign, finite = self._format.foreign(found), np.isfinite(batch.x).all(1)
        unknown = self._unknown_categories(batch.x)
        if foreign is None and finite.all() and not unknown:
            return Decoded(batch, columns.source, rejected, self._resets(batch))
        record = np.repeat(np.arange(len(batch)), batch.steps)
        bad = {int(record[reading]): fault for reading, fault in unknown.items()}
        bad |= dict.fromkeys(record[~finite].tolist(), NOT_FINITE)
        if foreign is not None:
            count = np.bincount(record, foreign.sum(1), len(batch))
            bad |= dict.fromkeys(np.flatnonzero(2 * count > batch.steps * found.shape[1]).tolist(), FOREIGN)
        for i, (error, detail) in bad.items():
            rejected.append((columns.source[i], Rejected(batch.partition[i], int(batch.offset[i]), error, detail)))
        rejected.sort(key=lambda pair: pair[0])
        good = np.setdiff1d(np.arange(len(batch)), np.array(list(bad), np.int64))
        batch = select(batch, good)
        return Decoded(batch, [columns.source[i] for i in good.tolist()], rejected, self._resets(batch))

    def _unknown_categories(self, x: NDArray[np.float32]) -> dict[int, tuple[str, str]]:
        """The readings that hold a category which the model does not know, and what is wrong with each."""
        found = dict[int, tuple[str, str]]()
        for feature, count in self._categories:
            given = x[:, feature]
            known = (given >= 0) & (given < count) & (given == np.floor(given))
            for reading in np.flatnonzero(~known).tolist():
                detail = f"feature {feature} of a reading is {given[reading]:g}, a category; expected a whole number from 0 to {count - 1}"
                found.setdefault(reading, ("unknown_category", detail))
        return found

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


def check_key(key: bytes) -> None:
    """Raises RejectError for a key that is too long."""
    if len(key) > KEY_BYTES_MAX:
        raise RejectError("too_large", f"the key has {len(key)} bytes; expected at most {KEY_BYTES_MAX}")


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
