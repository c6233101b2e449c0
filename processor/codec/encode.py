"""Predictions to bytes: one JSON object for each record that has one.

Knows the form of an output, nothing of what is in it: numbers are written as the engine gave them, or scaled back to their
own units.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from processor.codec.columns import KEY_BYTES_MAX
from processor.codec.flat_fields import PREDICTED, RESIDUAL, FlatFields
from processor.records import Applied, Batch, Output
from processor.settings import Scale
from processor.units import own_units

# A float32's shortest decimals with or without an exponent, and the comma after it.
NUMBER_BYTES_MAX = 24
# Everything in an output but its numbers: names, five integers, and the key escaped at six bytes for one.
ENVELOPE_BYTES_MAX = 512 + 6 * KEY_BYTES_MAX
OUTPUT = b'{"sensor":"%b","timestamp":%b,"prediction":%b,"steps":%b,"partition":%b,"offset":%b,"model":%b}'
FLAT_OUTPUT = b'{"sensor":"%b","timestamp":%b,%b,"steps":%b,"partition":%b,"offset":%b,"model":%b}'


class Encoder:
    """
    model_id       which model and settings a prediction is of
    outputs        the model's: of several, a prediction is an object by name
    scales         of each output, how its targets were scaled in training; None: it is written as it is
    residual       outputs say how far the sensor's previous prediction was off
    residual_each  and how far for each feature
    reconstruction outputs say how far the prediction is off the readings that it reconstructs
    fields         names of the prediction's numbers, each a field; empty: a prediction is a list, or an object of lists
    forecasts      the numbers of a prediction that residual_each is of
    trained_window predictions of a sensor past so many steps are marked, None: none are
    """

    def __init__(
        self,
        *,
        model_id: str,
        outputs: Sequence[Output],
        scales: Sequence[Scale | None],
        residual: bool,
        residual_each: bool = False,
        reconstruction: bool = False,
        fields: Sequence[str] = (),
        forecasts: Sequence[int] = (),
        trained_window: int | None = None,
    ) -> None:
        self._model = orjson.dumps(model_id)
        self._residual, self._residual_each, self._reconstruction = residual, residual_each, reconstruction
        self._trained_window = trained_window
        self._outputs = [_Written(output, scale) for output, scale in zip(outputs, scales, strict=True)]
        self._names = [orjson.dumps(output.name) for output in outputs]
        self._flat = FlatFields(PREDICTED, fields) if fields else None
        self._flat_residuals = FlatFields(RESIDUAL, [fields[i] for i in forecasts]) if fields else None
        self._form = OUTPUT if self._flat is None else FLAT_OUTPUT

    def encode(self, batch: Batch, applied: Applied) -> list[bytes | None]:
        """One output a record; None for a null record and for one that was left out."""
        if not len(batch):
            return []
        rows = zip(
            _sensors(batch.key),
            _numbers(batch.event_ms),
            self._predictions(batch, applied),
            _numbers(applied.steps),
            _numbers(np.array(batch.partition, np.int64)),
            _numbers(batch.offset),
            self._tails(applied),
            strict=True,
        )
        out: list[bytes | None] = [self._form % row for row in rows]
        for i in np.flatnonzero(~applied.published(batch)).tolist():
            out[i] = None
        return out

    def _tails(self, applied: Applied) -> list[bytes]:
        """What follows the offset, of each record: the model, and what is said of some predictions alone."""
        tails = [self._model] * len(applied.last)
        if self._residual:
            tails = [b'%b,"residual":%b' % pair for pair in zip(tails, _numbers(applied.residual), strict=True)]
        if self._residual_each and applied.residuals is not None:
            tails = [b"%b,%b" % pair for pair in zip(tails, self._residuals(applied.residuals), strict=True)]
        if self._reconstruction and applied.reconstruction is not None:
            tails = [b'%b,"reconstruction":%b' % pair for pair in zip(tails, _numbers(applied.reconstruction), strict=True)]
        if applied.score is not None and applied.alarm is not None:
            alarms = zip(tails, _numbers(applied.score), _numbers(applied.alarm), strict=True)
            tails = [b'%b,"score":%b,"alarm":%b' % row for row in alarms]
        marks = [(applied.warming, b',"warming_up":true')]
        if self._trained_window is not None:
            marks.append((applied.steps > self._trained_window, b',"past_window":true'))
        for marked, mark in marks:
            for i in np.flatnonzero(marked).tolist():
                tails[i] += mark
        return tails

    def _residuals(self, residuals: NDArray[np.float32]) -> list[bytes]:
        """Of each record the field, or fields, of its residuals."""
        if self._flat_residuals is not None:
            return self._flat_residuals.written(residuals)
        return [b'"residuals":%b' % row for row in _rows(residuals)]

    def _predictions(self, batch: Batch, applied: Applied) -> list[bytes]:
        """Each record's prediction as JSON, or its fields."""
        if self._flat is not None:
            return self._fields(self._flat, batch, applied)
        if not len(applied.y):
            return [b"null"] * len(batch)
        written = [output.predictions(batch, applied) for output in self._outputs]
        out = written[0] if len(written) == 1 else self._objects(written)
        for i in np.flatnonzero(applied.filling).tolist():
            out[i] = b"null"
        return out

    def _fields(self, flat: FlatFields, batch: Batch, applied: Applied) -> list[bytes]:
        """Of a record of several steps those of the last one."""
        if not len(applied.y):
            return [flat.nothing] * len(batch)
        out = flat.written(np.concatenate([output.last(applied) for output in self._outputs], axis=1))
        for i in np.flatnonzero(applied.filling).tolist():
            out[i] = flat.nothing
        return out

    def _objects(self, written: Sequence[Sequence[bytes]]) -> list[bytes]:
        """written: of each output, each record's."""
        form = b"{%b}" % b",".join(name.replace(b"%", b"%%") + b":%b" for name in self._names)
        return [form % record for record in zip(*written, strict=True)]


