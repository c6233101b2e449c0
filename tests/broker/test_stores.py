"""What both stores of checkpoints promise, the folder and the topic: each on what it is for, a real disk and a real Kafka.

Whatever is written, whatever fails and whoever goes on, a reader finds the newest snapshot that was told to be safe, bit for
bit, and a replay from it comes to where the process was.
"""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import BEGINNING, OTHER, Folder, Log, P, W, content, rows_by_sensor, snapshot_of

from processor.checkpoint.snapshot import Snapshot
from processor.partitions import Beginning, Position
from processor.slots.rows import Rows
from processor.slots.table import Table


@pytest.fixture(params=["folder", "topic"])
def home(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path)
    return Log(request.getfixturevalue("kafka").bootstrap, request.getfixturevalue("unique")("states"))


def newest(home, position_max=1000, beginning=BEGINNING, partition=P) -> Snapshot | None:
    """What a process finds that has just been started."""
    return home.store().newest(
        partition, position_max=position_max, usable=lambda found: beginning in (None, found), cancelled=lambda: False
    )


def opened(home):
    """The writer of a process that has just been started, and what it found."""
    store = home.store()
    found = store.newest(P, position_max=1000, usable=lambda found: found == BEGINNING, cancelled=lambda: False)
    writer = home.writer(store)
    writer.begins(P, found)
    return writer, found


def test_where_nothing_was_written_is_nothing(home):
    assert newest(home) is None
    assert newest(home, None, None) is None


def test_what_was_written_is_read_back_bit_for_bit_whatever_the_keys(home):
    writer, _ = opened(home)
    snapshot = snapshot_of([b"pump-7", b"", b"\xff\x00", b"\0", b"x" * 1024])
    written = home.round(writer, snapshot)
    assert (written.position, written.error, written.bytes > 0) == (100, None, True)
    assert content(newest(home)) == content(snapshot)
    assert content(newest(home, None, None)) == content(snapshot)
    assert newest(home, partition=0) is None


def test_an_empty_partition_reads_back_empty_and_as_wide(home):
    writer, _ = opened(home)
    home.round(writer, snapshot_of([]))
    found = newest(home)
    assert (found.keys, found.rows.state.shape) == ([], (0, W))


def test_a_partition_without_a_time_has_none_after_either(home):
    writer, _ = opened(home)
    home.round(writer, snapshot_of([], time_ms=None))
    assert newest(home).mark == Position(100, None)


def test_a_later_round_adds_what_changed_and_takes_away_what_is_gone(home):
    writer, _ = opened(home)
    assert writer.base(P) is None
    first = snapshot_of([b"a", b"b", b"c", b"d"])
    home.round(writer, first)
    assert writer.base(P) == 100
    second = snapshot_of([b"b", b"e"], 200, seed=1, base=100, removed=[b"c", b"never stored"])
    home.round(writer, second)
    *facts, rows = content(second)
    rows = {**content(first)[-1], **rows}
    del rows[b"c"]
    assert content(newest(home)) == (*facts, rows)


def test_a_process_that_takes_over_adds_to_what_it_has_found(home):
    home.round(opened(home)[0], snapshot_of([b"a", b"b", b"c"]))
    writer, found = opened(home)
    assert writer.base(P) == found.mark.offset == 100
    home.round(writer, snapshot_of([b"a"], 200, seed=1, base=100, removed=[b"b"]))
    assert set(newest(home).keys) == {b"a", b"c"}
    assert newest(home).mark.offset == 200


def test_what_was_read_may_be_written_to(home):
    home.round(opened(home)[0], snapshot_of([b"a"]))
    newest(home).rows.state[:] = 1.0


def test_none_past_the_committed_offset_is_found(home):
    home.round(opened(home)[0], snapshot_of([b"a"]))
    assert newest(home, 99) is None
    assert newest(home, 100) is not None


def test_one_of_another_beginning_is_passed_over_and_the_next_one_is_whole(home):
    home.round(opened(home)[0], snapshot_of([b"a", b"old"], beginning=OTHER))
    writer, found = opened(home)
    assert (found, writer.base(P)) == (None, None)
    snapshot = snapshot_of([b"a", b"new"], 200)
    home.round(writer, snapshot)
    assert content(newest(home)) == content(snapshot)


def test_a_partition_that_is_dropped_has_nothing_to_add_to(home):
    writer, _ = opened(home)
    home.round(writer, snapshot_of([b"a"]))
    writer.drop(P)
    assert writer.base(P) is None


