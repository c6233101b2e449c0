"""Writing beside the loop: whatever the disk does, the loop is never held up and is told the truth."""

import errno
import threading
from pathlib import Path

import pytest

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.writer import Writer, Written
from processor.slots.rows import Rows
from processor.stream.assignment import Beginning, Mark

BEGINNING = Beginning(5, "lineage-1", "f" * 64, "topic-id", 8)
LONG_S = 30.0  # only ever waited for by a test that fails
DONE = 99  # a partition that is written last, to know that all before it is done


def snapshot_of(partition: int, position: int = 100) -> Snapshot:
    return Snapshot(partition, Mark(position, None), BEGINNING, [b"a"], Rows.zeros(1, 2))


class Store:
    """Writes nothing. Blocks each write until the test lets it go on, and fails where the test says so."""

    def __init__(self, *, blocked: bool = False, failing: tuple[int, ...] = (), prunable: tuple[str, ...] = ()) -> None:
        self.may_go_on, self.begun = threading.Event(), threading.Event()
        self.happened: list[object] = []
        self._failing, self._prunable = failing, prunable
        if not blocked:
            self.may_go_on.set()

    def write(self, snapshot: Snapshot) -> tuple[Path, int]:
        self.begun.set()
        assert self.may_go_on.wait(LONG_S)
        self.happened.append(snapshot.partition)
        if snapshot.partition in self._failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Path("written"), 123

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
    assert found.mark.position == positions[-1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_snapshot_that_does_not_fit_into_memory_is_told_as_an_error_and_the_next_is_written():
    class SmallMemory(Store):
        def write(self, snapshot: Snapshot) -> tuple[Path, int]:
            if snapshot.partition == 1:
                raise MemoryError("while joining the keys")
            return super().write(snapshot)

    writer = Writer(SmallMemory())
    writer.write(snapshot_of(1))
    writer.write(snapshot_of(2))
    assert [(written.partition, written.error is None) for written in writer.wait([1, 2], 1.0)] == [(1, False), (2, True)]
