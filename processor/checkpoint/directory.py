"""Checkpoints as files: <path>/<group>/<topic>/<partition>/<position>-<base>-<id>.safetensors.

Files never change: each is written under a temporary name, forced to the disk, and published by a link, which fails if the
name is taken. So a process that was thought dead and writes on does no harm. Names of groups and topics are escaped.

A file is whole, or an increment: what changed since another file of the folder, which it names together with that one's digest.
A whole file and the increments that were added to it one after another are a chain. An increment counts only with every file
that it builds on, intact and the one that was meant.

Only the current owner of a partition prunes: what prunable() lists is deleted after a later commit has proved the ownership,
and it names only files that newer, verified chains had replaced before that commit.

How long a chain may grow is snapshot.Chain's to say, and when a file is an increment writer.py's.
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
TEMPORARY_AGE_S = 900.0  # what a dead process left unfinished for longer than any write takes


@dataclass(frozen=True, slots=True)
class Name:
    """What a file's name says: the position, the position of the snapshot it adds to (its own if it is whole), a random id."""

    position: int
    base: int
    id: str

    def __str__(self) -> str:
        return f"{self.position:020d}-{self.base:020d}-{self.id}{SUFFIX}"

    @classmethod
    def parse(cls, text: str) -> "Name | None":
        """None for anything else. What is parsed may come from a file's content: no name of ours leads out of the folder."""
        parts = text.removesuffix(SUFFIX).split("-")
        if not text.endswith(SUFFIX) or len(parts) != 3 or not all(p.isascii() and p.isalnum() for p in parts):
            return None
        if not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return cls(int(parts[0]), int(parts[1]), parts[2])


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an intact file says of itself. link: the file that it adds to, None if it is whole."""

    beginning: Beginning
    width: int
    digest: str
    link: Link | None


class Directory:
    """The store of one group and topic. Methods may be called from several threads, for different partitions."""

    def __init__(self, path: Path, group: str, topic: str, *, keep: int, now_s: Callable[[], float] = time.time) -> None:
        self._root = path / _escaped(group) / _escaped(topic)
        self._keep = keep
        self._now_s = now_s
        self._verified: dict[Path, _Facts] = {}  # files read to their end and found intact
        self._damaged: set[Path] = set()  # told of once

    def prepare(self) -> None:
        """Makes the folder and proves that it can be written to. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        probe = self._root / f"{TEMPORARY}{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()

    def folder(self, partition: int) -> Path:
        return self._root / str(partition)

    def write(self, snapshot: Snapshot, before: Chain | None = None) -> tuple[Path, int, Chain]:
        """Publishes a snapshot; returns its file, its size in bytes, and the chain that it ends.

        before: the chain of the snapshot before it, which an incremental one is added to.
        Raises OSError, and nothing half written is left behind; also where an incremental one's base is gone.
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
        """What an incremental snapshot adds to; None for a whole one."""
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
        """The newest intact snapshot at or below a position whose beginning is wanted; others are passed over with a warning."""
        unusable = set[Path]()  # for what they build on
        for name, path in self._listed(partition):
            if position_max is not None and name.position > position_max:
                _log.info("checkpoint passed over: it lies past the committed offset", file=str(path), committed=position_max)
                continue
            last = None if path in unusable else self._read(path, partition)
            if last is None:
                continue
            if not usable(last.beginning):
                _log.warning("checkpoint passed over: it is of another model, group history or topic", file=str(path))
                continue
            snapshot, files = self._assembled(last, path)
            if snapshot is not None:
                return snapshot
            unusable.update(files[:-1])
        return None

    def _assembled(self, last: Snapshot, path: Path) -> tuple[Snapshot | None, list[Path]]:
        """The snapshot that a file is with all that it builds on, None if that is no complete chain; and those files."""
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
        """A file and those that it builds on, the whole one last, and whether they are complete. What breaks a chain is its last.

        A file's base has a lower position (see _read): there are no cycles.
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
        """What may be deleted once a later commit has succeeded: all that is older than the newest `keep` verified whole files.

        What builds on those stays with them, and what builds on a file that goes or is gone goes too. So does not the chain that
        reaches furthest, which is the one being added to: its whole file is older than others' after offsets were moved back.
        Those past `position` lie past the committed offset, after that was moved back: they replace nothing, and stay.
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
        furthest = next((files for files, complete in tips if complete), [])  # first: so what was just written is read back
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
        """None, with a warning, for a file that is not an intact snapshot of this partition."""
        try:
            tensors, metadata = _load(path)
            snapshot, link = from_tensors(tensors, metadata)
            if snapshot.partition != partition:
                raise UnusableError(f"it is of partition {snapshot.partition}")
            _check_name(path, snapshot, link)
        except FileNotFoundError:
            return None  # another instance pruned it meanwhile
        except (UnusableError, safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            self._pass_over(path, str(error))
            return None
        self._verified[path] = _Facts(snapshot.beginning, snapshot.rows.state.shape[1], metadata["digest"], link)
        return snapshot

    def _pass_over(self, path: Path, why: str) -> None:
        if path not in self._damaged:
            _log.warning("checkpoint passed over: it is damaged or no checkpoint", file=str(path), error=why)
        self._damaged.add(path)

    def _listed(self, partition: int) -> list[tuple[Name, Path]]:
        """Files that bear a snapshot's name, newest first; anything else in the folder is left alone."""
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
    """A folder's name for a group or topic: no separators, never `.` or `..`."""
    quoted = urllib.parse.quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted.strip(".") == "" else quoted


def _check_name(path: Path, snapshot: Snapshot, link: Link | None) -> None:
    """Raises UnusableError unless the file's name says what it holds, and that of its base what it adds to."""
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
    except safetensors.SafetensorError as error:  # the library's own word for a full disk
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