# -- any history ------------------------------------------------------------------------------------------------

KEYS = [b"sensor-%d" % i for i in range(10)]


def stepped(row: Rows | None, offset: int) -> Rows:
    """What a reading makes of a sensor's row: any bits, which depend on all readings since its last reset."""
    before = b"" if row is None else row.state.tobytes()
    state = np.frombuffer(hashlib.blake2b(before + b"%d" % offset, digest_size=4 * W).digest(), np.float32).reshape(1, W)
    steps, incomplete = 1 if row is None else int(row.steps[0]) + 1, offset % 5 == 0
    numbers = (np.array([number], np.int64) for number in (offset, steps, 7 * offset))
    return Rows(state.copy(), *numbers, np.array([incomplete]), np.zeros(1, np.int64))


class History:
    """A partition's log, all of it committed, and what its state is at any position: the model that the stores are held to."""

    def __init__(self, lineages) -> None:
        self.log: list[tuple[bytes, bool]] = []  # sensor, and whether the record ends its sequence
        self._lineages = lineages
        self.begin()

    def begin(self) -> None:
        """From here on the state is a function of what follows alone."""
        self.beginning = Beginning(len(self.log), next(self._lineages), "f" * 64, "topic-id", 8)
        self.safe: list[int] = []  # positions of the snapshots that were told to be written

    def at(self, position: int) -> dict[bytes, tuple[object, ...]]:
        rows: dict[bytes, Rows] = {}
        for offset in range(self.beginning.origin, position):
            key, end = self.log[offset]
            if end:
                rows.pop(key, None)
            else:
                rows[key] = stepped(rows.get(key), offset)
        return rows_by_sensor(list(rows), Rows.join(list(rows.values()), W))

    def judge(self, found: Snapshot | None) -> None:
        """What a reader found must be the newest that is safe. Rows of a round that is not complete may be newer."""
        assert (found.mark.offset if found else None) == max(self.safe, default=None)
        if found is not None:
            position = found.mark.offset
            assert (found.mark.time_ms, found.beginning) == (position, self.beginning)
            assert (found.base, found.removed) == (None, [])
            newer = set(np.array(found.keys, object)[found.rows.applied >= position].tolist())
            got, want = rows_by_sensor(found.keys, found.rows), self.at(position)
            assert {key: row for key, row in got.items() if key not in newer} == {
                key: row for key, row in want.items() if key not in newer
            }


class Process:
    """One instance, as far as its partition's state goes: slots, a store and a writer, used as the loop uses them."""

    def __init__(self, home, history: History) -> None:
        self.home, self.history = home, history
        self.store = home.store()
        self.writer = home.writer(self.store)
        self._prunable = None
        self.restore()

    def restore(self) -> None:
        found = self._newest(len(self.history.log))
        self.history.judge(found)
        self.table = Table(4, W)  # fewer than there are sensors: some are parked
        self.writer.begins(P, found)
        if found is not None:
            self.table.load(P, found.keys, found.rows)
        for offset in range(found.mark.offset if found else self.history.beginning.origin, len(self.history.log)):
            self._apply(offset, replay=True)
        self.holds_what_it_must()

    def records(self, records: list[tuple[bytes, bool]]) -> None:
        for record in records:
            self.history.log.append(record)
            self._apply(len(self.history.log) - 1, replay=False)

    def _newest(self, position_max: int) -> Snapshot | None:
        wanted = self.history.beginning
        return self.store.newest(P, position_max=position_max, usable=lambda found: found == wanted, cancelled=lambda: False)

    def _apply(self, offset: int, *, replay: bool) -> None:
        key, end = self.history.log[offset]
        at = self.table.locate([P], [key])
        row = None if at[0] < 0 else self.table.read(at)
        if replay and row is not None and row.applied[0] >= offset:
            return
        if end:
            self.table.forget([(P, key)])
        else:
            self.table.write([(P, key)], at, self.table.generations(at), stepped(row, offset))

    def holds_what_it_must(self) -> None:
        assert rows_by_sensor(*self.table.copy(P)) == self.history.at(len(self.history.log))

    def snapshot(self) -> Snapshot:
        base, position = self.writer.base(P), len(self.history.log)
        keys, rows = self.table.copy(P, base)
        removed = self.table.take_forgotten(P)
        return Snapshot(P, Position(position, position), self.history.beginning, keys, rows, {"cpu": "here"}, base, removed)

    def checkpoint(self, do_round) -> None:
        if len(self.history.log) in self.history.safe:
            return  # as the loop: nothing has moved
        if self._prunable:  # a commit has succeeded since
            self.writer.prune(self._prunable)
        snapshot = self.snapshot()
        written = do_round(self.writer, snapshot)
        self._prunable = written.prunable
        if written.error is None:
            self.history.safe.append(written.position)

    def leave_and_return(self) -> None:
        """The partition goes to nobody, and comes back to the same process."""
        self.writer.drop(P)
        self.restore()

    def begin_anew(self) -> None:
        self.writer.drop(P)
        self.history.begin()
        self.restore()


