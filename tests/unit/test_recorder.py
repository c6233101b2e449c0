"""What the loop tells of itself while partitions are replayed."""

import pytest
from structlog.testing import capture_logs

from processor.engine import Stats
from processor.loop.progress import Progress
from processor.metrics import Metrics
from processor.partitions import Partition, Position, State
from processor.recorder import Recorder


class Told:
    """The progress by a clock that is set by hand."""

    def __init__(self):
        self.now_s, self.metrics, self.partitions = 1000.0, Metrics(), []
        self.recorder = Recorder(self.metrics)
        self.progress = Progress(self.metrics, self.recorder, lambda: self.now_s)

    def replays(self, number, start, stop):
        partition = Partition(number, self.now_s, replay=range(start, stop), applied=Position(start, None))
        self.partitions.append(partition)
        return partition

    def replayed(self, partition, offsets):
        partition.applied = Position(partition.applied.offset + offsets, None)
        self.recorder.replayed(offsets, offsets)

    def passes(self, seconds):
        """The lines told when so many seconds are over."""
        self.now_s += seconds
        with capture_logs() as lines:
            self.progress.turned(Stats(0, 0, 0, 0, 0), self.partitions, lambda _: 0, joined=False, ready=False)
        return [{k: v for k, v in line.items() if k not in ("event", "log_level")} for line in lines if line["event"] == "replaying"]


@pytest.fixture
def told():
    return Told()


def test_replays_are_told_of_together_every_five_seconds(told):
    one, other = told.replays(0, 100, 1100), told.replays(1, 0, 3000)
    assert told.passes(1) == []
    told.replayed(one, 400)
    told.replayed(other, 600)
    assert told.passes(4) == []
    assert told.passes(1) == [
        {"partitions": 2, "records_replayed": 1000, "records_total": 4000, "records_per_second": 200, "seconds_left": 15}
    ]
    assert told.passes(4) == []
    assert told.passes(1) == [
        {"partitions": 2, "records_replayed": 1000, "records_total": 4000, "records_per_second": 0, "seconds_left": None}
    ]


def test_a_replay_that_is_over_before_is_not_told_of(told):
    one = told.replays(0, 0, 10)
    assert told.passes(1) == []
    one.replay = None
    assert told.passes(9) == []
    told.replays(1, 0, 10)
    assert told.passes(1) == []
    assert told.passes(4) == []
    assert len(told.passes(1)) == 1


def test_what_is_left_of_a_replay_is_a_gauge_until_it_is_done_or_given_up(told):
    one, other = told.replays(0, 100, 1100), told.replays(1, 0, 50)
    told.replayed(one, 400)
    told.passes(1)
    assert told.metrics.value("restore_records_left", partition=0) == 600
    assert told.metrics.value("restore_records_left", partition=1) == 50
    one.replay, one.state = None, State.LIVE
    told.recorder.restored(0, 1.0)
    told.partitions.remove(other)
    told.recorder.dropped(1)
    told.passes(1)
    assert b"restore_records_left{" not in told.metrics.render()


def test_partitions_are_counted_by_what_becomes_of_them(told):
    def counted():
        told.passes(1)
        return {state: told.metrics.value("partitions", state=state) for state in ("restoring", "joining", "live")}

    assert counted() == {"restoring": 0, "joining": 0, "live": 0}
    told.partitions = [Partition(number, told.now_s, state=state) for number, state in enumerate([State.RESTORING, State.LIVE, State.LIVE])]
    assert counted() == {"restoring": 1, "joining": 0, "live": 2}
    told.partitions.pop()
    assert counted() == {"restoring": 1, "joining": 0, "live": 1}
