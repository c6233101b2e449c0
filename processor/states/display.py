"""Names, times and ages as the commands of `state` show them."""

import datetime
import os
import re

from processor.codec.encode import shown
from processor.settings import Settings, format_duration

_HEX = re.compile(r"0x((?:[0-9a-fA-F]{2})*)")


def keys_of(sensor: str) -> list[bytes]:
    """The keys that are shown by this name: its own bytes; of 0x and hex also the bytes that it says, if they are no UTF-8."""
    keys = [os.fsencode(sensor)]
    if named := _HEX.fullmatch(sensor):
        key = bytes.fromhex(named[1])
        if shown(key) == sensor.lower():
            keys.append(key)
    return keys


def age_said(settings: Settings) -> str:
    interval = format_duration(settings.checkpoint.interval)
    return f"as of the newest checkpoints: they are up to {interval} old (checkpoint.interval), and readings since then are not in them"


def as_time(event_ms: int) -> str:
    """UTC, to the millisecond; the number where no calendar has it."""
    try:
        when = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=event_ms)
    except OverflowError:
        return str(event_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """A sensor may be called anything, also what a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
