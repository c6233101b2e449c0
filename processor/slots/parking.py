"""Stores the rows of sensors that have no slot, in any number, and returns them bit for bit.

Rows are in memory, or in memory with their states in a file: the other columns, 33 bytes a row, stay in memory, because each checkpoint
scans them. The file is a scratch file without a name: the system frees its space however the process ends, so there is nothing to clean
up or to confuse with the file of another process.

Knows places, not sensors: the table records which sensor is parked where.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processor.errors import ConfigurationError, SlotstreamError
from processor.slots.rows import Indices, Rows

# Growing in pieces never copies rows that are already parked, and an idle service allocates no unused gigabytes.
PIECE_ROWS = 16_384
PROBE_BYTES = 4096

States = NDArray[np.float32]


class StateFile:
    """States of one width, by place. Raises SlotstreamError if the disk fails; states written before that are unaffected."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError if no file can be written to the folder. The folder must exist, because it may be a mounted disk."""
        self._folder = folder
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)
            os.pwrite(self._descriptor, bytes(PROBE_BYTES), 0)
        except OSError as error:
            raise ConfigurationError(
                f"rows cannot be parked in {folder} ({error.strerror})",
                expected="a folder that is there, with room, that this process may write to (parking.path)",
                do="create it, mount its disk, make room, or correct its owner; or set parking.path to null, which parks in memory",
                see="states-cannot-be-parked",
            ) from error

    def write(self, places: Indices, states: States) -> None:
        """Writes float32 [n, W] to n distinct places."""
        order = np.argsort(places)
        for first, last in _runs(places[order]):
            self._write(int(places[order[first]]), np.ascontiguousarray(states[order[first:last]]))

    def read(self, places: Indices, width: int) -> States:
        """Reads float32 [n, W], in the order of the places."""
        order = np.argsort(places)
        found = np.empty((len(places), width), np.float32)
        for first, last in _runs(places[order]):
            self._read(int(places[order[first]]), found[first:last])
        states = np.empty_like(found)
        states[order] = found
        return states

    def _write(self, place: int, states: States) -> None:
        left, offset = _bytes_of(states), place * states.itemsize * states.shape[1]
        while len(left):
            try:
                written = os.pwrite(self._descriptor, left, offset)
            except OSError as error:
                raise self._failed("write", str(error.strerror)) from error
            left, offset = left[written:], offset + written

    def _read(self, place: int, states: States) -> None:
        left, offset = _bytes_of(states), place * states.itemsize * states.shape[1]
        while len(left):
            try:
                read = os.preadv(self._descriptor, [left], offset)
            except OSError as error:
                raise self._failed("read", str(error.strerror)) from error
            if not read:
                raise self._failed("read", "the file ends before it")
            left, offset = left[read:], offset + read

    def _failed(self, what: str, reason: str) -> SlotstreamError:
        return SlotstreamError(
            f"cannot {what} a parked row in {self._folder} ({reason})",
            expected="a disk with room for every sensor that has no slot (parking.path)",
            do="make room or repair the disk, then start again: nothing was lost, states come back from checkpoints and the input; "
            "or raise slots, or set parking.path to null",
            see="states-cannot-be-parked",
        )


class Parking:
    def __init__(self, width: int, file: StateFile | None = None) -> None:
        """file: stores the states; None: states are in memory."""
        self._width, self._file = width, file
        self._pieces: list[Rows] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        """The number of parked rows."""
        return len(self._pieces) * PIECE_ROWS - len(self._free)

    def add(self, rows: Rows) -> Indices:
        """Parks the rows; returns their places, int64 [n]."""
        while len(self._free) < len(rows):
            first = len(self._pieces) * PIECE_ROWS
            self._pieces.append(Rows.zeros(PIECE_ROWS, self._width if self._file is None else 0))
            self._free.extend(range(first + PIECE_ROWS - 1, first - 1, -1))
        cut = len(self._free) - len(rows)
        places = np.array(self._free[cut:], np.int64)
        if self._file is not None:
            self._file.write(places, rows.state)  # first, because it may fail
            rows = replace(rows, state=np.zeros((len(rows), 0), np.float32))
        del self._free[cut:]
        for piece, inside, which in self._by_piece(places):
            piece.put(inside, rows.take(which))
        return places

    def read(self, places: Indices) -> Rows:
        """A copy of the rows at these places."""
        out = Rows.zeros(len(places), self._width if self._file is None else 0)
        for piece, inside, which in self._by_piece(places):
            out.put(which, piece.take(inside))
        return out if self._file is None else replace(out, state=self._file.read(places, self._width))

    def times(self, places: Indices) -> tuple[Indices, Indices]:
        """event_ms and applied of the rows at these places, without reading their states."""
        event_ms, applied = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
        for piece, inside, which in self._by_piece(places):
            event_ms[which], applied[which] = piece.event_ms[inside], piece.applied[inside]
        return event_ms, applied

    def free(self, places: Indices) -> None:
        """Frees the places. An empty piece keeps its memory, because it will probably be needed again."""
        self._free.extend(places.tolist())

    def mark_saved(self, places: Indices, transaction: int) -> None:
        for piece, inside, _ in self._by_piece(places):
            piece.saved_in[inside] = transaction

    def _by_piece(self, places: Indices) -> list[tuple[Rows, Indices, Indices]]:
        pieces = places // PIECE_ROWS
        return [
            (self._pieces[p], places[which] % PIECE_ROWS, which)
            for p in np.unique(pieces).tolist()
            for which in [np.flatnonzero(pieces == p)]
        ]


def _bytes_of(states: States) -> memoryview:
    return states.reshape(-1).view(np.uint8).data


def _runs(places: Indices) -> Iterator[tuple[int, int]]:
    """Where runs of consecutive places begin and end in ascending places: each run is one system call."""
    if len(places):
        cuts = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
        yield from zip([0, *cuts], [*cuts, len(places)], strict=True)
