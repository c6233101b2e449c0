"""Writing beside the loop: whatever the disk does, the loop is never held up and is told the truth."""

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import INCREMENTS_MAX, Chain, Link, Snapshot
from processor.checkpoint.writer import Writer, Written
from processor.partitions import Beginning, Position
from processor.slots.rows import Rows

BEGINNING = Beginning(5, "lineage-1", "f" * 64, "topic-id", 8)
LONG_S = 30.0  # only ever waited for by a test that fails
DONE = 99  # a partition that is written last, to know that all before it is done


def snapshot_of(partition: int, position: int = 100, base: int | None = None, *, rows: int = 1) -> Snapshot:
    return Snapshot(partition, Position(position, None), BEGINNING, [b"%d" % i for i in range(rows)], Rows.zeros(rows, 2), base=base)


class Store:
    """Writes nothing. Blocks each write until the test lets it go on, and fails where the test says so."""

    def __init__(self, *, blocked: bool = False, failing: tuple[int, ...] = (), prunable: tuple[str, ...] = ()) -> None:
        self.may_go_on, self.begun = threading.Event(), threading.Event()
        self.happened: list[object] = []
        self._failing, self._prunable = failing, prunable
        if not blocked:
            self.may_go_on.set()

    def write(self, snapshot: Snapshot, before: Chain | None) -> tuple[Path, int, Chain]:
        self.begun.set()
        assert self.may_go_on.wait(LONG_S)
        self.happened.append(snapshot.partition)
        if snapshot.partition in self._failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Path("written"), 123, Chain.grown(before, snapshot, Link("written", "digest"))

    def prunable(self, partition: int, *_: object) -> list[Path]:
        return [Path(f"{name}-{partition}") for name in self._prunable]

    def prune(self, paths: list[Path]) -> None:
        self.happened.append([str(path) for path in paths])
        if "undeletable" in map(str, paths):
            raise OSError(errno.EACCES, "Permission denied")


def flushed(writer: Writer) -> None:
    """Returns when all that was queued before is done."""
    writer.write(snapshot_of(DONE))
    writer.wait([DONE], LONG_S)


@pytest.mark.failure("slow disk")
def test_a_store_that_hangs_holds_up_neither_write_nor_finished_nor_prune():
    store = Store(blocked=True)
    writer = Writer(store)
    for partition in range(50):
        writer.write(snapshot_of(partition))
        writer.prune([Path("old")])
        assert writer.finished() == []
    assert store.begun.wait(LONG_S)
    assert store.happened == []
    assert all(writer.busy(partition) for partition in range(50))
    store.may_go_on.set()


def test_a_partition_is_busy_until_its_snapshot_is_taken_note_of():
    store = Store(blocked=True)
    writer = Writer(store)
    writer.write(snapshot_of(1))
    assert (writer.busy(1), writer.busy(2)) == (True, False)
    store.may_go_on.set()
    writer.wait([1], LONG_S)
    assert not writer.busy(1)


def test_waiting_ends_with_the_time_and_leaves_the_rest_busy():
    store = Store(blocked=True)
    writer = Writer(store)
    writer.write(snapshot_of(1))
    assert writer.wait([1], 0.01) == []
    assert writer.busy(1)
    store.may_go_on.set()


def test_waiting_for_a_partition_that_is_not_written_ends_at_once():
    writer = Writer(Store(blocked=True))
    assert writer.wait([1, 2], LONG_S * 100) == []


def test_waiting_gives_all_that_was_finished_meanwhile():
    writer = Writer(Store())
    for partition in (1, 2, 3):
        writer.write(snapshot_of(partition, partition * 10))
    found = writer.wait([3], LONG_S)
    assert [(written.partition, written.position, written.error) for written in found] == [(1, 10, None), (2, 20, None), (3, 30, None)]


def test_what_was_finished_is_told_once():
    writer = Writer(Store())
    writer.write(snapshot_of(1))
    assert len(writer.wait([1], LONG_S)) == 1
    assert (writer.finished(), writer.wait([1], LONG_S)) == ([], [])


def test_a_snapshot_written_is_told_with_its_size_and_what_it_replaced():
    writer = Writer(Store(prunable=("a", "b")))
    writer.write(snapshot_of(4, 70))
    (written,) = writer.wait([4], LONG_S)
    assert written == Written(4, 70, written.seconds, 123, (Path("a-4"), Path("b-4")))


@pytest.mark.failure("full disk later")
def test_a_full_disk_is_told_as_an_error_and_nothing_may_go():
    writer = Writer(Store(failing=(1,), prunable=("a",)))
    writer.write(snapshot_of(1))
    (written,) = writer.wait([1], LONG_S)
    assert "No space left on device" in written.error
    assert (written.bytes, written.prunable) == (0, ())


def test_after_a_failure_the_next_is_written():
    writer = Writer(Store(failing=(1,)))
    writer.write(snapshot_of(1))
    writer.write(snapshot_of(2))
    assert [written.error is None for written in writer.wait([1, 2], LONG_S)] == [False, True]
    assert not writer.busy(1)


