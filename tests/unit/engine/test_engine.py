"""The engine against a plain dict of states: any interleaving of batches, resets, evictions, commits and aborts.

The stepper is a recurrence in NumPy whose results are exact, so that every difference is the engine's; the ladder itself is
tested with real models in test_model*.py, and both together in test_oracle.py.
"""

import copy
import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.engine import Engine, Shapes
from processor.records import Batch
from processor.rules import EXPIRED, Clock, Rules, keep_time
from processor.slots.parking import Parking, StateFile
from processor.slots.table import StaleSlotError

F = 2


@dataclass(frozen=True)
class Rung:
    rows: int
    steps_max: int


class Recurrence:
    """s' = s / 2 + x, y = [s'[0] - s'[1], s'[0]], rounded to float32 each step."""

    shapes = (Rung(2, 4), Rung(4, 3), Rung(8, 2))

    def buffers(self, rung):
        rows, steps_max = self.shapes[rung].rows, self.shapes[rung].steps_max
        return np.zeros((steps_max, rows, F), np.float32), np.zeros(rows, np.int32), np.zeros((rows, F), np.float32)

    def run(self, rung, x, counts, steps, state):
        rows, steps_max = self.shapes[rung].rows, self.shapes[rung].steps_max
        assert x.shape == (steps_max, rows, F)
        assert 0 < steps <= steps_max
        state, y, finite = state.copy(), np.full((steps_max, rows, F), 7.0, np.float32), np.ones((steps_max, rows), bool)
        for t in range(steps):
            active = counts > t
            with np.errstate(all="ignore"):
                new = state * np.float32(0.5) + x[t]
                y[t] = np.stack([new[:, 0] - new[:, 1], new[:, 0]], 1)
            finite[t] = ~active | (np.isfinite(new).all(1) & np.isfinite(y[t]).all(1))
            state[active] = new[active]
        return y, state, finite


def batch_of(records):
    """records: (partition, key, offset, values [steps][F] or None, before, after, event time by default ten times the offset)"""
    values = [np.array(r[3], np.float32).reshape(-1, F) if r[3] is not None else np.zeros((0, F), np.float32) for r in records]
    return Batch(
        partition=[r[0] for r in records],
        key=[r[1] for r in records],
        offset=np.array([r[2] for r in records], np.int64),
        event_ms=np.array([r[6] if len(r) > 6 else r[2] * 10 for r in records], np.int64),
        record_ms=np.array([r[2] * 10 for r in records], np.int64),
        steps=np.array([len(v) for v in values], np.int64),
        reset_before=np.array([r[4] for r in records], bool),
        reset_after=np.array([r[5] for r in records], bool),
        x=np.concatenate([*values, np.zeros((0, F), np.float32)]),
    )


class Plain:
    """The same, one record after another, each sensor's state in a dict."""

    def __init__(self, rules=None, gap=()):
        self.state = {}
        self.latest_ms = {}
        self.clocks = {}  # how time passes is tests/test_stream_time.py's
        self.rules = rules or Rules()
        self.gap = gap
        self.flagged, self.forgotten = {}, set()

    def apply(self, partition, key, offset, values, before, after, event_ms=None):
        event_ms = offset * 10 if event_ms is None else event_ms
        sensor, rules, reset_by = (partition, key), self.rules, 0
        if values is None:
            self.state.pop(sensor, None)
            self.forgotten.add(sensor)
            return None
        nothing = (np.zeros(F, np.float32), 0, None)
        clock = self.clocks[partition] = self.clocks.get(partition, Clock()).heard(key, event_ms, rules.expire_ms)
        time_ms = event_ms if clock.time_ms is None else max(event_ms, clock.time_ms)
        if not before and sensor in self.state:
            latest_ms = self.latest_ms[sensor]
            if rules.expire_ms is not None and latest_ms + rules.expire_ms < time_ms:
                reset_by = 3
            elif rules.late and event_ms < latest_ms:
                return "late"
            elif rules.gap_ms is not None and event_ms > latest_ms + rules.gap_ms:
                reset_by = 1
            elif rules.steps is not None and self.state[sensor][1] >= rules.steps:
                reset_by = 2
        anew = before or reset_by or sensor not in self.state
        unknown = not before and sensor not in self.state and sensor not in self.forgotten
        would_have_expired = rules.expire_ms is not None and (clock.time_ms or 0) - (clock.first_ms or 0) > rules.expire_ms
        flagged = (unknown and partition in self.gap and not would_have_expired) if anew else self.flagged[sensor]
        state, steps, previous = nothing if anew else self.state[sensor]
        latest_ms = event_ms if anew else max(event_ms, self.latest_ms[sensor])
        ys, residual = [], None
        for x in np.array(values, np.float32).reshape(-1, F):
            with np.errstate(all="ignore"):
                state = state * np.float32(0.5) + x
                y = np.array([state[0] - state[1], state[0]])
            if not (np.isfinite(state).all() and np.isfinite(y).all()):
                return "broken"
            if previous is not None:
                mean = sum(abs(float(a) - b) for a, b in zip(x, previous, strict=True)) / F
                residual = np.float32(min(mean, float(np.finfo(np.float32).max)))
            steps, previous = steps + 1, y.tolist()
            ys.append(y)
        if after:
            self.state.pop(sensor, None)
            self.forgotten.add(sensor)
        else:
            self.state[sensor] = (state, steps, previous)
            self.latest_ms[sensor] = latest_ms
            self.flagged[sensor] = flagged
        return ys, steps, residual, reset_by, flagged

    def copy(self):
        return {name: copy.copy(value) for name, value in vars(self).items()}


