"""What happens at a start, by what is found: the table of docs/architecture/restore.md, a row a test."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processor.app.fit import policies_of
from processor.checkpoint.policy import Decision, Found, Present, decide
from processor.checkpoint.snapshot import Snapshot
from processor.errors import PolicyStop, SlotstreamError
from processor.kafka.topic_errors import partitions_added
from processor.partitions import Beginning, Position
from processor.settings import Settings, keys
from processor.slots.rows import Rows

PRESENT = Present("f" * 64, "topic-id", 8)
BEGINNING = Beginning(10, "lineage-1", PRESENT.fingerprint, PRESENT.topic_id, PRESENT.partitions)
OTHER_MODEL = Beginning(10, "lineage-1", "0" * 64, PRESENT.topic_id, PRESENT.partitions)


def snapshot_at(position: int, beginning: Beginning = BEGINNING) -> Snapshot:
    return Snapshot(3, Position(position, None), beginning, [], Rows.zeros(0, 2))


def found(
    committed: int | None,
    *,
    said: Beginning | None = BEGINNING,
    low: int = 0,
    end: int = 1000,
    stored: tuple[Snapshot, ...] = (),
    others: tuple[Beginning, ...] = (),
    partition: int = 3,
) -> Found:
    """What find() would give of a folder with these snapshots in it, in a group whose other partitions say so."""

    def usable(beginning: Beginning) -> Snapshot | None:
        fitting = [s for s in stored if s.beginning == beginning and committed is not None and s.mark.offset <= committed]
        return max(fitting, key=lambda s: s.mark.offset, default=None)

    # Asked for only when the metadata says nothing.
    newest = max(stored, key=lambda s: s.mark.offset, default=None) if committed is None or said is None else None
    others = others if committed is None else ()
    return Found(partition, committed, said if committed is not None else None, low, end, newest, usable, others)


def decided(of: Found, **settings: object) -> Decision:
    return decide(of, PRESENT, policies_of(Settings(**settings)))


def stopped(of: Found, **settings: object) -> PolicyStop:
    with pytest.raises(PolicyStop) as caught:
        decide(of, PRESENT, policies_of(Settings(**settings)))
    assert caught.value.exit_code == 3
    return caught.value


def is_new(beginning: Beginning, origin: int, *, gap: bool = False, added_to: int | None = None) -> bool:
    """The state begins from zero there, under a name that no other state has."""
    expected = Beginning(origin, beginning.lineage, PRESENT.fingerprint, PRESENT.topic_id, PRESENT.partitions, gap, added_to)
    return beginning == expected and beginning.lineage != BEGINNING.lineage


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

CUT = [
    pytest.param(found(500, low=11), 10, id="below the origin"),
    pytest.param(found(500, low=301, stored=(snapshot_at(300),)), 300, id="below the newest checkpoint"),
]


@pytest.mark.parametrize(("of", "start"), CUT)
def test_a_replay_that_the_log_no_longer_holds_begins_with_what_is_left_and_says_so(of, start):
    decision = decided(of)
    assert is_new(decision.beginning, of.low, gap=True)
    assert decision == Decision(500, decision.beginning, new=True, replay_from=of.low, policy="rebuild")


@pytest.mark.parametrize(("of", "start"), CUT)
def test_a_replay_that_the_log_no_longer_holds_may_be_left_out(of, start):
    decision = decided(of, on_gap="cold")
    assert is_new(decision.beginning, 500, gap=True)
    assert decision == Decision(500, decision.beginning, new=True, policy="cold")


@pytest.mark.parametrize(("of", "start"), CUT)
def test_a_replay_that_the_log_no_longer_holds_may_stop_the_start(of, start):
    error = stopped(of, on_gap="fail")
    assert f"begins at {start}" in error.found
    assert f"{of.low} to 1000" in error.found
    assert "rebuild" in error.do
    assert "cold" in error.do


def test_what_is_left_of_the_log_may_be_nothing():
    decision = decided(found(500, low=500, stored=(snapshot_at(300),)))
    assert is_new(decision.beginning, 500, gap=True)
    assert decision == Decision(500, decision.beginning, new=True, policy="rebuild")


def test_a_state_that_began_after_a_gap_is_one_like_any_other_from_then_on():
    after_gap = replace(BEGINNING, gap=True)
    snapshot = snapshot_at(300, after_gap)
    assert decided(found(500, said=after_gap, stored=(snapshot,))) == Decision(
        500, after_gap, new=False, snapshot=snapshot, replay_from=300
    )
    assert decided(found(500, said=after_gap)) == Decision(500, after_gap, new=False, replay_from=10)


def test_offsets_moved_back_before_the_origin_of_such_a_state_do_not_take_the_mark_away():
    decision = decided(found(4, said=replace(BEGINNING, gap=True)))
    assert is_new(decision.beginning, 4, gap=True)


def test_a_replay_from_the_origin_that_the_log_just_holds_goes_on():
    assert decided(found(500, low=10)).replay_from == 10


def test_a_replay_from_a_checkpoint_that_the_log_just_holds_goes_on():
    assert decided(found(500, low=300, stored=(snapshot_at(300),))).replay_from == 300


def test_a_checkpoint_at_the_committed_offset_needs_no_log():
    decision = decided(found(500, low=500, stored=(snapshot_at(500),)))
    assert (decision.replay_from, decision.beginning, decision.policy) == (500, BEGINNING, None)


def test_cold_needs_no_log():
    decision = decided(found(500, low=400), on_missing_state="cold")
    assert decision == Decision(500, decision.beginning, new=True)
    assert is_new(decision.beginning, 500)


# -- the next record is gone --------------------------------------------------------------------------------------------


def test_records_lost_before_they_were_processed_stop_and_name_the_offsets():
    error = stopped(found(500, low=501, stored=(snapshot_at(500),)))
    assert "500" in error.found
    assert "501 to 1000" in error.found
    assert "on_lost_input" in error.expected
    assert "on_lost_input: continue, which goes on at 501" in error.do


def test_records_lost_before_they_were_processed_may_be_passed_over():
    decision = decided(found(500, low=540, stored=(snapshot_at(500),)), on_lost_input="continue")
    assert is_new(decision.beginning, 540, gap=True)
    assert decision == Decision(540, decision.beginning, new=True, policy="continue")


def test_a_committed_offset_at_the_logs_start_has_lost_nothing():
    assert decided(found(500, low=500, stored=(snapshot_at(500),))).position == 500


def test_a_committed_offset_past_the_logs_end_stops():
    error = stopped(found(500, end=499, stored=(snapshot_at(500),)))
    assert "500" in error.found
    assert "goes on at 499" in error.do


@pytest.mark.parametrize(("low", "origin"), [(0, 10), (10, 10), (20, 20), (499, 499)])
def test_a_committed_offset_past_the_logs_end_may_go_on_there_with_the_state_of_the_log_as_it_is(low, origin):
    """A checkpoint below the end is of the log as it was: later ones of its lineage hold readings that are gone."""
    decision = decided(found(500, low=low, end=499, stored=(snapshot_at(450), snapshot_at(500))), on_lost_input="continue")
    assert is_new(decision.beginning, origin, gap=True)
    replay_from = origin if origin < 499 else None
    assert decision == Decision(499, decision.beginning, new=True, replay_from=replay_from, policy="continue")


def test_a_committed_offset_at_the_logs_end_is_all_processed():
    assert decided(found(500, end=500, stored=(snapshot_at(500),))).position == 500


# -- another model, another topic -----------------------------------------------------------------------------------


def test_what_has_changed_is_named_with_both_values():
    before = {"the model file": "19ea77f4", "reset.after_gap": "null", "input.scale": "x" * 5000, "late": '"accept"'}
    now = {**before, "reset.after_gap": "60s", "input.scale": "y" * 5000}
    said = Beginning.from_metadata(replace(OTHER_MODEL, deciding=before).to_metadata())
    with pytest.raises(PolicyStop) as caught:
        decide(found(50, said=said), replace(PRESENT, deciding=now), policies_of(Settings()))
    message = caught.value.found
    assert "reset.after_gap was null and is 60s" in message
    assert "input.scale was xxx" in message
    assert "late" not in message
    assert "19ea77f4" not in message
    assert len(message) < 600


def test_a_state_of_which_nobody_kept_what_decides_is_told_by_its_fingerprint():
    with pytest.raises(PolicyStop, match="made by model 00000000, this is ffffffff"):
        decide(found(50, said=OTHER_MODEL), replace(PRESENT, deciding={"late": "accept"}), policies_of(Settings()))


def test_what_decides_fits_a_brokers_metadata_and_identifies_nothing():
    deciding = {key.name: "ü" * 10_000 for key in list(keys())[:20]}
    told = replace(BEGINNING, deciding=deciding).to_metadata()
    assert len(told.encode()) < 4096
    assert Beginning.from_metadata(told) == BEGINNING


@pytest.mark.parametrize("strange", ["1", "[]", '{"a": 1}', '"x"', "null"])
def test_what_is_no_list_of_what_decides_is_passed_over(strange):
    text = BEGINNING.to_metadata()[:-1] + f',"deciding":{strange}}}'
    assert Beginning.from_metadata(text).deciding is None


def test_another_model_stops_and_names_both():
    error = stopped(found(500, said=OTHER_MODEL, stored=(snapshot_at(300, OTHER_MODEL),)))
    assert "00000000" in error.found
    assert "ffffffff" in error.found
    assert "on_model_change" in error.do


def test_another_model_may_begin_cold_where_the_old_one_stopped():
    decision = decided(found(500, said=OTHER_MODEL, stored=(snapshot_at(500, OTHER_MODEL),)), on_model_change="cold")
    assert is_new(decision.beginning, 500)
    assert decision == Decision(500, decision.beginning, new=True)


def test_another_model_may_replay_all_from_the_origin():
    decision = decided(found(500, said=OTHER_MODEL, stored=(snapshot_at(500, OTHER_MODEL),)), on_model_change="rebuild")
    assert is_new(decision.beginning, 10)
    assert decision == Decision(500, decision.beginning, new=True, replay_from=10)


def test_another_model_does_not_take_the_mark_of_lost_readings_away():
    decision = decided(found(500, said=replace(OTHER_MODEL, gap=True)), on_model_change="rebuild")
    assert is_new(decision.beginning, 10, gap=True)


def test_another_model_that_begins_where_the_state_began_replays_nothing():
    decision = decided(found(10, said=OTHER_MODEL), on_model_change="rebuild")
    assert is_new(decision.beginning, 10)
    assert decision == Decision(10, decision.beginning, new=True)


def test_another_model_after_offsets_moved_back_before_the_origin_begins_there():
    decision = decided(found(4, said=OTHER_MODEL), on_model_change="rebuild")
    assert is_new(decision.beginning, 4)
    assert decision == Decision(4, decision.beginning, new=True)


@pytest.mark.parametrize(("policy", "origin", "replay_from"), [("rebuild", 11, 11), ("cold", 500, None)])
def test_another_model_whose_readings_the_log_no_longer_holds_is_a_gap(policy, origin, replay_from):
    """The old model's checkpoints are no help."""
    of = found(500, said=OTHER_MODEL, low=11, stored=(snapshot_at(500, OTHER_MODEL),))
    decision = decided(of, on_model_change="rebuild", on_gap=policy)
    assert is_new(decision.beginning, origin, gap=True)
    assert decision == Decision(500, decision.beginning, new=True, replay_from=replay_from, policy=policy)
    assert "on_gap" in stopped(of, on_model_change="rebuild", on_gap="fail").expected


