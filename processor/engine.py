"""Readings in, predictions out: slots, ladder and undo.

A batch is cut into sequences, each an unbroken run of one sensor's readings: a reset starts a new one, from zeros, so that
sequences never wait for each other. They are laid out in tiles (slots.plan), stepped through the ladder (model.tiles) and
their last states written back (slots.table).

Given the model, the result is a function of each sensor's readings and resets alone: not of how they were batched, how many
slots there are, or what was parked. Not thread-safe; the loop's thread owns it. Knows nothing of Kafka, bytes or clocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from processor.records import Applied, Batch
from processor.rules import NEVER, Clock, Rules
from processor.slots.parking import Parking
from processor.slots.plan import Shape, plan
from processor.slots.rows import Indices, Rows
from processor.slots.table import ABSENT, Sensor, Table
from processor.slots.undo import Undo

Floats = NDArray[np.float32]
# Sensors without a row are told apart by locations past every real one.
UNSEATED = 1 << 40
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Stepper(Protocol):
    """The ladder as the engine sees it: model.tiles.Tiles."""

    @property
    def shapes(self) -> Sequence[Shape]: ...
    def buffers(self, rung: int, /) -> tuple[Floats, NDArray[np.int32], Floats]: ...
    def run(
        self, rung: int, x: Floats, counts: NDArray[np.int32], steps: int, state: Floats, /
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]: ...


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the engine must know of a model.

    features, outputs  numbers a reading, numbers a prediction
    width              W, numbers in a state row without the previous prediction
    window             steps before the first prediction of a windowed model, else None
    residual           features that the outputs forecast, in the outputs' order: the row also keeps the sensor's previous
                       prediction, to compare the next reading with; empty: it does not
    warmup_steps       predictions before this many steps are marked
    """

    features: int
    outputs: int
    width: int
    window: int | None = None
    residual: tuple[int, ...] = ()
    warmup_steps: int = 0

    @property
    def row_width(self) -> int:
        return self.width + (self.outputs if self.residual else 0)


@dataclass(frozen=True, slots=True)
class Stats:
    """Sensors in slots and parked now; since the last look: sensors that were parked, cells of all tiles run, and those with a reading."""

    resident: int
    parked: int
    evictions: int
    tile_rows: int
    tile_readings: int


@dataclass(slots=True)
class _Sorted:
    """A part of a batch by sensor: its records sorted by location, in offset order within a sensor."""

    record: Indices  # index in the batch, [n]
    first: Indices  # position of each sensor's first record, [G]
    group: Indices  # which sensor each record is of, [n]
    sensors: list[Sensor]  # [G]
    location: Indices  # ABSENT where there is no row, [G]
    generation: NDArray[np.int64]  # [G]
    stored: Rows  # [G]

    @property
    def exists(self) -> NDArray[np.bool_]:
        """Whether each sensor has a state. A row without steps only says that the sensor was forgotten."""
        exists: NDArray[np.bool_] = (self.location != ABSENT) & (self.stored.steps > 0)
        return exists

    def without(self, left_out: NDArray[np.bool_]) -> tuple["_Sorted", Indices]:
        """Without these records, and without the sensors that have no other; which of the sensors are left."""
        group = self.group[~left_out]
        left, first, group = np.unique(group, return_index=True, return_inverse=True)
        sensors = [self.sensors[i] for i in left.tolist()] if self.sensors else []
        record = self.record[~left_out]
        return _Sorted(record, first, group, sensors, self.location[left], self.generation[left], self.stored.take(left)), left


@dataclass(slots=True)
class _Outcome:
    """What a part leaves of each of its sensors: a row, or nothing."""

    keep: NDArray[np.bool_]
    rows: Rows


