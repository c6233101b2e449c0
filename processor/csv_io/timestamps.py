"""Timestamps in a CSV: text to Unix milliseconds, in one form for the whole file, decided from its first rows.

Responsible for telling which form a column has, and for refusing whatever could mean two things: a wrong month is found by
nobody. Not responsible for what a timestamp in a record may look like: that is the codec's, which gets milliseconds.
"""

import datetime
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from processor.errors import ConfigurationError

# How many milliseconds a unit has.
UNITS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("1e-3"), "ns": Decimal("1e-6")}
# From 1990 to 2100 a number fits one unit only; outside it could be a counter, or a date written as digits.
PLAUSIBLE_MS = (Decimal(631_152_000_000), Decimal(4_102_444_800_000))
# Times that milliseconds in a double hold exactly: what the codec takes.
MS_MAX = 2**53
EPOCH = datetime.datetime(1970, 1, 1)
MILLISECOND = datetime.timedelta(milliseconds=1)

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(
    r"(?P<a>\d{1,4})(?P<mark>[-/.])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{1,4})"
    r"(?:[T, ]\s*(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<half>[AP]\.?M\.?)?)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?",
    re.ASCII | re.IGNORECASE,
)

FORMS = "Unix time between 1990 and 2100 in s, ms, us or ns, or a date such as 2024-01-31 13:45:00, 31.01.2024 13:45 or 01/31/2024 1:45 PM"
FORMAT_OPTION = "describe them with --timestamp-format, for instance '%d/%m/%Y %H:%M:%S'"


class Timestamps(NamedTuple):
    """parse: a cell's text to Unix milliseconds; raises ValueError. described: the form, for people."""

    parse: Callable[[str], int]
    described: str


def decide(samples: Sequence[str], *, unit: str = "auto", strptime: str | None = None) -> Timestamps:
    """The form of a column that begins with these cells. Raises ConfigurationError if it is none, or could be several."""
    texts = [text for text in samples if text]
    if strptime is not None:
        return _by_format(texts, strptime)
    if unit != "auto":
        return _by_unit(unit)
    for text in texts:
        if _NUMBER.fullmatch(text):
            return _by_unit(_unit_of(texts))
        if _DATE.fullmatch(text) and _year_place(text):
            return _by_date(texts)
    if texts:
        raise ConfigurationError(f"found the timestamp {texts[0][:40]!r}", expected=FORMS, do=FORMAT_OPTION)
    return _by_date([])  # none in the first rows: whatever comes must be year first


# Numbers.


def _by_unit(unit: str) -> Timestamps:
    factor = UNITS[unit]

    def parse(text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"expected a number of {unit}, as in the rows before")
        ms = Decimal(text.replace(",", ".")) * factor
        if abs(ms) > MS_MAX:
            raise ValueError(f"expected Unix time in {unit}")
        return math.floor(ms)

    return Timestamps(parse, f"Unix time in {unit}")


def _unit_of(texts: Sequence[str]) -> str:
    """By the first number that can be one. A file has one unit: a later number does not change it."""
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    for text in numbers:
        number = Decimal(text.replace(",", "."))
        for unit, factor in UNITS.items():
            if PLAUSIBLE_MS[0] <= number * factor <= PLAUSIBLE_MS[1]:
                return unit
    raise ConfigurationError(
        f"found the timestamp {numbers[0][:40]}, which is no Unix time between 1990 and 2100 in any unit",
        expected=FORMS,
        do="name the unit with --timestamp-unit s, ms, us or ns (a counter has one too), or " + FORMAT_OPTION,
    )


# Dates.


def _year_place(text: str) -> str | None:
    """'first', 'last', or None for a text that is no date, or one whose year has two digits."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    if len(found["a"]) == 4 and len(found["c"]) <= 2:
        return "first"
    return "last" if len(found["c"]) == 4 and len(found["a"]) <= 2 else None


def _by_date(texts: Sequence[str]) -> Timestamps:
    order = _order_of(texts)

    def parse(text: str) -> int:
        found = _DATE.fullmatch(text)
        place = _year_place(text)
        if found is None or place is None:
            raise ValueError("expected a date and time, as in the rows before")
        if place == "first":
            year, month, day = found["a"], found["b"], found["c"]
        elif order == "day first" or found["mark"] == ".":
            day, month, year = found["a"], found["b"], found["c"]
        elif order == "month first":
            month, day, year = found["a"], found["b"], found["c"]
        else:
            raise ValueError("expected the year first, as in the rows before")
        return _unix_ms(int(year), int(month), int(day), found)

    return Timestamps(parse, f"dates with the {order}, in UTC where they name no zone")


def _order_of(texts: Sequence[str]) -> str:
    """'year first', 'day first' or 'month first'; a day above 12 tells the last two apart."""
    dates = [text for text in texts if _year_place(text) == "last"]
    marked = [found for text in dates if (found := _DATE.fullmatch(text)) and found["mark"] != "."]
    if not marked:
        return "day first" if dates else "year first"  # with dots it is the day: 31.01.2024
    first, second = (max(int(found[place]) for found in marked) for place in "ab")
    if first > 12 >= second:
        return "day first"
    if second > 12 >= first:
        return "month first"
    what = "can begin with the day or with the month" if first <= 12 else "begin with the day here and with the month there"
    raise ConfigurationError(
        f"dates such as {marked[0].string[:40]} {what}",
        expected="a day above 12 in the first 1,000 rows that tells",
        do="say which with --timestamp-format, for instance '%d/%m/%Y %H:%M:%S' or '%m/%d/%Y %I:%M %p'",
    )


def _unix_ms(year: int, month: int, day: int, found: re.Match[str]) -> int:
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    if found["half"]:
        if not 1 <= hour <= 12:
            raise ValueError("expected an hour from 1 to 12 with AM or PM")
        hour = hour % 12 + (12 if found["half"][0] in "Pp" else 0)
    when = datetime.datetime(year, month, day, hour, minute, second)
    fraction_ms = int((found["fraction"] or "0").ljust(3, "0")[:3])
    return (when - EPOCH) // MILLISECOND + fraction_ms - _zone_ms(found["zone"])


def _zone_ms(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[3:].lstrip(":") or 0)
    return (-minutes if zone[0] == "-" else minutes) * 60_000


def _by_format(texts: Sequence[str], form: str) -> Timestamps:
    def parse(text: str) -> int:
        try:
            when = datetime.datetime.strptime(text, form)
            naive = when.astimezone(datetime.UTC).replace(tzinfo=None) if when.tzinfo else when
        except (ValueError, OverflowError, re.error):
            raise ValueError(f"expected the form {form}") from None
        return (naive - EPOCH) // MILLISECOND

    if texts and not any(_fits(parse, text) for text in texts):
        raise ConfigurationError(
            f"found the timestamp {texts[0][:40]!r}", expected=f"the form {form}", do="correct --timestamp-format (Python's strptime)"
        )
    return Timestamps(parse, f"of the form {form}, in UTC where they name no zone")


def _fits(parse: Callable[[str], int], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