number = st.one_of(st.integers(-9, 9).map(float), st.sampled_from([3e38, -3e38]))
record = st.tuples(
    st.integers(0, 1),
    st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]),
    st.one_of(st.none(), st.lists(st.tuples(number, number), min_size=1, max_size=5), st.just([(1.0, 2.0)])),
    st.booleans() | st.just(False),
    st.booleans() | st.just(False),
)
turn = st.tuples(st.lists(record, max_size=12), st.sampled_from(["commit", "abort", "go on", "go on"]))


def residual_shapes():
    return Shapes(features=F, outputs=F, width=F, residual=(0, 1), forecasts=(0, 1))


def started(gap=()):
    return {p: Clock(gap=p in gap) for p in (0, 1)}


def timed_batch(records, clocks, expire_ms=None):
    """The batch with partition time, which goes on from the clocks, and moves them."""
    batch = batch_of(records)
    clocks.update(keep_time(batch, clocks, expire_ms))
    return batch


def check(engine, plain, records, clocks=None, *, dropped=False):
    """Applies records to both and compares everything that is published. dropped: an expired sensor may be gone already."""
    batch = timed_batch(records, clocks or started(), plain.rules.expire_ms)
    applied = engine.apply(batch)
    first = 0
    for i, r in enumerate(records):
        expected = plain.apply(*r)
        if expected is None:
            assert applied.finite[i]
        elif isinstance(expected, str):
            assert (applied.finite[i], applied.late[i]) == (expected == "late", expected == "late")
        else:
            ys, steps, residual, reset_by, flagged = expected
            assert (applied.finite[i], applied.late[i], applied.warming[i]) == (True, False, flagged)
            assert applied.reset_by[i] == reset_by or (dropped and (reset_by, applied.reset_by[i]) == (EXPIRED, 0))
            assert applied.y[first : first + len(ys)].tolist() == [y.tolist() for y in ys]
            assert applied.last[i] == first + len(ys) - 1
            assert applied.steps[i] == steps
            assert (residual is None and np.isnan(applied.residual[i])) or applied.residual[i] == residual
        first += int(batch.steps[i])


@pytest.mark.full
@settings(max_examples=200, deadline=None, derandomize=True)
@given(turns=st.lists(turn, max_size=12), slots=st.sampled_from([1, 2, 3, 5, 64]), disk=st.booleans())
def test_any_interleaving_equals_a_plain_dict_of_states(turns, slots, disk):
    parking = Parking(residual_shapes().row_width, StateFile(Path(tempfile.gettempdir()))) if disk else None
    engine, plain, offset = Engine(Recurrence(), residual_shapes(), slots=slots, parking=parking), Plain(), 0
    committed = (dict(plain.state), 0)
    for records, end in turns:
        numbered = [(p, k, offset + i, v, b, a) for i, (p, k, v, b, a) in enumerate(records)]
        check(engine, plain, numbered)
        offset += len(numbered)
        if end == "commit":
            engine.commit()
            committed = (dict(plain.state), offset)
        elif end == "abort":
            engine.abort()
            plain.state, offset = dict(committed[0]), committed[1]
        assert engine.table.resident <= slots
        known = {(p, k) for p in (0, 1) for k in engine.table.copy(p)[0]}
        assert known == set(plain.state)
    for partition in (0, 1):
        keys, rows = engine.table.copy(partition)
        for key, row, steps in zip(keys, rows.state, rows.steps, strict=True):
            state, expected_steps, previous = plain.state[(partition, key)]
            assert row.tolist() == [*map(float, state), *previous]
            assert steps == expected_steps


