"""Steps readings through the ladder: lays out sequences in tiles, steps them, and collects each sensor's outcome.

A sequence is an unbroken run of one sensor's readings. Does not access the table: rows come in with a group and go out with its outcome.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from processor.engine.grouping import Group
from processor.engine.holding import Fill, last_times, last_values, packed, times_of
from processor.engine.scores import Scores, Sequences
from processor.engine.shapes import Shapes
from processor.records import Applied, Batch
from processor.rules import NEVER, Rules
from processor.slots.plan import Shape, plan
from processor.slots.rows import Indices, Rows
from processor.slots.table import ABSENT

Floats = NDArray[np.float32]


class Stepper(Protocol):
    """The ladder as the engine sees it: model.tiles.Tiles. Between two calls of the engine it may get more rungs."""

    @property
    def shapes(self) -> Sequence[Shape]: ...
    def buffers(self, rung: int, /) -> tuple[Floats, NDArray[np.int32], Floats]: ...
    def run(
        self, rung: int, x: Floats, counts: NDArray[np.int32], steps: int, state: Floats, /
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]: ...


@dataclass(slots=True)
class Outcome:
    """The result for each sensor of a part: a row, or nothing."""

    keep: NDArray[np.bool_]
    rows: Rows


class Stepping:
    """tile_rows, tile_readings: the number of cells of all tiles that ran, and of the cells that held a reading."""

    def __init__(self, stepper: Stepper, shapes: Shapes, rules: Rules) -> None:
        self.tile_rows = self.tile_readings = 0
        self._stepper, self._shapes, self._rules = stepper, shapes, rules
        self._scores = Scores(shapes)
        self._buffers = self._new_buffers()

    def _new_buffers(self) -> list[tuple[Floats, NDArray[np.int32], Floats]]:
        """One set of buffers per rung, reused: the counts mask what an earlier call left in unused cells."""
        return [self._stepper.buffers(rung) for rung in range(len(self._stepper.shapes))]

    def judged(self, batch: Batch, of: Group, applied: Applied) -> tuple[Group, Indices]:
        """The group without late records and without those that lack a value, with resets by rule noted; also which sensors are left."""
        fill = self._fill(batch, of)
        if self._rules or fill is not None:
            late, reset_by = self._rules.judge(batch, of.record, of.first, of.exists, of.stored, fill.admit if fill is not None else None)
            applied.late[of.record], applied.reset_by[of.record] = late, reset_by
            left_out = late
            if fill is not None and applied.missing is not None:
                applied.missing[of.record] = fill.missing
                left_out = late | fill.missing
            if left_out.any():
                return of.without(left_out)
        return of, np.arange(len(of.first))

    def _fill(self, batch: Batch, of: Group) -> Fill | None:
        """None where nothing is missing that is held."""
        shapes = self._shapes
        if batch.missing is None or not shapes.hold:
            return None
        fill = Fill(batch, batch.missing, of, shapes.hold, of.stored.state[:, shapes.held], shapes.hold_max_ms)
        return fill or None

    def step(self, batch: Batch, of: Group, applied: Applied) -> tuple[Outcome, Indices]:
        """Steps every sensor of a part through its records. Returns the outcome, and the sensors whose state broke."""
        record, n = of.record, len(of.record)
        steps = batch.steps[record]
        null = steps == 0
        before = batch.reset_before[record] | null | (applied.reset_by[record] > 0)
        after = batch.reset_after[record] | null
        new = np.zeros(n, np.bool_)
        new[of.first] = True
        # A sequence begins with a sensor, at a reset, and after a record that ends with a reset.
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
        inside = total - before_sequence[sequence]  # readings of the sequence up to and including this record
        applied.y[readings] = y
        applied.steps[record] = start.steps[sequence] + inside
        applied.warming[record] = start.incomplete[sequence]
        if self._scores:
            self._scores.write(batch, Sequences(record, sequence, inside, readings, start), y, applied)

        last_record = np.append(of.first[1:], n) - 1
        final = sequence[last_record]
        last_reading = np.maximum(total[last_record] - 1, 0)
        held = self._held(batch, record, readings, before_sequence[final], last_reading, start, final)
        event = np.maximum.reduceat(np.where(null, np.iinfo(np.int64).min, batch.event_ms[record]), first)[final]
        rows = Rows(
            state=self._row_states(end[final], y, last_reading, held),
            applied=batch.offset[record[last_record]],
            steps=applied.steps[record[last_record]],
            event_ms=np.where(goes_on[final], np.maximum(start.event_ms[final], event), event),
            incomplete=start.incomplete[final],
            saved_in=start.saved_in[final],
        )
        broken = of.group[np.searchsorted(total, np.flatnonzero(~finite), side="right")] if not finite.all() else _NONE
        keep = ~after[last_record]
        if lost is not None:
            # A sensor that is deleted here lacks no readings: a row without steps records that, or it would be flagged again.
            forgotten = np.flatnonzero(~keep & lost[record[last_record]])
            blank = Rows.zeros(len(forgotten), self._shapes.row_width)
            blank.applied, blank.event_ms[:] = rows.applied[forgotten], NEVER
            rows.put(forgotten, blank)
            keep[forgotten] = True
        return Outcome(keep, rows), np.unique(broken)

    def _pass_over_filling(self, y: Floats, finite: NDArray[np.bool_], counts: Indices, before: Indices) -> None:
        """The prediction of a window that is not full is not published, so it must not affect anything: only the reading enters the window.

        counts, before: readings of each sequence, and steps before them. The predictions become 0, so that they do not remain in a row of
        residuals.
        """
        if self._shapes.window is None:
            return
        steps = np.repeat(before - (np.cumsum(counts) - counts), counts) + np.arange(1, len(finite) + 1)
        unseen = ~finite & (steps < self._shapes.window)
        y[unseen], finite[unseen] = 0, True

    def _row_states(self, states: Floats, y: Floats, last: Indices, held: Floats | None) -> Floats:
        """The state column of rows: the model's states [n, W], for residuals each sensor's prediction at `last` in y, and what it holds."""
        parts = [states]
        if self._shapes.residual:
            parts.append(y[last] if len(y) else np.zeros((len(states), self._shapes.outputs), np.float32))
        if held is not None:
            parts.append(held)
        return np.concatenate(parts, axis=1) if len(parts) > 1 else states

    def _held(
        self, batch: Batch, record: Indices, readings: Indices, first: Indices, last: Indices, start: Rows, final: Indices
    ) -> Floats | None:
        """What each sensor holds after its last sequence, whose readings are first to last; None where nothing is held."""
        shapes = self._shapes
        if not shapes.hold:
            return None
        if not len(readings):
            return np.zeros((len(final), shapes.held.stop - shapes.held.start), np.float32)
        values = last_values(batch, readings, last, shapes.hold)
        if shapes.hold_max_ms is None:
            return values
        event_ms = np.repeat(batch.event_ms[record], batch.steps[record])
        before = times_of(start.state[final][:, shapes.held], len(shapes.hold))
        return packed(values, last_times(batch, readings, event_ms, first, last, before, shapes.hold))

    def _scan(self, x: Floats, counts: Indices, state: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Steps sequences of counts[i] readings, stored one after another in x, from the given states.

        x float32 [counts.sum(), F], state float32 [n, W] -> predictions [counts.sum(), O], last states [n, W], finite [counts.sum()]
        """
        if len(self._buffers) != len(self._stepper.shapes):
            self._buffers = self._new_buffers()
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
            # Cells past a sequence's end contain some other reading; the counts keep it out of every result.
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


_NONE = np.zeros(0, np.int64)


def _readings(batch: Batch, record: Indices, steps: Indices) -> Indices:
    """The indices in batch.x of these records' readings, in the order of the records."""
    if (batch.steps == 1).all():
        return record
    starts = (np.cumsum(batch.steps) - batch.steps)[record]
    total = np.cumsum(steps)
    return np.repeat(starts - (total - steps), steps) + np.arange(total[-1])
