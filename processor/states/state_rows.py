"""`slotstream state list` and `state export`: what the newest checkpoints hold, of whatever model they are.

Responsible for finding and reading them in either store, and for saying how old they are and where they stand to the committed offset.
Joins no group and changes nothing. What a row's numbers mean is state_show's, and a sensor's reset state_reset's.
"""

import contextlib
import datetime
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
from confluent_kafka import KafkaException, Message, TopicPartition
from safetensors.numpy import save_file

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.topic import MARKER, ROW, TopicStore, row_type
from processor.codec.encode import shown
from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.clients import restore_consumer
from processor.kafka.partition_log import read_to_end
from processor.kafka.topics import describe_checkpoints
from processor.partitions import Beginning
from processor.settings import Settings, format_duration
from processor.slots.rows import Rows
from processor.split_sensors import named
from processor.words import counted

COMMITTED_S = 5.0
EXPORT_FORMAT = 1
_HEX = re.compile(r"0x((?:[0-9a-fA-F]{2})*)")


# What is there.


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
        snapshot = TopicStore(self._settings, self._topic, width).newest(partition, position_max=None, usable=lambda _: True)
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


def keys_of(sensor: str) -> list[bytes]:
    """The keys that are shown by this name: its own bytes; of 0x and hex also the bytes that it says, if they are no UTF-8."""
    keys = [os.fsencode(sensor)]
    if named := _HEX.fullmatch(sensor):
        key = bytes.fromhex(named[1])
        if shown(key) == sensor.lower():
            keys.append(key)
    return keys


def age_said(settings: Settings) -> str:
    interval = format_duration(settings.checkpoint.interval)
    return f"as of the newest checkpoints: they are up to {interval} old (checkpoint.interval), and readings since then are not in them"


# Listing.


@dataclass(frozen=True, slots=True)
class Listed:
    """A sensor. bytes: of its state row; checkpoint: the offset up to which it is told."""

    partition: int
    sensor: str
    steps: int
    event_ms: int
    bytes: int
    incomplete: bool
    checkpoint: int


def list_sensors(
    settings: Settings, *, partition: int | None, prefix: str, limit: int | None, as_json: bool, tell: Callable[[str], None]
) -> Iterator[str]:
    """Lines: a sensor each, as a table or as JSON objects. tell: takes what is no result."""
    tell(age_said(settings))
    if not as_json:
        yield f"{'PARTITION':>9}  {'STEPS':>12}  {'LAST EVENT':24}  {'BYTES':>8}  {'INCOMPLETE':10}  SENSOR"
    left, partitions = limit, dict[bytes, list[int]]()
    for seen in checkpoints(settings, partition):
        tell(seen.described(time.time()))
        for key in seen.snapshot.keys:
            partitions.setdefault(key, []).append(seen.snapshot.partition)
        for sensor in _listed(seen.snapshot, prefix):
            if left == 0:
                tell(f"more than {limit:,} sensors (--limit)")
                return
            left = None if left is None else left - 1
            yield json.dumps(asdict(sensor)) if as_json else _line(sensor)
    if split := {key: numbers for key, numbers in partitions.items() if len(numbers) > 1}:
        words = "sensors have a state in several partitions" if len(split) > 1 else "sensor has a state in several partitions"
        tell(f"{len(split):,} {words}: {printable(named(split))}. Give every producer the same partitioner (murmur2_random in librdkafka)")


def _listed(snapshot: Snapshot, prefix: str) -> Iterator[Listed]:
    rows = snapshot.rows
    steps, event_ms, incomplete = rows.steps.tolist(), rows.event_ms.tolist(), rows.incomplete.tolist()
    size = 4 * rows.state.shape[1]
    for i in sorted(range(len(snapshot.keys)), key=snapshot.keys.__getitem__):
        name = shown(snapshot.keys[i])
        if name.startswith(prefix):
            yield Listed(snapshot.partition, name, steps[i], event_ms[i], size, incomplete[i], snapshot.mark.offset)


def _line(sensor: Listed) -> str:
    incomplete = "yes" if sensor.incomplete else ""
    when, name = as_time(sensor.event_ms), printable(sensor.sensor)
    return f"{sensor.partition:9}  {sensor.steps:12}  {when:24}  {sensor.bytes:8}  {incomplete:10}  {name}"


def as_time(event_ms: int) -> str:
    """UTC, to the millisecond; the number where no calendar has it."""
    try:
        when = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=event_ms)
    except OverflowError:
        return str(event_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """A sensor may be called anything, also what a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# Exporting.


def export(settings: Settings, path: Path, *, partition: int | None, tell: Callable[[str], None]) -> str:
    """Writes every row of the newest checkpoints to a safetensors file, whole or not at all; returns what was written."""
    tell(age_said(settings))
    found = list[Seen]()
    for seen in checkpoints(settings, partition):
        tell(seen.described(time.time()))
        found.append(seen)
    width = _width_of(found)
    keys = [key for seen in found for key in seen.snapshot.keys]
    rows = Rows.join([seen.snapshot.rows for seen in found if seen.snapshot.keys], width)
    tensors = {
        "key_lengths": np.array([len(key) for key in keys], np.int64),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "partition": np.repeat(
            np.array([seen.snapshot.partition for seen in found], np.int64), [len(seen.snapshot.keys) for seen in found]
        ),
        "applied": rows.applied,
        "steps": rows.steps,
        "event_ms": rows.event_ms,
        "incomplete": rows.incomplete.astype(np.uint8),
        "state": np.ascontiguousarray(rows.state),
    }
    facts = {
        "format": EXPORT_FORMAT,
        "group": settings.group_id,
        "topic": settings.input.topic,
        "exported_ms": round(time.time() * 1000),
        "checkpoints": [_facts(seen) for seen in found],
    }
    size = _write(path, tensors, {"slotstream.export": json.dumps(facts)})
    return f"{path}: {counted(len(keys), 'sensor')} of {counted(len(found), 'partition')}, {size:,} bytes"


def _facts(seen: Seen) -> dict[str, Any]:
    snapshot = seen.snapshot
    return {
        "partition": snapshot.partition,
        "position": snapshot.mark.offset,
        "time_ms": snapshot.mark.time_ms,
        "written_ms": seen.written_ms,
        "committed": seen.committed,
        "sensors": len(snapshot.keys),
        "beginning": asdict(snapshot.beginning),
        "made_by": snapshot.made_by,
    }


def _width_of(found: Sequence[Seen]) -> int:
    """The one width of all rows. A checkpoint without sensors does not say how wide they would be."""
    widths = {seen.snapshot.rows.state.shape[1]: seen.snapshot.partition for seen in found if seen.snapshot.keys}
    if len(widths) > 1:
        said = ", ".join(f"{width} numbers in partition {partition}" for width, partition in widths.items())
        raise SlotstreamError(
            f"rows are not of one width: {said}", expected="checkpoints of one model", do="export them one by one with --partition"
        )
    return next(iter(widths), 0)


def _write(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> int:
    """Beside its place first: whoever reads the file meanwhile sees the one before it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise SlotstreamError(
            f"{path} cannot be written ({error})", expected="a folder with room that this process may write to", do="name another file"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return size