timed = st.tuples(record, st.integers(0, 60))
rules = st.builds(
    Rules,
    gap_ms=st.sampled_from([None, 0, 9, 30]),
    steps=st.sampled_from([None, 1, 3]),
    late=st.booleans(),
    expire_ms=st.sampled_from([None, None, 0, 12, 40]),
)


@pytest.mark.full
@settings(max_examples=300, deadline=None, derandomize=True)
@given(turns=st.lists(st.lists(timed, max_size=12), max_size=8), by=rules, slots=st.sampled_from([1, 3, 64]))
def test_late_records_and_resets_by_rule_equal_one_record_after_another_however_it_is_cut(turns, by, slots):
    engine, plain, offset, clocks = Engine(Recurrence(), residual_shapes(), by, slots=slots), Plain(by), 0, started()
    for records in turns:
        numbered = [(p, k, offset + i, v, b, a, at) for i, ((p, k, v, b, a), at) in enumerate(records)]
        check(engine, plain, numbered, clocks)
        offset += len(numbered)
        engine.commit()
    for partition in (0, 1):
        keys, rows = engine.table.copy(partition)
        for key, row, steps, event_ms in zip(keys, rows.state, rows.steps, rows.event_ms, strict=True):
            state, expected_steps, previous = plain.state[(partition, key)]
            assert row.tolist() == [*map(float, state), *previous]
            assert (steps, event_ms) == (expected_steps, plain.latest_ms[(partition, key)])


@pytest.mark.full
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    records=st.lists(timed, max_size=30),
    cuts=st.sets(st.integers(1, 29)),
    data=st.data(),
    by=rules,
    gap=st.sampled_from([(), (0,)]),
    slots=st.sampled_from([1, 3, 64]),
)
def test_a_copy_of_a_partition_goes_on_where_it_was_taken(records, cuts, data, by, gap, slots):
    """A copy taken after any record, loaded elsewhere and replayed in any cuts, gives the rows of the whole."""
    numbered = [(0, k, i, v, b, a, at) for i, ((_, k, v, b, a), at) in enumerate(records)]
    after = data.draw(st.integers(0, len(numbered)))
    whole, clocks = Engine(Recurrence(), residual_shapes(), by, slots=64), started(gap)
    for r in numbered[:after]:
        whole.apply(timed_batch([r], clocks, by.expire_ms))
    other, others = Engine(Recurrence(), residual_shapes(), by, slots=slots), dict(clocks)
    other.table.load(0, *whole.table.copy(0))
    rest = numbered[after:]
    for r in rest:
        whole.apply(timed_batch([r], clocks, by.expire_ms))
    points = [0, *sorted(c for c in cuts if c < len(rest)), len(rest)]
    for a, b in itertools.pairwise(points):
        other.apply(timed_batch(rest[a:b], others, by.expire_ms), replay=True)
    assert other.undo.empty
    assert others == clocks
    assert rows_of(other) == rows_of(whole)


def rows_of(engine):
    """By sensor of partition 0: state, steps, flag."""
    keys, rows = engine.table.copy(0)
    return dict(zip(keys, zip(rows.state.tolist(), rows.steps.tolist(), rows.incomplete.tolist(), strict=True), strict=True))


@pytest.mark.full
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    turns=st.lists(st.tuples(st.lists(timed, max_size=12), st.sampled_from(["drop", "commit", "abort", "go on"])), max_size=10),
    by=rules,
    expire_ms=st.sampled_from([0, 12, 40]),
    gap=st.sampled_from([(), (0,), (0, 1)]),
    slots=st.sampled_from([1, 3, 64]),
)
def test_dropping_what_has_expired_at_any_commit_does_not_show(turns, by, expire_ms, gap, slots):
    by = replace(by, expire_ms=expire_ms)
    engine, plain, offset, clocks = Engine(Recurrence(), residual_shapes(), by, slots=slots), Plain(by, gap), 0, started(gap)
    committed = (plain.copy(), offset, dict(clocks))
    for records, end in turns:
        numbered = [(p, k, offset + i, v, b, a, at) for i, ((p, k, v, b, a), at) in enumerate(records)]
        check(engine, plain, numbered, clocks, dropped=True)
        offset += len(numbered)
        if end in ("drop", "commit"):
            engine.commit()
            committed = (plain.copy(), offset, dict(clocks))
        elif end == "abort":
            engine.abort()
            vars(plain).update({name: copy.copy(value) for name, value in committed[0].items()})
            offset, clocks = committed[1], dict(committed[2])
        for p in (0, 1) if end == "drop" else ():
            before = engine.table.sensors(p)
            assert engine.expire(p, offset, clocks[p]) == before - engine.table.sensors(p)
            clock = plain.clocks.get(p, Clock())
            time_ms, first_ms = clock.time_ms or 0, clock.first_ms or 0
            left = {k for (of, k) in plain.state if of == p and plain.latest_ms[of, k] + expire_ms >= time_ms}
            assert set(engine.table.copy(p)[0]) >= left
            if p not in gap or time_ms - first_ms > expire_ms:
                assert set(engine.table.copy(p)[0]) == left


