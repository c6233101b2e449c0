"""Partition time with an expiry: what moves it, what waits, and that a restart at any offset decides the same."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import echo, echo_model

from processor.checkpoint.snapshot import Snapshot, from_tensors, to_tensors
from processor.checkpoint.topic import MARKER, TopicStore, TopicWriter, _Read
from processor.kafka.topics import Topic
from processor.partitions import Beginning, Position
from processor.records import Batch, Claim
from processor.rules import NEVER, Clock, keep_time
from processor.settings import Settings
from processor.slots.rows import Rows
from processor.verify import oracle

EXPIRE_MS = 30
YEAR = 1000
BEGINNING = Beginning(5, "00aa" * 4, "f" * 64, "topic-id", 8)


def told(records, clock=Clock(), expire_ms=EXPIRE_MS):  # noqa: B008 (it is frozen)
    for key, event_ms in records:
        clock = clock.heard(key, event_ms, expire_ms)
    return clock


def begun(*sensors, at=100):
    """A partition that has its time."""
    return told([(key, at) for key in sensors or (b"a", b"b", b"c")])


def batch_of(records):
    n = len(records)
    return Batch(
        partition=[0] * n,
        key=[key for key, _ in records],
        offset=np.arange(n),
        event_ms=np.array([0 if at is None else at for _, at in records], np.int64),
        record_ms=np.zeros(n, np.int64),
        steps=np.array([at is not None for _, at in records], np.int64),
        reset_before=np.zeros(n, np.bool_),
        reset_after=np.zeros(n, np.bool_),
        x=np.zeros((n, 1), np.float32),
    )


# -- what moves time ------------------------------------------------------------------------------------


def test_without_an_expiry_time_is_the_greatest_so_far():
    assert told([(b"a", 5), (b"a", YEAR), (b"b", 7)], expire_ms=None) == Clock(YEAR, 5)


def test_one_sensor_alone_moves_time_by_no_more_than_the_expiry():
    clock = begun()
    assert told([(b"a", 130)], clock).time_ms == 130
    assert told([(b"a", 131)], clock) == clock._replace(claim=Claim(b"a", 131, 131))
    far = told([(b"a", YEAR), (b"b", 101), (b"a", YEAR + 1), (b"c", 102), (b"a", YEAR + 2)] * 50, clock)
    assert far.time_ms == 102


def test_a_second_sensor_confirms_as_far_as_both_agree():
    clock = told([(b"a", YEAR)], begun())
    assert told([(b"b", YEAR + 7)], clock) == Clock(YEAR + 7, 100)
    after_outage = told([(b"b", 200)], clock)
    assert after_outage == Clock(200, 100, claim=Claim(b"a", YEAR, YEAR)), "b is far ahead too, and right"
    assert told([(b"c", 201)], after_outage).time_ms == 201


def test_a_sensor_that_is_back_in_time_claims_nothing_more():
    clock = told([(b"a", YEAR), (b"a", 101)], begun())
    assert clock == Clock(101, 100)
    assert told([(b"b", 2 * YEAR)], clock).time_ms == 101, "its glitch confirms none of months ago"


def test_a_claim_ends_where_time_has_come_up_to_it():
    clock = told([(b"a", 140), (b"b", 109)], begun())
    assert clock.claim == Claim(b"a", 140, 140)
    assert told([(b"b", 110)], clock) == Clock(110, 100)


def test_a_sensor_that_is_alone_confirms_itself_when_the_others_would_have_been_forgotten():
    clock = told([(b"a", YEAR), (b"a", YEAR + 15), (b"a", YEAR + 30)], begun())
    assert clock.time_ms == 100
    assert told([(b"a", YEAR + 31)], clock) == Clock(YEAR + 31, 100)
    assert told([(b"b", 101), (b"a", YEAR + 31), (b"a", YEAR + 60)], clock).time_ms == 101, "another was heard"
    assert told([(b"a", 3 * YEAR), (b"a", 3 * YEAR + 1)], clock).time_ms == 100, "its own times jump"


def test_a_partition_of_one_sensor_has_its_time_after_one_expiry():
    assert told([(b"a", at) for at in (0, 15, 30)]).time_ms is None
    assert told([(b"a", at) for at in (0, 15, 30, 31, 40)]) == Clock(40, 31)


def test_the_first_record_of_a_partition_may_have_the_wrong_clock():
    clock = told([(b"a", YEAR), (b"b", 100), (b"c", 101), (b"a", YEAR + 1)])
    assert clock == Clock(101, 100, claim=Claim(b"a", YEAR + 1, YEAR))


# -- how it is told to a batch ------------------------------------------------------------------------------

events = st.one_of(st.integers(0, 80), st.sampled_from([400, 401, 430, 432, 900, -500]))
records = st.lists(st.tuples(st.sampled_from([b"a", b"a", b"b", b"c"]), events | st.none()), max_size=30)
deterministic = settings(max_examples=300, deadline=None, derandomize=True)


@pytest.mark.full
@deterministic
@given(made=records, cuts=st.sets(st.integers(1, 29)), expire_ms=st.sampled_from([None, 0, 12, 40]))
def test_time_does_not_depend_on_how_the_log_is_cut(made, cuts, expire_ms):
    one_by_one, times = Clock(), []
    for key, at in made:
        if at is not None:
            one_by_one = one_by_one.heard(key, at, expire_ms)
        times.append(NEVER if one_by_one.time_ms is None else one_by_one.time_ms)
    clock, found = {0: Clock()}, []
    points = [0, *sorted(c for c in cuts if c < len(made)), len(made)]
    for a, b in itertools.pairwise(points):
        batch = batch_of(made[a:b])
        clock |= keep_time(batch, clock, expire_ms)
        found += batch.time_ms.tolist()
    assert found == times
    assert clock[0] == one_by_one


@pytest.mark.full
@deterministic
@given(made=records, expire_ms=st.sampled_from([None, 0, 12, 40]))
def test_the_oracle_keeps_the_same_time(made, expire_ms):
    expire = None if expire_ms is None else f"{max(expire_ms, 1)}ms"
    reference = oracle.Reference(echo_model(1), Settings(state={"expire_after": expire}), "m", run=echo)
    clock = Clock()
    for key, at in made:
        if at is not None:
            clock = clock.heard(key, at, expire_ms and max(expire_ms, 1)) if expire_ms != 0 else clock.heard(key, at, 1)
            reference._pass_time(0, key, at)
        assert (reference._time_ms.get(0), reference._first_ms.get(0)) == (clock.time_ms, clock.first_ms)


# -- restarts -----------------------------------------------------------------------------------------------


def through_a_file(mark: Position) -> Position:
    tensors, metadata = to_tensors(Snapshot(3, mark, BEGINNING, [], Rows.zeros(0, 2)))
    return from_tensors(tensors, metadata)[0].mark


def nothing(*_: object) -> list[list[object]]:
    return []


def through_a_topic(mark: Position) -> Position:
    topic = Topic("states", "checkpoint-id", 8, 1_000_000, "compact")
    store = TopicStore(nothing, topic, 2)
    writer = TopicWriter(store)
    writer.write(Snapshot(3, mark, BEGINNING, [], Rows.zeros(0, 2)))
    read = _Read(2)
    read.take([SimpleNamespace(key=lambda out=out: out.key, value=lambda out=out: out.value) for out in writer.outs()[0]])
    found = store._snapshot(3, read, topic, None, lambda _: True)
    assert found is not None
    return found.mark


@pytest.mark.full
@deterministic
@given(
    made=st.lists(st.tuples(st.sampled_from([b"a", b"", b"\xff\0"]), events), max_size=20),
    at=st.integers(0, 20),
    store=st.sampled_from([through_a_file, through_a_topic]),
)
def test_a_restart_at_any_offset_decides_the_same(made, at, store):
    before = told(made[:at])
    mark = store(Position(at, before.time_ms, before.first_ms, before.claim))
    again = Clock(mark.time_ms, mark.first_ms, claim=mark.claim)
    assert again == before
    assert told(made[at:], again) == told(made)


def test_a_checkpoint_of_an_older_version_has_no_claim():
    tensors, metadata = to_tensors(Snapshot(3, Position(7, 5, 4), BEGINNING, [], Rows.zeros(0, 2)))
    assert "claim" not in json.loads(metadata["slotstream"])
    assert from_tensors(tensors, metadata)[0].mark == Position(7, 5, 4)


@pytest.mark.parametrize("claim", [1, [], {}, {"key": "zz", "ms": 1, "since_ms": 1}, {"key": "", "ms": True, "since_ms": 1}, {"key": 5}])
def test_a_marker_with_a_strange_claim_is_no_marker(claim):
    writer = TopicWriter(TopicStore(nothing, Topic("states", "id", 8, 1_000_000, "compact"), 2))
    writer.write(Snapshot(3, Position(7, 5, 4), BEGINNING, [], Rows.zeros(0, 2)))
    ((key, value),) = [(out.key, out.value) for out in writer.outs()[0]]
    assert key == MARKER
    strange = json.dumps({**json.loads(value), "claim": claim}).encode()
    read = _Read(2)
    read.take([SimpleNamespace(key=lambda: MARKER, value=lambda: strange)])
    assert read.marker is None
