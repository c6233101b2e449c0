"""Rows of sensors that have no slot: kept in memory, as many as there are, and given back bit for bit.

Knows places, not sensors: the table keeps which sensor is parked where.
"""

import numpy as np

from processor.slots.rows import Indices, Rows

# Growing by pieces never copies what is parked already, and an idle service holds no empty gigabytes.
PIECE_ROWS = 16_384


class Parking:
    def __init__(self, width: int) -> None:
        self._width = width
        self._pieces: list[Rows] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        """Rows parked now."""
        return len(self._pieces) * PIECE_ROWS - len(self._free)

    def add(self, rows: Rows) -> Indices:
        """Parks the rows; returns their places, int64 [n]."""
        while len(self._free) < len(rows):
            first = len(self._pieces) * PIECE_ROWS
            self._pieces.append(Rows.zeros(PIECE_ROWS, self._width))
            self._free.extend(range(first + PIECE_ROWS - 1, first - 1, -1))
        cut = len(self._free) - len(rows)
        places = np.array(self._free[cut:], np.int64)
        del self._free[cut:]
        for piece, inside, which in self._by_piece(places):
            piece.put(inside, rows.take(which))
        return places

    def read(self, places: Indices) -> Rows:
        """A copy of the rows at these places."""
        out = Rows.zeros(len(places), self._width)
        for piece, inside, which in self._by_piece(places):
            out.put(which, piece.take(inside))
        return out

    def times(self, places: Indices) -> tuple[Indices, Indices]:
        """event_ms and applied of the rows at these places, without their states."""
        event_ms, applied = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
        for piece, inside, which in self._by_piece(places):
            event_ms[which], applied[which] = piece.event_ms[inside], piece.applied[inside]
        return event_ms, applied

    def free(self, places: Indices) -> None:
        """Gives the places up. A piece that is empty keeps its memory: what was needed once is needed again."""
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
