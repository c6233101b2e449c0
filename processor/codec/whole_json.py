"""The format json for records that are read whole: features, time and other fields are found by path.

Slower than json_records, which reads plain records, and with the same verdicts. Says what a value holds and what is wrong with it.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from processor.codec.json_records import DEPTH_MAX, Timestamp, checked_timestamp, fields_of, loaded, nesting, no_number
from processor.codec.paths import ABSENT, FieldPath
from processor.codec.reject import RejectError

_NUMBERS = (int, float)  # and no bool, which is an int to isinstance


class WholeJson:
    """
    features   F of the model
    names      the fields that are the features; None: `values` holds a list of numbers, or a list of such lists
    timestamp  the field that holds the event time, None: none does
    """

    steps_in_header = False

    def __init__(self, *, features: int, names: Sequence[str] | None, timestamp: str | None) -> None:
        self._features = features
        self._fields = [FieldPath(name) for name in names] if names else None
        self._timestamp = FieldPath(timestamp) if timestamp is not None else None

    def load(self, value: bytes) -> Any:
        """The record. Raises RejectError (bad_encoding)."""
        if value.count(b"[") + value.count(b"{") > DEPTH_MAX and nesting(value) > DEPTH_MAX:
            raise RejectError("bad_encoding", f"the value nests deeper than {DEPTH_MAX} levels")
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return loaded(value)

    def steps(self, found: Any) -> list[list[float]]:
        """The numbers of each step, finite. Raises RejectError (bad_schema, not_finite)."""
        steps = self._values(found) if self._fields is None else [self._of_fields(self._fields, found)]
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

    def _values(self, found: Any) -> list[list[Any]]:
        values = found.get("values") if isinstance(found, dict) else None
        expected = f"expected a list of {self._features} numbers, a list of such lists, or fields that input.features names"
        if not isinstance(values, list):
            raise RejectError("bad_schema", f"there is no list `values`{fields_of(found)}; {expected}")
        steps = values if values and isinstance(values[0], list) else [values]
        for step in steps:
            if not isinstance(step, list) or not all(type(number) in _NUMBERS for number in step):
                raise RejectError("bad_schema", f"`values` holds something else than numbers; {expected}")
        return steps

    def _of_fields(self, fields: Sequence[FieldPath], found: Any) -> list[Any]:
        step = []
        for field in fields:
            number = field.find(found)
            if type(number) not in _NUMBERS:
                raise RejectError("bad_schema", no_number(field.name, field.way(found), None if number is ABSENT else number, found))
            step.append(number)
        return step


def _double(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