def test_a_file_in_the_folders_place_is_told_as_an_error(tmp_path):
    (tmp_path / "group").write_bytes(b"")
    writer = Writer(Directory(tmp_path, "group", "readings", keep=2))
    writer.write(snapshot_of(1))
    (written,) = writer.wait([1], LONG_S)
    assert written.error


def test_nothing_is_deleted_before_what_was_queued_earlier_is_written():
    store = Store(blocked=True)
    writer = Writer(store)
    writer.write(snapshot_of(1))
    writer.prune([Path("old")])
    writer.write(snapshot_of(2))
    store.may_go_on.set()
    writer.wait([2], LONG_S)
    assert store.happened == [1, ["old"], 2]


def test_nothing_to_delete_is_no_work():
    store = Store()
    writer = Writer(store)
    writer.prune([])
    flushed(writer)
    assert store.happened == [DONE]


def test_a_file_that_cannot_be_deleted_stops_nothing():
    store = Store()
    writer = Writer(store)
    writer.prune([Path("undeletable")])
    flushed(writer)
    assert store.happened == [["undeletable"], DONE]


def test_closing_waits_for_nothing_and_what_was_queued_is_still_written():
    store = Store(blocked=True)
    writer = Writer(store)
    writer.write(snapshot_of(1))
    writer.prune([Path("old")])
    writer.close()
    assert store.happened == []
    store.may_go_on.set()
    assert [written.partition for written in writer.wait([1], LONG_S)] == [1]


def test_closing_ends_the_thread():
    before = set(threading.enumerate())
    writer = Writer(Store())
    (thread,) = set(threading.enumerate()) - before
    writer.write(snapshot_of(1))
    writer.close()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert len(writer.finished()) == 1


def test_a_process_ends_although_a_write_hangs():
    before = set(threading.enumerate())
    Writer(Store(blocked=True))
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon


