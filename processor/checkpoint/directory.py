"""Checkpoints as files: <path>/<group>/<topic>/<partition>/<position>-<base>-<id>.safetensors.

Files never change: each is written under a temporary name, synced to disk, and published by a hard link, which fails if the name exists.
So a process that was presumed dead but keeps writing does no harm. Names of groups and topics are escaped.

A file is whole, or an increment: the rows that changed since another file in the folder, which the increment names together with its
digest. A whole file and the successive increments on top of it form a chain. An increment is valid only if every file that it builds on
is intact and has the named digest.

Only the current owner of a partition prunes: the files from prunable() are deleted after a later commit has proved ownership, and
prunable() lists only files that newer, verified chains had replaced before that commit.

snapshot.Chain limits the length of a chain; writer.py decides when a file is an increment.
"""

import errno
import os
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import structlog
from safetensors.numpy import save_file

from processor.checkpoint.snapshot import INCREMENTS_MAX, Chain, Link, Snapshot, UnusableError, from_tensors, merged, to_tensors
from processor.partitions import Beginning

_log = structlog.get_logger(__name__)

SUFFIX = ".safetensors"
TEMPORARY = ".tmp-"
TEMPORARY_AGE_S = 900.0  # longer than any write takes: older temporary files were left by a dead process


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a file name: position, position of the snapshot that it builds on (its own if it is whole), random id."""

    position: int
    base: int
    id: str

    def __str__(self) -> str:
        return f"{self.position:020d}-{self.base:020d}-{self.id}{SUFFIX}"

    @classmethod
    def parse(cls, text: str) -> "Name | None":
        """None for other names. The text may come from a file's content, so a valid name must never refer to another folder."""
        parts = text.removesuffix(SUFFIX).split("-")
        if not text.endswith(SUFFIX) or len(parts) != 3 or not all(p.isascii() and p.isalnum() for p in parts):
            return None
        if not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return cls(int(parts[0]), int(parts[1]), parts[2])


@dataclass(frozen=True, slots=True)
class _Facts:
    """The metadata of an intact file. link: the file that it builds on, None if it is whole."""

    beginning: Beginning
    width: int
    digest: str
    link: Link | None


