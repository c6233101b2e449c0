"""A reading's time: from the timestamp in a record's value, or the record's own, to Unix milliseconds.

Decides from the record alone, so that a replay has the same times. Where a timestamp stands in the value is the format's.
"""

import datetime
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from processor.codec.reject import RejectError

# Times that milliseconds in a double hold exactly; more than any clock will say.
TIMESTAMP_MS_MAX = 2**53
# No clock and no backlog is that far off: a timestamp that is has another unit. Ten years of 365.25 days.
DISTANCE_MAX_MS = 315_576_000_000
YEAR_MS = DISTANCE_MAX_MS // 10
DIGITS_MAX = 40  # of a number written as text; more is no time in any unit
NUMBER_MAX = 10**21  # more is no time in ns

UTC = datetime.UTC
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
EXPECTED = "expected Unix milliseconds or ISO 8601"
UNITS = ("s", "ms", "us", "ns")

_DIGITS = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
# One of a unit in milliseconds: (numerator, denominator), exact for whole numbers of any size.
_UNITS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}


def event_ms(timestamp: float | str | None, record_ms: int | None, *, ahead_max_ms: int, unit_given: bool = False, unit: str = "ms") -> int:
    """Unix milliseconds, rounded down.

    timestamp   what the value says, None: the record's own time counts
    record_ms   the record's own time, None: it has none
    unit_given  the sender names the unit, so a time long past is meant (a history that is fed today)
    unit        of numbers and of text of digits, one of UNITS. Of a number that is not whole its shortest decimals count, not the
                double's own: 1700000000.123 s are 1700000000123 ms

    Raises RejectError (bad_timestamp) for what is no time, for a time more than ahead_max_ms ahead of the record's own, and for one
    more than ten years from it.
    """
    if timestamp is None:
        if record_ms is None:
            raise RejectError("bad_timestamp", "neither the value nor the record has a timestamp")
        return record_ms
    if isinstance(timestamp, str) and not _DIGITS.fullmatch(timestamp):
        found, number = _iso_ms(timestamp), None
    else:
        number = _number(timestamp)
        in_ms = number if unit == "ms" else _in_ms(number, unit)
        if not -TIMESTAMP_MS_MAX <= in_ms <= TIMESTAMP_MS_MAX:
            why = _another_unit(number, record_ms, unit)
            raise RejectError("bad_timestamp", f"timestamp is {str(timestamp)[:40]}{why}; {_expected(unit)}")
        found = math.floor(in_ms)
    if record_ms is None:
        return found
    if not unit_given and abs(found - record_ms) > DISTANCE_MAX_MS:
        why = _another_unit(number, record_ms, unit) or f", {_distance(found, record_ms)}"
        told = f"timestamp is {str(timestamp)[:40]}{why}; {_expected(unit)}, at most 10 years from the record's own"
        raise RejectError("bad_timestamp", told)
    if found > record_ms + ahead_max_ms:
        ahead_s = (found - record_ms) / 1000
        told = f"{str(timestamp)[:40]} lies {ahead_s:.0f} s ahead of the record's own"
        raise RejectError("bad_timestamp", f"{told}; expected at most {ahead_max_ms / 1000:.0f} s (input.ahead_max)")
    return found


def plain(
    timestamps: Sequence[int | float | str | None] | NDArray[np.int64],
    record_ms: NDArray[np.int64],
    *,
    ahead_max_ms: int,
    unit_given: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64] | None:
    """event_ms() of many records that have a time of their own, int64 [n]; None where it would refuse one."""
    kinds = {int} if isinstance(timestamps, np.ndarray) else set(map(type, timestamps))
    if kinds == {type(None)}:
        return record_ms
    if kinds == {int} or kinds == {float}:
        numbers = np.array(timestamps)
        # Past 64 bits they are objects, or doubles; both are past the limit too.
        if numbers.dtype == object or not ((numbers >= -TIMESTAMP_MS_MAX) & (numbers <= TIMESTAMP_MS_MAX)).all():
            return None
        found: NDArray[np.int64] = np.floor(numbers).astype(np.int64)
        far = np.abs(found - record_ms) > DISTANCE_MAX_MS
        if (found > record_ms + ahead_max_ms).any() or (far if unit_given is None else far & ~unit_given).any():
            return None
        return found
    given = repeat(False) if unit_given is None else unit_given.tolist()
    try:
        times = [
            event_ms(timestamp, own_ms, ahead_max_ms=ahead_max_ms, unit_given=unit)
            for timestamp, own_ms, unit in zip(timestamps, record_ms.tolist(), given, strict=False)
        ]
    except RejectError:
        return None
    return np.array(times, np.int64)


def _iso_ms(text: str) -> int:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise RejectError("bad_timestamp", f"timestamp is {text[:40]!r}; {EXPECTED}") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - EPOCH) // datetime.timedelta(milliseconds=1)


def _number(timestamp: float | str) -> float:
    if not isinstance(timestamp, str):
        return timestamp
    if len(timestamp) > DIGITS_MAX:
        return math.inf
    return float(timestamp) if "." in timestamp else int(timestamp)


def _in_ms(number: float, unit: str) -> float:
    """Whole milliseconds, rounded down; infinite for what is no time in any unit."""
    factor, divisor = _UNITS[unit]
    if isinstance(number, int):
        return number * factor // divisor
    return math.floor(Decimal(repr(number)) * factor / divisor) if abs(number) <= NUMBER_MAX else math.inf


def _expected(unit: str) -> str:
    return EXPECTED if unit == "ms" else f"expected Unix time in {unit} or ISO 8601 (input.timestamp_unit)"


def _another_unit(number: float | None, record_ms: int | None, given: str) -> str:
    """Which unit would bring the number within ten years of the record's own time, in words; empty for none."""
    if number is None or record_ms is None or abs(number) > NUMBER_MAX:
        return ""
    whole = math.floor(number)
    others = {unit: whole * factor // divisor for unit, (factor, divisor) in _UNITS.items() if unit != given}
    fits = next((unit for unit, in_ms in others.items() if abs(in_ms - record_ms) <= DISTANCE_MAX_MS), None)
    return f", which as Unix time in {fits} fits the record's own, and not in {given}" if fits else ""


def _distance(found: int, record_ms: int) -> str:
    return f"{abs(found - record_ms) / YEAR_MS:,.0f} years {'ahead of' if found > record_ms else 'before'} the record's own"