record = st.tuples(st.sampled_from(KEYS), st.integers(0, 3).map(lambda n: n == 0))
happening = st.one_of(
    st.lists(record, min_size=1, max_size=3).map(lambda records: ("records", records)),
    st.sampled_from(
        [
            *3 * [("checkpoint", None)],
            ("records", [(key, False) for key in KEYS]),
            ("records", [(key, True) for key in KEYS]),
            *[(what, None) for what in ("fault", "killed while it wrote", "taken over", "left and returned", "begun anew")],
        ]
    ),
)
# In pairs: what happens most is that some sensors change and a checkpoint follows.
histories = st.lists(st.tuples(st.lists(record, max_size=3), happening), min_size=10, max_size=30)


def live(home, happenings, lineages) -> list[int | None]:
    """Goes through a history, judged at each turn of it; returns the bases of the snapshots that were taken."""
    history = History(lineages)
    process = Process(home, history)
    process.records([(key, False) for key in KEYS])
    process.checkpoint(home.round)
    bases = list[int | None]()
    for records, (what, more) in happenings:
        process.records(records)
        bases.append(process.writer.base(P))
        if what == "records":
            process.records(more)
        elif what == "checkpoint":
            process.checkpoint(home.round)
        elif what == "fault":
            process.checkpoint(home.faulty_round)
        elif what == "left and returned":
            process.leave_and_return()
        elif what == "begun anew":
            process.begin_anew()
        else:
            if what == "killed while it wrote" and len(history.log) not in history.safe:
                home.half_round(process.writer, process.snapshot())
            home.close(process.writer)
            process = Process(home, history)
        process.holds_what_it_must()
    home.close(process.writer)
    home.close(Process(home, history).writer)
    return bases


any_history = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def lineages_from(first: int):
    return (f"{n:016x}" for n in itertools.count(first))


@settings(parent=any_history, max_examples=60)
@given(happenings=histories)
def test_any_history_of_a_folder_is_read_as_the_newest_snapshot_that_was_told_safe(tmp_path_factory, happenings):
    live(Folder(tmp_path_factory.mktemp("store")), happenings, lineages_from(1))


def test_any_history_of_a_topic_is_read_as_the_newest_snapshot_that_was_told_safe(kafka, unique):
    """One topic for all, one history after another: what the one before left is there, and of no use."""
    home, lineages = Log(kafka.bootstrap, unique("states")), lineages_from(1)

    @settings(parent=any_history, max_examples=8)
    @given(happenings=histories)
    def any_history_is_read(happenings):
        live(home, happenings, lineages)

    any_history_is_read()


def test_the_histories_have_increments_in_them(tmp_path):
    changes = [([(KEYS[i % 3], i % 4 == 0)], ("checkpoint", None)) for i in range(14)]
    bases = live(Folder(tmp_path), changes, lineages_from(1))
    assert bases.count(None) == 1, "after ten increments a whole one"


def test_every_older_snapshot_that_a_folder_still_holds_is_what_was_at_its_position(tmp_path):
    home = Folder(tmp_path)
    history = History(lineages_from(1))
    process = Process(home, history)
    rng = np.random.default_rng(1)
    process.records([(key, False) for key in KEYS])
    for _ in range(40):
        process.checkpoint(home.round)
        process.records([(KEYS[int(rng.integers(len(KEYS)))], rng.random() < 0.3)])
    left = [safe for safe in history.safe if (found := newest(home, safe, history.beginning)) and found.mark.offset == safe]
    assert len(left) >= 12, "two chains and more"
    for safe in left:
        history.safe = [safe]
        history.judge(newest(home, safe, history.beginning))