@pytest.mark.full
@settings(max_examples=200, deadline=None, derandomize=True)
@given(turns=st.lists(st.tuples(st.lists(timed, max_size=12), st.booleans()), max_size=8), by=rules, slots=st.sampled_from([1, 3, 64]))
def test_after_a_gap_every_sensor_is_flagged_until_its_reset_and_no_other_partitions(turns, by, slots):
    engine, plain, offset, clocks = Engine(Recurrence(), residual_shapes(), by, slots=slots), Plain(by, gap=(1,)), 0, started(gap=(1,))
    for records, abort in turns:
        numbered = [(p, k, offset + i, v, b, a, at) for i, ((p, k, v, b, a), at) in enumerate(records)]
        if abort:
            engine.apply(timed_batch(numbered, dict(clocks), by.expire_ms))
            engine.abort()
        check(engine, plain, numbered, clocks)
        offset += len(numbered)
        engine.commit()
    assert not engine.table.copy(0)[1].incomplete.any()


@pytest.mark.full
@settings(max_examples=300, deadline=None, derandomize=True)
@given(records=st.lists(timed, max_size=30), data=st.data(), by=rules, slots=st.sampled_from([1, 3, 64]))
def test_dropping_in_a_replay_leaves_rows_that_are_newer_than_its_position(records, data, by, slots):
    """Rows may be newer than the position their replay begins at; those up to their offset are passed over, and must stay known."""
    by = replace(by, expire_ms=12)
    numbered = [(0, k, i, v, b, a, at) for i, ((_, k, v, b, a), at) in enumerate(records)]
    start = data.draw(st.integers(0, len(numbered)))
    whole, other = (Engine(Recurrence(), residual_shapes(), by, slots=n) for n in (64, slots))
    clocks, others = started(), started()
    for i, r in enumerate(numbered):
        whole.apply(timed_batch([r], clocks, by.expire_ms))
        others = dict(clocks) if i < start else others
    whole.commit()
    other.table.load(0, *whole.table.copy(0))
    for i, r in enumerate(numbered[start:], start):
        other.apply(timed_batch([r], others, by.expire_ms), replay=True)
        other.expire(0, i + 1, others[0])
    whole.expire(0, len(numbered), clocks[0])
    expected, got = rows_of(whole), rows_of(other)
    assert {key: row for key, row in got.items() if key in expected} == expected


def test_a_row_that_is_newer_than_a_replays_position_is_not_dropped_although_it_is_old():
    """Dropped, its last records would be stepped again without those before them, and the rule of steps would not begin it anew."""
    by, one = Rules(expire_ms=50, steps=3), [(1.0, 2.0)]
    fed = [(b"b", 0), (b"a", 100), (b"a", 100), (b"a", 100), (b"a", 10)]
    records = [(0, key, i, one, False, False, at) for i, (key, at) in enumerate(fed)]
    (whole, other), clocks = (Engine(Recurrence(), residual_shapes(), by, slots=4) for _ in range(2)), started()
    whole.apply(timed_batch(records, clocks, by.expire_ms))
    whole.commit()
    other.table.load(0, *whole.table.copy(0))
    others = {0: Clock(100, 0), 1: Clock()}
    for i in (2, 3, 4):
        assert other.expire(0, i, others[0]) == (1 if i == 2 else 0), "b has expired; the last record of a is as old"
        other.apply(timed_batch(records[i : i + 1], others, by.expire_ms), replay=True)
    assert rows_of(other)[b"a"] == rows_of(whole)[b"a"]
    assert rows_of(other)[b"a"][1] == 1