@pytest.mark.parametrize("positions", [(900, 1000, 520), (900, 1000, 520, 530)])
def test_after_offsets_were_moved_back_new_snapshots_are_not_replaced_by_those_past_them(tmp_path, positions):
    """Ones past the committed offset cannot be loaded, so they stand for nothing: without the new ones all is replayed again."""
    store = Directory(tmp_path, "group", "readings", keep=2)
    writer = Writer(store)
    for position in positions:
        writer.write(snapshot_of(1, position))
        (written,) = writer.wait([1], LONG_S)
        writer.prune(written.prunable)
    flushed(writer)
    found = store.newest(1, position_max=positions[-1], usable=lambda _: True)
    assert found is not None
    assert found.mark.offset == positions[-1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_snapshot_that_does_not_fit_into_memory_is_told_as_an_error_and_the_next_is_written():
    class SmallMemory(Store):
        def write(self, snapshot: Snapshot, before: Chain | None) -> tuple[Path, int, Chain]:
            if snapshot.partition == 1:
                raise MemoryError("while joining the keys")
            return super().write(snapshot, before)

    writer = Writer(SmallMemory())
    writer.write(snapshot_of(1))
    writer.write(snapshot_of(2))
    assert [(written.partition, written.error is None) for written in writer.wait([1, 2], 1.0)] == [(1, False), (2, True)]


# -- what the next one may add to -----------------------------------------------------------------------------------


def written(writer: Writer, snapshot: Snapshot) -> Written:
    writer.write(snapshot)
    (found,) = writer.wait([snapshot.partition], LONG_S)
    return found


def loaded(position: int, *, files: int = 1, rows: tuple[int, int, int] = (100, 0, 0)) -> Snapshot:
    """A snapshot as a restore reads it from that many files."""
    chain = Chain(position, BEGINNING, tuple(f"file-{i}" for i in range(files)), "digest", *rows)
    return replace(snapshot_of(1, position), chain=chain)


def test_the_first_snapshot_is_whole_and_the_next_adds_to_what_was_written():
    writer = Writer(Store())
    assert writer.base(1) is None
    written(writer, snapshot_of(1, 70))
    assert (writer.base(1), writer.base(2)) == (70, None)
    written(writer, snapshot_of(1, 80))
    assert writer.base(1) == 80


def test_a_restored_partition_adds_to_what_was_loaded():
    writer = Writer(Store())
    writer.begins(1, loaded(50))
    assert (writer.base(1), writer.base(2)) == (50, None)
    writer.begins(1, None)
    assert writer.base(1) is None


def test_what_was_not_read_from_files_is_not_added_to():
    writer = Writer(Store())
    writer.begins(1, snapshot_of(1, 50))
    assert writer.base(1) is None


def test_the_store_is_shown_the_files_that_an_increment_adds_to():
    class Shown(Store):
        def write(self, snapshot: Snapshot, before: Chain | None) -> tuple[Path, int, Chain]:
            self.happened.append(before and before.position)
            return super().write(snapshot, before)

    store = Shown()
    writer = Writer(store)
    writer.begins(1, loaded(50))
    written(writer, snapshot_of(1, 60, writer.base(1)))
    written(writer, snapshot_of(1, 70, writer.base(1)))
    assert store.happened == [50, 1, 60, 1]


def test_while_one_is_on_its_way_nothing_is_added_to():
    store = Store(blocked=True)
    writer = Writer(store)
    writer.begins(1, loaded(50))
    writer.write(snapshot_of(1, 60, writer.base(1)))
    assert writer.base(1) is None
    store.may_go_on.set()
    writer.wait([1], LONG_S)
    assert writer.base(1) == 60


def test_after_a_failure_the_next_is_whole_and_may_be_added_to_again():
    store = Store(failing=(1,))
    writer = Writer(store)
    writer.begins(1, loaded(50))
    assert written(writer, snapshot_of(1, 60, 50)).error
    assert writer.base(1) is None
    store._failing = ()
    assert written(writer, snapshot_of(1, 70)).error is None
    assert writer.base(1) == 70


def test_after_a_failure_to_tell_what_may_go_the_next_is_whole():
    class Unlisted(Store):
        def prunable(self, *_: object) -> list[Path]:
            raise OSError(errno.EIO, "Input/output error")

    writer = Writer(Unlisted())
    assert written(writer, snapshot_of(1, 60)).error
    assert writer.base(1) is None


def test_a_dropped_partition_has_nothing_to_add_to():
    writer = Writer(Store())
    writer.begins(1, loaded(50))
    writer.begins(2, loaded(50))
    writer.drop(1)
    assert (writer.base(1), writer.base(2)) == (None, 50)


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_on_its_way_when_a_partition_was_dropped_is_not_added_to_when_it_is_back(fails):
    """It may be of another lineage by then, and others may have added to what it replaced."""
    store = Store(blocked=True, failing=(1,) if fails else (), prunable=("a",))
    writer = Writer(store)
    writer.write(snapshot_of(1, 90))
    writer.drop(1)
    writer.begins(1, loaded(50))
    assert (writer.busy(1), writer.base(1)) == (True, None)
    store.may_go_on.set()
    (late,) = writer.wait([1], LONG_S)
    assert (late.position, late.prunable) == (90, ())
    assert (writer.busy(1), writer.base(1)) == (False, 50)
    store._failing = ()
    assert written(writer, snapshot_of(1, 95, 50)).prunable
    assert writer.base(1) == 95


def test_a_chain_ends_after_so_many_increments():
    writer = Writer(Store())
    writer.begins(1, loaded(50, files=INCREMENTS_MAX, rows=(100, 9, 1)))
    written(writer, snapshot_of(1, 60, writer.base(1)))
    assert writer.base(1) is None
    written(writer, snapshot_of(1, 70))
    assert writer.base(1) == 70


@pytest.mark.parametrize(
    ("rows", "grows"),
    [
        ((100, 0, 0), True),  # nobody knows how much changes
        ((100, 0, 50), True),
        ((100, 0, 51), False),  # more than half: hardly less to write, and all the more to read
        ((100, 59, 40), True),
        ((100, 60, 40), False),  # the increments together as much as the whole one
        ((0, 0, 0), False),
    ],
)
def test_a_chain_ends_when_its_increments_would_be_as_much_as_the_whole_one(rows, grows):
    writer = Writer(Store())
    writer.begins(1, loaded(50, rows=rows))
    assert writer.base(1) == (50 if grows else None)


def test_where_everything_changes_all_the_time_only_one_increment_is_tried():
    writer, kinds = Writer(Store()), []
    for position in range(100, 1000, 100):
        base = writer.base(1)
        kinds.append("whole" if base is None else "increment")
        snapshot = snapshot_of(1, position, base, rows=10)
        snapshot.rows.applied[:] = position - 1
        written(writer, snapshot)
    assert kinds == ["whole", "increment", *["whole"] * 7]


step = st.sampled_from(["write", "write", "write", "fails", "drop", "drop and write late", "begins"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=st.lists(step, min_size=5, max_size=25))
def test_whatever_fails_or_is_dropped_an_increment_adds_to_what_its_own_tenure_wrote_or_loaded_last(steps):
    """The loop decides on a base before the write; nothing that happens between makes it a wrong one."""

    class Judge(Store):
        def write(self, snapshot: Snapshot, before: Chain | None) -> tuple[Path, int, Chain]:
            if snapshot.base is not None:
                assert before is not None
                assert before.position == snapshot.base == last, "the last that reached the disk or was loaded"
            return super().write(snapshot, before)

    store, position, last = Judge(), 0, None
    writer = Writer(store)
    for what in steps:
        position += 1
        if what == "begins":
            writer.drop(1)
            writer.begins(1, loaded(position))
            last = position
        elif what == "drop":
            writer.drop(1)
            last = None
        else:
            store._failing = (1,) if what == "fails" else ()
            writer.write(snapshot_of(1, position, writer.base(1)))
            if what == "drop and write late":
                writer.drop(1)
                writer.wait([1], LONG_S)
                last = None
                assert writer.base(1) is None
                continue
            (found,) = writer.wait([1], LONG_S)
            assert found.error is None or "No space left" in found.error
            last = None if found.error else position
    writer.close()