@pytest.mark.parametrize("policy", ["cold", "rebuild"])
@pytest.mark.parametrize(("low", "end"), [(501, 1000), (0, 499)])
def test_another_model_does_not_pass_over_lost_input(low, end, policy):
    error = stopped(found(500, said=OTHER_MODEL, low=low, end=end), on_model_change=policy)
    assert "on_lost_input" in error.expected


@pytest.mark.parametrize(("policy", "origin"), [("cold", 499), ("rebuild", 10)])
def test_another_model_past_the_logs_end_is_made_from_what_its_policy_says(policy, origin):
    decision = decided(found(500, said=OTHER_MODEL, end=499), on_model_change=policy, on_lost_input="continue")
    assert is_new(decision.beginning, origin, gap=True)
    assert decision.position == 499


FEWER = replace(BEGINNING, partitions=4)
ELSEWHERE = replace(BEGINNING, topic_id="another-id")


@pytest.mark.parametrize("settings", [{}, {"on_model_change": "cold"}, {"on_missing_state": "cold"}])
def test_added_partitions_stop_whatever_the_other_policies(settings):
    for of in (found(500, said=FEWER), found(None, others=(FEWER,), partition=6)):
        error = stopped(of, **settings)
        assert "had 4 partitions and has 8" in error.found
        assert "on_partitions_added" in error.expected
        assert "on_partitions_added to cold" in error.do


