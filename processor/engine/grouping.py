"""Groups a batch by sensor: each sensor's records in order, and its row in the table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.records import Batch
from processor.slots.rows import Indices, Rows
from processor.slots.table import ABSENT, Sensor, Table

# Sensors without a row get distinct locations past every real one.
UNSEATED = 1 << 40


@dataclass(slots=True)
class Group:
    """A part of a batch by sensor: its records sorted by location, in offset order within a sensor."""

    record: Indices  # index in the batch, [n]
    first: Indices  # position of each sensor's first record, [G]
    group: Indices  # the sensor of each record, [n]
    sensors: list[Sensor]  # [G]
    location: Indices  # ABSENT if there is no row, [G]
    generation: NDArray[np.int64]  # [G]
    stored: Rows  # [G]

    @property
    def exists(self) -> NDArray[np.bool_]:
        """Whether each sensor has a state. A row without steps only records that the sensor was deleted."""
        exists: NDArray[np.bool_] = (self.location != ABSENT) & (self.stored.steps > 0)
        return exists

    def without(self, left_out: NDArray[np.bool_]) -> tuple["Group", Indices]:
        """The group without these records and without sensors that then have none; also returns which sensors are left."""
        group = self.group[~left_out]
        left, first, group = np.unique(group, return_index=True, return_inverse=True)
        sensors = [self.sensors[i] for i in left.tolist()] if self.sensors else []
        record = self.record[~left_out]
        return Group(record, first, group, sensors, self.location[left], self.generation[left], self.stored.take(left)), left


def parts(batch: Batch, slots: int) -> list[Indices]:
    """Divides the batch into runs of records with no more sensors than there are slots."""
    n = len(batch)
    if n <= slots:
        return [np.arange(n)] if n else []
    parts, first, named = [], 0, set[Sensor]()
    for i, sensor in enumerate(zip(batch.partition, batch.key, strict=True)):
        if sensor not in named:
            if len(named) == slots:
                parts.append(np.arange(first, i))
                first = i
                named = set()
            named.add(sensor)
    parts.append(np.arange(first, n))
    return parts


def grouped(table: Table, batch: Batch, part: Indices, *, replay: bool) -> Group:
    """Groups a part of the batch by sensor. replay: skip records that the rows have already applied."""
    a, b = (int(part[0]), int(part[-1]) + 1) if len(part) else (0, 0)
    partitions, keys = batch.partition[a:b], batch.key[a:b]
    locations = table.locate(partitions, keys)
    if replay:
        fresh = (locations == ABSENT) | (batch.offset[part] > table.read(locations).applied)
        part, locations = part[fresh], locations[fresh]
    fresh_ids: dict[Sensor, int] = {}
    identity = locations
    absent = np.flatnonzero(locations == ABSENT)
    if len(absent):
        identity = locations.copy()
        for i, at in zip(absent.tolist(), part[absent].tolist(), strict=True):
            sensor = (batch.partition[at], batch.key[at])
            identity[i] = UNSEATED + fresh_ids.setdefault(sensor, len(fresh_ids))
    order = np.argsort(identity, kind="stable")
    identity = identity[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = identity[1:] != identity[:-1]
    first = np.flatnonzero(new)
    record = part[order]
    location = locations[order[first]]
    return Group(
        record=record,
        first=first,
        group=np.cumsum(new) - 1,
        sensors=[(batch.partition[i], batch.key[i]) for i in record[first].tolist()],
        location=location,
        generation=table.generations(location),
        stored=table.read(location),
    )
