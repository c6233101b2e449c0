"""JSON records of one shape, parsed many at a time: joined by newlines, in one call of the parser.

Owns the proof that no record passes for two, or two for one. Names no fault: what is not plainly in order is None, and is read one by one
(json_records).
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

NEWLINE, BRACE, BRACKET = b"\n{["


class JsonLines:
    """
    decoder   of a struct that has at least `braces` objects and `brackets` lists in each record, its own braces among them
    """

    def __init__(self, decoder: Any, *, braces: int, brackets: int) -> None:
        self._decoder, self._braces, self._brackets = decoder, braces, brackets

    def read(self, values: Sequence[bytes | None]) -> list[Any] | None:
        """One struct for each value; None where one of them has to be read by itself.

        The parser takes newlines for any other space, so a line is no record to it. But no record has fewer braces than these, and each
        line begins with one and has as many: so the i-th record begins and ends in the i-th line.
        """
        lines = len(values)
        try:
            text = b"\n".join(values)  # type: ignore[arg-type]
        except TypeError:  # a null value
            return None
        if not text.isascii() and not _is_utf8(text):
            return None
        characters = np.frombuffer(text, np.uint8)
        newlines, braces = np.flatnonzero(characters == NEWLINE), np.flatnonzero(characters == BRACE)
        if len(newlines) != lines - 1 or len(braces) != lines * self._braces:
            return None
        first = braces[:: self._braces]
        if first[0] != 0 or (first[1:] != newlines + 1).any():
            return None
        # No record has fewer brackets either, so none nests deeper than its struct does.
        if np.count_nonzero(characters == BRACKET) != lines * self._brackets:
            return None
        try:
            found: list[Any] = self._decoder.decode_lines(text)
        except msgspec.DecodeError:
            return None
        return found if len(found) == lines else None


def _is_utf8(text: bytes) -> bool:
    """The decoder does not look into fields that it passes over."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class Matrix:
    """Rows of F floats as an array: through bytes in half the time that NumPy takes for Python's numbers."""

    def __init__(self, features: int) -> None:
        self._features, self._pack = features, struct.Struct(f"{features}d").pack

    def of(self, rows: Iterable[Iterable[float]]) -> NDArray[np.float64]:
        """float64 [rows, F]"""
        return np.frombuffer(b"".join(starmap(self._pack, rows)), np.float64).reshape(-1, self._features)
