"""The format json for records that are read whole: features, time and other fields are found by path.

Slower than json_records, which reads plain records, and with the same verdicts. Says what a value holds and what is wrong with it.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from processor.codec.columns import Message
from processor.codec.json_records import DEPTH_MAX, Timestamp, checked_timestamp, fields_of, loaded, nesting, no_constant, no_number
from processor.codec.missing import Absent, Bad, Qualities
from processor.codec.paths import ABSENT, FieldPath
from processor.codec.reject import RejectError

_NUMBERS = (int, float)  # and no bool, which is an int to isinstance


class WholeJson:
    """
    features   F of the model
    names      the fields that are the features; None: `values` holds a list of numbers, or a list of such lists
    timestamp  the field that holds the event time, None: none does
    absent     what is no measurement; None: nothing may be missing
    qualities  where a record says how good it is
    """

    steps_in_header = False

    def __init__(
        self,
        *,
        features: int,
        names: Sequence[str] | None,
        timestamp: str | None,
        absent: Absent | None = None,
        qualities: Qualities | None = None,
    ) -> None:
        self._features, self._absent, self._qualities = features, absent, qualities
        self._fields = [FieldPath(name) for name in names] if names else None
        self._timestamp = FieldPath(timestamp) if timestamp is not None else None

    def load(self, value: bytes, _message: Message) -> Any:
        """The record. Raises RejectError (bad_encoding)."""
        return load_json(value, nan=self._absent is not None)

    def steps(self, found: Any, _asked: int) -> list[list[float]]:
        """The numbers of each step, NaN where one is missing. Raises RejectError (bad_schema, not_finite)."""
        bad = None if self._qualities is None else self._qualities.bad(found)
        steps = self._values(found, bad) if self._fields is None else [self._of_fields(self._fields, found, bad)]
        numbers = [[_double(number) for number in step] for step in steps]
        if any(math.isinf(number) for step in numbers for number in step):
            raise RejectError("not_finite", "a value is past what a double holds; expected finite numbers")
        return numbers

    def timestamp(self, found: Any) -> Timestamp:
        """As the record says it, None if it does not. Raises RejectError (bad_timestamp)."""
        if self._timestamp is None:
            return None
        timestamp = self._timestamp.find(found)
        return None if timestamp is ABSENT else checked_timestamp(timestamp, self._timestamp.name)

    def _values(self, found: Any, bad: Bad) -> list[list[Any]]:
        values = found.get("values") if isinstance(found, dict) else None
        expected = f"expected a list of {self._features} numbers, a list of such lists, or fields that input.features names"
        if not isinstance(values, list):
            raise RejectError("bad_schema", f"there is no list `values`{fields_of(found)}; {expected}")
        steps = values if values and isinstance(values[0], list) else [values]
        if self._absent is not None:
            steps = [self._holed(step, bad) if isinstance(step, list) else step for step in steps]
        for step in steps:
            if not isinstance(step, list) or not all(type(number) in _NUMBERS for number in step):
                raise RejectError("bad_schema", f"`values` holds something else than numbers; {expected}")
        return steps

    def _of_fields(self, fields: Sequence[FieldPath], found: Any, bad: Bad) -> list[Any]:
        read = [field.find(found) for field in fields]
        step = read
        if self._absent is not None and not all(number is ABSENT for number in read):  # then it is no reading at all
            step = self._holed(read, bad)
        for field, number in zip(fields, step, strict=True):
            if type(number) not in _NUMBERS:
                raise RejectError("bad_schema", no_number(field.name, field.way(found), None if number is ABSENT else number, found))
        return step

    def _holed(self, step: list[Any], bad: Bad) -> list[Any]:
        """The step with NaN where a value is missing."""
        if bad is not None:
            step = [math.nan if i < len(bad) and bad[i] else number for i, number in enumerate(step)]
        return [math.nan if self._is_missing(number) else number for number in step]

    def _is_missing(self, found: Any) -> bool:
        if found is None or found is ABSENT:
            return True
        if self._absent is None:
            return False
        return (type(found) in _NUMBERS and found in self._absent.numbers) or (isinstance(found, str) and found in self._absent.texts)


def load_json(value: bytes, *, nan: bool) -> Any:
    """nan: what Python's json writes for NaN is read as no value. Raises RejectError (bad_encoding)."""
    if value.count(b"[") + value.count(b"{") > DEPTH_MAX and nesting(value) > DEPTH_MAX:
        raise RejectError("bad_encoding", f"the value nests deeper than {DEPTH_MAX} levels")
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return loaded(value, _nan_as_null) if nan else loaded(value)


def _nan_as_null(name: str) -> None:
    """What Python's json writes for NaN is read as no value; infinities are refused."""
    if name != "NaN":
        no_constant(name)


def _double(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
