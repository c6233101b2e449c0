"""Checkpoints as files: whatever stands in the folder, a snapshot is read whole as it was written, or passed over.

What the folder has in common with the topic is in test_stores.py.
"""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import BEGINNING, OTHER, W, content, snapshot_of

from processor.checkpoint import directory
from processor.checkpoint.directory import TEMPORARY, TEMPORARY_AGE_S, Directory, Name
from processor.checkpoint.snapshot import INCREMENTS_MAX, Chain, Link, Snapshot, UnusableError, from_tensors, merged, to_tensors
from processor.partitions import Beginning, Position
from processor.slots.rows import Rows

deterministic = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def adding(base: int, keys: list[bytes], position: int, removed: tuple[bytes, ...] = (), **more: object) -> Snapshot:
    return snapshot_of(keys, position, seed=position, base=base, removed=removed, **more)


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
    path, *_ = of.write(snapshot)
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
    snapshot = Snapshot(2, Position(position, time_ms), BEGINNING, keys, snapshot.rows, {"cpu": "ü"})
    assert content(from_tensors(*to_tensors(snapshot))[0]) == content(snapshot)


def test_a_file_reads_back_bit_for_bit(written):
    of, _, _, snapshot = written
    assert content(newest(of)) == content(snapshot)


def test_the_size_told_is_the_files(tmp_path):
    path, size, _ = store(tmp_path).write(snapshot_of(KEYS))
    assert size == path.stat().st_size


# -- increments -----------------------------------------------------------------------------------------------


class Written:
    """A chain in the making: each snapshot as it was written, its file, and what it is with all before it."""

    def __init__(self, of: Directory, first: Snapshot) -> None:
        self.of, self.chain = of, None
        self.paths, self.wholes = list[Path](), list[Snapshot]()
        self.add(first)

    def add(self, snapshot: Snapshot) -> "Written":
        path, _, self.chain = self.of.write(snapshot, self.chain)
        self.paths.append(path)
        if snapshot.base is None:
            self.wholes.append(snapshot)
        else:
            before = self.wholes[-1]
            self.wholes.append(merged(replace(before, rows=before.rows.take(slice(None))), [snapshot]))
        return self


def chained(of: Directory, partition: int = 2) -> Written:
    """A whole one at 100, and increments at 200 and 300."""
    of_three = Written(of, snapshot_of(KEYS, partition=partition))
    of_three.add(adding(100, [b"pump-7", b"new"], 200, (b"", b"never there"), partition=partition))
    return of_three.add(adding(200, [b""], 300, (b"new",), partition=partition))


def test_an_increment_holds_what_changed_and_names_what_it_adds_to_by_name_and_digest(tmp_path):
    paths = chained(store(tmp_path)).paths
    tensors, metadata = directory._load(paths[1])
    found, link = from_tensors(tensors, metadata)
    assert (found.keys, found.base, found.removed) == ([b"pump-7", b"new"], 100, [b"", b"never there"])
    assert link == Link(paths[0].name, directory._load(paths[0])[1]["digest"])
    assert [(name.position, name.base) for path in paths if (name := Name.parse(path.name))] == [(100, 100), (200, 100), (300, 200)]


def test_increments_are_smaller_than_what_they_add_to(tmp_path):
    of = store(tmp_path)
    _, whole, chain = of.write(snapshot_of([b"sensor-%d" % i for i in range(1000)]))
    _, added, _ = of.write(adding(100, [b"sensor-7"], 200), chain)
    assert added * 10 < whole


def test_a_whole_one_is_what_it_was_before_there_were_increments():
    tensors, metadata = to_tensors(replace(snapshot_of(KEYS), removed=[b"gone"]))
    facts = json.loads(metadata["slotstream"])
    assert sorted(tensors) == ["applied", "event_ms", "incomplete", "key_lengths", "keys", "state", "steps"]
    assert "base" not in facts
    assert facts["format"] == 1, "what an older version reads"


def test_an_older_version_passes_an_increment_over():
    _, metadata = to_tensors(adding(100, KEYS, 200), Link("base", "digest"))
    assert json.loads(metadata["slotstream"])["format"] != 1


def test_a_chain_reads_back_as_if_it_were_whole(tmp_path):
    of = chained(store(tmp_path))
    assert set(of.wholes[2].keys) == {b"pump-7", b"\xff\x00", b""}
    for position_max, whole in zip((100, 200, 300), of.wholes, strict=True):
        found = newest(store(tmp_path), position_max=position_max)
        assert content(found) == content(whole)
        assert (found.base, found.removed) == (None, [])


