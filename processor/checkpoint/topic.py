"""Checkpoints as records of a compacted topic, co-partitioned with the input: state that moves with its partition.

    key 0x01 + sensor    one row: the sensor's state at its applied offset
    key 0x00             the marker: the position up to which the rows are complete, and what they are a function of
    key 0x02 + id        a schema that the partition's records need (registry.schema_records)

A checkpoint is a round: the rows that changed since the last one, copied at a commit boundary, then the marker. They are written in the
loop's own transactions, one piece in each. So they are refused from a process that has lost its partition, and no transaction grows much.
A restore reads a prefix of what was written, so the rows of a marker are complete. Rows of a round without its marker are newer, and the
replay skips the records that they include. The row of a removed sensor is deleted in the marker's transaction: if it were deleted
earlier, a replay from the previous marker would find the sensor's records but not its row.

TopicStore reads, on a restore's thread; TopicWriter writes, on the loop's thread.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.writer import CheckpointWriter, Written
from processor.kafka.topics import Topic
from processor.partitions import Beginning, Position
from processor.records import Claim, Out
from processor.slots.rows import Indices, Rows

_log = structlog.get_logger(__name__)

FORMAT = 1
MARKER = b"\0"
ROW = b"\1"
# The rows of a round in one transaction: about 30 ms of the loop's time.
ROWS_MAX = 8192
BYTES_MAX = 4_000_000
PIECE_ROWS = 65_536
INCOMPLETE = 1
# The overhead of a row as a record: the key's first byte, lengths, times.
RECORD_BYTES = 64
# The format of a row's lineage; in a marker it may be any text.
_LINEAGE = re.compile(r"[0-9a-f]{1,16}")

ReadsToEnd = Callable[[str, int, Callable[[], bool]], Iterator[list[Any]]]  # topic, partition, whether it was cancelled
Learn = Callable[[int, dict[bytes, bytes | None]], None]  # partition, values by key


def row_type(width: int) -> np.dtype[Any]:
    """The layout of a row's value: little-endian, without padding."""
    fields = [("format", "u1"), ("flags", "u1"), ("lineage", "<u8"), ("applied", "<i8"), ("steps", "<i8"), ("event_ms", "<i8")]
    return np.dtype([*fields, ("state", "<f4", (width,))])


def row_bytes_max(width: int, key_bytes_max: int) -> int:
    """The largest possible record for a row of this many numbers."""
    return row_type(width).itemsize + key_bytes_max + RECORD_BYTES


def _lineage(beginning: Beginning) -> int:
    return int(beginning.lineage, 16)


