"""JSON records: bytes to a batch of readings, and predictions back to bytes.

Decides what is a reading and what is a dead letter, from the record alone: never from the clock, other records or the
batch it came in. Knows nothing of states, topics or transactions.
"""

import datetime
import json
import math
import re
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
# A float32's shortest decimals with or without an exponent, and the comma after it.
NUMBER_BYTES_MAX = 24
DETAIL_MAX = 300
# How deep a decoder gets depends on the calls around it: this limit does not, and lies well below.
DEPTH_MAX = 100
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
        self.error, self.detail = error, detail[:DETAIL_MAX]


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
        columns, rejected = _Columns(), list[tuple[int, Rejected]]()
        for i, message in enumerate(messages):
            try:
                self._decode_one(i, message, columns)
            except _RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return self._finish(columns, rejected)

    def _decode_one(self, i: int, message: Message, columns: _Columns) -> None:
        key = message.key()
        if key is None:
            raise _RejectError("no_key", "the record has no key; expected the sensor's name")
        if len(key) > KEY_BYTES_MAX:
            raise _RejectError("too_large", f"the key has {len(key)} bytes; expected at most {KEY_BYTES_MAX}")
        value, (kind, record_ms) = message.value(), message.timestamp()
        before = after = self._each_record
        event_ms, steps = record_ms, 0
        if value is not None:
            headers = message.headers()
            if headers:
                before, after = self._sequence(headers)
            reading = self._parse(value)
            event_ms = self._event_ms(reading.timestamp, record_ms if kind else None)
            steps = self._take(reading, columns.numbers)
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
                    raise _RejectError("bad_schema", f"header sequence is {(text or b'')[:40]!r}; expected start, end or single")
                before, after = before or marks[0], after or marks[1]
        return before, after

    def _parse(self, value: bytes) -> _Single | _Several:
        if value.count(b"[") + value.count(b"{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
            raise _RejectError("bad_encoding", f"the value nests deeper than {DEPTH_MAX} levels")
        try:
            if not value.isascii():
                value.decode()  # the decoder does not look into fields that it passes over
        except UnicodeDecodeError as error:
            raise _RejectError("bad_encoding", f"the value is not UTF-8: {error}") from None
        for decoder in self._decoders:
            try:
                reading = decoder.decode(value)
            except msgspec.DecodeError:
                continue
            if reading.values:
                if decoder is not self._decoders[0]:
                    self._decoders.reverse()
                return reading
        return self._parse_slowly(value)

    def _parse_slowly(self, value: bytes) -> _Single | _Several:
        """What the decoders refuse: they stop at the first fault, and which one to name must not depend on where that is."""
        try:
            found = json.loads(value.decode(), parse_constant=_no_constant, parse_int=lambda digits: float(digits) + 0.0)
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no UTF-8
        except (ValueError, RecursionError) as error:
            raise _RejectError("bad_encoding", f"the value is not JSON: {error}") from None
        values = found.get("values") if isinstance(found, dict) else None
        if not isinstance(values, list):
            raise _RejectError("bad_schema", f"there is no list `values`; {self._expected()}")
        several = bool(values) and isinstance(values[0], list)
        for step in values if several else [values]:
            if not isinstance(step, list) or not all(type(number) is float for number in step):
                raise _RejectError("bad_schema", f"`values` holds something else than numbers; {self._expected()}")
            if not all(map(math.isfinite, step)):
                raise _RejectError("not_finite", "a value is past what a double holds; expected finite numbers")
        timestamp = found.get("timestamp")
        if isinstance(timestamp, bool) or not isinstance(timestamp, float | str | None):
            raise _RejectError("bad_timestamp", "`timestamp` is neither a number nor text; expected Unix milliseconds or ISO 8601")
        return _Several(values, timestamp) if several else _Single(values, timestamp)

    def _expected(self) -> str:
        return f'expected {{"timestamp": ms, "values": [{self._features} numbers]}}'

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

    def _finish(self, columns: _Columns, rejected: list[tuple[int, Rejected]]) -> Decoded:
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
            return Decoded(batch, columns.source, rejected, self._resets(batch))
        record = np.repeat(np.arange(len(batch)), batch.steps)
        bad = np.unique(record[~finite])
        for i in bad.tolist():
            detail = "a value lies past float32; expected less than 3.4e38"
            rejected.append((columns.source[i], Rejected(batch.partition[i], int(batch.offset[i]), "not_finite", detail)))
        rejected.sort(key=lambda pair: pair[0])
        good = np.setdiff1d(np.arange(len(batch)), bad)
        batch = select(batch, good)
        return Decoded(batch, [columns.source[i] for i in good.tolist()], rejected, self._resets(batch))

    def _resets(self, batch: Batch) -> Counter[str]:
        reading = batch.steps > 0
        null, records = int((~reading).sum()), int(reading.sum())
        if self._each_record:
            return Counter(null=null, each_record=records)
        return Counter(null=null, start=int((batch.reset_before & reading).sum()), end=int((batch.reset_after & reading).sum()))

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


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def _depth(value: bytes) -> int:
    """How deep brackets nest, those in strings aside."""
    text = np.frombuffer(_STRING.sub(b"", value), np.uint8)
    opened = ((text == ord("[")) | (text == ord("{"))).astype(np.int64)
    closed = ((text == ord("]")) | (text == ord("}"))).astype(np.int64)
    return int(np.cumsum(opened - closed).max(initial=0))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


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
        raise _RejectError("bad_timestamp", f"timestamp is {str(number)[:40]}; expected Unix milliseconds")
    return int(number // 1)
