"""The newest intact checkpoint of each partition, in either store, of whatever model it is.

Responsible for finding and reading them, and for saying how old they are and where they stand to the committed offset. Joins no group
and changes nothing. What a row's numbers mean is state_show's.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from confluent_kafka import KafkaException, Message, TopicPartition

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.topic import MARKER, ROW, TopicStore, row_type
from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.clients import restore_consumer
from processor.kafka.partition_log import read_to_end
from processor.kafka.topics import describe_checkpoints
from processor.partitions import Beginning
from processor.settings import Settings
from processor.words import counted

COMMITTED_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest intact checkpoint of a partition.

    written_ms   when it was written, Unix milliseconds; None: nobody tells
    committed    the group's committed offset; None: it has none
    asked        somebody answered what is committed
    """

    snapshot: Snapshot
    written_ms: int | None
    committed: int | None
    asked: bool = True

    def described(self, now_s: float) -> str:
        """For people, in one line."""
        snapshot = self.snapshot
        position = snapshot.mark.offset
        age = "of unknown age" if self.written_ms is None else f"{max(0.0, now_s - self.written_ms / 1000):.0f} s old"
        found = f"partition {snapshot.partition}: {counted(len(snapshot.keys), 'sensor')} in a checkpoint at offset {position}, {age}"
        return f"{found}, of model {snapshot.beginning.fingerprint[:8]}; {self._committed(position)}"

    def _committed(self, position: int) -> str:
        if not self.asked:
            return "no broker tells what is committed"
        if self.committed is None:
            return "the group has no committed offset"
        if position > self.committed:
            return f"IT LIES PAST the committed offset {self.committed}, so a restart does not use it"
        return f"committed {self.committed}"


def checkpoints(settings: Settings, partition: int | None = None) -> Iterator[Seen]:
    """The newest intact checkpoint of each partition, or of one, whatever offset is committed; partitions without one are left out.

    Raises ConfigurationError for a store or a partition that is not there, SlotstreamError if no checkpoint is found at all.
    """
    source: _Source = _Folder(settings) if settings.checkpoint_store == "directory" else _Log(settings)
    wanted = source.partitions if partition is None else [partition]
    if not set(wanted) <= set(source.partitions):
        raise ConfigurationError(
            f"there is no partition {partition} in {source}",
            expected=f"one of {', '.join(map(str, source.partitions))}" if source.partitions else "a partition with a checkpoint",
            do="correct --partition, or leave it out",
        )
    committed, any_seen = _committed(settings, wanted) if wanted else None, False
    for number in wanted:
        if (found := source.newest(number)) is not None:
            any_seen = True
            yield Seen(*found, None if committed is None else committed.get(number), asked=committed is not None)
    if not any_seen:
        of = "" if partition is None else f" of partition {partition}"
        raise SlotstreamError(
            f"there is no checkpoint{of} in {source} yet",
            expected="one that reads whole",
            do="start the service: it writes one as soon as a partition is live; or correct checkpoint.store, group and input.topic",
        )


class _Source(Protocol):
    """A store as an operator's tool sees it. str(): where it is."""

    partitions: list[int]

    def newest(self, partition: int) -> tuple[Snapshot, int | None] | None:
        """A snapshot and when it was written."""


class _Folder:
    def __init__(self, settings: Settings) -> None:
        checkpoint = settings.checkpoint
        self._store = Directory(checkpoint.path, settings.group_id, settings.input.topic, keep=checkpoint.keep)
        self._root = self._store.folder(0).parent
        if not self._root.is_dir():
            raise ConfigurationError(
                f"there is no folder {self._root}",
                expected=f"the checkpoints of group {settings.group_id} and topic {settings.input.topic}",
                do="run this where the service runs or give the whole path (checkpoint.path), correct group and input.topic, "
                "or start the service, which makes the folder",
            )
        self.partitions = sorted(int(path.name) for path in self._root.iterdir() if path.name.isdecimal() and path.name.isascii())

    def __str__(self) -> str:
        return str(self._root)

    def newest(self, partition: int) -> tuple[Snapshot, int | None] | None:
        snapshot = self._store.newest(partition, position_max=None, usable=lambda _: True)
        if snapshot is None:
            return None
        times = list[float]()
        for path in self._store.folder(partition).glob(f"{snapshot.mark.offset:020d}-*"):
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                times.append(path.stat().st_mtime)
        return snapshot, round(max(times) * 1000) if times else None


class _Log:
    def __init__(self, settings: Settings) -> None:
        self._settings, self._topic = settings, describe_checkpoints(settings)
        self.partitions = list(range(self._topic.partitions))

    def __str__(self) -> str:
        return f"the topic {self._topic.name}"

    def newest(self, partition: int) -> tuple[Snapshot, int | None] | None:
        # Twice through the topic: rows are read by their width, which the rows alone tell where no model is asked.
        width, written_ms = self._width(partition)
        store = TopicStore(partial(read_to_end, self._settings), self._topic, width)
        snapshot = store.newest(partition, position_max=None, usable=lambda _: True)
        return None if snapshot is None else (snapshot, written_ms)

    def _width(self, partition: int) -> tuple[int, int | None]:
        """How many numbers a row has of the lineage that the newest marker names, and when the marker was written."""
        head = row_type(0)
        begin = int(head.fields["lineage"][1]) if head.fields else 0
        sizes: dict[bytes, int] = {}
        marker: Message | None = None
        for messages in read_to_end(self._settings, self._topic.name, partition, lambda: False):
            for message in messages:
                key, value = message.key() or b"", message.value() or b""
                if key == MARKER:
                    marker = message
                elif key[:1] == ROW and len(value) >= head.itemsize:
                    sizes[value[begin : begin + 8]] = len(value)
        if marker is None:
            return 0, None
        size = sizes.get(_lineage(marker.value()), head.itemsize)
        return (size - head.itemsize) // 4, int(marker.timestamp()[1])


def _lineage(marker: bytes | None) -> bytes:
    """As rows have it; the store itself judges the marker."""
    try:
        beginning = Beginning.from_metadata(json.loads(marker or b"")["beginning"])
        return int(beginning.lineage, 16).to_bytes(8, "little") if beginning else b""
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return b""


def _committed(settings: Settings, partitions: Sequence[int]) -> dict[int, int] | None:
    """The group's committed offsets; None if nobody answers: a folder can be looked into without a broker."""
    consumer = restore_consumer(settings)
    try:
        found = consumer.committed([TopicPartition(settings.input.topic, partition) for partition in partitions], COMMITTED_S)
    except KafkaException:
        return None
    finally:
        consumer.close()
    return {tp.partition: tp.offset for tp in found if tp.error is None and tp.offset >= 0}
