"""What this instance knows of one sensor, as of the last commit.

Asks the loop, and never reads an object of the loop by itself: any thread may call it. Knows nothing about HTTP or JSON.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from processor.app.sensor_form import SensorForm
from processor.engine import Engine
from processor.kafka.group import Owner
from processor.loop.inquiries import Inquiries
from processor.loop.recent_readings import Piece, Reading, RecentReadings
from processor.partitions import Partitions
from processor.slots.rows import Rows

OWNERS_S = 10.0  # as long an answer of the group is repeated
HIGHEST_OVER_S = 60.0
HIGHEST_OF = 4096  # readings, among which the sensors with the highest residuals are looked for


class Seat(NamedTuple):
    """A sensor's state in one partition, as of its committed offset. slot: None if it is parked. row: one row."""

    partition: int
    committed: int
    slot: int | None
    row: Rows


class Look(NamedTuple):
    """seats: one for each partition that has the sensor, the newest event first. not_live: partitions whose state is not there yet."""

    seats: tuple[Seat, ...]
    owned: tuple[int, ...]
    not_live: tuple[int, ...]


class Found(NamedTuple):
    """One of several sensors in a list: its newest reading, or the one with the highest residual."""

    partition: int
    key: bytes
    reading: Reading


class SensorBook:
    """partitions_total: of the input. ask_owners: which member of the group owns which partitions; None while the group does not say."""

    def __init__(
        self,
        form: SensorForm,
        partitions: Partitions,
        engine: Engine,
        inquiries: Inquiries,
        recent: RecentReadings,
        *,
        partitions_total: int,
        timeout_s: float,
        ask_owners: Callable[[], list[Owner] | None],
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.form, self.partitions_total = form, partitions_total
        self._partitions, self._engine, self._inquiries, self._recent = partitions, engine, inquiries, recent
        self._timeout_s, self._ask_owners, self._now_s, self._unix_s = timeout_s, ask_owners, now_s, unix_s
        self._owners_lock = threading.Lock()
        self._owners: tuple[float, list[Owner] | None] | None = None

    def look(self, key: bytes, partition: int | None = None) -> Look:
        """Raises inquiries.BusyError and TimeoutError."""
        return self._inquiries.ask(lambda: self._look(key, partition), self._timeout_s)

    def readings(self, key: bytes, partition: int | None = None) -> tuple[Look, list[Reading]]:
        """Also the sensor's last readings in its first seat, oldest first. Raises as look() does."""

        def asked() -> tuple[Look, list[Reading]]:
            look = self._look(key, partition)
            return look, self._recent.readings(look.seats[0].partition, key) if look.seats else []

        return self._inquiries.ask(asked, self._timeout_s)

    def last(self, seat: Seat) -> Reading | None:
        """The reading that the row has applied last; None if it is not in memory any more, or was not read by this process."""
        offset = seat.row.applied[0]
        for piece in reversed(self._recent.logged()):
            found = np.flatnonzero((piece.offset == offset) & (piece.partition == seat.partition))
            if len(found):
                return piece.reading(int(found[0]))
        return None

    def highest(self, limit: int) -> list[Found]:
        """The sensors with the highest residuals of the last HIGHEST_OVER_S, highest first; without residuals, the newest sensors."""
        pieces = [piece for piece in self._recent.logged() if piece.committed_s >= self._unix_s() - HIGHEST_OVER_S]
        if self.form.forecasts:
            return _distinct(_by_residual(pieces), limit)
        return _distinct(_newest(pieces), limit)

    def find(self, part: bytes, limit: int) -> list[Found]:
        """Sensors whose name contains this, of those that have reported lately, newest first."""
        return _distinct(_newest(self._recent.logged(), part), limit)

    def logged(self) -> tuple[int, float]:
        """How many readings are in memory, and for how many seconds they reach back."""
        pieces = self._recent.logged()
        return sum(map(len, pieces)), max(0.0, self._unix_s() - pieces[0].committed_s) if pieces else 0.0

    def owners(self) -> list[Owner] | None:
        """The members of the group, at most OWNERS_S old; None while the group does not say."""
        with self._owners_lock:
            if self._owners is None or self._now_s() - self._owners[0] > OWNERS_S:
                self._owners = self._now_s(), self._ask_owners()
            return self._owners[1]

    def _look(self, key: bytes, wanted: int | None) -> Look:
        """On the loop's thread, at a commit boundary."""
        seats, not_live = list[Seat](), list[int]()
        for number, partition in self._partitions.items():
            if wanted is not None and number != wanted:
                continue
            if not partition.live:
                not_live.append(number)
            elif found := self._engine.row(number, key):
                seats.append(Seat(number, partition.committed.offset, *found))
        seats.sort(key=lambda seat: int(seat.row.event_ms[0]), reverse=True)
        return Look(tuple(seats), tuple(sorted(self._partitions)), tuple(sorted(not_live)))


def _by_residual(pieces: list[Piece]) -> Iterator[Found]:
    """The readings with the highest residuals, highest first."""
    if not pieces:
        return
    residual = np.nan_to_num(np.concatenate([piece.residual for piece in pieces]), nan=-1.0)
    ends = np.cumsum([len(piece) for piece in pieces])
    highest = np.argpartition(residual, max(0, len(residual) - HIGHEST_OF))[-HIGHEST_OF:]
    for i in highest[np.argsort(-residual[highest], kind="stable")].tolist():
        at = int(np.searchsorted(ends, i, side="right"))
        if residual[i] >= 0:
            yield _found(pieces[at], i - int(ends[at]) + len(pieces[at]))


def _newest(pieces: list[Piece], part: bytes = b"") -> Iterator[Found]:
    """The newest reading of each sensor whose name contains this, the newest piece first. Compares each name once."""
    seen = set[bytes]()
    for piece in reversed(pieces):
        new = set(piece.key) - seen
        seen |= new
        for key in [key for key in new if part in key]:
            yield _found(piece, len(piece) - 1 - piece.key[::-1].index(key))


def _found(piece: Piece, i: int) -> Found:
    return Found(int(piece.partition[i]), piece.key[i], piece.reading(i))


def _distinct(found: Iterator[Found], limit: int) -> list[Found]:
    """The first of each sensor, at most `limit` of them."""
    kept: dict[tuple[int, bytes], Found] = {}
    for one in found:
        kept.setdefault((one.partition, one.key), one)
        if len(kept) >= limit:
            break
    return list(kept.values())