class Engine:
    def __init__(self, stepper: Stepper, shapes: Shapes, rules: Rules = Rules(), *, slots: int, parking: Parking | None = None) -> None:  # noqa: B008 (it is frozen)
        self.table = Table(slots, shapes.row_width, parking)
        self.undo = Undo(self.table)
        self.tile_rows = self.tile_readings = self._evictions = 0
        self._stepper = stepper
        self._shapes, self._rules = shapes, rules
        # One set a rung, filled again and again: what an earlier call left in unused cells is masked by the counts.
        self._buffers = [stepper.buffers(rung) for rung in range(len(stepper.shapes))]

    def apply(self, batch: Batch, *, replay: bool = False) -> Applied:
        """Advances the batch's sensors by its readings and resets, in order.

        A replayed batch was committed before: it is no part of the open transaction, and records at or below the offset a
        row has applied already are passed over.
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
        for part in self._parts(batch):
            self._apply_part(batch, part, applied, replay)
        with_readings = batch.steps > 0
        applied.filling = with_readings & (applied.steps < (self._shapes.window or 0))
        applied.warming |= applied.filling | (with_readings & (applied.steps < self._shapes.warmup_steps))
        return applied

    def commit(self) -> None:
        """Makes everything applied so far final."""
        self.undo.commit()

    def abort(self) -> None:
        """Puts every sensor back as it was at the last commit."""
        self.undo.abort()

    def expire(self, partition: int, position: int, clock: Clock) -> int:
        """Drops the rows of sensors that have expired by the partition's clock at this position; returns how many.

        It does not show: each would begin anew with its next record. A row that is newer than the position is left alone, because
        the records up to its offset are still to be passed over. Raises ValueError within a transaction: an abort goes back to an
        earlier time.
        """
        before_ms = self._rules.expired_before(clock)
        if before_ms is None:
            return 0
        if not self.undo.empty:
            raise ValueError("rows are dropped at a commit boundary")
        return self.table.forget_older(partition, before_ms, position)

    @property
    def at_boundary(self) -> bool:
        """Nothing was applied since the last commit."""
        return self.undo.empty

    def load(self, partition: int, keys: list[bytes], rows: Rows) -> None:
        """Gives distinct sensors, none of them known, these rows."""
        self.table.load(partition, keys, rows)

    def copy(self, partition: int, since: int | None = None) -> tuple[list[bytes], Rows, list[bytes]]:
        """A partition's sensors, their rows, and the sensors that were forgotten since the last call.

        since: only those that applied a record at this offset or later.
        """
        keys, rows = self.table.copy(partition, since)
        return keys, rows, self.table.take_forgotten(partition)

    def sensors(self, partition: int) -> int:
        return self.table.sensors(partition)

    def split(self, partition: int, keys_max: int) -> dict[bytes, list[int]]:
        """Sensors of this partition that others have too (Table.split)."""
        return self.table.split(partition, keys_max)

    def older(self, partition: int, event_ms: int) -> int:
        """How many of a partition's sensors were last heard before this time."""
        return self.table.older(partition, event_ms)

    def stats(self) -> "Stats":
        """What was counted since the last call."""
        evictions, self._evictions = self.table.evictions - self._evictions, self.table.evictions
        tile_rows, tile_readings, self.tile_rows, self.tile_readings = self.tile_rows, self.tile_readings, 0, 0
        return Stats(self.table.resident, len(self.table.parking), evictions, tile_rows, tile_readings)

    def drop(self, partition: int) -> None:
        """Forgets a partition: its sensors and what could bring them back."""
        self.undo.drop(partition)
        self.table.drop(partition)

    def _parts(self, batch: Batch) -> list[Indices]:
        """The batch in runs of records that name no more sensors than there are slots."""
        n, slots = len(batch), self.table.slots
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

    def _apply_part(self, batch: Batch, part: Indices, applied: Applied, replay: bool) -> None:
        everyone = self._sort(batch, part, replay)
        if not len(everyone.record):
            return  # a replay of what the rows have applied already
        of, group = self._judged(batch, everyone, applied)
        if not len(of.record):
            return
        outcome, broken = self._step(batch, of, applied)
        if len(broken):
            self._isolate(batch, everyone, group[broken], applied, outcome, broken)
        self._write(of, outcome, replay)

    def _judged(self, batch: Batch, of: _Sorted, applied: Applied) -> tuple[_Sorted, Indices]:
        """Without the records that are late; the settings' resets are noted. Which of the sensors are left."""
        if self._rules:
            late, reset_by = self._rules.judge(batch, of.record, of.first, of.exists, of.stored)
            applied.late[of.record], applied.reset_by[of.record] = late, reset_by
            if late.any():
                return of.without(late)
        return of, np.arange(len(of.first))

    # -- who is in the part ---------------------------------------------------------------------------------------------

    def _sort(self, batch: Batch, part: Indices, replay: bool) -> _Sorted:
        a, b = (int(part[0]), int(part[-1]) + 1) if len(part) else (0, 0)
        partitions, keys = batch.partition[a:b], batch.key[a:b]
        locations = self.table.locate(partitions, keys)
        if replay:
            fresh = (locations == ABSENT) | (batch.offset[part] > self.table.read(locations).applied)
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
        return _Sorted(
            record=record,
            first=first,
            group=np.cumsum(new) - 1,
            sensors=[(batch.partition[i], batch.key[i]) for i in record[first].tolist()],
            location=location,
            generation=self.table.generations(location),
            stored=self.table.read(location),
        )

    def _write(self, of: _Sorted, outcome: _Outcome, replay: bool) -> None:
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

    # -- stepping -------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, of: _Sorted, applied: Applied) -> tuple[_Outcome, Indices]:
        """Steps every sensor of a part through its records. Returns what is left of each, and the sensors that broke."""
        record, n = of.record, len(of.record)
        steps = batch.steps[record]
        null = steps == 0
        before = batch.reset_before[record] | null | (applied.reset_by[record] > 0)
        after = batch.reset_after[record] | null
        new = np.zeros(n, np.bool_)
        new[of.first] = True
        # A sequence begins with a sensor, at a reset, and after a record that ended in one.
        begins = new | before
        begins[1:] |= after[:-1]
        sequence = np.cumsum(begins) - 1
        first = np.flatnonzero(begins)
        of_group = of.group[first]
        goes_on = new[first] & ~before[first] & of.exists[of_group]
        lost = self._rules.lost(batch)

        start = of.stored.take(of_group)
        anew = np.flatnonzero(~goes_on)
        start.clear(anew)
        if lost is not None:
            at = first[anew]
            start.incomplete[anew] = lost[record[at]] & new[at] & ~before[at] & (of.location[of_group[anew]] == ABSENT)
        counts = np.add.reduceat(steps, first)
        readings = _readings(batch, record, steps)
        y, end, finite = self._scan(batch.x[readings], counts, start.state[:, : self._shapes.width])
        if not finite.all():
            self._pass_over_filling(y, finite, counts, start.steps)

        total = np.cumsum(steps)
        before_sequence = (total - steps)[first]
        inside = total - before_sequence[sequence]  # readings of the sequence up to and with this record
        applied.y[readings] = y
        applied.steps[record] = start.steps[sequence] + inside
        applied.warming[record] = start.incomplete[sequence]
        if self._shapes.residual:
            self._residuals(batch, record, sequence, inside, y, start, applied)

        last_record = np.append(of.first[1:], n) - 1
        final = sequence[last_record]
        event = np.maximum.reduceat(np.where(null, np.iinfo(np.int64).min, batch.event_ms[record]), first)[final]
        rows = Rows(
            state=self._row_states(end[final], y, np.maximum(total[last_record] - 1, 0)),
            applied=batch.offset[record[last_record]],
            steps=applied.steps[record[last_record]],
            event_ms=np.where(goes_on[final], np.maximum(start.event_ms[final], event), event),
            incomplete=start.incomplete[final],
            saved_in=start.saved_in[final],
        )
        broken = of.group[np.searchsorted(total, np.flatnonzero(~finite), side="right")] if not finite.all() else _NONE
        keep = ~after[last_record]
        if lost is not None:
            # A sensor that is forgotten here has lost nothing: a row without steps remembers that, or it would be flagged again.
            forgotten = np.flatnonzero(~keep & lost[record[last_record]])
            blank = Rows.zeros(len(forgotten), self._shapes.row_width)
            blank.applied, blank.event_ms[:] = rows.applied[forgotten], NEVER
            rows.put(forgotten, blank)
            keep[forgotten] = True
        return _Outcome(keep, rows), np.unique(broken)

    def _pass_over_filling(self, y: Floats, finite: NDArray[np.bool_], counts: Indices, before: Indices) -> None:
        """Of a window that is not full nobody sees the prediction, so it decides nothing either: the reading enters the window.

        counts, before: readings of each sequence, and steps before them. The predictions become 0, not to stay in a row of residuals.
        """
        if self._shapes.window is None:
            return
        steps = np.repeat(before - (np.cumsum(counts) - counts), counts) + np.arange(1, len(finite) + 1)
        unseen = ~finite & (steps < self._shapes.window)
        y[unseen], finite[unseen] = 0, True

    def _row_states(self, states: Floats, y: Floats, last: Indices) -> Floats:
        """The state column of rows: the model's states [n, W], and behind them, for residuals, each sensor's prediction at `last` in y."""
        if not self._shapes.residual:
            return states
        predictions = y[last] if len(y) else np.zeros((len(states), self._shapes.outputs), np.float32)
        return np.concatenate([states, predictions], axis=1)

    def _scan(self, x: Floats, counts: Indices, state: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Steps sequences of counts[i] readings, one after another in x, from the given states.

        x float32 [counts.sum(), F], state float32 [n, W] -> predictions [counts.sum(), O], last states [n, W], finite [counts.sum()]
        """
        y = np.zeros((len(x), self._shapes.outputs), np.float32)
        finite = np.ones(len(x), np.bool_)
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        sorted_counts, start = counts[order], (np.cumsum(counts) - counts)[order]
        current = np.take(state, order, axis=0)
        for tile in plan(sorted_counts, self._stepper.shapes) if len(order) else ():
            rows, steps = tile.last - tile.first, tile.step_to - tile.step_from
            left = sorted_counts[tile.first : tile.last] - tile.step_from
            at = start[tile.first : tile.last] + np.arange(tile.step_from, tile.step_to)[:, None]
            alive = np.arange(steps)[:, None] < left
            tile_x, tile_counts, tile_state = self._buffers[tile.rung]
            # Cells past a sequence's end read some other reading; the counts keep it out of every result.
            tile_x[:steps, :rows] = x[np.minimum(at, len(x) - 1)]
            tile_state[:rows] = current[tile.first : tile.last]
            tile_counts[:rows], tile_counts[rows:] = left, 0
            out, states, good = self._stepper.run(tile.rung, tile_x, tile_counts, steps, tile_state)
            current[tile.first : tile.last] = states[:rows]
            if alive.all():
                y[at], finite[at] = out[:steps, :rows], good[:steps, :rows]
            else:
                y[at[alive]], finite[at[alive]] = out[:steps, :rows][alive], good[:steps, :rows][alive]
            self.tile_rows += steps * len(tile_state)
        self.tile_readings += len(x)
        end = state.copy() if len(order) < len(counts) else np.empty_like(current)
        end[order] = current
        return y, end, finite

    def _residuals(
        self, batch: Batch, record: Indices, sequence: Indices, inside: Indices, y: Floats, start: Rows, applied: Applied
    ) -> None:
        """Mean absolute difference of each record's last reading and the prediction before it, where there is one.

        One past float32 is its greatest number. Predictions that are not finite are dealt with later, with their records.
        """
        steps = batch.steps[record]
        last = np.cumsum(steps) - 1
        previous = start.state[:, self._shapes.width :][sequence]
        within = inside > 1
        previous[within] = y[last[within] - 1]
        there = (steps > 0) & (applied.steps[record] - 1 >= max(1, self._shapes.window or 1))
        seen = batch.x[applied.last[record[there]]].astype(np.float64)
        # Summed feature by feature, so that the bits do not depend on how many records stand beside each other.
        total = np.zeros(len(seen))
        expected = previous[there].astype(np.float64)
        for output, feature in enumerate(self._shapes.residual):
            total += np.abs(seen[:, feature] - expected[:, output])
        applied.residual[record] = np.nan  # a sensor stepped a second time may have had one the first time
        applied.residual[record[there]] = np.minimum(total / len(self._shapes.residual), FLOAT32_MAX).astype(np.float32)

    # -- states that turn NaN or infinite ---------------------------------------------------------------------------------

    def _isolate(self, batch: Batch, of: _Sorted, broken: Indices, applied: Applied, outcome: _Outcome, at: Indices) -> None:
        """Steps the broken sensors again, one record of each a round, and leaves out the records that break them.

        A record left out changes nothing: no reset of it holds, and what comes after it is judged as if it had not been sent. So
        `of` has the late ones too. Rounds are as many as the longest sensor has records. at: the sensors' places in the outcome.
        """
        last = np.append(of.first[1:], len(of.record))
        rows, exists = of.stored.take(broken), of.location[broken] != ABSENT
        rounds = int((last[broken] - of.first[broken]).max())
        for turn in range(rounds):
            here = np.flatnonzero(of.first[broken] + turn < last[broken])
            record = of.record[of.first[broken[here]] + turn]
            single = _Sorted(
                record=record,
                first=np.arange(len(here)),
                group=np.arange(len(here)),
                sensors=[],
                location=np.where(exists[here], 0, ABSENT),
                generation=np.zeros(len(here), np.int64),
                stored=rows.take(here),
            )
            single, left = self._judged(batch, single, applied)
            here, record = here[left], record[left]
            if not len(here):
                continue
            stepped, bad = self._step(batch, single, applied)
            applied.finite[record] = True
            applied.finite[record[bad]] = False
            applied.reset_by[record[bad]] = 0
            good = np.setdiff1d(np.arange(len(here)), bad)
            rows.put(here[good], stepped.rows.take(good))
            exists[here[good]] = stepped.keep[good]
        outcome.rows.put(at, rows)
        outcome.keep[at] = exists


_NONE = np.zeros(0, np.int64)


def _readings(batch: Batch, record: Indices, steps: Indices) -> Indices:
    """Where in batch.x the readings of these records are, in the records' order."""
    if (batch.steps == 1).all():
        return record
    starts = (np.cumsum(batch.steps) - batch.steps)[record]
    total = np.cumsum(steps)
    return np.repeat(starts - (total - steps), steps) + np.arange(total[-1])
