"""The two stores of checkpoints in memory, under the writers that the service uses: files without a disk, a topic without a broker."""

import errno
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory_kafka import Broker

from processor.checkpoint.snapshot import Chain, Link, Snapshot, merged
from processor.checkpoint.topic import TopicStore
from processor.checkpoint.writer import Writer, Written
from processor.codec.plain_message import PlainMessage
from processor.kafka.topics import Topic


@dataclass
class _File:
    snapshot: Snapshot
    chain: Chain


class MemoryFiles:
    """As checkpoint.directory.Directory. fails: so many of the next writes do."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}
        self.fails = 0
        self._ids = itertools.count(1)

    def write(self, snapshot: Snapshot, before: Chain | None = None) -> tuple[Path, int, Chain]:
        if self.fails:
            self.fails -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        assert (snapshot.base is None) or (before is not None and before.position == snapshot.base)
        if before is not None and snapshot.base is not None and not set(before.files) <= self.files.keys():
            raise OSError(errno.ENOENT, "a checkpoint that the next one adds to is gone")
        name = f"{snapshot.partition}/{snapshot.mark.offset}-{next(self._ids)}"
        chain = Chain.grown(before, snapshot, Link(name, name))
        self.files[name] = _File(snapshot, chain)
        return Path(name), 1, chain

    def newest(
        self, partition: int, *, position_max: int | None, usable: Callable[..., bool], cancelled: Callable[[], bool]
    ) -> Snapshot | None:
        found = [file for file in self.files.values() if file.snapshot.partition == partition and usable(file.snapshot.beginning)]
        for file in sorted(found, key=lambda file: file.snapshot.mark.offset, reverse=True):
            at_most = position_max is None or file.snapshot.mark.offset <= position_max
            if at_most and set(file.chain.files) <= self.files.keys():
                whole, *increments = (_copied(self.files[name].snapshot) for name in file.chain.files)
                return replace(merged(whole, increments), chain=file.chain)
        return None

    def prunable(self, partition: int, beginning: object, position: int) -> list[Path]:
        ours = [f for f in self.files.values() if f.snapshot.partition == partition and f.snapshot.mark.offset <= position]
        wholes = sorted(f.snapshot.mark.offset for f in ours if f.snapshot.base is None and f.snapshot.beginning == beginning)
        if len(wholes) < 2:
            return []
        kept = {name for f in ours if f.snapshot.mark.offset >= wholes[-2] for name in f.chain.files}
        return [Path(f.chain.files[-1]) for f in ours if f.chain.files[-1] not in kept]

    def prune(self, paths: Collection[Path]) -> None:
        for path in paths:
            self.files.pop(str(path), None)


def _copied(snapshot: Snapshot) -> Snapshot:
    """As it is read back from a file: without what means something only in the process that wrote it."""
    rows = snapshot.rows.take(slice(None))
    rows.saved_in[:] = 0
    return replace(snapshot, keys=list(snapshot.keys), rows=rows)


class InlineWriter(Writer):
    """The service's writer without its thread: what is queued is done when the loop asks what is finished. A crash before loses it."""

    def __init__(self, store: MemoryFiles) -> None:
        super().__init__(store)  # type: ignore[arg-type]
        self._jobs.put(None)
        self._thread.join()

    def finished(self) -> list[Written]:
        while not self._jobs.empty():
            job = self._jobs.get()
            if isinstance(job, list):
                self._delete(job)
            elif job is not None:
                self._done.put(self._write(*job))
        return super().finished()


class MemoryTopic(TopicStore):
    """The checkpoint topic, read committed from the outputs of the Kafka in memory."""

    def __init__(self, broker: Broker, topic: Topic, width: int) -> None:
        super().__init__(self._messages, topic, width)
        self._broker = broker

    def _messages(self, topic: str, partition: int, _cancelled: Callable[[], bool]) -> Any:
        outs = [out for out in self._broker.outputs if (out.topic, out.partition) == (topic, partition)]
        return [[PlainMessage(out.key, out.value, number=partition, at=i) for i, out in enumerate(outs)]]
