"""Checkpoints as files: whatever stands in the folder, a snapshot is read whole as it was written, or passed over."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.checkpoint import directory
from processor.checkpoint.directory import TEMPORARY, TEMPORARY_AGE_S, Directory, Name
from processor.checkpoint.snapshot import Snapshot, UnusableError, from_tensors, to_tensors
from processor.slots.rows import Rows
from processor.stream.assignment import Beginning, Mark

W = 3
BEGINNING = Beginning(5, "lineage-1", "f" * 64, "topic-id", 8)
OTHER = Beginning(90, "lineage-2", "f" * 64, "topic-id", 8)
deterministic = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def snapshot_of(keys: list[bytes], position: int = 100, partition: int = 2, beginning: Beginning = BEGINNING, seed: int = 0) -> Snapshot:
    """Every column random, the states any float32 there is."""
    rng, n = np.random.default_rng(seed), len(keys)
    rows = Rows.zeros(n, W)
    rows.state = rng.integers(0, 2**32, (n, W), np.uint32).view(np.float32)
    rows.applied, rows.steps = rng.integers(0, max(position, 1), n), rng.integers(1, 2**62, n)
    rows.event_ms, rows.incomplete = rng.integers(-(2**53), 2**53, n), rng.random(n) < 0.5
    return Snapshot(partition, Mark(position, 1_700_000_000_000, 1_600_000_000_000), beginning, keys, rows, {"tensorflow": "2.21"})


def content(snapshot: Snapshot | None) -> object:
    """All of a snapshot but what means nothing outside the process, to compare bit for bit."""
    if snapshot is None:
        return None
    rows = snapshot.rows
    columns = [rows.state.view(np.uint32), rows.applied, rows.steps, rows.event_ms, rows.incomplete]
    facts = (snapshot.partition, snapshot.mark, snapshot.beginning, snapshot.keys, snapshot.made_by)
    return facts, [(column.dtype.str, column.shape, column.tolist()) for column in columns]


def store(path: Path, keep: int = 2, **changes: object) -> Directory:
    return Directory(path, "group", "readings", keep=keep, **changes)


def newest(of: Directory, partition: int = 2, position_max: int | None = None, beginning: Beginning | None = None) -> Snapshot | None:
    return of.newest(partition, position_max=position_max, usable=lambda found: beginning in (None, found))


def positions(of: Directory, partition: int = 2) -> list[int]:
    """Of the files that are there, by their names."""
    return sorted(name.position for path in of.folder(partition).iterdir() if (name := Name.parse(path.name)))


KEYS = [b"pump-7", b"", b"\xff\x00"]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Directory, Path, bytes, Snapshot]:
    """A store with one snapshot in it, the snapshot's file and the file's bytes."""
    of, snapshot = store(tmp_path), snapshot_of(KEYS)
    path, _ = of.write(snapshot)
    return of, path, path.read_bytes(), snapshot


# -- there and back -----------------------------------------------------------------------------------------


@deterministic
@given(
    keys=st.lists(st.binary(max_size=20), unique=True, max_size=8),
    position=st.integers(0, 2**63 - 1),
    time_ms=st.none() | st.integers(-(2**53), 2**53),
    seed=st.integers(0, 99),
)
def test_a_snapshot_reads_back_bit_for_bit_whatever_the_keys(keys, position, time_ms, seed):
    snapshot = snapshot_of(keys, position, seed=seed)
    snapshot = Snapshot(2, Mark(position, time_ms), BEGINNING, keys, snapshot.rows, {"cpu": "ü"})
    assert content(from_tensors(*to_tensors(snapshot))) == content(snapshot)


def test_a_file_reads_back_bit_for_bit(written):
    of, _, _, snapshot = written
    assert content(newest(of)) == content(snapshot)


def test_another_process_reads_it_too(written, tmp_path):
    _, _, _, snapshot = written
    assert content(newest(store(tmp_path))) == content(snapshot)


def test_an_empty_partition_reads_back_empty_and_as_wide(tmp_path):
    of = store(tmp_path)
    of.write(snapshot_of([]))
    found = newest(of)
    assert found is not None
    assert (found.keys, found.rows.state.shape) == ([], (0, W))


def test_what_was_read_may_be_written_to(written):
    of, *_ = written
    newest(of).rows.state[:] = 1.0


def test_the_size_told_is_the_files(tmp_path):
    path, size = store(tmp_path).write(snapshot_of(KEYS))
    assert size == path.stat().st_size


# -- damage ---------------------------------------------------------------------------------------------------


@settings(parent=deterministic, max_examples=600)
@given(at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_file_with_any_byte_changed_is_passed_over_or_means_the_same(written, at, mask):
    of, path, whole, snapshot = written
    changed = bytearray(whole)
    changed[int(at * len(whole))] ^= mask
    path.write_bytes(changed)
    assert content(newest(of)) in (None, content(snapshot))


def test_a_file_with_any_byte_of_its_data_changed_is_passed_over(written):
    of, path, whole, _ = written
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    for at in range(header_bytes, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert newest(of) is None, f"byte {at}"


@pytest.mark.parametrize(
    ("text", "other"), [(b'"F32"', b'"I32"'), (b'"I64"', b'"U64"'), (b'"shape":[3,3]', b'"shape":[1,9]'), (b'"applied"', b'"aqqlied"')]
)
def test_a_file_whose_header_reads_the_same_bytes_as_something_else_is_passed_over(written, text, other):
    of, path, whole, _ = written
    assert whole.count(text) >= 1
    path.write_bytes(whole.replace(text, other, 1))
    assert newest(of) is None


def test_a_file_cut_off_anywhere_is_passed_over(written):
    of, path, whole, _ = written
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert newest(of) is None, f"{length} bytes"


def test_a_file_with_more_behind_it_is_passed_over(written):
    of, path, whole, _ = written
    path.write_bytes(whole + b"\0")
    assert newest(of) is None


def test_a_damaged_file_does_not_hide_an_older_one(written):
    of, _, _, snapshot = written
    later, _ = of.write(snapshot_of([b"later"], 200))
    later.write_bytes(later.read_bytes()[:-1])
    assert content(newest(of)) == content(snapshot)


def metadata_of(snapshot: Snapshot, **changes: object) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A snapshot's file with other facts in it, its digest right."""
    tensors, metadata = to_tensors(snapshot)
    text = json.dumps({**json.loads(metadata["slotstream"]), **changes}, sort_keys=True)
    from processor.checkpoint.snapshot import _digest

    return tensors, {"slotstream": text, "digest": _digest(tensors, text)}