class Directory:
    """The store of one group and topic. Several threads may call the methods, for different partitions."""

    def __init__(self, path: Path, group: str, topic: str, *, keep: int, now_s: Callable[[], float] = time.time) -> None:
        self._root = path / _escaped(group) / _escaped(topic)
        self._keep = keep
        self._now_s = now_s
        self._verified: dict[Path, _Facts] = {}  # files that were read completely and are intact
        self._damaged: set[Path] = set()  # reported once

    def prepare(self) -> None:
        """Creates the folder and verifies that it is writable. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        probe = self._root / f"{TEMPORARY}{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()

    @property
    def root(self) -> Path:
        """The folder of the group and topic."""
        return self._root

    def folder(self, partition: int) -> Path:
        return self._root / str(partition)

    def write(self, snapshot: Snapshot, before: Chain | None = None) -> tuple[Path, int, Chain]:
        """Publishes a snapshot; returns its file, its size in bytes, and the chain that it completes.

        before: the chain of the previous snapshot, which an increment extends. Raises OSError, also if the base of an increment is gone,
        and leaves no partial file behind.
        """
        folder = self.folder(snapshot.partition)
        folder.mkdir(parents=True, exist_ok=True)
        position, link = snapshot.mark.offset, self._link(folder, snapshot, before)
        name = Name(position, position if snapshot.base is None else snapshot.base, secrets.token_hex(6))
        temporary, final = folder / f"{TEMPORARY}{name.id}", folder / str(name)
        try:
            tensors, metadata = to_tensors(snapshot, link)
            _save(tensors, temporary, metadata)
            _force(temporary)
            size = temporary.stat().st_size
            os.link(temporary, final)
            _force(folder)
        finally:
            temporary.unlink(missing_ok=True)
        return final, size, Chain.grown(before, snapshot, Link(final.name, metadata["digest"]))

    def _link(self, folder: Path, snapshot: Snapshot, before: Chain | None) -> Link | None:
        """The file that an incremental snapshot builds on; None for a whole one."""
        if snapshot.base is None:
            return None
        if before is None or (before.position, before.beginning) != (snapshot.base, snapshot.beginning):
            raise ValueError(f"an increment on position {snapshot.base} of {snapshot.beginning}, after files of {before}")
        if snapshot.base >= snapshot.mark.offset:
            raise ValueError(f"an increment on position {snapshot.base} that goes to {snapshot.mark.offset}")
        for path in (folder / file for file in before.files):
            if path in self._damaged or not path.exists():
                raise OSError(errno.ENOENT, "a checkpoint that the next one adds to is damaged or gone", str(path))
        return Link(before.files[-1], before.digest)

    def newest(
        self,
        partition: int,
        *,
        position_max: int | None,
        usable: Callable[[Beginning], bool],
        cancelled: Callable[[], bool] = lambda: False,  # noqa: ARG002 - a file is read before anybody has time to cancel
    ) -> Snapshot | None:
        """The newest intact snapshot at or below a position, of the wanted beginning; others are skipped with a warning."""
        unusable = set[Path]()  # because of a file that they build on
        for name, path in self._listed(partition):
            if position_max is not None and name.position > position_max:
                _log.info("skipped a checkpoint: it is past the committed offset", file=str(path), committed=position_max)
                continue
            last = None if path in unusable else self._read(path, partition)
            if last is None:
                continue
            if not usable(last.beginning):
                _log.warning("skipped a checkpoint: it belongs to another model, group history or topic", file=str(path))
                continue
            snapshot, files = self._assembled(last, path)
            if snapshot is not None:
                return snapshot
            unusable.update(files[:-1])
        return None

    def _assembled(self, last: Snapshot, path: Path) -> tuple[Snapshot | None, list[Path]]:
        """The snapshot of a file and all files below it, None if the chain is incomplete; and these files."""
        read = {path: last}

        def facts(at: Path) -> _Facts | None:
            if at not in read:
                snapshot = self._read(at, last.partition)
                if snapshot is None:
                    return None
                read[at] = snapshot
            return self._verified.get(at)

        files, complete = self._chain(path, facts)
        if not complete:
            return None, files
        chain: Chain | None = None
        for at in reversed(files):
            chain = Chain.grown(chain, read[at], Link(at.name, self._verified[at].digest))
        whole, *increments = (read[at] for at in reversed(files))
        return replace(merged(whole, increments), chain=chain), files

    def _chain(self, path: Path, facts: Callable[[Path], _Facts | None]) -> tuple[list[Path], bool]:
        """A file and those that it builds on, whole one last, and whether the chain is complete; otherwise it ends with the broken file.

        The base of a file has a lower position (see _read), so there are no cycles.
        """
        files, found = [path], facts(path)
        while found is not None and found.link is not None:
            base = path.parent / found.link.file
            if len(files) > INCREMENTS_MAX:
                self._pass_over(path, f"it builds on more than {INCREMENTS_MAX} others")
                return [path, base], False
            files.append(base)
            below = facts(base)
            if below is None:
                self._pass_over(files[-2], f"{base.name}, which it adds to, is damaged or gone")
            elif (below.digest, below.beginning, below.width) != (found.link.digest, found.beginning, found.width):
                self._pass_over(files[-2], f"{base.name} is not what it was added to")
                return files, False
            found = below
        return files, found is not None

    def prunable(self, partition: int, beginning: Beginning, position: int) -> list[Path]:
        """The files that may be deleted after a later commit: those older than the newest `keep` verified whole files.

        Increments are kept or deleted with the file that they build on, and deleted if it is gone. The chain with the greatest position
        is kept, because it is being extended: after offsets were moved back, its whole file may be older than others. Files past
        `position` are past the committed offset, because it was moved back: they replace nothing, and are kept.
        """

        def facts(at: Path) -> _Facts | None:
            if at not in self._verified and at.exists():
                self._read(at, partition)
            return self._verified.get(at) if at.exists() else None

        def ours(at: Path) -> bool:
            found = facts(at)
            return found is not None and found.beginning == beginning

        listed = [(name, path) for name, path in self._listed(partition) if name.position <= position]
        tips = (self._chain(path, facts) for _, path in listed if ours(path))
        furthest = next((files for files, complete in tips if complete), [])  # first, so that the file just written is read back
        wholes = (name.position for name, path in listed if name.base == name.position and ours(path))
        newest = list(islice(wholes, self._keep))
        if len(newest) < self._keep:
            return []
        old = {path for name, path in listed if name.position < newest[-1]}.difference(furthest)

        def orphaned(path: Path) -> bool:
            return any(file in old or not file.exists() for file in self._chain(path, facts)[0])

        gone = [path for _, path in listed if path in old or orphaned(path)]
        return gone + list(self._stale_temporaries(partition))

    def prune(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
            self._verified.pop(path, None)

    def _read(self, path: Path, partition: int) -> Snapshot | None:
        """Returns None, with a warning, for a file that is not an intact snapshot of this partition."""
        try:
            tensors, metadata = _load(path)
            snapshot, link = from_tensors(tensors, metadata)
            if snapshot.partition != partition:
                raise UnusableError(f"it is of partition {snapshot.partition}")
            _check_name(path, snapshot, link)
        except FileNotFoundError:
            return None  # another instance has pruned it in the meantime
        except (UnusableError, safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            self._pass_over(path, str(error))
            return None
        self._verified[path] = _Facts(snapshot.beginning, snapshot.rows.state.shape[1], metadata["digest"], link)
        return snapshot

    def _pass_over(self, path: Path, why: str) -> None:
        if path not in self._damaged:
            _log.warning("skipped a checkpoint: it is damaged, or not a checkpoint", file=str(path), error=why)
        self._damaged.add(path)

    def _listed(self, partition: int) -> list[tuple[Name, Path]]:
        """Files whose name is that of a snapshot, newest first; ignores all other files in the folder."""
        try:
            names = [(Name.parse(path.name), path) for path in self.folder(partition).iterdir()]
        except FileNotFoundError:
            return []
        found = [(name, path) for name, path in names if name is not None]
        return sorted(found, key=lambda pair: (pair[0].position, pair[1].name), reverse=True)

    def _stale_temporaries(self, partition: int) -> Iterator[Path]:
        for path in self.folder(partition).glob(f"{TEMPORARY}*"):
            try:
                if self._now_s() - path.stat().st_mtime > TEMPORARY_AGE_S:
                    yield path
            except FileNotFoundError:
                continue


def _escaped(name: str) -> str:
    """The folder name for a group or topic: no separators, never `.` or `..`."""
    quoted = urllib.parse.quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted.strip(".") == "" else quoted


def _check_name(path: Path, snapshot: Snapshot, link: Link | None) -> None:
    """Raises UnusableError unless the names of the file and of its base match their content."""
    position = snapshot.mark.offset
    base = position if snapshot.base is None else snapshot.base
    name = Name.parse(path.name)
    if name is None or (name.position, name.base) != (position, base):
        raise UnusableError(f"it holds position {position} on {base}")
    if link is not None:
        named = Name.parse(link.file)
        if named is None or named.position != base or base >= position:
            raise UnusableError(f"it adds to {link.file!r}, which is no checkpoint before it")


def _save(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except safetensors.SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error


def _load(path: Path) -> tuple[Any, dict[str, str]]:
    with safetensors.safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