@pytest.mark.parametrize(("each_record", "rows"), [(False, [b"a"]), (True, [])])
def test_a_sensor_that_is_forgotten_after_a_gap_leaves_a_row_that_says_so_where_one_is_needed(each_record, rows):
    engine, clocks = Engine(Recurrence(), residual_shapes(), Rules(each_record=each_record), slots=4), started(gap=(0,))
    engine.apply(timed_batch([(0, b"a", 0, [(1.0, 2.0)], True, True)], clocks))
    engine.commit()
    keys, found = engine.table.copy(0)
    assert keys == rows
    assert found.steps.tolist() == [0] * len(rows)
    assert not found.state.any()
    assert not engine.apply(timed_batch([(0, b"a", 1, [(1.0, 2.0)], each_record, False)], clocks)).warming[0]


def test_nothing_is_dropped_within_a_transaction():
    engine, clocks = Engine(Recurrence(), residual_shapes(), Rules(expire_ms=5), slots=4), started()
    records = [(0, b"a", 0, [(1.0, 2.0)], False, False, 0), (0, b"b", 1, [(1.0, 2.0)], False, False, 10)]
    engine.apply(timed_batch([*records, (0, b"c", 2, [(1.0, 2.0)], False, False, 12)], clocks, 5))
    with pytest.raises(ValueError, match="at a commit boundary"):
        engine.expire(0, 3, clocks[0])
    engine.commit()
    assert engine.expire(0, 3, clocks[0]) == 1
    assert engine.table.copy(0)[0] == [b"b", b"c"]


def test_partition_time_rises_by_readings_whatever_becomes_of_them_and_not_by_null_values():
    """The sensor's own record counts too; that a record is late or breaks its sensor does not matter; a null value never counts."""
    engine, clocks = Engine(Recurrence(), residual_shapes(), Rules(expire_ms=10, late=True), slots=4), started()
    one = [(1.0, 2.0)]
    records = [
        (0, b"a", 0, one, False, False, 0),
        (0, b"b", 1, None, False, False, 50),
        (0, b"a", 2, one, False, False, 10),
        (0, b"b", 3, one, False, False, 12),
        (0, b"c", 4, [(3e38, 0.0), (3e38, 0.0), (3e38, 0.0)], False, False, 21),
        (0, b"b", 5, one, False, False, 3),
        (0, b"a", 6, one, False, False, 20),
    ]
    applied = engine.apply(timed_batch(records, clocks, 10))
    assert applied.finite.tolist() == [True] * 4 + [False] + [True] * 2
    assert applied.late.tolist() == [False] * 5 + [True, False]
    assert applied.steps[[2, 3, 6]].tolist() == [2, 1, 1]
    assert applied.reset_by[6] == EXPIRED
    assert clocks[0] == Clock(21, 10)


def test_replay_passes_over_what_a_row_has_applied():
    engine = Engine(Recurrence(), residual_shapes(), slots=4)
    records = [(0, b"a", i, [(1.0, 2.0)], False, False) for i in range(5)]
    engine.apply(batch_of(records))
    engine.commit()
    before = engine.table.copy(0)[1].state.tolist()
    engine.apply(batch_of(records), replay=True)
    assert engine.table.copy(0)[1].state.tolist() == before


def test_a_dropped_partition_does_not_come_back_with_an_abort():
    engine = Engine(Recurrence(), residual_shapes(), slots=1)
    records = [(p, k, i, [(1.0, 2.0)], False, False) for i, (p, k) in enumerate([(0, b"a"), (1, b"a"), (0, b"b")])]
    engine.apply(batch_of(records))
    engine.commit()
    engine.apply(batch_of([(p, k, 9, v, b, a) for p, k, _, v, b, a in records]))
    engine.drop(0)
    engine.abort()
    assert engine.table.copy(0)[0] == []
    assert engine.table.copy(1)[0] == [b"a"]
    assert engine.table.copy(1)[1].applied.tolist() == [1]


def test_a_reference_to_a_slot_that_changed_hands_is_an_error():
    engine = Engine(Recurrence(), residual_shapes(), slots=1)
    engine.apply(batch_of([(0, b"a", 0, [(1.0, 2.0)], False, False)]))
    location = engine.table.locate([0], [b"a"])
    generation = engine.table.generations(location)
    engine.apply(batch_of([(0, b"b", 1, [(1.0, 2.0)], False, False)]))
    with pytest.raises(StaleSlotError):
        engine.table.write([(0, b"a")], location, generation, engine.table.read(location))