@pytest.mark.parametrize("changes", [{"format": 2}, {"format": None}, {"beginning": ""}, {"beginning": "{}"}])
def test_an_intact_file_of_another_format_is_unusable(changes):
    with pytest.raises(UnusableError):
        from_tensors(*metadata_of(snapshot_of(KEYS), **changes))


def of_dtype(name: str) -> bytes:
    """A safetensors file by hand, of a dtype that NumPy may not know."""
    header = json.dumps({"a": {"dtype": name, "shape": [2], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "a header length past everything": b"\xff" * 16,
    "no JSON in the header": (8).to_bytes(8, "little") + b"{{{{{{{{",
    "a safetensors file of another program": safetensors.numpy.save({"a": np.zeros(3)}),
    "a safetensors file of bfloat16": of_dtype("BF16"),
    "a safetensors file of an unknown dtype": of_dtype("F99"),
    "a safetensors file with our words only": safetensors.numpy.save({}, {"slotstream": "{}", "digest": ""}),
}


@pytest.mark.parametrize("bytes_found", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_under_a_name_of_ours_is_passed_over(written, bytes_found):
    of, path, _, snapshot = written
    (path.parent / str(Name(999, 999, "cafe"))).write_bytes(bytes_found)
    assert content(newest(of)) == content(snapshot)


def test_a_folder_under_a_name_of_ours_is_passed_over(written):
    of, path, _, snapshot = written
    (path.parent / str(Name(999, 999, "cafe"))).mkdir()
    assert content(newest(of)) == content(snapshot)


def test_a_file_of_another_partition_is_passed_over(written, tmp_path):
    of, path, _, _ = written
    of.folder(3).mkdir()
    shutil.copy(path, of.folder(3))
    assert newest(of, partition=3) is None


NOT_OURS = ["notes.txt", "1-2.safetensors", "1-2-3-4.safetensors", "a-1-x.safetensors", "-1-1-x.safetensors", "\u0661-1-x.safetensors"]


@pytest.mark.parametrize("text", [*NOT_OURS, "1-1-x.safetensors.bak", ".tmp-1-1-x.safetensors", "1-1-x", ""])
def test_what_only_looks_like_our_name_is_none(text):
    assert Name.parse(text) is None


def test_a_name_says_what_it_was_made_of():
    assert Name.parse(str(Name(2**63 - 1, 0, "cafe"))) == Name(2**63 - 1, 0, "cafe")


def test_files_of_other_names_are_neither_read_nor_deleted(tmp_path):
    of = store(tmp_path)
    of.folder(2).mkdir(parents=True)
    for text in NOT_OURS:
        (of.folder(2) / text).write_bytes(b"mine")
    for position in (1, 2, 3):
        of.write(snapshot_of([b"a"], position))
    of.prune(of.prunable(2, BEGINNING, 10**9))
    assert newest(of).mark.position == 3
    assert {path.name for path in of.folder(2).iterdir()} >= set(NOT_OURS)


# -- which one ------------------------------------------------------------------------------------------------


def test_nothing_was_ever_written(tmp_path):
    assert newest(store(tmp_path)) is None
    assert store(tmp_path).prunable(2, BEGINNING, 10**9) == []


def test_the_newest_is_the_one_of_the_greatest_position_whenever_it_was_written(tmp_path):
    of = store(tmp_path)
    for position in (9, 1000, 70):
        of.write(snapshot_of(KEYS, position))
    assert newest(of).mark.position == 1000


@pytest.mark.parametrize(("position_max", "found"), [(8, None), (9, 9), (69, 9), (70, 70), (10**18, 1000)])
def test_none_past_a_position_is_given(tmp_path, position_max, found):
    of = store(tmp_path)
    for position in (9, 70, 1000):
        of.write(snapshot_of(KEYS, position))
    snapshot = newest(of, position_max=position_max)
    assert (snapshot and snapshot.mark.position) == found


def test_one_of_another_beginning_is_passed_over(tmp_path):
    of = store(tmp_path)
    of.write(snapshot_of(KEYS, 10))
    of.write(snapshot_of(KEYS, 20, beginning=OTHER))
    assert newest(of, beginning=BEGINNING).mark.position == 10
    assert newest(of, beginning=OTHER).mark.position == 20
    assert newest(of).mark.position == 20


# -- what may be deleted ----------------------------------------------------------------------------------------


def named(paths: list[Path]) -> list[int]:
    return sorted(name.position for path in paths if (name := Name.parse(path.name)))


@pytest.mark.parametrize(("keep", "prunable"), [(2, [1, 2]), (3, [1]), (4, []), (5, [])])
def test_what_the_newest_keep_replace_may_go(tmp_path, keep, prunable):
    of = store(tmp_path, keep)
    for position in (1, 2, 3, 4):
        of.write(snapshot_of(KEYS, position))
    assert named(of.prunable(2, BEGINNING, 10**9)) == prunable


def test_a_damaged_newer_one_replaces_nothing(tmp_path):
    of = store(tmp_path)
    paths = {position: of.write(snapshot_of(KEYS, position))[0] for position in (1, 2, 3, 4)}
    paths[4].write_bytes(paths[4].read_bytes()[:-1])
    assert named(of.prunable(2, BEGINNING, 10**9)) == [1]


def test_a_newer_one_of_another_beginning_replaces_nothing(tmp_path):
    of = store(tmp_path)
    for position, beginning in ((1, BEGINNING), (2, BEGINNING), (3, OTHER), (4, BEGINNING)):
        of.write(snapshot_of(KEYS, position, beginning=beginning))
    assert named(of.prunable(2, BEGINNING, 10**9)) == [1]
    assert of.prunable(2, OTHER, 10**9) == []


def test_old_ones_go_whatever_they_hold(tmp_path):
    of = store(tmp_path)
    for position, beginning in ((1, OTHER), (2, BEGINNING), (3, BEGINNING), (4, BEGINNING)):
        of.write(snapshot_of(KEYS, position, beginning=beginning))
    (of.folder(2) / str(Name(0, 0, "cafe"))).write_bytes(b"damaged")
    assert named(of.prunable(2, BEGINNING, 10**9)) == [0, 1, 2]


def test_prunable_deletes_nothing_itself(tmp_path):
    of = store(tmp_path)
    for position in (1, 2, 3):
        of.write(snapshot_of(KEYS, position))
    of.prunable(2, BEGINNING, 10**9)
    assert positions(of) == [1, 2, 3]


def test_pruning_deletes_what_was_named_and_no_more(tmp_path):
    of = store(tmp_path)
    for position in (1, 2, 3):
        of.write(snapshot_of(KEYS, position))
    paths = of.prunable(2, BEGINNING, 10**9)
    of.write(snapshot_of(KEYS, 4))
    of.prune(paths)
    assert positions(of) == [2, 3, 4]


def test_pruning_what_another_has_pruned_is_no_error(tmp_path):
    of, other = store(tmp_path), store(tmp_path)
    for position in (1, 2, 3):
        of.write(snapshot_of(KEYS, position))
    paths = of.prunable(2, BEGINNING, 10**9)
    other.prune(other.prunable(2, BEGINNING, 10**9))
    of.prune(paths)
    assert positions(of) == [2, 3]


def test_two_writers_of_one_position_do_not_meet(tmp_path):
    paths = [store(tmp_path).write(snapshot_of(KEYS, 7))[0] for _ in range(2)]
    assert len(set(paths)) == 2
    assert positions(store(tmp_path)) == [7, 7]


turn = st.tuples(
    st.sampled_from(["zombie writes", "zombie prunes late", "successor writes", "successor prunes", "torn"]), st.integers(1, 3)
)


@settings(parent=deterministic, max_examples=80)
@given(turns=st.lists(turn, min_size=8, max_size=20), beginning=st.sampled_from([BEGINNING, OTHER]))
def test_a_zombie_that_writes_and_prunes_late_never_takes_the_successors_newest_two(tmp_path_factory, turns, beginning):
    """The partition was handed over at position 5: no snapshot of the zombie's lies past it, none of the successor's before."""
    path = tmp_path_factory.mktemp("store")
    zombie, successor = store(path), store(path)
    zombie_at, successor_at, handed_over = 0, 4, 5
    there: dict[Path, tuple[int, Beginning]] = {}
    for what, step in turns:
        if what == "zombie writes" and zombie_at < handed_over:
            zombie_at = min(zombie_at + step, handed_over)
            there[zombie.write(snapshot_of([b"a"], zombie_at))[0]] = zombie_at, BEGINNING
        elif what == "zombie prunes late":
            zombie.prune(zombie.prunable(2, BEGINNING, 10**9))
        elif what == "successor writes":
            successor_at += step
            there[successor.write(snapshot_of([b"a"], successor_at, beginning=beginning))[0]] = successor_at, beginning
        elif what == "successor prunes":
            successor.prune(successor.prunable(2, beginning, 10**9))
        elif successor.folder(2).exists():
            (successor.folder(2) / str(Name(successor_at + step, 0, "torn"))).write_bytes(b"torn")
        ever, left = (
            sorted((p for file, (p, b) in there.items() if b == beginning and (file.exists() or not only)), reverse=True)[:2]
            for only in (False, True)
        )
        assert left == ever, "the newest two that were ever written are there"


# -- files in the making -------------------------------------------------------------------------------------------


def test_temporaries_of_the_dead_go_when_they_are_old_and_others_stay(tmp_path):
    now_s = [1_000_000.0]
    of = store(tmp_path, now_s=lambda: now_s[0])
    for position in (1, 2, 3):
        of.write(snapshot_of(KEYS, position))
    for name, age_s in (("old", TEMPORARY_AGE_S + 1), ("new", TEMPORARY_AGE_S - 1)):
        path = of.folder(2) / f"{TEMPORARY}{name}"
        path.write_bytes(b"")
        os.utime(path, (now_s[0] - age_s, now_s[0] - age_s))
    of.prune(of.prunable(2, BEGINNING, 10**9))
    assert sorted(path.name for path in of.folder(2).glob(f"{TEMPORARY}*")) == [f"{TEMPORARY}new"]


def test_a_temporary_file_is_never_read(written):
    of, path, whole, snapshot = written
    (path.parent / f"{TEMPORARY}{Name(999, 999, 'cafe')}").write_bytes(whole)
    assert content(newest(of)) == content(snapshot)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def library_full(*_: object, **__: object) -> None:
    raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device")


def save_then_full(tensors: object, path: Path, metadata: object) -> None:
    path.write_bytes(b"half")
    full()


SEAMS = {
    "saving": ("save_file", full),
    "saving, in the library's words": ("save_file", library_full),
    "half saved": ("save_file", save_then_full),
    "forcing to the disk": ("os.fsync", full),
    "publishing": ("os.link", full),
}


@pytest.mark.parametrize(("seam", "fault"), SEAMS.values(), ids=SEAMS)
def test_a_failed_write_is_an_os_error_and_leaves_nothing(tmp_path, monkeypatch, seam, fault):
    of = store(tmp_path)
    monkeypatch.setattr(f"{directory.__name__}.{seam}", fault)
    with pytest.raises(OSError, match="No space left"):
        of.write(snapshot_of(KEYS))
    assert list(of.folder(2).iterdir()) == []


@pytest.mark.parametrize(("seam", "fault"), SEAMS.values(), ids=SEAMS)
def test_after_a_failed_write_the_one_before_is_still_the_newest(written, monkeypatch, seam, fault):
    of, _, _, snapshot = written
    with monkeypatch.context() as patch:
        patch.setattr(f"{directory.__name__}.{seam}", fault)
        with pytest.raises(OSError, match="No space left"):
            of.write(snapshot_of([b"later"], 200))
    assert content(newest(of)) == content(snapshot)


def test_the_data_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    happened, (fsync, link) = [], (os.fsync, os.link)

    def forced(descriptor: int) -> None:
        happened.append("file" if os.fstat(descriptor).st_size and not Path(f"/proc/self/fd/{descriptor}").is_dir() else "folder")
        fsync(descriptor)

    def published(a: Path, b: Path) -> None:
        happened.append("link")
        link(a, b)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "link", published)
    store(tmp_path).write(snapshot_of(KEYS))
    assert happened == ["file", "link", "folder"]


def test_a_name_that_is_taken_is_never_written_over(written, monkeypatch):
    of, path, whole, _ = written
    monkeypatch.setattr(f"{directory.__name__}.secrets.token_hex", lambda _n: Name.parse(path.name).id)
    with pytest.raises(FileExistsError):
        of.write(snapshot_of([b"other"]))
    assert path.read_bytes() == whole


# -- folders ---------------------------------------------------------------------------------------------------------

ODD = [
    ".",
    "..",
    "...",
    "a/b",
    "../../etc",
    "a\\b",
    "gr\u00fcppe",
    "%2E",
    "%2e%2e",
    "a b",
    "A",
    "a",
    "~",
    "-",
    "nul\0",
    "a:b",
    "\U0001f600",
]


@pytest.mark.parametrize("group", ODD)
def test_any_group_has_a_folder_of_its_own_below_the_path(tmp_path, group):
    of = Directory(tmp_path, group, group, keep=2)
    of.prepare()
    of.write(snapshot_of(KEYS))
    (folder,) = tmp_path.iterdir()
    assert [path.relative_to(folder).parts[1:] for path in folder.glob("*/2/*")] == [("2", path.name) for path in of.folder(2).iterdir()]
    assert of.folder(2).resolve().is_relative_to(tmp_path.resolve())
    assert content(newest(of)) == content(snapshot_of(KEYS))


def test_no_two_groups_share_a_folder(tmp_path):
    folders = {Directory(tmp_path, group, "readings", keep=2).folder(0).resolve() for group in ODD}
    assert len(folders) == len(ODD)


@settings(parent=deterministic, max_examples=300)
@given(groups=st.lists(st.text("./%\\a:2Eé", min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
def test_folders_of_different_groups_never_lie_within_each_other(groups):
    a, b = (Path(os.path.normpath(Directory(Path("/store"), group, "readings", keep=2).folder(0))) for group in groups)
    assert not a.is_relative_to(b)
    assert a.relative_to("/store").parts[1:] == ("readings", "0")


def test_a_folder_that_cannot_be_written_to_is_found_before_the_start(tmp_path):
    (tmp_path / "group").write_bytes(b"a file is in the way")
    with pytest.raises(OSError, match="group"):
        store(tmp_path).prepare()


def test_preparing_leaves_no_probe_behind(tmp_path):
    store(tmp_path).prepare()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