def test_added_partitions_may_let_every_sensor_start_anew_where_its_partition_stood():
    decision = decided(found(500, said=FEWER, stored=(snapshot_at(500, FEWER),)), on_partitions_added="cold")
    assert is_new(decision.beginning, 500, added_to=4)
    assert decision == Decision(500, decision.beginning, new=True)


@pytest.mark.parametrize("start", ["earliest", "latest"])
@pytest.mark.parametrize(
    "others",
    [
        pytest.param((FEWER, FEWER), id="none was decided on yet"),
        pytest.param((replace(FEWER, partitions=8, added_to=4), FEWER), id="some were"),
        pytest.param((replace(FEWER, partitions=8, added_to=4),) * 4, id="all were"),
    ],
)
def test_an_added_partition_begins_at_its_start_whatever_became_of_the_others_before(others, start):
    decision = decided(found(None, low=7, end=90, others=others, partition=4), on_partitions_added="cold", input={"start": start})
    assert is_new(decision.beginning, 7, added_to=4)
    assert decision == Decision(7, decision.beginning, new=True)


def test_an_old_partition_without_an_offset_begins_as_a_first_start_does_when_others_were_added():
    of = found(None, low=7, end=90, others=(FEWER,), partition=3)
    assert decided(of, on_partitions_added="cold", input={"start": "latest"}).position == 90


