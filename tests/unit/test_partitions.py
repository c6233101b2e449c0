"""An owned partition: its states, its positions, and what its state is a function of."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.partitions import Beginning, Partition, Position, State
from processor.records import Claim

deterministic = settings(max_examples=200, deadline=None, derandomize=True)
ALLOWED = {
    (State.RESTORING, State.JOINING),
    (State.RESTORING, State.LIVE),
    (State.JOINING, State.LIVE),
    (State.RESTORING, State.DROPPED),
    (State.JOINING, State.DROPPED),
    (State.LIVE, State.DROPPED),
}


def partition(state: State = State.LIVE, position: int = 0, **fields: object) -> Partition:
    mark = Position(position, None)
    return Partition(3, 0.0, state=state, applied=mark, committed=mark, **fields)


# -- states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("other", State)
def test_only_the_transitions_of_the_diagram_are_allowed(state, other):
    changed = partition(state)
    if (state, other) in ALLOWED:
        changed.to(other)
        assert changed.state is other
    else:
        with pytest.raises(ValueError, match=f"partition 3 cannot go from {state.value} to {other.value}"):
            changed.to(other)
        assert changed.state is state


@pytest.mark.parametrize("state", State)
def test_only_a_live_partition_is_live(state):
    assert partition(state).live == (state is State.LIVE)


def test_a_partition_begins_restoring():
    assert Partition(3, 0.0).state is State.RESTORING


# -- marks --------------------------------------------------------------------------------------------------

times = st.none() | st.integers(-(2**53), 2**53)


def test_passing_over_what_has_no_time_leaves_the_times():
    claim = Claim(b"pump", 9, 8)
    assert Position(10, 7, 5, claim).passed(12) == Position(12, 7, 5, claim)


def test_passing_leaves_the_mark_before_as_it_was():
    before = Position(1, 2)
    before.passed(9)
    assert before == Position(1, 2)


# -- applied and committed ------------------------------------------------------------------------------------


def test_a_partition_moved_when_it_is_live_and_has_applied_something():
    moved = partition()
    assert not moved.moved
    moved.applied = Position(1, None)
    assert moved.moved
    moved.commit()
    assert not moved.moved


def test_a_joining_partition_has_a_beginning_to_commit():
    assert partition(State.JOINING).moved


@pytest.mark.parametrize("state", [State.RESTORING, State.DROPPED])
def test_a_partition_that_is_not_ours_to_move_has_nothing_to_commit(state):
    waiting = partition(state)
    waiting.applied = Position(9, None)
    assert not waiting.moved


def test_an_abort_goes_back_to_what_was_committed():
    aborted = partition(position=5)
    aborted.applied = replace(aborted.applied.passed(9), time_ms=100)
    aborted.abort()
    assert aborted.applied == Position(5, None)


def test_a_commit_makes_what_was_applied_final():
    committed = partition(position=5)
    committed.applied = replace(committed.applied.passed(9), time_ms=100)
    committed.commit()
    committed.abort()
    assert committed.applied == committed.committed == Position(9, 100)


@pytest.mark.parametrize(("position", "caught_up"), [(9, False), (10, True), (11, True)])
def test_a_partition_has_caught_up_when_the_end_seen_is_committed(position, caught_up):
    catching = partition(end_seen=10)
    catching.applied = Position(position, None)
    assert not catching.caught_up
    catching.commit()
    assert catching.caught_up == caught_up


def test_having_caught_up_once_is_enough():
    catching = partition(end_seen=0)
    catching.commit()
    catching.end_seen = 1000
    catching.commit()
    assert catching.caught_up


@pytest.mark.parametrize(("end", "position"), [(12, 12), (10, 10), (3, 10)])
def test_the_end_of_the_log_moves_the_position_forward_only(end, position):
    ended = partition(position=10)
    ended.applied = Position(10, 77)
    ended.reached_end(end)
    assert ended.applied == Position(position, 77)


# -- what the committed offset's metadata says ------------------------------------------------------------------

beginnings = st.builds(
    Beginning,
    st.integers(0, 2**63 - 1),
    st.text(),
    st.text(),
    st.text(),
    st.integers(1, 10_000),
    gap=st.booleans(),
    added_to=st.none() | st.integers(1, 10_000),
)


@deterministic
@given(beginning=beginnings)
def test_a_beginning_comes_back_from_metadata(beginning):
    assert Beginning.from_metadata(beginning.to_metadata()) == beginning


def test_metadata_is_small_and_plain_enough_for_a_broker():
    text = Beginning(2**63 - 1, "a" * 16, "f" * 64, "A" * 22, 10_000, gap=True, added_to=9_999).to_metadata()
    assert text.isascii()
    assert len(text) < 4096  # offset.metadata.max.bytes


WHOLE = json.loads(Beginning(5, "a", "f", "t", 8).to_metadata())
JUNK = [None, "", " ", "reset by ops", "{", "null", "[]", "5", '"x"', "{}", "[1]", '{"origin":1}', '{"origin":[]}', "\x00", "NaN", "1e999"]


@pytest.mark.parametrize("text", JUNK)
def test_what_an_operators_tool_leaves_is_no_beginning(text):
    assert Beginning.from_metadata(text) is None


@pytest.mark.parametrize("name", WHOLE)
def test_metadata_that_lacks_a_field_is_no_beginning(name):
    assert Beginning.from_metadata(json.dumps({key: value for key, value in WHOLE.items() if key != name})) is None


@pytest.mark.parametrize("name", ["origin", "partitions"])
@pytest.mark.parametrize("value", [None, "x", [], {}, float("inf"), float("nan"), "9" * 5000])
def test_metadata_with_no_number_for_a_number_is_no_beginning(name, value):
    assert Beginning.from_metadata(json.dumps({**WHOLE, name: value})) is None


def test_metadata_that_says_nothing_of_lost_readings_and_added_partitions_knows_of_none():
    assert Beginning.from_metadata(json.dumps(WHOLE)) == Beginning(5, "a", "f", "t", 8, gap=False, added_to=None)
    assert WHOLE.keys() == {"origin", "lineage", "fingerprint", "topic_id", "partitions"}


def test_metadata_that_nests_too_deep_is_no_beginning():
    assert Beginning.from_metadata("[" * 100_000) is None


@deterministic
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 200))
def test_damaged_metadata_never_raises(seed, cut):
    draw, text = random.Random(seed), list(Beginning(5, "lineage", "f" * 8, "topic", 8).to_metadata()[:cut])
    for _ in range(draw.randrange(3)):
        text.insert(draw.randrange(len(text) + 1), draw.choice('[]{},:"0e\\\x00'))
    found = Beginning.from_metadata("".join(text))
    assert found is None or isinstance(found.origin, int)
