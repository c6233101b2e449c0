"""Reads many Avro records of one schema at once: the schema as a list of steps, each of which moves a cursor in every record.

For schemas whose fields lie one after another: records, numbers, texts, nullable ones, and the array `values`; others have no plan. Names
no fault: whatever is not plainly in order gives None, and avro_records reads those records one by one, with the same result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from processor.codec.paths import FieldPath
from processor.codec.schemas.avro_schema import Avro, fields_of

VARINT_BYTES = 10
TIME_MAX = 2**53
PADDING = b"\0" * 16
_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000), "days": (86_400_000, 1)}
VALUES: tuple[str, ...] = ("values",)

Array = NDArray[Any]


class NotPlainError(Exception):
    """A record has to be read by itself."""


class Cursor:
    """data: the bytes of all records, padded, uint8. at: where the next field of each record begins, int64 [n]. x: float64 [n, F]."""

    def __init__(self, data: Array, starts: Array, features: int) -> None:
        self.data, self.at, self.x = data, starts, np.empty((len(starts), features))
        self.times: Array | None = None
        self._last = len(self.data) - 1
        self._high: Array | None = None

    def block(self, size: int) -> Array:
        """uint8 [n, size] from the cursor on, which moves behind it."""
        if size > len(self.data):
            raise NotPlainError
        found: Array = sliding_window_view(self.data, size)[np.minimum(self.at, len(self.data) - size)]
        self.at = self.at + size
        return found

    def varint(self) -> Array:
        """int64 [n]"""
        byte = self.data[np.minimum(self.at, self._last)]
        if (byte < 0x80).all():  # as lengths and branches are
            self.at = self.at + 1
            short = byte.astype(np.int64)
            return (short >> 1) ^ -(short & 1)
        number, open_ = np.zeros(len(self.at), np.uint64), np.ones(len(self.at), np.bool_)
        for i in range(VARINT_BYTES):
            byte = self.data[np.minimum(self.at, self._last)]
            if i == VARINT_BYTES - 1 and (byte[open_] > 1).any():
                raise NotPlainError
            number |= np.where(open_, (byte & 0x7F).astype(np.uint64) << np.uint64(7 * i), np.uint64(0))
            self.at = self.at + open_
            open_ &= byte >= 0x80
            if not open_.any():
                break
        else:
            raise NotPlainError
        return (number >> np.uint64(1)).astype(np.int64) ^ -(number & np.uint64(1)).astype(np.int64)

    def skip_text(self, *, ascii_only: bool) -> None:
        size = self.varint()
        end = self.at + size
        if (size < 0).any() or (end > self._last).any():
            raise NotPlainError
        if ascii_only:
            if self._high is None:
                self._high = np.concatenate([[0], np.cumsum(self.data >= 0x80)])
            if (self._high[end] != self._high[self.at]).any():
                raise NotPlainError
        self.at = end


Step = Callable[[Cursor], None]


class AvroPlan:
    """steps: in the order of the schema's fields."""

    def __init__(self, steps: Sequence[Step], features: int) -> None:
        self._steps, self._features = steps, features

    def read(self, data: Array, starts: Array, ends: Array) -> tuple[Array, Array | None] | None:
        """float64 [n, F] and the times in Unix milliseconds, int64 [n], None if records hold none. data: uint8, padded with PADDING."""
        cursor = Cursor(data, starts, self._features)
        try:
            for step in self._steps:
                step(cursor)
        except NotPlainError:
            return None
        if (cursor.at != ends).any() or np.isinf(cursor.x).any():
            return None
        return cursor.x, cursor.times


def plan_of(schema: Avro, *, names: Sequence[str] | None, features: int, timestamp: str | None, unit: str) -> AvroPlan | None:
    """names, timestamp, unit: input.features, input.timestamp and input.timestamp_unit. None: this schema is read record by record."""
    if schema.kind != "record":
        return None
    top = set(schema.names)
    places: dict[tuple[str, ...], int] = {VALUES: 0} if names is None else {_place(name, top): i for i, name in enumerate(names)}
    time = None if timestamp is None else _place(timestamp, top)
    unit = fields_of(schema).units.get(time, "ms") if unit == "auto" and time is not None else "ms" if unit == "auto" else unit
    planner = _Planner(places, features, time, unit, whole_array=names is None)
    try:
        steps = planner.steps(schema, (), ())
    except _NoPlanError:
        return None
    return AvroPlan(_joined(steps), features) if planner.found == set(places) else None


def _place(name: str, top: set[str]) -> tuple[str, ...]:
    return (name,) if '"' not in name and name in top else FieldPath(name).parts


@dataclass(slots=True)
class _Floats:
    """Reads features that lie one after another, all of one type."""

    dtype: np.dtype[Any]
    columns: list[int]

    def __call__(self, cursor: Cursor) -> None:
        cursor.x[:, self.columns] = cursor.block(len(self.columns) * self.dtype.itemsize).view(self.dtype)