def test_another_process_adds_to_what_it_has_read(tmp_path):
    before = chained(store(tmp_path))
    of = store(tmp_path)
    chain = newest(of).chain
    assert chain == before.chain
    of.write(adding(300, [b"later"], 400), chain)
    assert content(newest(store(tmp_path))) == content(merged(before.wholes[2], [adding(300, [b"later"], 400)]))


keys_in_use = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"", b"\0"]), unique=True)


@pytest.mark.full
@settings(parent=deterministic, max_examples=400)
@given(first=keys_in_use, rounds=st.lists(st.tuples(keys_in_use, keys_in_use), max_size=5))
def test_a_chain_merged_is_what_a_dict_would_hold(first, rounds):
    """Sensors change, go, come back and were never there."""
    whole = snapshot_of(first, 10)
    increments = [adding(10 * (i + 1), keys, 10 * (i + 2), removed=removed) for i, (keys, removed) in enumerate(rounds)]
    want = {key: (0, i) for i, key in enumerate(first)}
    for at, increment in enumerate(increments, start=1):
        for key in increment.removed:
            want.pop(key, None)
        want |= {key: (at, i) for i, key in enumerate(increment.keys)}
    parts = [replace(part, rows=part.rows.take(slice(None))) for part in (whole, *increments)]
    rows = [parts[at].rows.take(np.array([i])) for at, i in want.values()]
    expected = replace(parts[-1], keys=list(want), rows=Rows.join(rows, W), base=None, removed=[])
    assert content(merged(whole, increments)) == content(expected)


def test_an_increment_on_an_empty_partition_and_one_that_empties_it(tmp_path):
    of = store(tmp_path)
    files = Written(of, snapshot_of([])).add(adding(100, [b"a"], 200)).add(adding(200, [], 300, (b"a",)))
    assert content(newest(of, position_max=200)) == content(files.wholes[1])
    assert (newest(of).keys, newest(of).rows.state.shape) == ([], (0, W))


REFUSED = {
    "without the files before it": lambda chain: (adding(100, KEYS, 200), None),
    "to another position": lambda chain: (adding(99, KEYS, 200), chain),
    "to files of another lineage": lambda chain: (adding(100, KEYS, 200, beginning=OTHER), chain),
    "to what is not before it": lambda chain: (adding(100, KEYS, 100), chain),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_an_increment_is_never_added(tmp_path, make):
    of = store(tmp_path)
    _, _, chain = of.write(snapshot_of(KEYS))
    with pytest.raises(ValueError, match="an increment on position"):
        of.write(*make(chain))
    assert positions(of) == [100]


@pytest.mark.failure("a file that the next increment would add to taken away while the service runs")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_increment_is_not_added_to_files_that_somebody_took_away(tmp_path, which):
    files = chained(store(tmp_path))
    files.paths[which].unlink()
    with pytest.raises(FileNotFoundError, match="damaged or gone"):
        files.add(adding(300, [b"a"], 400))
    assert 400 not in positions(files.of)


def test_an_increment_is_not_added_to_a_file_that_was_found_damaged_after_it_was_written(tmp_path):
    files = chained(store(tmp_path))
    files.paths[2].write_bytes(b"")
    files.of.prunable(2, BEGINNING, 300)
    with pytest.raises(FileNotFoundError, match="damaged or gone"):
        files.add(adding(300, [b"a"], 400))


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
    later, *_ = of.write(snapshot_of([b"later"], 200))
    later.write_bytes(later.read_bytes()[:-1])
    assert content(newest(of)) == content(snapshot)


def metadata_of(snapshot: Snapshot, link: Link | None = None, **changes: object) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A snapshot's file with other facts in it, its digest right."""
    tensors, metadata = to_tensors(snapshot, link)
    text = json.dumps({**json.loads(metadata["slotstream"]), **changes}, sort_keys=True)
    from processor.checkpoint.snapshot import _digest

    return tensors, {"slotstream": text, "digest": _digest(tensors, text)}


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"format": 3}, {"format": None}, {"beginning": ""}, {"beginning": "{}"}, {"base": {}}, {"base": 7}]
)
def test_an_intact_file_of_another_format_is_unusable(changes):
    with pytest.raises(UnusableError):
        from_tensors(*metadata_of(snapshot_of(KEYS), **changes))