def test_partitions_that_were_added_once_stop_no_later_start():
    others = (replace(FEWER, partitions=8, added_to=4),)
    assert decided(found(None, low=7, others=others, partition=6)).position == 7
    assert decided(found(500, said=others[0])).beginning == others[0]


def test_others_that_have_begun_a_moment_ago_do_not_change_a_first_start():
    assert decided(found(None, low=7, end=90, others=(BEGINNING,) * 7), input={"start": "latest"}).position == 90


@pytest.mark.parametrize(("low", "end"), [(501, 1000), (0, 499)])
def test_added_partitions_do_not_pass_over_lost_input(low, end):
    of = found(500, said=FEWER, low=low, end=end)
    assert "on_lost_input" in stopped(of, on_partitions_added="cold").expected
    decision = decided(of, on_partitions_added="cold", on_lost_input="continue")
    assert decision.position == (501 if low == 501 else 499)
    assert decision.beginning.gap


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(found(500, said=ELSEWHERE), id="by the metadata"),
        pytest.param(found(500, said=ELSEWHERE, low=0, end=3), id="with an offset that makes no sense in it"),
        pytest.param(found(None, stored=(snapshot_at(70, ELSEWHERE),)), id="by a checkpoint"),
        pytest.param(found(None, others=(ELSEWHERE,)), id="by another partition"),
    ],
)
def test_another_topic_of_the_same_name_stops(of):
    error = stopped(of)
    assert "another topic of the same name" in error.found
    assert "on_partitions_added to cold" in error.do


@pytest.mark.parametrize(("start", "position"), [("earliest", 7), ("latest", 90)])
@pytest.mark.parametrize(
    "of",
    [
        pytest.param(found(50, said=ELSEWHERE, low=7, end=90, stored=(snapshot_at(40, ELSEWHERE),)), id="with an offset"),
        pytest.param(found(500, said=ELSEWHERE, low=7, end=90), id="with an offset past its end"),
        pytest.param(found(None, low=7, end=90, stored=(snapshot_at(70, ELSEWHERE),)), id="without"),
        pytest.param(found(None, low=7, end=90, others=(ELSEWHERE,)), id="without, by another partition"),
    ],
)
def test_another_topic_of_the_same_name_may_begin_as_a_first_start_does(of, start, position):
    decision = decided(of, on_partitions_added="cold", input={"start": start})
    assert is_new(decision.beginning, position)
    assert decision == Decision(position, decision.beginning, new=True)