class _Written:
    """One output of the model, in JSON."""

    def __init__(self, output: Output, scale: Scale | None) -> None:
        self._output = output
        self._scale = (np.array(scale.offset), np.array(scale.divisor)) if scale else None

    def predictions(self, batch: Batch, applied: Applied) -> list[bytes]:
        """Of each record. All numbers are written in one call: the shortest decimals of each float32."""
        # What is written are rows of numbers; a windowed prediction of several steps is several rows.
        output, rows = self._output, self._output.rows or 1
        y = self._unscaled(applied.y[:, output.first : output.last].reshape(len(applied.y) * rows, -1))
        written = orjson.dumps(np.ascontiguousarray(y), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        if output.rows is not None:
            out = [b"[[%b]]" % b"],[".join(written[i * rows : (i + 1) * rows]) for i in applied.last.tolist()]
        else:
            out = [b"[%b]" % written[i] for i in applied.last.tolist()]
        if output.per_step:
            for i in np.flatnonzero(batch.steps > 1).tolist():
                end = int(applied.last[i]) + 1
                out[i] = b"[[%b]]" % b"],[".join(written[end - int(batch.steps[i]) : end])
        return out

    def last(self, applied: Applied) -> NDArray[np.float32]:
        """The numbers of each record's last reading, float32 [n, width]."""
        return self._unscaled(applied.y[applied.last, self._output.first : self._output.last])

    def _unscaled(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        """In the targets' own units. One past float32 is its greatest number."""
        if self._scale is None:
            return y
        offset, divisor = self._scale
        return own_units(y, divisor, offset)


def output_bytes_max(outputs: Sequence[Output], steps_max: int, *, residuals: int = 0) -> int:
    """The largest value that encode() can write for a record of at most this many steps, with so many residuals."""
    total = ENVELOPE_BYTES_MAX + residuals * (NUMBER_BYTES_MAX + 1)
    for output in outputs:
        steps = steps_max if output.per_step else 1
        total += len(orjson.dumps(output.name)) + 4 + steps * ((output.last - output.first) * (NUMBER_BYTES_MAX + 3) + 3)
    return total


def shown(key: bytes) -> str:
    """A sensor's name for people: UTF-8, or else 0x and hex."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return "0x" + key.hex()


def _sensors(keys: Sequence[bytes]) -> list[bytes]:
    """The names as JSON writes them, without their quotes. Within a name a quote has a backslash before it: none looks like two."""
    return orjson.dumps([shown(key) for key in keys])[2:-2].split(b'","')


def _numbers(column: NDArray[Any]) -> list[bytes]:
    """As JSON writes them, in one call."""
    return orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _rows(table: NDArray[np.float32]) -> list[bytes]:
    """Each row as a list, in one call; null in place of a row of NaN."""
    written = orjson.dumps(table, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    return [b"null" if none else b"[%b]" % row for row, none in zip(written, np.isnan(table[:, 0]).tolist(), strict=True)]
