"""Checkpoints as files: <path>/<group>/<topic>/<partition>/<position>-<base>-<id>.safetensors.

Files never change: each is written under a temporary name, forced to the disk, and published by a link, which fails if the
name is taken. So a process that was thought dead and writes on does no harm. Names of groups and topics are escaped.

Only the current owner of a partition prunes: what prunable() lists is deleted after a later commit has proved the ownership,
and it names only files that two newer, verified ones had replaced before that commit.
"""

import os
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import structlog
from safetensors.numpy import save_file

from processor.checkpoint.snapshot import Snapshot, UnusableError, from_tensors, to_tensors
from processor.stream.assignment import Beginning

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
        parts = text.removesuffix(SUFFIX).split("-")
        if not text.endswith(SUFFIX) or len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts[:2]):
            return None
        return cls(int(parts[0]), int(parts[1]), parts[2])


class Directory:
    """The store of one group and topic. Methods may be called from several threads, for different partitions."""

    def __init__(self, path: Path, group: str, topic: str, *, keep: int, now_s: Callable[[], float] = time.time) -> None:
        self._root = path / _escaped(group) / _escaped(topic)
        self._keep = keep
        self._now_s = now_s
        self._verified: dict[Path, Beginning] = {}  # files read whole and found intact
        self._damaged: set[Path] = set()  # told of once

    def prepare(self) -> None:
        """Makes the folder and proves that it can be written to. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        probe = self._root / f"{TEMPORARY}{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()

    def folder(self, partition: int) -> Path:
        return self._root / str(partition)

    def write(self, snapshot: Snapshot) -> tuple[Path, int]:
        """Publishes a snapshot; returns its file and its size in bytes. Raises OSError; nothing half written is left behind."""
        folder = self.folder(snapshot.partition)
        folder.mkdir(parents=True, exist_ok=True)
        name = Name(snapshot.mark.position, snapshot.mark.position, secrets.token_hex(6))
        temporary, final = folder / f"{TEMPORARY}{name.id}", folder / str(name)
        try:
            tensors, metadata = to_tensors(snapshot)
            _save(tensors, temporary, metadata)
            _force(temporary)
            size = temporary.stat().st_size
            os.link(temporary, final)
            _force(folder)
        finally:
            temporary.unlink(missing_ok=True)
        return final, size

    def newest(
        self,
        partition: int,
        *,
        position_max: int | None,
        usable: Callable[[Beginning], bool],
        cancelled: Callable[[], bool] = lambda: False,  # noqa: ARG002 - a file is read before anybody has time to cancel
    ) -> Snapshot | None:
        """The newest intact snapshot at or below a position whose beginning is wanted; others are passed over with a warning."""
        for name, path in self._listed(partition):
            if position_max is not None and name.position > position_max:
                _log.info("checkpoint passed over: it lies past the committed offset", file=str(path), committed=position_max)
                continue
            snapshot = self._read(path, partition)
            if snapshot is None:
                continue
            if usable(snapshot.beginning):
                return snapshot
            _log.warning("checkpoint passed over: it is of another model, group history or topic", file=str(path))
        return None

    def prunable(self, partition: int, beginning: Beginning, position: int) -> list[Path]:
        """What may be deleted once a later commit has succeeded: all that the newest `keep` verified snapshots replace.

        Those past `position` lie past the committed offset, after that was moved back: they replace nothing, and stay.
        """
        kept, old = 0, list[Path]()
        for name, path in self._listed(partition):
            if name.position > position:
                continue
            if kept == self._keep:
                old.append(path)
            elif (path in self._verified or self._read(path, partition)) and self._verified[path] == beginning:
                kept += 1
        if kept < self._keep:
            return []
        return old + list(self._stale_temporaries(partition))

    def prune(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
            self._verified.pop(path, None)

    def _read(self, path: Path, partition: int) -> Snapshot | None:
        """None, with a warning, for a file that is not an intact snapshot of this partition."""
        try:
            tensors, metadata = _load(path)
            snapshot = from_tensors(tensors, metadata)
            if snapshot.partition != partition:
                raise UnusableError(f"it is of partition {snapshot.partition}")
        except FileNotFoundError:
            return None  # another instance pruned it meanwhile
        except (UnusableError, safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            if path not in self._damaged:
                _log.warning("checkpoint passed over: it is damaged or no checkpoint", file=str(path), error=str(error))
            self._damaged.add(path)
            return None
        self._verified[path] = snapshot.beginning
        return snapshot

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