def test_a_window_has_no_prediction_and_no_residual_until_it_is_full():
    engine = Engine(Recurrence(), Shapes(features=F, outputs=F, width=F, window=3, residual=(0, 1), forecasts=(0, 1)), slots=4)
    applied = engine.apply(batch_of([(0, b"a", i, [(1.0, 2.0)], False, False) for i in range(5)]))
    assert applied.filling.tolist() == [True, True, False, False, False]
    assert applied.warming.tolist() == applied.filling.tolist()
    assert np.isnan(applied.residual).tolist() == [True, True, True, False, False]


def test_the_predictions_of_the_first_steps_are_marked():
    engine = Engine(Recurrence(), Shapes(features=F, outputs=F, width=F, warmup_steps=2), slots=4)
    applied = engine.apply(batch_of([(0, b"a", i, [(1.0, 2.0)], False, False) for i in range(3)]))
    assert applied.warming.tolist() == [True, False, False]
    assert not applied.filling.any()


class Window(Recurrence):
    """A window of 3 readings, W = 6. Its output is the mean of x / the oldest x: no number as long as the window is not full."""

    def buffers(self, rung):
        x, counts, _ = super().buffers(rung)
        return x, counts, np.zeros((self.shapes[rung].rows, 3 * F), np.float32)

    def run(self, rung, x, counts, steps, state):
        steps_max, rows = x.shape[:2]
        state, y, finite = state.copy(), np.zeros((steps_max, rows, F), np.float32), np.ones((steps_max, rows), bool)
        for t in range(steps):
            active = counts > t
            new = np.concatenate([state[:, F:], x[t]], axis=1)
            with np.errstate(all="ignore"):
                y[t] = new.reshape(rows, 3, F).mean(axis=1) / new[:, :F]
            finite[t] = ~active | np.isfinite(y[t]).all(1)
            state[active] = new[active]
        return y, state, finite


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_a_window_that_is_not_full_decides_nothing(together):
    """Its readings enter; what a full one gives is looked at as ever, and a record that makes it infinite is left out."""
    engine = Engine(Window(), Shapes(features=F, outputs=F, width=3 * F, window=3, residual=(0, 1), forecasts=(0, 1)), slots=4)
    rows = [(4.0, 8.0), (1.0, 2.0), (0.0, 5.0), (7.0, 8.0), (3.0, 3.0), (9.0, 9.0), (6.0, 6.0)]
    records = [(0, b"a", i, [row], False, False) for i, row in enumerate(rows)]
    batches = [records] if together else [[record] for record in records]
    applied = [engine.apply(batch_of(batch)) for batch in batches]
    # The fifth has 0 for its oldest; without it the sixth has, and the seventh.
    assert [ok for a in applied for ok in a.finite.tolist()] == [True, True, True, True, False, False, False]
    assert [at for a in applied for at in a.filling.tolist()][:4] == [True, True, False, False]
    assert engine.table.copy(0)[1].steps.tolist() == [4]
    state = engine.table.copy(0)[1].state
    assert state[0, : 3 * F].tolist() == [1.0, 2.0, 0.0, 5.0, 7.0, 8.0]
    assert np.isfinite(state).all()


def test_a_record_of_several_steps_fills_a_window_though_its_first_ones_are_no_numbers():
    engine = Engine(Window(), Shapes(features=F, outputs=F, width=3 * F, window=3), slots=4)
    applied = engine.apply(batch_of([(0, b"a", 0, [(1.0, 2.0)] * 4, False, False)]))
    assert applied.finite.tolist() == [True]
    assert applied.y[-1].tolist() == [1.0, 1.0]


def test_rungs_that_come_between_two_batches_are_used_and_change_no_bit():
    class Growing(Recurrence):
        shapes = Recurrence.shapes[2:]

        def __init__(self):
            self.used = set()

        def run(self, rung, x, counts, steps, state):
            self.used.add(x.shape[1])
            return super().run(rung, x, counts, steps, state)

    growing, shapes = Growing(), Shapes(F, F, F)
    engine, other = Engine(growing, shapes, slots=8), Engine(Recurrence(), shapes, slots=8)
    for offset in range(4):
        batch = batch_of([(0, b"a", offset, [[0.1, offset]] * 3, False, False)])
        assert engine.apply(batch).y.tobytes() == other.apply(batch).y.tobytes()
        growing.shapes = Recurrence.shapes
    assert growing.used == {8, 2}