class TopicStore:
    """Reads each partition's checkpoint from the topic. Several threads may call the methods, for different partitions."""

    def __init__(self, read_to_end: ReadsToEnd, topic: Topic, width: int, learn: Learn | None = None) -> None:
        """read_to_end: every record of a partition of a topic by its name, until it is cancelled (kafka.partition_log.read_to_end).

        learn: takes the newest value of each key that is neither a row nor the marker (registry.schema_records).
        """
        self._learn = learn
        self.topic = topic
        self._read_to_end, self._width = read_to_end, width
        # Keys of rows that no restore will use: the writer deletes them with its first round.
        self.useless: dict[int, list[bytes]] = {}
        self.read_from: dict[int, str] = {}  # the id of the topic from which each partition was last read

    def newest(
        self,
        partition: int,
        *,
        position_max: int | None,
        usable: Callable[[Beginning], bool],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Snapshot | None:
        """The checkpoint, if the topic holds a complete one at or below a position, of the wanted beginning."""
        read, topic = _Read(self._width), self.topic
        self.read_from[partition] = topic.id
        for messages in self._read_to_end(topic.name, partition, cancelled):
            read.take(messages)
        if self._learn is not None:
            self._learn(partition, read.others)
        snapshot = self._snapshot(partition, read, topic, position_max, usable)
        used = set() if snapshot is None else set(snapshot.keys)
        self.useless[partition] = [key for key in read.places if key not in used]
        return snapshot

    def _snapshot(
        self, partition: int, read: "_Read", topic: Topic, position_max: int | None, usable: Callable[[Beginning], bool]
    ) -> Snapshot | None:
        facts = read.marker
        if facts is None:
            return None
        beginning, claim = Beginning.from_metadata(facts["beginning"]), Claim.from_json(facts.get("claim"))
        mark = Position(facts["position"], facts["time_ms"], facts.get("first_ms"), claim)
        if beginning is None or not _LINEAGE.fullmatch(beginning.lineage) or facts["topic_id"] != topic.id:
            return self._passed_over(partition, "its marker is of another topic of this name, or does not say what it is a function of")
        if not usable(beginning):
            return self._passed_over(partition, "it is of another model, group history or topic")
        keys, rows = read.of(_lineage(beginning))
        if position_max is not None and (mark.offset > position_max or (rows.applied >= position_max).any()):
            return self._passed_over(partition, f"it lies past the committed offset {position_max}")
        return Snapshot(partition, mark, beginning, keys, rows, facts["made_by"])

    def _passed_over(self, partition: int, why: str) -> Snapshot | None:
        _log.warning("skipped a checkpoint", topic=self.topic.name, partition=partition, why=why)
        return None


class _Read:
    """The newest record of each key, and the marker, collected in one pass over the topic."""

    def __init__(self, width: int) -> None:
        self.places: dict[bytes, int] = {}  # places of the keys that have a row
        self.marker: dict[str, Any] | None = None
        self.others: dict[bytes, bytes | None] = {}  # of keys that are neither
        self._type = row_type(width)
        self._pieces: list[NDArray[Any]] = []
        self._next = 0

    def take(self, messages: list[Any]) -> None:
        places, values = list[int](), list[bytes]()
        for message in messages:
            key, value = message.key() or b"", message.value()
            if key == MARKER:
                self.marker = _marker(value)
            elif key[:1] != ROW:
                self.others[key] = value
            elif value is None or len(value) != self._type.itemsize or value[0] != FORMAT:
                # Deleted, or of another format or width: this key has no usable row.
                self.places.pop(key[1:], None)
            else:
                place = self.places.get(key[1:])
                if place is None:
                    place = self.places[key[1:]] = self._next
                    self._next += 1
                places.append(place)
                values.append(value)
        self._put(np.array(places, np.int64), np.frombuffer(b"".join(values), self._type))

    def _put(self, places: Indices, values: NDArray[Any]) -> None:
        """Of two values for one place, the later one wins."""
        while len(self._pieces) * PIECE_ROWS < self._next:
            self._pieces.append(np.zeros(PIECE_ROWS, self._type))  # in pieces, so that growing never copies rows already read
        at = places // PIECE_ROWS
        for piece in np.unique(at).tolist():
            here = at == piece
            self._pieces[piece][places[here] % PIECE_ROWS] = values[here]

    def of(self, lineage: int) -> tuple[list[bytes], Rows]:
        """The sensors and rows of one lineage."""
        found = np.concatenate([np.zeros(0, self._type), *self._pieces])[np.fromiter(self.places.values(), np.int64, len(self.places))]
        wanted = np.flatnonzero(found["lineage"] == lineage)
        found, keys = found[wanted], list(self.places)
        rows = Rows(
            state=np.ascontiguousarray(found["state"]),
            applied=found["applied"].astype(np.int64),
            steps=found["steps"].astype(np.int64),
            event_ms=found["event_ms"].astype(np.int64),
            incomplete=(found["flags"] & INCOMPLETE) > 0,
            saved_in=np.zeros(len(found), np.int64),
        )
        return [keys[i] for i in wanted.tolist()], rows


def _marker(value: bytes | None) -> dict[str, Any] | None:
    """None for anything that is not a marker of this format."""
    try:
        facts = json.loads(value or b"")
        known = facts["format"] == FORMAT and isinstance(facts["made_by"], dict)
        known = known and isinstance(facts["topic_id"], str) and isinstance(facts["beginning"], str)
        Claim.from_json(facts.get("claim"))
        whole = [facts["position"], *(time for time in (facts["time_ms"], facts.get("first_ms")) if time is not None)]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return facts if known and all(type(number) is int and abs(number) < 2**63 for number in whole) else None


@dataclass(slots=True)
class _Round:
    """A snapshot that is being written to the topic: first its rows in order, then the deletions and the marker."""

    snapshot: Snapshot
    begun_s: float
    sent: int = 0  # rows in the open transaction or committed
    committed: int = 0
    marked: bool = False  # the marker is in the open transaction
    bytes: int = 0


class TopicWriter(CheckpointWriter):
    """Returns the records to write, one piece per transaction, and is notified whether it was committed. The loop's thread owns it."""

    def __init__(self, store: TopicStore) -> None:
        self._store = store
        self._topic = store.topic
        self._rounds: dict[int, _Round] = {}
        self._base: dict[int, int | None] = {}
        self._done: list[Written] = []

    def moved(self, topic: Topic) -> None:
        """Switches to another, empty topic with the same name: the next round of each partition is whole."""
        self._store.topic = self._topic = topic
        self._rounds.clear()
        self._done.clear()
        self._base = dict.fromkeys(self._base)
        self._store.useless.clear()

    @property
    def pending(self) -> bool:
        return bool(self._rounds)

    def begins(self, partition: int, snapshot: Snapshot | None) -> None:
        there = snapshot is not None and self._store.read_from.get(partition, self._topic.id) == self._topic.id
        self._base[partition] = snapshot.mark.offset if snapshot and there else None

    def base(self, partition: int) -> int | None:
        return self._base.get(partition)

    def busy(self, partition: int) -> bool:
        return partition in self._rounds

    def write(self, snapshot: Snapshot) -> None:
        self._rounds[snapshot.partition] = _Round(snapshot, time.monotonic())

    def outs(self) -> tuple[list[Out], set[int]]:
        rows_left, bytes_left = ROWS_MAX, BYTES_MAX
        found, partitions = list[Out](), set[int]()
        for partition, round_ in self._rounds.items():
            rows = min(rows_left, max(1, bytes_left // row_type(round_.snapshot.rows.state.shape[1]).itemsize))
            piece = self._piece(round_, rows)
            found += piece
            partitions.add(partition)
            size = sum(len(out.value or b"") + len(out.key or b"") for out in piece)
            round_.bytes += size
            rows_left, bytes_left = rows_left - len(piece), bytes_left - size
            if rows_left <= 0 or bytes_left <= 0:
                break
        return found, partitions

    def commit(self) -> None:
        for partition, round_ in list(self._rounds.items()):
            round_.committed = round_.sent
            if round_.marked:
                position = round_.snapshot.mark.offset
                self._done.append(Written(partition, position, time.monotonic() - round_.begun_s, round_.bytes))
                self._base[partition] = position
                self._store.useless.pop(partition, None)
                del self._rounds[partition]

    def abort(self) -> None:
        for round_ in self._rounds.values():
            round_.sent, round_.marked = round_.committed, False

    def finished(self) -> list[Written]:
        found, self._done = self._done, []
        return found

    def drop(self, partition: int) -> None:
        self._rounds.pop(partition, None)
        self._base.pop(partition, None)
        self._store.useless.pop(partition, None)

    def _piece(self, round_: _Round, rows_max: int) -> list[Out]:
        snapshot = round_.snapshot
        first, last = round_.sent, min(round_.sent + rows_max, len(snapshot.keys))
        values = _values(snapshot, first, last)
        piece = [self._out(snapshot, ROW + key, value) for key, value in zip(snapshot.keys[first:last], values, strict=True)]
        round_.sent = last
        if last == len(snapshot.keys):
            piece += [self._out(snapshot, ROW + key, None) for key in self._gone(snapshot)]
            piece.append(self._out(snapshot, MARKER, self._marker(snapshot)))
            round_.marked = True
        return piece

    def _gone(self, snapshot: Snapshot) -> set[bytes]:
        """Keys that have a row in the topic but are not sensors of the snapshot."""
        gone = set(snapshot.removed)
        if useless := self._store.useless.get(snapshot.partition):
            gone.update(set(useless).difference(snapshot.keys))
        return gone

    def _out(self, snapshot: Snapshot, key: bytes, value: bytes | None) -> Out:
        return Out(self._topic.name, snapshot.partition, key, value, record_ms=0)

    def _marker(self, snapshot: Snapshot) -> bytes:
        facts = {
            "format": FORMAT,
            "position": snapshot.mark.offset,
            "time_ms": snapshot.mark.time_ms,
            "first_ms": snapshot.mark.first_ms,
            "beginning": snapshot.beginning.to_metadata(),
            "topic_id": self._topic.id,
            "made_by": snapshot.made_by,
        }
        if snapshot.mark.claim is not None:
            facts["claim"] = snapshot.mark.claim.to_json()
        return json.dumps(facts, sort_keys=True).encode()


def _values(snapshot: Snapshot, first: int, last: int) -> Iterator[bytes]:
    """The values of the rows, created in one operation."""
    rows, width = snapshot.rows, snapshot.rows.state.shape[1]
    made = np.zeros(last - first, row_type(width))
    made["format"], made["lineage"] = FORMAT, _lineage(snapshot.beginning)
    made["flags"] = rows.incomplete[first:last] * INCOMPLETE
    made["applied"], made["steps"], made["event_ms"] = rows.applied[first:last], rows.steps[first:last], rows.event_ms[first:last]
    made["state"] = rows.state[first:last]
    size, whole = made.dtype.itemsize, made.tobytes()
    return (whole[i : i + size] for i in range(0, len(whole), size))