@pytest.mark.parametrize("changes", [{"format": 1}, {"format": 3}, {"base": None}])
def test_an_intact_increment_of_another_format_is_unusable(changes):
    with pytest.raises(UnusableError):
        from_tensors(*metadata_of(adding(100, KEYS, 200), Link("base", "digest"), **changes))


@pytest.mark.parametrize("text", ["7", "[]", "null", '"format"', "true"])
def test_an_intact_file_that_says_nothing_of_itself_is_unusable(text):
    from processor.checkpoint.snapshot import _digest

    tensors, _ = to_tensors(snapshot_of(KEYS))
    with pytest.raises(UnusableError):
        from_tensors(tensors, {"slotstream": text, "digest": _digest(tensors, text)})


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


@pytest.fixture
def chains(tmp_path: Path) -> tuple[Written, list[bytes], Snapshot]:
    """A chain of three files, their bytes, and the snapshot of an older whole one beside it."""
    of, older = store(tmp_path), snapshot_of([b"older"], 50)
    of.write(older)
    files = chained(of)
    return files, [path.read_bytes() for path in files.paths], older


def left_of(files: Written, older: Snapshot, damaged: int) -> object:
    """What there is when this file of the chain cannot be used."""
    return content(([older, *files.wholes])[damaged])


@pytest.mark.full
@settings(parent=deterministic, max_examples=600)
@given(which=st.integers(0, 2), at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_byte_changed_in_any_file_of_a_chain_makes_all_that_builds_on_it_unusable_or_means_the_same(chains, which, at, mask):
    files, whole, older = chains
    changed = bytearray(whole[which])
    changed[int(at * len(changed))] ^= mask
    files.paths[which].write_bytes(changed)
    assert content(newest(files.of)) in (content(files.wholes[2]), left_of(files, older, which))
    files.paths[which].write_bytes(whole[which])


@pytest.mark.failure("a file that increments build on damaged, missing or another")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_byte_changed_in_the_data_of_any_file_of_a_chain_is_found(chains, which):
    files, whole, older = chains
    header_bytes = 8 + int.from_bytes(whole[which][:8], "little")
    for at in range(header_bytes, len(whole[which])):
        files.paths[which].write_bytes(whole[which][:at] + bytes([whole[which][at] ^ 1]) + whole[which][at + 1 :])
        assert content(newest(files.of)) == left_of(files, older, which), f"byte {at}"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_of_a_chain_cut_off_anywhere_makes_all_that_builds_on_it_unusable(chains, which):
    files, whole, older = chains
    for length in range(0, len(whole[which]), 3):
        files.paths[which].write_bytes(whole[which][:length])
        assert content(newest(files.of)) == left_of(files, older, which), f"{length} bytes"


@pytest.mark.failure("a file that increments build on damaged, missing or another")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_of_a_chain_that_is_gone_makes_all_that_builds_on_it_unusable(chains, which):
    files, _, older = chains
    files.paths[which].unlink()
    assert content(newest(files.of)) == left_of(files, older, which)


@pytest.mark.failure("a file that increments build on damaged, missing or another")
def test_another_file_under_the_name_of_a_base_is_not_what_was_added_to(chains):
    """As intact as it, and of the same position, partition and beginning."""
    files, _, older = chains
    other = snapshot_of([b"other"], 100)
    made, *_ = files.of.write(other)
    made.rename(files.paths[0])
    assert content(newest(files.of)) == content(other), "it stands for itself"
    files.paths[0].unlink()
    assert content(newest(files.of)) == content(older)


def test_another_increment_under_the_name_of_one_is_not_what_was_added_to(chains):
    files, _, _ = chains
    found = newest(files.of, position_max=100)
    other = adding(100, [b"other"], 200)
    made, *_ = files.of.write(other, found.chain)
    made.rename(files.paths[1])
    assert content(newest(files.of)) == content(merged(found, [other]))


def warnings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(file, error) of what is warned of from now on."""
    found = list[tuple[str, str]]()

    class Log:
        def warning(self, _event: str, *, file: str, error: str = "") -> None:
            found.append((Path(file).name, error))

        def info(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr(directory, "_log", Log())
    return found


def test_a_damaged_link_is_warned_of_once(chains, monkeypatch):
    files, whole, _ = chains
    files.paths[0].write_bytes(whole[0][:-1])
    found = warnings(monkeypatch)
    for _ in range(3):
        assert newest(files.of).mark.offset == 50
    assert [name for name, _ in found] == [files.paths[0].name, files.paths[1].name]
    assert files.paths[0].name in found[1][1]


def test_no_file_is_read_again_and_again_for_a_damaged_one_below_it(tmp_path, monkeypatch):
    of = store(tmp_path)
    files = Written(of, snapshot_of(KEYS))
    for position in range(101, 101 + INCREMENTS_MAX):
        files.add(adding(position - 1, [b"a"], position))
    files.paths[0].write_bytes(b"")
    opened, load = list[Path](), directory._load
    monkeypatch.setattr(directory, "_load", lambda at: opened.append(at) or load(at))
    assert newest(of) is None
    assert max(opened.count(path) for path in files.paths) <= 2


def forged(of: Directory, snapshot: Snapshot, link: Link | None, name: str | None = None, **changes: object) -> Path:
    """A file whose digest is right, whatever it says."""
    tensors, metadata = metadata_of(snapshot, link, **changes)
    base = snapshot.mark.offset if snapshot.base is None else snapshot.base
    path = of.folder(2) / (name or str(Name(snapshot.mark.offset, base, "forged")))
    safetensors.numpy.save_file(tensors, path, metadata)
    return path


OUTSIDE = [
    "../3/{whole}",
    "/etc/passwd",
    "{folder}/{whole}",
    "./{whole}",
    "100-100-../../../x.safetensors",
    "00000000000000000100-00000000000000000100-a/b.safetensors",
    "00000000000000000100-00000000000000000100-a\0b.safetensors",
    "..",
    "",
    "9" * 5000 + "-100-a.safetensors",
    "100-100-" + "a" * 5000 + ".safetensors",
]


@pytest.mark.parametrize("text", OUTSIDE, ids=range(len(OUTSIDE)))
def test_no_name_of_a_base_leads_out_of_the_folder(written, monkeypatch, text):
    of, path, _, snapshot = written
    shutil.copytree(of.folder(2), of.folder(3))
    digest = directory._load(path)[1]["digest"]
    forged(of, adding(100, [b"a"], 200), Link(text.format(whole=path.name, folder=path.parent), digest))
    opened, load = list[Path](), directory._load
    monkeypatch.setattr(directory, "_load", lambda at: opened.append(at) or load(at))
    assert content(newest(of)) == content(snapshot)
    assert {at.parent for at in opened} == {of.folder(2)}


@pytest.mark.parametrize("base", [200, 300])
def test_a_base_that_is_not_before_what_adds_to_it_is_none(written, base):
    """So there are no cycles."""
    of, _, _, snapshot = written
    name = str(Name(200, base, "forged"))
    forged(of, adding(base, [b"a"], 200), Link(name, "digest"), name)
    assert content(newest(of)) == content(snapshot)


@pytest.mark.parametrize("base", [{}, 7, [], {"position": 100}, {"position": "x", "file": 1, "digest": None}, {"file": [], "digest": []}])
def test_a_base_that_is_told_in_other_words_is_none(written, base):
    of, _, _, snapshot = written
    forged(of, adding(100, [b"a"], 200), Link("base", "digest"), base=base)
    assert content(newest(of)) == content(snapshot)


@pytest.mark.parametrize("changes", [{"beginning": OTHER}, {"partition": 3}])
def test_a_base_of_another_beginning_or_partition_is_none(tmp_path, changes):
    of = store(tmp_path)
    path, _, chain = of.write(snapshot_of(KEYS, **{"partition": 2, **changes}))
    if "partition" in changes:
        path = shutil.move(path, of.folder(2).joinpath(path.name)) if of.folder(2).mkdir() is None else path
    forged(of, adding(100, [b"a"], 200), Link(path.name, chain.digest))
    assert newest(of, beginning=BEGINNING) is None


def test_a_base_of_rows_of_another_width_is_none(written):
    of, path, *_ = written
    wider = replace(adding(100, [b"a"], 200), rows=Rows.zeros(1, W + 1))
    forged(of, wider, Link(path.name, directory._load(path)[1]["digest"]))
    assert newest(of).mark.offset == 100


def test_no_chain_of_more_files_than_are_ever_written_is_followed(tmp_path):
    of = store(tmp_path)
    files = Written(of, snapshot_of(KEYS, 1000))
    for i in range(INCREMENTS_MAX + 3):
        files.add(adding(1000 + i, [b"a"], 1001 + i))
    assert newest(of).mark.offset == 1000 + INCREMENTS_MAX


@pytest.mark.parametrize(("position", "base"), [(50, 50), (200, 200), (200, 100)])
def test_a_file_that_was_given_another_name_is_passed_over(written, position, base):
    """Its position would be taken for at or below the committed offset when it is not."""
    of, path, *_ = written
    path.rename(path.with_name(str(Name(position, base, "cafe"))))
    assert newest(of) is None


def test_a_folder_under_a_name_of_ours_is_passed_over(written):
    of, path, _, snapshot = written
    (path.parent / str(Name(999, 999, "cafe"))).mkdir()
    assert content(newest(of)) == content(snapshot)


def test_a_file_of_another_partition_is_passed_over(written, tmp_path):
    of, path, _, _ = written
    of.folder(3).mkdir()
    shutil.copy(path, of.folder(3))
    assert newest(of, partition=3) is None


NOT_OURS = ["notes.txt", "1-1-.safetensors", "1-1-x y.safetensors", "1-2.safetensors"]
NOT_OURS += ["1-2-3-4.safetensors", "a-1-x.safetensors", "-1-1-x.safetensors", "\u0661-1-x.safetensors"]


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
    assert newest(of).mark.offset == 3
    assert {path.name for path in of.folder(2).iterdir()} >= set(NOT_OURS)


# -- which one ------------------------------------------------------------------------------------------------


def test_nothing_was_ever_written(tmp_path):
    assert newest(store(tmp_path)) is None
    assert store(tmp_path).prunable(2, BEGINNING, 10**9) == []


def test_the_newest_is_the_one_of_the_greatest_position_whenever_it_was_written(tmp_path):
    of = store(tmp_path)
    for position in (9, 1000, 70):
        of.write(snapshot_of(KEYS, position))
    assert newest(of).mark.offset == 1000


@pytest.mark.parametrize(("position_max", "found"), [(8, None), (9, 9), (69, 9), (70, 70), (10**18, 1000)])
def test_none_past_a_position_is_given(tmp_path, position_max, found):
    of = store(tmp_path)
    for position in (9, 70, 1000):
        of.write(snapshot_of(KEYS, position))
    snapshot = newest(of, position_max=position_max)
    assert (snapshot and snapshot.mark.offset) == found


def test_one_of_another_beginning_is_passed_over(tmp_path):
    of = store(tmp_path)
    of.write(snapshot_of(KEYS, 10))
    of.write(snapshot_of(KEYS, 20, beginning=OTHER))
    assert newest(of, beginning=BEGINNING).mark.offset == 10
    assert newest(of, beginning=OTHER).mark.offset == 20
    assert newest(of).mark.offset == 20


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


def grown(of: Directory, *positions: int, beginning: Beginning = BEGINNING) -> Chain:
    """A whole file at the first position, and an increment at each other."""
    first, *others = positions
    _, _, chain = of.write(snapshot_of([b"a", b"b"], first, beginning=beginning))
    for position in others:
        _, _, chain = of.write(adding(chain.position, [b"a"], position, beginning=beginning), chain)
    return chain


def test_chains_are_counted_by_their_whole_files_and_go_with_all_that_builds_on_them(tmp_path):
    of = store(tmp_path)
    for begin in (10, 20, 30):
        grown(of, begin, begin + 1, begin + 2)
    assert named(of.prunable(2, BEGINNING, 10**9)) == [10, 11, 12]
    grown(of, 40)
    assert named(of.prunable(2, BEGINNING, 10**9)) == [10, 11, 12, 20, 21, 22]
    assert named(of.prunable(2, BEGINNING, 39)) == [10, 11, 12]


def test_one_chain_replaces_nothing_however_many_files_it_has(tmp_path):
    of = store(tmp_path)
    grown(of, *range(10, 20))
    assert of.prunable(2, BEGINNING, 10**9) == []


def test_another_process_counts_the_same(tmp_path):
    for begin in (10, 20, 30):
        grown(store(tmp_path), begin, begin + 1)
    assert named(store(tmp_path).prunable(2, BEGINNING, 10**9)) == [10, 11]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_chain_counts_as_far_as_it_is_intact(tmp_path, which):
    of = store(tmp_path)
    grown(of, 10, 11)
    grown(of, 20, 21)
    damaged = of.folder(2) / grown(of, 30, 31, 32).files[which]
    damaged.write_bytes(b"")
    for _ in range(2):
        assert named(of.prunable(2, BEGINNING, 10**9)) == ([] if which == 0 else [10, 11])


def test_what_builds_on_a_file_that_goes_or_is_gone_goes_too(tmp_path):
    of = store(tmp_path)
    late = grown(of, 10, 11)
    gone = grown(of, 31, 33)
    grown(of, 20)
    grown(of, 30)
    of.write(adding(11, [b"a"], 35), late)  # by a process that was thought dead
    (of.folder(2) / gone.files[0]).unlink()
    grown(of, 36)
    assert named(of.prunable(2, BEGINNING, 36)) == [10, 11, 20, 33, 35]


def test_the_chain_that_is_added_to_stays_although_newer_ones_were_begun(tmp_path):
    """The offsets were moved back: those of before lie past them, until the new ones have passed them."""
    of = store(tmp_path)
    chain = grown(of, 10, 11)
    for position in (20, 30, 40):
        grown(of, position)
    for position in (12, 25, 35, 45):
        _, _, chain = of.write(adding(chain.position, [b"a"], position), chain)
        of.prune(of.prunable(2, BEGINNING, position))
        assert newest(of, position_max=position).mark.offset == position
    grown(of, 50)
    grown(of, 60)
    of.prune(of.prunable(2, BEGINNING, 60))
    assert positions(of) == [50, 60]


TURNS = ["zombie writes", "zombie adds", "zombie prunes late", "successor writes", "successor adds", "successor prunes", "torn"]
turn = st.tuples(st.sampled_from(TURNS), st.integers(1, 3))


@pytest.mark.full
@settings(parent=deterministic, max_examples=80)
@given(turns=st.lists(turn, min_size=8, max_size=24), beginning=st.sampled_from([BEGINNING, OTHER]))
def test_a_zombie_that_writes_and_prunes_late_never_takes_the_successors_newest_two(tmp_path_factory, turns, beginning):
    """The partition was handed over at position 15: no snapshot of the zombie's lies past it, none of the successor's before."""
    path, handed_over = tmp_path_factory.mktemp("store"), 15
    zombie, successor = store(path), store(path)
    at = {zombie: 0, successor: handed_over - 1}
    chains: dict[Directory, Chain] = {}
    wholes: dict[Path, tuple[int, Beginning]] = {}
    newest_ever = 0

    def write(of: Directory, of_beginning: Beginning, step: int, *, add: bool) -> None:
        nonlocal newest_ever
        at[of] += step
        if add and of in chains:
            try:
                _, _, chains[of] = of.write(adding(chains[of].position, [b"a"], at[of], beginning=of_beginning), chains[of])
            except FileNotFoundError:
                assert of is zombie, "nobody takes away what the successor adds to"
                del chains[of]
                return
        else:
            file, _, chains[of] = of.write(snapshot_of([b"a"], at[of], beginning=of_beginning))
            wholes[file] = at[of], of_beginning
        if of_beginning == beginning:
            newest_ever = max(newest_ever, at[of])

    for (who, what), step in (((text + " ").split(" ")[:2], step) for text, step in turns):
        if who == "successor" and what != "prunes":
            write(successor, beginning, step, add=what == "adds")
        elif who == "zombie" and what != "prunes" and at[zombie] + step <= handed_over:
            write(zombie, BEGINNING, step, add=what == "adds")
        elif what == "prunes":
            of, own = (zombie, BEGINNING) if who == "zombie" else (successor, beginning)
            of.prune(of.prunable(2, own, at[of]))
        elif who == "torn" and successor.folder(2).exists():
            (successor.folder(2) / str(Name(at[successor] + step, 0, "torn"))).write_bytes(b"torn")
        ever, left = (
            sorted((p for file, (p, b) in wholes.items() if b == beginning and (file.exists() or not only)), reverse=True)[:2]
            for only in (False, True)
        )
        assert left == ever, "the newest two whole ones that were ever written are there"
        found = newest(store(path), beginning=beginning)
        assert (found.mark.offset if found else 0) == newest_ever


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


@pytest.mark.failure("full disk at the start")
def test_a_folder_that_cannot_be_written_to_is_found_before_the_start(tmp_path):
    (tmp_path / "group").write_bytes(b"a file is in the way")
    with pytest.raises(OSError, match="group"):
        store(tmp_path).prepare()


def test_preparing_leaves_no_probe_behind(tmp_path):
    store(tmp_path).prepare()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
