"""Where each sensor is: in a slot, parked, or nowhere. The source of truth for every row between two commits.

A sensor's location is one number: a slot (0 <= location < slots), or a parking place (slots + place). Rows never move while their sensor
is resident; a slot that is reassigned gets a new generation, so that a stale reference raises an error and never reads another sensor's
state. When the slots run out, the least recently used sensors are parked.

Knows nothing about models, batches or transactions.
"""

from collections.abc import Callable, Iterable
from itertools import groupby, islice, repeat

import numpy as np
from numpy.typing import NDArray

from processor.slots.parking import Parking
from processor.slots.rows import Indices, Rows

ABSENT = -1
Sensor = tuple[int, bytes]  # partition, key
NOBODY: Sensor = (-1, b"")
# Finding the least recently used sensors scans all slots, so 1/PARKED_TOGETHER of them is freed at once, to spare later turns the scan.
PARKED_TOGETHER = 64


class StaleSlotError(RuntimeError):
    """A slot was written through a stale reference, from before it was reassigned: a bug, never bad input."""


class Table:
    def __init__(self, slots: int, width: int, parking: Parking | None = None) -> None:
        """parking: must have the same width; None: parks in memory."""
        self.slots = slots
        self.rows = Rows.zeros(slots, width)
        self.parking = Parking(width) if parking is None else parking
        self.generation: NDArray[np.int64] = np.zeros(slots, np.int64)
        self.evictions = 0
        self._width = width
        self._index: dict[int, dict[bytes, int]] = {}
        self._forgotten: dict[int, set[bytes]] = {}
        self._sensor: list[Sensor] = [NOBODY] * slots
        self._used: NDArray[np.int64] = np.zeros(slots, np.int64)
        self._turn = 0
        self._free = list(range(slots - 1, -1, -1))

    @property
    def resident(self) -> int:
        return self.slots - len(self._free)

    def sensors(self, partition: int) -> int:
        return len(self._index.get(partition, ()))

    def locate(self, partitions: list[int], keys: list[bytes]) -> Indices:
        """Locations of these sensors, int64 [n]; ABSENT for those without a row. Fast if sensors of a partition are adjacent."""
        found = np.empty(len(keys), np.int64)
        first = 0
        for partition, run in groupby(partitions):
            last = first + len(list(run))
            known = self._index.get(partition, {})
            found[first:last] = np.fromiter(map(known.get, keys[first:last], repeat(ABSENT)), np.int64, last - first)
            first = last
        return found

    def generations(self, locations: Indices) -> NDArray[np.int64]:
        """The generations that write() requires for these locations, int64 [n]; 0 for a location that is not a slot."""
        out = np.zeros(len(locations), np.int64)
        here = (locations >= 0) & (locations < self.slots)
        out[here] = self.generation[locations[here]]
        return out

    def read(self, locations: Indices) -> Rows:
        """A copy of the rows at these locations, in slots or parked; zeros where ABSENT."""
        in_slot = (locations >= 0) & (locations < self.slots)
        if in_slot.all():
            return self.rows.take(locations)
        out = Rows.zeros(len(locations), self._width)
        out.saved_in[:] = -1
        seated, parked = np.flatnonzero(in_slot), np.flatnonzero(locations >= self.slots)
        out.put(seated, self.rows.take(locations[seated]))
        out.put(parked, self.parking.read(locations[parked] - self.slots))
        return out

    def mark_saved(self, locations: Indices, transaction: int) -> None:
        """Records that the transaction's undo log holds the first value of the sensors at these locations."""
        in_slot = locations < self.slots
        self.rows.saved_in[locations[in_slot]] = transaction
        self.parking.mark_saved(locations[~in_slot] - self.slots, transaction)

    def write(self, sensors: list[Sensor], locations: Indices, generations: NDArray[np.int64], rows: Rows) -> None:
        """Writes the rows of distinct sensors, at most as many as there are slots; gives a slot to those that have none.

        Raises StaleSlotError if a slot was reassigned since its generation was read.
        """
        in_slot = (locations >= 0) & (locations < self.slots)
        if (self.generation[locations[in_slot]] != generations[in_slot]).any():
            raise StaleSlotError("a slot changed hands between being read and being written")
        self._turn += 1
        self._used[locations[in_slot]] = self._turn
        if not in_slot.all():
            locations = locations.copy()
            self._seat(sensors, locations, np.flatnonzero(~in_slot))
        self.rows.put(locations, rows)

    def forget(self, sensors: Iterable[Sensor]) -> None:
        """Removes the sensors' rows; ignores sensors that have none."""
        places: list[int] = []
        for partition, key in sensors:
            location = self._index.get(partition, {}).pop(key, ABSENT)
            if location != ABSENT:
                self._forgotten.setdefault(partition, set()).add(key)
            if location >= self.slots:
                places.append(location - self.slots)
            elif location != ABSENT:
                self._release(location)
        self.parking.free(np.array(places, np.int64))

    def drop(self, partition: int) -> None:
        """Removes every sensor of a partition."""
        self.forget([(partition, key) for key in self._index.get(partition, ())])
        self._index.pop(partition, None)
        self._forgotten.pop(partition, None)

    def forget_older(self, partition: int, event_ms: int, position: int, keep: Callable[[Rows], NDArray[np.bool_]] | None = None) -> int:
        """Removes the sensors whose event time and applied offset are both below these values; returns the number.

        keep: which of these rows, bool [n], are to stay all the same.
        """
        index = self._index.get(partition, {})
        locations = np.fromiter(index.values(), np.int64, len(index))
        events, applied = self._times(locations)
        old = (events < event_ms) & (applied < position)
        if keep is not None and old.any():
            old[old] = ~keep(self.read(locations[old]))
        if not old.any():
            return 0
        self.forget([(partition, key) for key, gone in zip(index, old.tolist(), strict=True) if gone])
        return int(old.sum())

    def older(self, partition: int, event_ms: int) -> int:
        """The number of a partition's sensors whose latest event is before this time."""
        index = self._index.get(partition, {})
        return int((self._times(np.fromiter(index.values(), np.int64, len(index)))[0] < event_ms).sum())

    def split(self, partition: int, keys_max: int) -> dict[bytes, list[int]]:
        """Sensors of this partition that other partitions also have, with all of these. Checks only its oldest and newest sensors."""
        index = self._index.get(partition, {})
        keys = [*islice(index, keys_max // 2), *islice(reversed(index), keys_max // 2)]
        others = [(number, known) for number, known in self._index.items() if number != partition]
        found = {key: [number for number, known in others if key in known] for key in keys}
        return {key: sorted([partition, *numbers]) for key, numbers in found.items() if numbers}

    def copy(self, partition: int, since: int | None = None) -> tuple[list[bytes], Rows]:
        """A partition's sensors and a copy of their rows, in the same order: all, or those that applied a record at `since` or later."""
        index = self._index.get(partition, {})
        locations = np.fromiter(index.values(), np.int64, len(index))
        if since is None:
            return list(index), self.read(locations)
        changed = self._times(locations)[1] >= since
        return [key for key, wanted in zip(index, changed.tolist(), strict=True) if wanted], self.read(locations[changed])

    def take_forgotten(self, partition: int) -> list[bytes]:
        """The sensors that were removed since the last call and have not come back."""
        index = self._index.get(partition, {})
        return [key for key in self._forgotten.pop(partition, ()) if key not in index]

    def _times(self, locations: Indices) -> tuple[Indices, Indices]:
        """event_ms and applied of the rows at these locations, int64 [n] each, without copying the rows."""
        in_slot = locations < self.slots
        slots = locations[in_slot]
        events, applied = np.zeros(len(locations), np.int64), np.zeros(len(locations), np.int64)
        events[in_slot], applied[in_slot] = self.rows.event_ms[slots], self.rows.applied[slots]
        events[~in_slot], applied[~in_slot] = self.parking.times(locations[~in_slot] - self.slots)
        return events, applied

    def load(self, partition: int, keys: list[bytes], rows: Rows) -> None:
        """Adds distinct, new sensors with these rows: in free slots as long as there are any, then parked."""
        seated = min(len(keys), len(self._free))
        cut = len(self._free) - seated
        slots = self._free[cut:]
        del self._free[cut:]
        for slot, key in zip(slots, keys, strict=False):
            self._sensor[slot] = (partition, key)
        self.rows.put(np.array(slots, np.int64), rows.take(slice(0, seated)))
        places = self.parking.add(rows.take(slice(seated, None))) + self.slots
        self._index.setdefault(partition, {}).update(zip(keys, slots + places.tolist(), strict=True))

    def restore(self, sensors: list[Sensor], rows: Rows) -> None:
        """Restores the given rows of distinct sensors, wherever these sensors are now, if anywhere."""
        locations = self.locate([p for p, _ in sensors], [k for _, k in sensors])
        in_slot = np.flatnonzero((locations >= 0) & (locations < self.slots))
        self.rows.put(locations[in_slot], rows.take(in_slot))
        elsewhere = np.flatnonzero((locations < 0) | (locations >= self.slots))
        gone = [sensors[i] for i in elsewhere.tolist()]
        self.forget(gone)
        places = self.parking.add(rows.take(elsewhere)) + self.slots
        for (partition, key), place in zip(gone, places.tolist(), strict=True):
            self._index.setdefault(partition, {})[key] = place

    def _seat(self, sensors: list[Sensor], locations: Indices, which: Indices) -> None:
        """Gives each sensor at `which` a slot, and writes it to `locations`."""
        parked = locations[which][locations[which] >= self.slots] - self.slots
        self._make_room(len(which))
        cut = len(self._free) - len(which)
        slots = self._free[cut:]
        del self._free[cut:]
        for i, slot in zip(which.tolist(), slots, strict=True):
            partition, key = sensor = sensors[i]
            self._sensor[slot] = sensor
            self._index.setdefault(partition, {})[key] = slot
        locations[which] = slots
        self._used[slots] = self._turn
        self.parking.free(parked)

    def _make_room(self, slots: int) -> None:
        """Parks the least recently used sensors until at least this many slots are free. Never parks sensors of this turn."""
        short = slots - len(self._free)
        if short <= 0:
            return
        # The turn of free slots is set to the latest, so that only occupied slots are chosen.
        self._used[self._free] = self._turn
        idle = int(np.count_nonzero(self._used < self._turn))
        if short > idle:
            raise ValueError(f"{slots} sensors need a slot at once, more than the {self.slots} slots hold beside the turn's own")
        several = min(max(short, self.slots // PARKED_TOGETHER), idle)
        chosen = np.argpartition(self._used, several - 1)[:several]
        places = self.parking.add(self.rows.take(chosen)) + self.slots
        for slot, place in zip(chosen.tolist(), places.tolist(), strict=True):
            partition, key = self._sensor[slot]
            self._index[partition][key] = place
            self._release(slot)
        self.evictions += several

    def _release(self, slot: int) -> None:
        self._sensor[slot] = NOBODY
        self.generation[slot] += 1
        self._free.append(slot)
