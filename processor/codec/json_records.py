"""JSON records: bytes to a batch of readings, and predictions back to bytes.

Decides what is a reading and what is a dead letter, from the record alone: never from the clock, other records or the
batch it came in. Knows nothing of states, topics or transactions.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import orjson

from processor.records import Applied, Batch, Rejected

KEY_BYTES_MAX = 1024
# Times that milliseconds in a double hold exactly; more than any clock will say.
TIMESTAMP_MS_MAX = 2**53
# -1.17549435e-38, and the comma after it.
NUMBER_BYTES_MAX = 16
# Everything in an output but its numbers: names, five integers, and the key escaped at six bytes for one.
ENVELOPE_BYTES_MAX = 512 + 6 * KEY_BYTES_MAX

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


class _Single(msgspec.Struct, gc=False):
    values: list[float]
    timestamp: int | float | str | None = None


class _Several(msgspec.Struct, gc=False):
    values: list[list[float]]
    timestamp: int | float | str | None = None


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


class _RejectError(Exception):
    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail


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
    numbers: list[float] = field(default_factory=list)


class JsonRecords:
    """The format json.

    features          F of the model
    per_step          the model gives a prediction each step, so a record of several steps gets several
    residual          outputs say how far the sensor's previous prediction was off
    record_steps_max  readings that one record may hold
    ahead_max_s       how far a timestamp may lie ahead of its record's own
    each_record       every record is a sequence of its own
    """

    def __init__(
        self,
        *,
        features: int,
        per_step: bool,
        residual: bool,
        model_id: str,
        record_steps_max: int,
        ahead_max_s: float,
        each_record: bool,
    ) -> None:
        self._features = features
        self._steps_max = record_steps_max
        self._ahead_ms = round(ahead_max_s * 1000)
        self._each_record = each_record
        self._per_step = per_step
        self._model = orjson.dumps(model_id)
        self._residual = residual
        # The one that fitted last is tried first: a topic's records are of one shape.
        self._decoders: list[msgspec.json.Decoder[_Single] | msgspec.json.Decoder[_Several]] = [
            msgspec.json.Decoder(_Single),
            msgspec.json.Decoder(_Several),
        ]

    # -- bytes to readings ------------------------------------------------------------------------------------------------

    def decode(self, messages: Sequence[Message]) -> Decoded:
        """Every message ends in the batch or among the rejected."""
        columns, rejected, resets = _Columns(), list[tuple[int, Rejected]](), Counter[str]()
        for i, message in enumerate(messages):
            try:
                self._decode_one(i, message, columns, resets)
            except _RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return self._finish(columns, rejected, resets)

    def _decode_one(self, i: int, message: Message, columns: _Columns, resets: Counter[str]) -> None:
        key = message.key()
        if key is None:
            raise _RejectError("no_key", "the record has no key; expected the sensor's name")
        if len(key) > KEY_BYTES_MAX:
            raise _RejectError("too_large", f"the key has {len(key)} bytes; expected at most {KEY_BYTES_MAX}")
        value, (kind, record_ms) = message.value(), message.timestamp()
        before = after = self._each_record
        event_ms, steps = record_ms, 0
        if value is None:
            resets["null"] += 1
        else:
            headers = message.headers()
            if headers:
                before, after = self._sequence(headers, resets)
            reading = self._parse(value)
            event_ms = self._event_ms(reading.timestamp, record_ms if kind else None)
            steps = self._take(reading, columns.numbers)
            if self._each_record:
                resets["each_record"] += 1
        columns.source.append(i)
        columns.partition.append(message.partition())
        columns.key.append(key)
        columns.offset.append(message.offset())
        columns.event_ms.append(event_ms)
        columns.record_ms.append(record_ms)
        columns.steps.append(steps)
        columns.before.append(before)
        columns.after.append(after)

    def _sequence(self, headers: list[tuple[str, bytes | None]], resets: Counter[str]) -> tuple[bool, bool]:
        before = after = self._each_record
        for name, text in headers:
            if name == "sequence":
                marks = SEQUENCE.get(text or b"")
                if marks is None:
                    raise _RejectError("bad_schema", f"header sequence is {text!r}; expected start, end or single")
                before, after = before or marks[0], after or marks[1]
                if not self._each_record:
                    resets.update(start=marks[0], end=marks[1])
        return before, after

    def _parse(self, value: bytes) -> _Single | _Several:
        try:
            if not value.isascii():
                value.decode()  # the decoder does not look into fields that it passes over
            return self._decoders[0].decode(value)
        except msgspec.ValidationError as first:
            try:
                reading = self._decoders[1].decode(value)
            except (msgspec.DecodeError, RecursionError) as second:
                lists = "Expected `float`, got `array` - at `$.values[0]`"
                raise self._reason(value, second if str(first) == lists or str(second).startswith("Expected `float`") else first) from None
            self._decoders.reverse()
            return reading
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._reason(value, error) from None

    def _reason(self, value: bytes, error: Exception) -> _RejectError:
        """Why a value is no reading. The decoder stops at the first fault; whether the rest is JSON at all is asked here."""
        if not isinstance(error, msgspec.ValidationError):
            return _RejectError("bad_encoding", f"the value is not JSON in UTF-8: {error}")
        detail = str(error)
        if detail.startswith("Number out of range"):
            return _RejectError("bad_timestamp" if "$.timestamp" in detail else "not_finite", f"{detail}; expected finite numbers")
        try:
            msgspec.json.decode(value, type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError) as broken:
            return _RejectError("bad_encoding", f"the value is not JSON: {broken}")
        if detail.endswith("`$.timestamp`"):
            return _RejectError("bad_timestamp", f"{detail}; expected Unix milliseconds or ISO 8601")
        return _RejectError("bad_schema", f'{detail}; expected {{"timestamp": ms, "values": [{self._features} numbers]}}')

    def _take(self, reading: _Single | _Several, numbers: list[float]) -> int:
        """Appends a record's numbers, all or none of them; returns its steps."""
        if isinstance(reading, _Single):
            self._check_count(reading.values)
            numbers.extend(reading.values)
            return 1
        if len(reading.values) > self._steps_max:
            steps = len(reading.values)
            raise _RejectError("too_large", f"found {steps} steps; expected at most {self._steps_max} (input.record_steps_max)")
        for step in reading.values:
            self._check_count(step)
        for step in reading.values:
            numbers.extend(step)
        return len(reading.values)

    def _check_count(self, values: list[float]) -> None:
        if len(values) != self._features:
            raise _RejectError("wrong_feature_count", f"found {len(values)} values in a reading; the model takes {self._features}")

    def _event_ms(self, timestamp: float | str | None, record_ms: int | None) -> int:
        if timestamp is None:
            if record_ms is None:
                raise _RejectError("bad_timestamp", "neither the value nor the record has a timestamp")
            return record_ms
        event_ms = _iso_ms(timestamp) if isinstance(timestamp, str) else _number_ms(timestamp)
        if record_ms is not None and event_ms > record_ms + self._ahead_ms:
            ahead_s = (event_ms - record_ms) / 1000
            found = f"{timestamp} lies {ahead_s:.0f} s ahead of the record's own"
            raise _RejectError("bad_timestamp", f"{found}; expected at most {self._ahead_ms / 1000:.0f} s (input.ahead_max)")
        return event_ms

    def _finish(self, columns: _Columns, rejected: list[tuple[int, Rejected]], resets: Counter[str]) -> Decoded:
        with np.errstate(over="ignore"):  # past float32 is infinite, and found below
            x = np.array(columns.numbers, np.float64).astype(np.float32).reshape(-1, self._features)
        batch = Batch(
            partition=columns.partition,
            key=columns.key,
            offset=np.array(columns.offset, np.int64),
            event_ms=np.array(columns.event_ms, np.int64),
            record_ms=np.array(columns.record_ms, np.int64),
            steps=np.array(columns.steps, np.int64),
            reset_before=np.array(columns.before, np.bool_),
            reset_after=np.array(columns.after, np.bool_),
            x=x,
        )
        finite = np.isfinite(x).all(1)
        if finite.all():
            return Decoded(batch, columns.source, rejected, resets)
        record = np.repeat(np.arange(len(batch)), batch.steps)
        bad = np.unique(record[~finite])
        for i in bad.tolist():
            detail = "a value lies past float32; expected less than 3.4e38"
            rejected.append((columns.source[i], Rejected(batch.partition[i], int(batch.offset[i]), "not_finite", detail)))
        rejected.sort(key=lambda pair: pair[0])
        good = np.setdiff1d(np.arange(len(batch)), bad)
        return Decoded(select(batch, good), [columns.source[i] for i in good.tolist()], rejected, resets)

    # -- predictions to bytes ---------------------------------------------------------------------------------------------

    def encode(self, batch: Batch, applied: Applied) -> list[bytes | None]:
        """One output a record; None for a null record and for one that was left out."""
        residuals = orjson.dumps(applied.residual, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",") if len(batch) else []
        columns = zip(
            batch.key,
            batch.event_ms.tolist(),
            self._predictions(batch, applied),
            applied.steps.tolist(),
            batch.partition,
            batch.offset.tolist(),
            (applied.finite & (batch.steps > 0)).tolist(),
            applied.warming.tolist(),
            residuals,
            strict=True,
        )
        out: list[bytes | None] = []
        for key, event_ms, prediction, steps, partition, offset, published, warming, residual in columns:
            if not published:
                out.append(None)
                continue
            tail = b',"residual":' + residual if self._residual else b""
            if warming:
                tail += b',"warming_up":true'
            out.append(
                b'{"sensor":%b,"timestamp":%d,"prediction":%b,"steps":%d,"partition":%d,"offset":%d,"model":%b%b}'
                % (_sensor(key), event_ms, prediction, steps, partition, offset, self._model, tail)
            )
        return out

    def _predictions(self, batch: Batch, applied: Applied) -> list[bytes]:
        """Each record's prediction as JSON. All numbers are written in one call: the shortest decimals of each float32."""
        if not len(applied.y):
            return [b"null"] * len(batch)
        written = orjson.dumps(np.ascontiguousarray(applied.y), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        out = [b"[%b]" % written[i] for i in applied.last.tolist()]
        if self._per_step:
            for i in np.flatnonzero(batch.steps > 1).tolist():
                end = int(applied.last[i]) + 1
                out[i] = b"[[%b]]" % b"],[".join(written[end - int(batch.steps[i]) : end])
        for i in np.flatnonzero(applied.filling).tolist():
            out[i] = b"null"
        return out


def output_bytes_max(outputs: int, steps: int) -> int:
    """The largest value that encode() can write for a record of this many steps, each with a prediction."""
    return ENVELOPE_BYTES_MAX + steps * (outputs * NUMBER_BYTES_MAX + 3)


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


def shown(key: bytes) -> str:
    """A sensor's name for people: UTF-8, or else 0x and hex."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return "0x" + key.hex()


def _sensor(key: bytes) -> bytes:
    return orjson.dumps(shown(key))


def _iso_ms(text: str) -> int:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise _RejectError("bad_timestamp", f"timestamp is {text[:40]!r}; expected Unix milliseconds or ISO 8601") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(milliseconds=1)


def _number_ms(number: float) -> int:
    if not -TIMESTAMP_MS_MAX <= number <= TIMESTAMP_MS_MAX:
        raise _RejectError("bad_timestamp", f"timestamp is {number}; expected Unix milliseconds")
    return int(number // 1)
