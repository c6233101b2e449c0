"""Alarms in columns: a batch decides what its records decide one at a time, and what is remembered lies in a row bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.alarms import Decider
from processor.alarms.decide import Sequences
from processor.alarms.learn import Deviations, Quantile
from processor.alarms.memory import FIXED, Layout, Memory
from processor.alarms.rule import Rule
from processor.alarms.score import Score

STEADY = settings(deadline=None, derandomize=True, max_examples=150)
KEYS = [b"a", b"b", b"c"]
SCORES = st.one_of(st.just(float("nan")), st.floats(-8, 8, width=32))
RECORDS = st.lists(st.tuples(st.integers(0, 2), SCORES, st.integers(0, 40), st.integers(0, 11)), min_size=1, max_size=60)
LEARNERS = st.sampled_from([None, Deviations(True, 1.0, 10, 0.5), Deviations(False, 1.5, 10), Quantile(0.7, 10)])
RULES = st.builds(
    lambda learner, raise_for, clear_for, mean_of, repeat_ms, patterns: Rule(
        above=learner is None or getattr(learner, "above", True),
        raise_at=2.0 if learner is None else None,
        learner=learner,
        raise_for=raise_for,
        clear_for=clear_for,
        mean_of=mean_of,
        repeat_ms=repeat_ms,
        patterns=patterns,
    ),
    LEARNERS,
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([None, 30]),
    st.sampled_from([(), (("b", 1.0, 0.5),)]),
)


def decided(decider, records, cuts):
    """Of all records, in batches that end at the cuts: scores, alarms, events, and the memory that is left."""
    memory = np.zeros((len(KEYS), decider.numbers), np.float32)
    ended = np.ones(len(KEYS), bool)
    scores, active, events = np.zeros(len(records), np.float32), np.zeros(len(records), bool), []
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        order = sorted(range(begin, end), key=lambda i: records[i][0])
        if not order:
            continue
        sensors = np.array([records[i][0] for i in order])
        before, after = (np.array([records[i][3] == kind for i in order]) for kind in (0, 1))
        new = np.append(True, sensors[1:] != sensors[:-1])
        begins = new | before
        begins[1:] |= after[:-1]
        first = np.flatnonzero(begins)
        goes_on = new[first] & ~before[first] & ~ended[sensors[first]]
        column = np.array(order)
        of = Sequences(first, sensors[first], goes_on, after, np.cumsum([r[2] for r in records])[column], column)
        found = decider.decide(KEYS, memory, of, np.array([records[i][1] for i in order], np.float32))
        scores[column], active[column] = found.score, found.active
        events += [event._replace(record=int(column[event.record])) for event in found.events]
        for s, sensor in enumerate(sensors[first].tolist()):  # the last sequence of a sensor is what it is left with
            memory[sensor] = found.memory[s]
            ended[sensor] = after[[*first[1:], len(order)][s] - 1]
        memory[ended] = 0
    return scores.tobytes(), active.tolist(), sorted(events, key=lambda event: event.record), memory.tobytes()


@STEADY
@given(RULES, RECORDS, st.data())
def test_a_batch_decides_what_its_records_decide_one_at_a_time(rule, records, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(records)), max_size=4)) - {len(records)})
    decider = Decider(rule, Score("prediction"))
    assert decided(decider, records, cuts) == decided(decider, records, list(range(1, len(records))))


@STEADY
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=FIXED, max_size=FIXED), st.lists(st.floats(allow_nan=False), max_size=9))
def test_what_is_remembered_lies_in_a_row_bit_for_bit(words, learnt):
    layout = Layout(len(learnt), 2)
    memory = Memory(np.array([words]), np.array([learnt], np.float64), np.array([[1.5, -2.5]], np.float32))
    packed = memory.packed()
    assert packed.shape == (1, layout.numbers)
    found = Memory.read(layout, packed)
    assert found.words.tolist() == [words]
    assert found.learnt.tobytes() == np.array([learnt], np.float64).tobytes()
    assert found.earlier.tolist() == [[1.5, -2.5]]


def test_the_quantile_is_near_the_true_one_and_the_deviations_too():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(4000, 50))
    for learner, expected in ((Quantile(0.9, 100), 1.2816), (Deviations(True, 2.0, 2000), 2 * 0.7979)):
        memory, count = np.zeros((50, learner.words)), np.zeros(50, np.int64)
        for row in scores:
            memory = learner.learn(memory, count, row)
            count += 1
        found = learner.thresholds(memory, count)[0]
        assert abs(found.mean() - expected) < 0.1
        assert np.abs(found - expected).max() < 0.4