def test_an_offset_that_an_operator_set_in_the_new_topic_counts():
    of = found(50, said=None, low=7, end=90, stored=(snapshot_at(40, ELSEWHERE),))
    assert decided(of, on_partitions_added="cold").position == 50


@pytest.mark.parametrize("policy", ["fail", "cold"])
def test_a_process_from_before_partitions_were_added_does_not_undo_what_another_has_begun(policy):
    more = replace(BEGINNING, partitions=16, added_to=8)
    for of in (found(500, said=more), found(None, others=(more,))):
        with pytest.raises(SlotstreamError, match="when this process started and has 16") as caught:
            decided(of, on_partitions_added=policy)
        assert caught.value.exit_code == 1


def test_partitions_that_appear_while_it_runs_end_it_so_that_a_start_helps_where_the_policy_lets_it():
    errors = {policy: partitions_added("readings", policy, 4, 8) for policy in ("fail", "cold")}
    assert {policy: error.exit_code for policy, error in errors.items()} == {"fail": 3, "cold": 1}
    assert "start again" in errors["cold"].do


# -- whatever is found ------------------------------------------------------------------------------------------------

offset = st.integers(0, 60)
beginning = st.builds(
    Beginning,
    origin=offset,
    lineage=st.sampled_from(["a", "b"]),
    fingerprint=st.sampled_from([PRESENT.fingerprint, PRESENT.fingerprint, "0" * 64]),
    topic_id=st.sampled_from([PRESENT.topic_id, PRESENT.topic_id, PRESENT.topic_id, "another-id"]),
    partitions=st.sampled_from([8, 8, 8, 4]),
    gap=st.booleans(),
    added_to=st.sampled_from([None, None, 4]),
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
        others=tuple(draw(st.lists(beginning, max_size=2))),
        partition=draw(st.sampled_from([3, 6])),
    )


policies = st.fixed_dictionaries(
    {
        "on_missing_state": st.sampled_from(["rebuild", "cold", "fail"]),
        "on_gap": st.sampled_from(["rebuild", "cold", "fail"]),
        "on_lost_input": st.sampled_from(["fail", "continue"]),
        "on_model_change": st.sampled_from(["fail", "cold", "rebuild"]),
        "on_partitions_added": st.sampled_from(["fail", "cold"]),
        "input": st.fixed_dictionaries({"start": st.sampled_from(["earliest", "latest"])}),
    }
)


def known_to(of):
    return [b for b in (of.said, of.newest and of.newest.beginning) if b]


@pytest.mark.full
@hypothesis_settings(max_examples=1000, deadline=None, derandomize=True)
@given(of=situations(), settings=policies)
def test_whatever_is_found_a_decision_can_be_carried_out_and_loads_only_its_own_past(of, settings):
    try:
        decision = decided(of, **settings)
    except PolicyStop:
        return
    assert of.low <= decision.position <= of.end
    if of.committed is not None and decision.position != of.committed:
        assert decision.policy == "continue" or (of.said and of.said.topic_id != PRESENT.topic_id)
    assert (decision.policy is None) or (decision.new and decision.beginning.gap)
    assert decision.beginning.gap <= (decision.policy is not None or any(b.gap for b in known_to(of))), "a mark comes from somewhere"
    assert decision.new == (decision.beginning != of.said)
    assert (decision.beginning.fingerprint, decision.beginning.topic_id) == (PRESENT.fingerprint, PRESENT.topic_id)
    assert decision.beginning.origin <= decision.position
    start = decision.beginning.origin
    if decision.snapshot is not None:
        assert decision.snapshot.beginning == decision.beginning
        start = decision.snapshot.mark.offset
        assert start <= decision.position
    if decision.replay_from is not None:
        assert decision.replay_from == start
        assert decision.replay_from == decision.position or of.low <= decision.replay_from < decision.position
    else:
        assert start == decision.position, "nothing lies between what is loaded and the position"
