"""What happens at a start, by what is found: the table of docs/architecture.md, a row a test."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processor.checkpoint.restore import Decision, Found, Present, decide
from processor.checkpoint.snapshot import Snapshot
from processor.errors import PolicyStop
from processor.settings import Settings
from processor.slots.rows import Rows
from processor.stream.assignment import Beginning, Mark

PRESENT = Present("f" * 64, "topic-id", 8)
BEGINNING = Beginning(10, "lineage-1", PRESENT.fingerprint, PRESENT.topic_id, PRESENT.partitions)
OTHER_MODEL = Beginning(10, "lineage-1", "0" * 64, PRESENT.topic_id, PRESENT.partitions)


def snapshot_at(position: int, beginning: Beginning = BEGINNING) -> Snapshot:
    return Snapshot(3, Mark(position, None), beginning, [], Rows.zeros(0, 2))


def found(
    committed: int | None, *, said: Beginning | None = BEGINNING, low: int = 0, end: int = 1000, stored: tuple[Snapshot, ...] = ()
) -> Found:
    """What find() would give of a folder with these snapshots in it."""

    def usable(beginning: Beginning) -> Snapshot | None:
        fitting = [s for s in stored if s.beginning == beginning and committed is not None and s.mark.position <= committed]
        return max(fitting, key=lambda s: s.mark.position, default=None)

    # Asked for only when the metadata says nothing.
    newest = max(stored, key=lambda s: s.mark.position, default=None) if committed is None or said is None else None
    return Found(3, committed, said if committed is not None else None, low, end, newest, usable)


def decided(of: Found, **settings: object) -> Decision:
    return decide(of, PRESENT, Settings(**settings))


def stopped(of: Found, **settings: object) -> PolicyStop:
    with pytest.raises(PolicyStop) as caught:
        decide(of, PRESENT, Settings(**settings))
    assert caught.value.exit_code == 3
    return caught.value


def is_new(beginning: Beginning, origin: int) -> bool:
    """The state begins from zero there, under a name that no other state has."""
    facts = (beginning.origin, beginning.fingerprint, beginning.topic_id, beginning.partitions)
    return facts == (origin, PRESENT.fingerprint, PRESENT.topic_id, PRESENT.partitions) and beginning.lineage != BEGINNING.lineage


# -- no committed offset ------------------------------------------------------------------------------------


def test_a_first_start_begins_at_the_logs_start():
    decision = decided(found(None, low=7, end=90))
    assert is_new(decision.beginning, 7)
    assert decision == Decision(7, decision.beginning, new=True)


def test_a_first_start_at_latest_begins_at_the_end_resolved_once():
    decision = decided(found(None, low=7, end=90), input={"start": "latest"})
    assert is_new(decision.beginning, 90)
    assert decision == Decision(90, decision.beginning, new=True)


def test_every_beginning_has_a_lineage_of_its_own():
    assert decided(found(None)).beginning.lineage != decided(found(None)).beginning.lineage


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_checkpoint_without_a_committed_offset_stops_and_names_both_ways_on(start):
    error = stopped(found(None, stored=(snapshot_at(70),)), input={"start": start, "topic": "readings"}, group="g")
    assert "70" in error.found
    assert "--group g --topic readings:3 --reset-offsets --to-offset 70 --execute" in error.do
    assert "another `group`" in error.do


# -- the state is there -----------------------------------------------------------------------------------------


def test_a_checkpoint_at_the_committed_offset_is_loaded_and_nothing_replayed():
    snapshot = snapshot_at(500)
    assert decided(found(500, stored=(snapshot,))) == Decision(500, BEGINNING, new=False, snapshot=snapshot, replay_from=500)


def test_an_older_checkpoint_is_loaded_and_the_rest_replayed():
    snapshot = snapshot_at(300)
    assert decided(found(500, stored=(snapshot,))) == Decision(500, BEGINNING, new=False, snapshot=snapshot, replay_from=300)


def test_of_several_checkpoints_the_newest_at_or_below_the_committed_offset_is_loaded():
    stored = tuple(snapshot_at(position) for position in (100, 300, 501, 900))
    assert decided(found(500, stored=stored)).replay_from == 300


def test_a_checkpoint_of_another_beginning_is_not_loaded():
    other = Beginning(10, "lineage-2", PRESENT.fingerprint, PRESENT.topic_id, PRESENT.partitions)
    decision = decided(found(500, stored=(snapshot_at(400, other), snapshot_at(300))))
    assert (decision.beginning, decision.replay_from) == (BEGINNING, 300)


def test_a_state_that_begins_at_the_committed_offset_needs_nothing():
    assert decided(found(10)) == Decision(10, BEGINNING, new=False)


def test_a_state_that_begins_at_the_committed_offset_needs_nothing_even_where_state_is_required():
    assert decided(found(10), on_missing_state="fail") == Decision(10, BEGINNING, new=False)


def test_offsets_moved_forward_still_replay_what_was_skipped():
    snapshot = snapshot_at(300)
    decision = decided(found(900, said=None, stored=(snapshot,)))
    assert decision == Decision(900, BEGINNING, new=True, snapshot=snapshot, replay_from=300)


def test_offsets_moved_back_go_on_from_an_older_checkpoint():
    stored = (snapshot_at(100), snapshot_at(900))
    assert decided(found(200, said=None, stored=stored)) == Decision(200, BEGINNING, new=True, snapshot=stored[0], replay_from=100)


# -- the metadata is gone -----------------------------------------------------------------------------------------


def test_without_metadata_the_newest_checkpoint_says_what_the_state_is_a_function_of():
    snapshot = snapshot_at(300)
    assert decided(found(500, said=None, stored=(snapshot,))) == Decision(500, BEGINNING, new=True, snapshot=snapshot, replay_from=300)


def test_without_metadata_and_checkpoint_the_state_begins_at_the_logs_start():
    decision = decided(found(500, said=None, low=7))
    assert is_new(decision.beginning, 7)
    assert decision == Decision(500, decision.beginning, new=True, replay_from=7)


def test_without_metadata_and_checkpoint_at_the_logs_start_nothing_is_replayed():
    decision = decided(found(7, said=None, low=7))
    assert decision == Decision(7, decision.beginning, new=True)
    assert is_new(decision.beginning, 7)


def test_without_metadata_a_checkpoint_of_another_model_is_another_model():
    error = stopped(found(500, said=None, stored=(snapshot_at(300, OTHER_MODEL),)))
    assert "on_model_change" in error.expected


# -- no usable checkpoint -------------------------------------------------------------------------------------------


def test_with_no_usable_checkpoint_all_is_replayed_from_the_origin():
    assert decided(found(500)) == Decision(500, BEGINNING, new=False, replay_from=10)


def test_with_checkpoints_past_the_committed_offset_alone_all_is_replayed_from_the_origin():
    assert decided(found(500, stored=(snapshot_at(501),))) == Decision(500, BEGINNING, new=False, replay_from=10)


def test_with_no_usable_checkpoint_a_state_may_begin_cold():
    decision = decided(found(500), on_missing_state="cold")
    assert is_new(decision.beginning, 500)
    assert decision == Decision(500, decision.beginning, new=True)


def test_with_no_usable_checkpoint_the_start_may_be_refused():
    error = stopped(found(500), on_missing_state="fail")
    assert "500" in error.found
    assert "rebuild" in error.do
    assert "cold" in error.do


def test_cold_does_not_throw_away_a_state_that_is_there():
    assert decided(found(500, stored=(snapshot_at(300),)), on_missing_state="cold").replay_from == 300


def test_offsets_moved_back_before_the_origin_begin_there():
    decision = decided(found(4))
    assert is_new(decision.beginning, 4)
    assert decision == Decision(4, decision.beginning, new=True)


def test_offsets_moved_back_before_the_origin_begin_there_without_metadata_too():
    decision = decided(found(4, said=None, stored=(snapshot_at(300),)))
    assert is_new(decision.beginning, 4)
    assert decision == Decision(4, decision.beginning, new=True)


# -- the log does not reach back --------------------------------------------------------------------------------------


def test_a_replay_from_the_origin_that_the_log_no_longer_holds_stops():
    error = stopped(found(500, low=11))
    assert "begins at 10" in error.found
    assert "11 to 1000" in error.found


def test_a_replay_from_the_origin_that_the_log_just_holds_goes_on():
    assert decided(found(500, low=10)).replay_from == 10


def test_a_replay_from_a_checkpoint_that_the_log_no_longer_holds_stops():
    error = stopped(found(500, low=301, stored=(snapshot_at(300),)))
    assert "begins at 300" in error.found


def test_a_replay_from_a_checkpoint_that_the_log_just_holds_goes_on():
    assert decided(found(500, low=300, stored=(snapshot_at(300),))).replay_from == 300


def test_a_checkpoint_at_the_committed_offset_needs_no_log():
    assert decided(found(500, low=500, stored=(snapshot_at(500),))).replay_from == 500


def test_cold_needs_no_log():
    assert decided(found(500, low=400), on_missing_state="cold").position == 500


def test_records_lost_before_they_were_processed_stop_and_name_the_offsets():
    error = stopped(found(500, low=501, stored=(snapshot_at(500),)))
    assert "500" in error.found
    assert "501 to 1000" in error.found
    assert "on_lost_input" in error.expected


def test_a_committed_offset_at_the_logs_start_has_lost_nothing():
    assert decided(found(500, low=500, stored=(snapshot_at(500),))).position == 500


def test_a_committed_offset_past_the_logs_end_stops():
    assert "500" in stopped(found(500, end=499, stored=(snapshot_at(500),))).found


def test_a_committed_offset_at_the_logs_end_is_all_processed():
    assert decided(found(500, end=500, stored=(snapshot_at(500),))).position == 500


# -- another model, another topic -----------------------------------------------------------------------------------


def test_another_model_stops_and_names_both():
    error = stopped(found(500, said=OTHER_MODEL, stored=(snapshot_at(300, OTHER_MODEL),)))
    assert "00000000" in error.found
    assert "ffffffff" in error.found
    assert "on_model_change" in error.do


def test_another_model_may_begin_cold_where_the_old_one_stopped():
    decision = decided(found(500, said=OTHER_MODEL, stored=(snapshot_at(500, OTHER_MODEL),)), on_model_change="cold")
    assert is_new(decision.beginning, 500)
    assert decision == Decision(500, decision.beginning, new=True)


@pytest.mark.parametrize(("low", "end"), [(501, 1000), (0, 499)])
def test_another_model_does_not_pass_over_lost_input(low, end):
    error = stopped(found(500, said=OTHER_MODEL, low=low, end=end), on_model_change="cold")
    assert "on_lost_input" in error.expected


@pytest.mark.parametrize("settings", [{}, {"on_model_change": "cold"}, {"on_missing_state": "cold"}])
def test_added_partitions_stop_whatever_the_other_policies(settings):
    said = Beginning(10, "lineage-1", PRESENT.fingerprint, PRESENT.topic_id, 4)
    error = stopped(found(500, said=said), **settings)
    assert "had 4 partitions and has 8" in error.found
    assert "on_partitions_added" in error.expected


def test_another_topic_of_the_same_name_stops():
    said = Beginning(10, "lineage-1", PRESENT.fingerprint, "another-id", 8)
    assert "another topic of the same name" in stopped(found(500, said=said)).found


def test_another_topic_is_told_before_offsets_that_make_no_sense_in_it():
    said = Beginning(10, "lineage-1", PRESENT.fingerprint, "another-id", 8)
    assert "another topic of the same name" in stopped(found(500, said=said, low=0, end=3)).found


# -- whatever is found ------------------------------------------------------------------------------------------------

offset = st.integers(0, 60)
beginning = st.builds(
    Beginning,
    origin=offset,
    lineage=st.sampled_from(["a", "b"]),
    fingerprint=st.sampled_from([PRESENT.fingerprint, PRESENT.fingerprint, "0" * 64]),
    topic_id=st.sampled_from([PRESENT.topic_id, PRESENT.topic_id, PRESENT.topic_id, "another-id"]),
    partitions=st.sampled_from([8, 8, 8, 4]),
)


@st.composite
def situations(draw):
    """Anything a broker and a folder can hold together, snapshots at positions before their own origin left out."""
    known = draw(st.lists(beginning, min_size=1, max_size=3))
    low = draw(offset)
    snapshots = st.tuples(st.sampled_from(known), offset).map(lambda pair: snapshot_at(pair[0].origin + pair[1], pair[0]))
    return found(
        draw(st.none() | offset),
        said=draw(st.none() | st.sampled_from(known)),
        low=low,
        end=low + draw(offset),
        stored=tuple(draw(st.lists(snapshots, max_size=4))),
    )


policies = st.fixed_dictionaries(
    {
        "on_missing_state": st.sampled_from(["rebuild", "cold", "fail"]),
        "on_model_change": st.sampled_from(["fail", "cold"]),
        "input": st.fixed_dictionaries({"start": st.sampled_from(["earliest", "latest"])}),
    }
)


@hypothesis_settings(max_examples=400, deadline=None, derandomize=True)
@given(of=situations(), settings=policies)
def test_whatever_is_found_a_decision_can_be_carried_out_and_loads_only_its_own_past(of, settings):
    try:
        decision = decided(of, **settings)
    except PolicyStop:
        return
    assert of.low <= decision.position <= of.end
    assert decision.position == of.committed or of.committed is None
    assert decision.new == (decision.beginning != of.said)
    assert (decision.beginning.fingerprint, decision.beginning.topic_id) == (PRESENT.fingerprint, PRESENT.topic_id)
    assert decision.beginning.origin <= decision.position
    start = decision.beginning.origin
    if decision.snapshot is not None:
        assert decision.snapshot.beginning == decision.beginning
        start = decision.snapshot.mark.position
        assert start <= decision.position
    if decision.replay_from is not None:
        assert decision.replay_from == start
        assert decision.replay_from == decision.position or of.low <= decision.replay_from < decision.position
    else:
        assert start == decision.position, "nothing lies between what is loaded and the position"
