"""The latest committed readings of all sensors with their predictions, for people who look at one of them.

Owns a log in memory, bounded in bytes: the oldest readings are dropped. Takes part in the transaction, so that the log holds only what
was committed. Sensors that somebody watches also keep their last READINGS_MAX readings, which outlast the log. A replay adds nothing.

The loop's thread writes, and `logged()` may be called by any thread: the pieces of the log are immutable.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processor.records import Applied, Batch

BYTES_MAX = 64_000_000
READINGS_MAX = 500
WATCHED_MAX = 16
WATCHED_S = 600.0  # after the last question
JOINED_MAX = 1024  # readings of a small piece, which the next commit adds to
KEY_BYTES = 41  # of a key as a Python object and the reference to it, beside its own bytes


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """n records with an output, in the order of their application. Arrays must not be changed.

    committed_s  Unix time of the newest commit in it
    x            each record's last reading as the model read it, float32 [n, F]
    y            its prediction as the model gave it, float32 [n, O]; meaningless where `filling`
    residual     float32 [n], NaN if there is none
    The rest is as of records.Batch and records.Applied, n each.
    """

    committed_s: float
    key: tuple[bytes, ...]
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    event_ms: NDArray[np.int64]
    steps: NDArray[np.int64]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    residual: NDArray[np.float32]
    warming: NDArray[np.bool_]
    filling: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def size_bytes(self) -> int:
        return KEY_BYTES * len(self.key) + sum(map(len, self.key)) + sum(int(getattr(self, name).nbytes) for name in _ARRAYS)

    def of(self, sensor: tuple[int, bytes]) -> Iterator[int]:
        """The records of a sensor, oldest first."""
        partition, key = sensor
        at = -1
        try:
            while True:
                at = self.key.index(key, at + 1)
                if self.partition[at] == partition:
                    yield at
        except ValueError:
            return

    def without(self, partition: int) -> "Piece":
        kept = np.flatnonzero(self.partition != partition)
        if len(kept) == len(self):
            return self
        keys = tuple(self.key[i] for i in kept.tolist())
        return Piece(self.committed_s, keys, *(getattr(self, name)[kept] for name in _ARRAYS))

    def reading(self, i: int) -> "Reading":
        return Reading(*(getattr(self, name)[i] for name in Reading._fields))


_ARRAYS = tuple(name for name in Piece.__slots__ if name not in ("committed_s", "key"))


class Reading(NamedTuple):
    """One record of a Piece."""

    offset: np.int64
    event_ms: np.int64
    steps: np.int64
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    residual: np.float32
    warming: np.bool_
    filling: np.bool_


@dataclass(slots=True)
class _Watched:
    readings: deque[Reading]
    until_s: float


class RecentReadings:
    """A participant of the transaction. now_s: of the clock that only goes forward; unix_s: of the wall."""

    def __init__(
        self, bytes_max: int = BYTES_MAX, *, now_s: Callable[[], float] = time.monotonic, unix_s: Callable[[], float] = time.time
    ) -> None:
        self._bytes_max, self._now_s, self._unix_s = bytes_max, now_s, unix_s
        self._open: list[Piece] = []
        self._log: deque[Piece] = deque()
        self._bytes = 0
        self._watched: OrderedDict[tuple[int, bytes], _Watched] = OrderedDict()

    def applied(self, batch: Batch, applied: Applied) -> None:
        if len(batch):
            self._open.append(_piece(batch, applied))

    def commit(self) -> None:
        committed, self._open = [piece for piece in self._open if len(piece)], []
        if not committed:
            return
        new = _joined(committed, self._unix_s())
        self._extend_watched(new)
        self._bytes += new.size_bytes
        if self._log and len(self._log[-1]) < JOINED_MAX:
            self._log[-1] = _joined([self._log[-1], new], new.committed_s)
        else:
            self._log.append(new)
        while self._bytes > self._bytes_max and len(self._log) > 1:
            self._bytes -= self._log.popleft().size_bytes

    def abort(self) -> None:
        self._open = []

    def logged(self) -> list[Piece]:
        """Oldest first. Any thread may call it."""
        return list(self._log)  # one step of the interpreter

    def readings(self, partition: int, key: bytes) -> list[Reading]:
        """A sensor's last READINGS_MAX readings, oldest first, as far as they are known; from now on they are kept. The loop's thread."""
        sensor = partition, key
        watched = self._watched.pop(sensor, None)
        if watched is None:
            watched = _Watched(deque(self._found(sensor), READINGS_MAX), 0.0)
            while len(self._watched) >= WATCHED_MAX:
                self._watched.popitem(last=False)
        watched.until_s = self._now_s() + WATCHED_S
        self._watched[sensor] = watched  # the one that was asked for last is the last
        return list(watched.readings)

    def drop(self, partition: int) -> None:
        """Forgets a partition that another instance continues: its readings would have a gap if it came back."""
        for sensor in [sensor for sensor in self._watched if sensor[0] == partition]:
            del self._watched[sensor]
        self._open = [piece.without(partition) for piece in self._open]
        self._log = deque(kept for piece in self._log if len(kept := piece.without(partition)))
        self._bytes = sum(piece.size_bytes for piece in self._log)

    def _found(self, sensor: tuple[int, bytes]) -> list[Reading]:
        newest_first: list[Reading] = []
        for piece in reversed(self._log):
            newest_first += [piece.reading(i) for i in reversed(list(piece.of(sensor)))]
            if len(newest_first) >= READINGS_MAX:
                break
        return newest_first[READINGS_MAX - 1 :: -1] if len(newest_first) >= READINGS_MAX else newest_first[::-1]

    def _extend_watched(self, new: Piece) -> None:
        now_s = self._now_s()
        for sensor, watched in list(self._watched.items()):
            if now_s > watched.until_s:
                del self._watched[sensor]
            else:
                watched.readings.extend(new.reading(i) for i in new.of(sensor))


def _piece(batch: Batch, applied: Applied) -> Piece:
    published = applied.published(batch)
    partition = np.array(batch.partition, np.int32)
    if published.all() and len(applied.last) == len(batch.x):  # the common case: nothing is copied
        columns = (batch.offset, batch.event_ms, applied.steps, batch.x, applied.y, applied.residual, applied.warming, applied.filling)
        return Piece(0.0, tuple(batch.key), partition, *columns)
    which = np.flatnonzero(published)
    last = applied.last[which]
    return Piece(
        0.0,
        tuple(batch.key[i] for i in which.tolist()),
        partition[which],
        batch.offset[which],
        batch.event_ms[which],
        applied.steps[which],
        batch.x[last],
        applied.y[last],
        applied.residual[which],
        applied.warming[which],
        applied.filling[which],
    )


def _joined(pieces: list[Piece], committed_s: float) -> Piece:
    if len(pieces) == 1:
        return replace(pieces[0], committed_s=committed_s)
    keys = tuple(chain.from_iterable(piece.key for piece in pieces))
    return Piece(committed_s, keys, *(np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS))
