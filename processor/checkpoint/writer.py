"""Writes checkpoints on a separate thread: a slow or full disk delays checkpoints, never a commit.

One thread writes one snapshot of a partition at a time: a partition whose last snapshot is still being written is not copied again. So
the base of the next snapshot is known before it is copied, and only the loop's thread keeps track of it.
"""

import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import structlog

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Chain, Snapshot
from processor.records import Out

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """A snapshot that was written, or `error` with the reason why not. prunable: files that it made obsolete."""

    partition: int
    position: int
    seconds: float
    bytes: int = 0
    prunable: tuple[Path, ...] = ()
    error: str | None = None


class CheckpointWriter:
    """The interface through which the loop writes snapshots. The defaults suit a writer that needs no transaction.

    A snapshot is taken at a commit boundary and passed to write(); finished() reports when it is safe.
    """

    @property
    def pending(self) -> bool:
        """Whether the next transaction must carry records of this writer, even if there is nothing else to commit."""
        return False

    def begins(self, partition: int, snapshot: Snapshot | None) -> None:
        """This instance now owns the partition, and its state continues from this snapshot."""

    def base(self, partition: int) -> int | None:  # noqa: ARG002
        """The position of the snapshot that the next one may build on, so that it contains only changes; None: it must be whole."""
        return None

    def busy(self, partition: int) -> bool:
        """Whether its last snapshot is still being written."""
        raise NotImplementedError

    def write(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    def outs(self) -> tuple[list[Out], set[int]]:
        """The records for the transaction that is about to be committed, and their partitions."""
        return [], set()

    def commit(self) -> None:
        """The transaction was committed."""

    def abort(self) -> None:
        """The transaction was aborted."""

    def finished(self) -> list[Written]:
        """The snapshots that were written since the last call."""
        raise NotImplementedError

    def wait(self, partitions: Collection[int], timeout_s: float) -> list[Written]:  # noqa: ARG002
        """Waits until these partitions' snapshots are written, for at most this long; returns all snapshots finished meanwhile.

        Does not wait for pending snapshots, which need the loop's own commits.
        """
        return self.finished()

    def drop(self, partition: int) -> None:
        """This instance no longer owns the partition."""

    def close(self) -> None:
        """Ends without waiting for queued snapshots."""


class Writer(CheckpointWriter):
    """Writes snapshots to a file store, on a separate thread. Only the loop's thread calls the methods."""

    def __init__(self, store: Directory) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[tuple[Snapshot, Chain | None] | list[Path] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Written, Chain | None]] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._left: set[int] = set()  # partitions whose snapshot is from before they were dropped
        self._chains: dict[int, Chain] = {}  # the chain that the next snapshot of a partition may extend
        self._prunable: dict[int, list[Path]] = {}  # to be deleted when a commit has proved that this instance still owns the partition
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def begins(self, partition: int, snapshot: Snapshot | None) -> None:
        self._note(partition, snapshot.chain if snapshot is not None else None)

    def base(self, partition: int) -> int | None:
        known = self._chains.get(partition)
        # While a snapshot is being written, it is unknown whether it can be extended.
        return known.position if known is not None and known.may_grow and partition not in self._busy else None

    def busy(self, partition: int) -> bool:
        return partition in self._busy

    def write(self, snapshot: Snapshot) -> None:
        self._busy.add(snapshot.partition)
        self._jobs.put((snapshot, self._chains.get(snapshot.partition)))

    def commit(self) -> None:
        self.prune(list(chain.from_iterable(self._prunable.values())))
        self._prunable.clear()

    def drop(self, partition: int) -> None:
        self._chains.pop(partition, None)
        self._prunable.pop(partition, None)
        if partition in self._busy:
            self._left.add(partition)

    def prune(self, paths: Collection[Path]) -> None:
        """Deletes the files that an earlier Written listed. Call only after a later commit has succeeded."""
        if paths:
            self._jobs.put(list(paths))

    def finished(self) -> list[Written]:
        found = []
        while not self._done.empty():
            found.append(self._take(self._done.get()))
        return found

    def wait(self, partitions: Collection[int], timeout_s: float) -> list[Written]:
        found, until_s = self.finished(), time.monotonic() + timeout_s
        while self._busy.intersection(partitions) and (left_s := until_s - time.monotonic()) > 0:
            try:
                found.append(self._take(self._done.get(timeout=left_s)))
            except queue.Empty:
                break
        return found

    def close(self) -> None:
        """Ends the thread after the queued snapshots, without waiting for it."""
        self._jobs.put(None)

    def _take(self, done: tuple[Written, Chain | None]) -> Written:
        written, grown = done
        self._busy.discard(written.partition)
        if written.partition in self._left:
            # From before the partition was dropped: it continues from another snapshot, and another instance may have extended the
            # replaced files.
            self._left.discard(written.partition)
            return replace(written, prunable=())
        # No base after a failure: the removed keys are in no file, so the next snapshot must be whole.
        self._note(written.partition, grown)
        if written.prunable:
            self._prunable.setdefault(written.partition, []).extend(written.prunable)
        return written

    def _note(self, partition: int, known: Chain | None) -> None:
        if known is None:
            self._chains.pop(partition, None)
        else:
            self._chains[partition] = known

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, list):
                self._delete(job)
            else:
                self._done.put(self._write(*job))

    def _write(self, snapshot: Snapshot, before: Chain | None) -> tuple[Written, Chain | None]:
        begun_s = time.monotonic()
        partition, position = snapshot.partition, snapshot.mark.offset
        try:
            _, size, grown = self._store.write(snapshot, before)
            prunable = self._store.prunable(partition, snapshot.beginning, position)
        except Exception as error:  # noqa: BLE001 - the loop tells it and goes on; a dead thread would say nothing
            return Written(partition, position, time.monotonic() - begun_s, error=str(error) or type(error).__name__), None
        return Written(partition, position, time.monotonic() - begun_s, size, tuple(prunable)), grown

    def _delete(self, paths: list[Path]) -> None:
        try:
            self._store.prune(paths)
        except OSError as error:
            _log.warning("could not delete old checkpoints, retrying after the next one", error=str(error))
