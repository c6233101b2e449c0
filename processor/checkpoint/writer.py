"""Writing checkpoints beside the loop: a slow or full disk delays them, never a commit.

One thread, one snapshot a partition at a time: a partition whose last one is still being written is not copied again. So what
the next one may add to is known before it is copied, and only the loop's thread keeps it.
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
    """One snapshot that reached the disk, or `error` why not. prunable: files that it made superfluous."""

    partition: int
    position: int
    seconds: float
    bytes: int = 0
    prunable: tuple[Path, ...] = ()
    error: str | None = None


class CheckpointWriter:
    """What the loop asks of whatever writes its snapshots. The defaults are those of a writer that needs no transaction.

    A snapshot is taken at a commit boundary and given to write(); finished() tells when it is safe.
    """

    @property
    def pending(self) -> bool:
        """Something is to go into the next transaction, even if nothing else does."""
        return False

    def begins(self, partition: int, snapshot: Snapshot | None) -> None:
        """A partition is this instance's, and its state goes on from this snapshot."""

    def base(self, partition: int) -> int | None:  # noqa: ARG002
        """The position of what the next snapshot may add to, so that it holds only what changed since; None: it must be whole."""
        return None

    def busy(self, partition: int) -> bool:
        """Its last snapshot is still on its way."""
        raise NotImplementedError

    def write(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    def outs(self) -> tuple[list[Out], set[int]]:
        """What the transaction that is about to be committed is to carry, and the partitions that it is of."""
        return [], set()

    def commit(self) -> None:
        """The transaction is committed."""

    def abort(self) -> None:
        """The transaction is undone."""

    def finished(self) -> list[Written]:
        """What was written since the last call."""
        raise NotImplementedError

    def wait(self, partitions: Collection[int], timeout_s: float) -> list[Written]:  # noqa: ARG002
        """Waits until these partitions' snapshots are written, at most this long; returns all that was finished meanwhile.

        What is pending waits for the loop's own commits and is not waited for.
        """
        return self.finished()

    def drop(self, partition: int) -> None:
        """The partition is another instance's now."""

    def close(self) -> None:
        """Ends without waiting for what is queued."""


class Writer(CheckpointWriter):
    """Snapshots into a store of files, on a thread beside the loop. All methods are the loop's thread's."""

    def __init__(self, store: Directory) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[tuple[Snapshot, Chain | None] | list[Path] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Written, Chain | None]] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._left: set[int] = set()  # busy with a snapshot from before the partition was dropped
        self._chains: dict[int, Chain] = {}  # what the next snapshot of a partition may be added to
        self._prunable: dict[int, list[Path]] = {}  # to be deleted when a commit has proved that the partition is still this instance's
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def begins(self, partition: int, snapshot: Snapshot | None) -> None:
        self._note(partition, snapshot.chain if snapshot is not None else None)

    def base(self, partition: int) -> int | None:
        known = self._chains.get(partition)
        # While one is on its way nobody knows whether it will be there to be added to.
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
        """Deletes what an earlier Written named. To be called only after a commit has succeeded since."""
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
        """Ends the thread after what is queued, without waiting for it."""
        self._jobs.put(None)

    def _take(self, done: tuple[Written, Chain | None]) -> Written:
        written, grown = done
        self._busy.discard(written.partition)
        if written.partition in self._left:
            # From before the partition was dropped: it goes on from another snapshot, and somebody may have added to what this replaced.
            self._left.discard(written.partition)
            return replace(written, prunable=())
        # After a failure nothing: the keys that were removed are in no file, so only a whole one is right.
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
            _log.warning("old checkpoints could not be deleted; they are tried again with the next", error=str(error))
