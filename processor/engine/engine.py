"""Readings in, predictions out: combines slots, ladder and undo log.

A batch is divided into sequences, each an unbroken run of one sensor's readings. A reset starts a new sequence from zeros, so that
sequences never wait for each other. They are laid out in tiles (slots.plan), stepped through the ladder (model.tiles), and their last
states are written back (slots.table).

For a given model, the result depends only on each sensor's readings and resets, not on batching, the number of slots, or parking. Not
thread-safe; the loop's thread owns it. Knows nothing about Kafka, bytes or clocks.
"""

from dataclasses import dataclass

import numpy as np

from processor.engine.grouping import Group, grouped, parts
from processor.engine.isolation import isolate
from processor.engine.shapes import Shapes
from processor.engine.stepping import Outcome, Stepper, Stepping
from processor.records import Applied, Batch
from processor.rules import Clock, Rules
from processor.slots.parking import Parking
from processor.slots.rows import Indices, Rows
from processor.slots.table import ABSENT, Table
from processor.slots.undo import Undo


@dataclass(frozen=True, slots=True)
class Stats:
    """Sensors in slots and parked now; since the last call: evictions, cells of all tiles that ran, and the cells with a reading."""

    resident: int
    parked: int
    evictions: int
    tile_rows: int
    tile_readings: int


class Engine:
    def __init__(self, stepper: Stepper, shapes: Shapes, rules: Rules = Rules(), *, slots: int, parking: Parking | None = None) -> None:  # noqa: B008 (it is frozen)
        self.table = Table(slots, shapes.row_width, parking)
        self.undo = Undo(self.table)
        self._shapes, self._rules, self._stepping = shapes, rules, Stepping(stepper, shapes, rules)
        self._evictions = 0

    def apply(self, batch: Batch, *, replay: bool = False) -> Applied:
        """Advances the batch's sensors by its readings and resets, in order.

        A replayed batch was committed before: it is not part of the open transaction, and records at or below a row's applied offset are
        skipped.
        """
        n = len(batch)
        last = np.cumsum(batch.steps) - 1
        applied = Applied(
            y=np.zeros((len(batch.x), self._shapes.outputs), np.float32),
            last=last,
            steps=np.zeros(n, np.int64),
            residual=np.full(n, np.nan, np.float32),
            warming=np.zeros(n, np.bool_),
            filling=np.zeros(n, np.bool_),
            finite=np.ones(n, np.bool_),
            late=np.zeros(n, np.bool_),
            reset_by=np.zeros(n, np.int8),
        )
        if self._shapes.residual_each:
            applied.residuals = np.full((n, len(self._shapes.residual)), np.nan, np.float32)
        if self._shapes.reconstruction is not None:
            applied.reconstruction = np.full(n, np.nan, np.float32)
        if batch.missing is not None and self._shapes.hold:
            applied.missing = np.zeros(n, np.bool_)
        for part in parts(batch, self.table.slots):
            self._apply_part(batch, part, applied, replay)
        with_readings = batch.steps > 0
        applied.filling = with_readings & (applied.steps < (self._shapes.window or 0))
        applied.warming |= applied.filling | (with_readings & (applied.steps < self._shapes.warmup_steps))
        return applied

    def commit(self) -> None:
        """Makes everything that was applied so far final."""
        self.undo.commit()

    def abort(self) -> None:
        """Restores every sensor to the last commit."""
        self.undo.abort()

    def expire(self, partition: int, position: int, clock: Clock) -> int:
        """Drops the rows of sensors that have expired by the partition's clock at this position; returns the number.

        This changes no prediction, because an expired sensor is reset at its next record anyway. A row that is newer than the position is
        kept, because the records up to its offset still have to be skipped. Raises ValueError within a transaction, because an abort goes
        back to an earlier time.
        """
        before_ms = self._rules.expired_before(clock)
        if before_ms is None:
            return 0
        if not self.undo.empty:
            raise ValueError("rows are dropped at a commit boundary")
        return self.table.forget_older(partition, before_ms, position)

    @property
    def at_boundary(self) -> bool:
        """Whether nothing was applied since the last commit."""
        return self.undo.empty

    def load(self, partition: int, keys: list[bytes], rows: Rows) -> None:
        """Adds distinct, new sensors with these rows."""
        self.table.load(partition, keys, rows)

    def copy(self, partition: int, since: int | None = None) -> tuple[list[bytes], Rows, list[bytes]]:
        """A partition's sensors, their rows, and the sensors that were removed since the last call.

        since: only those that applied a record at this offset or later.
        """
        keys, rows = self.table.copy(partition, since)
        return keys, rows, self.table.take_forgotten(partition)

    def sensors(self, partition: int) -> int:
        return self.table.sensors(partition)

    def split(self, partition: int, keys_max: int) -> dict[bytes, list[int]]:
        """Sensors of this partition that other partitions also have (Table.split)."""
        return self.table.split(partition, keys_max)

    def older(self, partition: int, event_ms: int) -> int:
        """The number of a partition's sensors whose latest event is before this time."""
        return self.table.older(partition, event_ms)

    def stats(self) -> "Stats":
        """The counts since the last call."""
        evictions, self._evictions = self.table.evictions - self._evictions, self.table.evictions
        stepping = self._stepping
        tile_rows, tile_readings, stepping.tile_rows, stepping.tile_readings = stepping.tile_rows, stepping.tile_readings, 0, 0
        return Stats(self.table.resident, len(self.table.parking), evictions, tile_rows, tile_readings)

    def drop(self, partition: int) -> None:
        """Drops a partition: its sensors and their undo entries."""
        self.undo.drop(partition)
        self.table.drop(partition)

    def _apply_part(self, batch: Batch, part: Indices, applied: Applied, replay: bool) -> None:
        everyone = grouped(self.table, batch, part, replay=replay)
        if not len(everyone.record):
            return  # a replay of records that the rows have already applied
        of, group = self._stepping.judged(batch, everyone, applied)
        if not len(of.record):
            return
        outcome, broken = self._stepping.step(batch, of, applied)
        if len(broken):
            isolate(self._stepping, batch, everyone, group[broken], applied, outcome, broken)
        self._write(of, outcome, replay)

    def _write(self, of: Group, outcome: Outcome, replay: bool) -> None:
        exists = of.location != ABSENT
        if not replay:
            self.undo.save(of.sensors, of.location, of.stored, exists)
            self.undo.created([of.sensors[i] for i in np.flatnonzero(~exists & outcome.keep).tolist()])
            outcome.rows.saved_in[:] = self.undo.transaction
        self.table.forget([of.sensors[i] for i in np.flatnonzero(exists & ~outcome.keep).tolist()])
        if outcome.keep.all():
            self.table.write(of.sensors, of.location, of.generation, outcome.rows)
        else:
            kept = np.flatnonzero(outcome.keep)
            sensors = [of.sensors[i] for i in kept.tolist()]
            self.table.write(sensors, of.location[kept], of.generation[kept], outcome.rows.take(kept))