def _joined(steps: Sequence[Step]) -> list[Step]:
    found: list[Step] = []
    for step in steps:
        last = found[-1] if found else None
        if isinstance(step, _Floats) and isinstance(last, _Floats) and step.dtype == last.dtype:
            found[-1] = _Floats(step.dtype, [*last.columns, *step.columns])
        else:
            found.append(step)
    return found


class _NoPlanError(Exception):
    pass


class _Planner:
    def __init__(
        self, places: dict[tuple[str, ...], int], features: int, time: tuple[str, ...] | None, unit: str, *, whole_array: bool
    ) -> None:
        self._places, self._features, self._time, self._unit, self._array = places, features, time, unit, whole_array
        self.found: set[tuple[str, ...]] = set()

    def steps(self, schema: Avro, path: tuple[str, ...], inside: tuple[str, ...]) -> list[Step]:
        if schema.kind == "record":
            if schema.name in inside:
                raise _NoPlanError
            fields = zip(schema.names, schema.parts, strict=True)
            return [step for name, part in fields for step in self.steps(part, (*path, name), (*inside, schema.name))]
        if schema.kind == "union":
            return [self._union(schema, path, inside)]
        if path in self._places:
            self.found.add(path)
            return [self._values(schema) if self._array else self._number(schema, self._places[path])]
        if path == self._time:
            return [self._timestamp(schema)]
        return [_skip(schema)]

    def _wanted(self, path: tuple[str, ...]) -> bool:
        """Whether a feature or the time lies there or below."""
        wanted = [*self._places, *([] if self._time is None else [self._time])]
        return any(place[: len(path)] == path for place in wanted)

    def _union(self, schema: Avro, path: tuple[str, ...], inside: tuple[str, ...]) -> Step:
        kinds = [part.kind for part in schema.parts]
        if len(kinds) != 2 or kinds.count("null") != 1:
            raise _NoPlanError
        there = 1 - kinds.index("null")
        steps, wanted = self.steps(schema.parts[there], path, inside), self._wanted(path)

        def step(cursor: Cursor) -> None:
            branch = cursor.varint()
            present = branch == there
            if present.all():
                for one in steps:
                    one(cursor)
                return
            if wanted or ((branch != there) & (branch != 1 - there)).any():
                raise NotPlainError
            before = cursor.at
            if present.any():
                sub = Cursor(cursor.data, before[present], 0)
                for one in steps:
                    one(sub)
                cursor.at = before.copy()
                cursor.at[present] = sub.at

        return step

    def _values(self, schema: Avro) -> Step:
        if schema.kind != "array" or schema.parts[0].kind not in _FLOATS:
            raise _NoPlanError
        dtype, features = _FLOATS[schema.parts[0].kind], self._features
        size = features * dtype.itemsize

        def step(cursor: Cursor) -> None:
            if (cursor.varint() != features).any():
                raise NotPlainError
            cursor.x[:] = cursor.block(size).view(dtype)
            if cursor.block(1).any():  # another block
                raise NotPlainError

        return step

    def _number(self, schema: Avro, column: int) -> Step:
        if schema.kind in _FLOATS:
            return _Floats(_FLOATS[schema.kind], [column])
        if schema.kind not in ("int", "long"):
            raise _NoPlanError

        def whole(cursor: Cursor) -> None:
            cursor.x[:, column] = cursor.varint()

        return whole

    def _timestamp(self, schema: Avro) -> Step:
        if schema.kind not in ("int", "long"):
            raise _NoPlanError
        factor, divisor = _MS[self._unit]

        def step(cursor: Cursor) -> None:
            number = cursor.varint()
            if factor > 1 and ((number > TIME_MAX // factor) | (number < -TIME_MAX // factor)).any():
                raise NotPlainError
            cursor.times = number * factor // divisor

        return step


_FLOATS: dict[str, np.dtype[Any]] = {"float": np.dtype("<f4"), "double": np.dtype("<f8")}


def _skip(schema: Avro) -> Step:
    if schema.kind == "fixed" or schema.kind in _FLOATS:
        size = schema.size if schema.kind == "fixed" else _FLOATS[schema.kind].itemsize

        def fixed(cursor: Cursor) -> None:
            cursor.at = cursor.at + size

        return fixed
    if schema.kind in ("string", "bytes"):
        return lambda cursor: cursor.skip_text(ascii_only=schema.kind == "string")
    limits = {"boolean": None, "enum": len(schema.names), "int": None, "long": None, "null": None}
    if schema.kind not in limits:
        raise _NoPlanError

    def step(cursor: Cursor) -> None:
        if schema.kind == "boolean":
            if (cursor.block(1) > 1).any():
                raise NotPlainError
        elif schema.kind != "null":
            number = cursor.varint()
            if schema.kind == "enum" and ((number < 0) | (number >= len(schema.names))).any():
                raise NotPlainError

    return step
