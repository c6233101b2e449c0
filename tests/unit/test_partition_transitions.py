"""A partition changes only by its methods, and each of them checks the state it starts from."""

import pytest

from processor.partitions import Beginning, Partition, Position, State

ORIGIN = Beginning(5, "00aa", "f" * 64, "topic-id", 8)


def restoring(*, checkpoint: int | None = 5) -> Partition:
    partition = Partition(3, 0.0, checkpoint_due_s=9.0)
    partition.begin(ORIGIN, Position(5, 50), replay=range(5, 9), checkpoint=checkpoint)
    return partition


def live() -> Partition:
    partition = restoring()
    partition.restored(9, 12)
    partition.go_live()
    return partition


def test_a_replay_moves_both_positions_since_its_records_were_committed_before() -> None:
    partition = restoring()
    partition.replayed(Position(7, 70))
    partition.abort()
    assert partition.applied == partition.committed == Position(7, 70)


def test_a_second_decision_of_the_restore_begins_once_more() -> None:
    partition = restoring()
    partition.replayed(Position(7, 70))
    partition.begin(ORIGIN, Position(6, None), replay=None, checkpoint=None)
    assert (partition.applied, partition.replay, partition.checkpoint_position) == (Position(6, None), None, None)


def test_a_restored_partition_stands_at_its_committed_offset_with_the_time_of_its_records() -> None:
    partition = restoring()
    partition.restored(9, 12)
    assert partition.applied == partition.committed == Position(9, 50)
    assert (partition.replay, partition.end_seen, partition.caught_up) == (None, 12, False)


@pytest.mark.parametrize(("checkpoint", "due_s"), [(None, 0.0), (5, 9.0)])
def test_a_first_checkpoint_is_due_at_once(checkpoint: int | None, due_s: float) -> None:
    partition = restoring(checkpoint=checkpoint)
    partition.restored(9, 9)
    assert (partition.checkpoint_due_s, partition.caught_up) == (due_s, True)


def test_no_record_is_read_before_the_beginning_is_committed() -> None:
    partition = restoring()
    partition.restored(9, 9)
    partition.join()
    assert partition.moved
    with pytest.raises(ValueError, match="cannot go live before its beginning is committed"):
        partition.go_live()
    partition.commit()
    partition.go_live()
    assert partition.live


def test_positions_never_go_back_but_by_an_abort() -> None:
    partition = live()
    partition.apply(Position(11, 60))
    with pytest.raises(ValueError, match="cannot go back from 11 to 10"):
        partition.apply(Position(10, 60))
    partition.abort()
    assert partition.applied == Position(9, 50)


def test_an_idle_partition_has_caught_up_when_it_has_reached_the_end_that_was_seen() -> None:
    partition = live()
    partition.apply(Position(11, 60))
    partition.reached_end(12)
    assert not partition.caught_up, "what was applied is not committed yet"
    partition.commit()
    assert partition.caught_up


def test_a_checkpoint_is_stale_when_something_was_committed_since() -> None:
    partition = live()
    assert partition.checkpoint_stale
    partition.checkpointed(9, 1.0)
    assert not partition.checkpoint_stale
    partition.apply(Position(10, None))
    partition.commit()
    assert partition.checkpoint_stale
    partition.checkpoint_taken(20.0)
    partition.checkpoint_lost()
    assert (partition.checkpoint_position, partition.checkpoint_due_s) == (None, 0.0)


@pytest.mark.parametrize(
    ("call", "states"),
    [
        (lambda p: p.begin(ORIGIN, Position(0, None), replay=None, checkpoint=None), {State.RESTORING}),
        (lambda p: p.replayed(Position(9, None)), {State.RESTORING}),
        (lambda p: p.restored(9, 9), {State.RESTORING}),
        (lambda p: p.join(), {State.RESTORING}),
        (lambda p: p.apply(Position(9, None)), {State.LIVE}),
        (lambda p: p.reached_end(9), {State.LIVE}),
        (lambda p: p.checkpoint_taken(1.0), {State.LIVE}),
        (lambda p: p.commit(), {State.JOINING, State.LIVE}),
        (lambda p: p.drop(), {State.RESTORING, State.JOINING, State.LIVE}),
    ],
)
def test_each_change_is_refused_from_any_other_state(call, states) -> None:
    for state in State:
        partition = Partition(3, 0.0, state=state)
        if state in states:
            call(partition)
        else:
            with pytest.raises(ValueError, match="partition 3"):
                call(partition)
