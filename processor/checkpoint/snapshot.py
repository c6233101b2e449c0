"""One partition's state at one commit boundary, and its format on disk.

A snapshot is a cache of a pure function of the log: it may be old, never wrong. So a snapshot that is damaged, has another format, or
belongs to another beginning is skipped, at the cost of a replay.

Knows the content of a file and how an increment names its base; directory.py manages the files.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.partitions import Beginning, Position
from processor.records import Claim
from processor.slots.rows import Rows

# Two format numbers, so that a version that knows only whole files skips an increment instead of reading it as a whole file.
FORMAT, FORMAT_OF_INCREMENTS = 1, 2

# A restore opens at most this many files on top of a whole one.
INCREMENTS_MAX = 10


class UnusableError(Exception):
    """The bytes are not a snapshot of this format: torn, altered, or something else."""


@dataclass(frozen=True, slots=True)
class Link:
    """How an increment refers to the file that it builds on: by name and by the digest in its metadata."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All sensors of a partition, or those that changed since `base`; every row has an applied offset below mark.offset.

    made_by   the TensorFlow version and instruction set that computed it: bits are promised only for the same ones
    base      the position of the snapshot that this one builds on; None: it is whole
    removed   sensors that the base may contain but that are gone; meaningless in a whole snapshot
    chain     the files that it was read from, if any
    """

    partition: int
    mark: Position
    beginning: Beginning
    keys: list[bytes]
    rows: Rows
    made_by: dict[str, str] = field(default_factory=dict)
    base: int | None = None
    removed: list[bytes] = field(default_factory=list)
    chain: "Chain | None" = None


@dataclass(frozen=True, slots=True)
class Chain:
    """Files that together are one snapshot: a whole file and the successive increments on top of it.

    position, beginning      those of the snapshot
    files                    the file names, the whole one first
    digest                   the digest in the last file's metadata
    rows_whole, rows_added   the number of rows in the whole file, and in all increments
    rows_changed             rows that changed between the last two snapshots, as an estimate for the next increment; 0 if unknown
    """

    position: int
    beginning: Beginning
    files: tuple[str, ...]
    digest: str
    rows_whole: int
    rows_added: int
    rows_changed: int

    @classmethod
    def grown(cls, before: "Chain | None", snapshot: Snapshot, link: Link) -> "Chain":
        """The chain that ends with this snapshot's file. before: the chain that ends with the previous snapshot, if known."""
        rows, position, beginning = len(snapshot.keys), snapshot.mark.offset, snapshot.beginning
        if snapshot.base is None:
            changed = np.count_nonzero(snapshot.rows.applied >= before.position) if before else 0
            return cls(position, beginning, (link.file,), link.digest, rows, 0, int(changed))
        if before is None:
            raise ValueError(f"an increment on position {snapshot.base} without the files before it")
        return cls(position, beginning, (*before.files, link.file), link.digest, before.rows_whole, before.rows_added + rows, rows)

    @property
    def may_grow(self) -> bool:
        """Whether another increment is worthwhile: it saves at least half of a whole file, and a restore reads at most two whole files.

        If the rate of change is unknown, one increment measures it.
        """
        added = self.rows_added + self.rows_changed
        return len(self.files) <= INCREMENTS_MAX and added < self.rows_whole and 2 * self.rows_changed <= self.rows_whole


Tensors = dict[str, NDArray[Any]]


def to_tensors(snapshot: Snapshot, link: Link | None = None) -> tuple[Tensors, dict[str, str]]:
    """Named arrays and text metadata, which includes a digest of everything. link: the file that an increment builds on."""
    if (link is None) != (snapshot.base is None):
        raise ValueError("an increment names its base, and a whole snapshot none")
    rows = snapshot.rows
    tensors: Tensors = {
        "state": np.ascontiguousarray(rows.state),
        "applied": rows.applied,
        "steps": rows.steps,
        "event_ms": rows.event_ms,
        "incomplete": rows.incomplete.astype(np.uint8),
        "key_lengths": _lengths(snapshot.keys),
        "keys": _joined(snapshot.keys),
    }
    facts: dict[str, Any] = {
        "format": FORMAT,
        "partition": snapshot.partition,
        "position": snapshot.mark.offset,
        "time_ms": snapshot.mark.time_ms,
        "first_ms": snapshot.mark.first_ms,
        "beginning": snapshot.beginning.to_metadata(),
        "made_by": snapshot.made_by,
    }
    if snapshot.mark.claim is not None:
        facts["claim"] = snapshot.mark.claim.to_json()
    if link is not None:
        tensors |= {"removed_lengths": _lengths(snapshot.removed), "removed": _joined(snapshot.removed)}
        base = {"position": snapshot.base, "file": link.file, "digest": link.digest}
        facts |= {"format": FORMAT_OF_INCREMENTS, "base": base}
    metadata = {"slotstream": json.dumps(facts, sort_keys=True)}
    return tensors, {**metadata, "digest": _digest(tensors, metadata["slotstream"])}


def from_tensors(tensors: Tensors, metadata: dict[str, str]) -> tuple[Snapshot, Link | None]:
    """The snapshot, and the file that it builds on if it is not whole. Raises UnusableError for other content."""
    if metadata.get("digest") != _digest(tensors, metadata.get("slotstream", "")):
        raise UnusableError("its digest differs from its content")
    facts = json.loads(metadata["slotstream"])
    if not isinstance(facts, dict):
        raise UnusableError("it says nothing of itself")
    base = facts.get("base")
    expected = FORMAT if base is None else FORMAT_OF_INCREMENTS
    if facts["format"] != expected:
        raise UnusableError(f"it is of format {facts['format']}, expected {expected}")
    beginning = Beginning.from_metadata(facts["beginning"])
    if beginning is None:
        raise UnusableError("it does not say what it is a function of")
    rows = Rows(
        state=tensors["state"],
        applied=tensors["applied"],
        steps=tensors["steps"],
        event_ms=tensors["event_ms"],
        incomplete=tensors["incomplete"].astype(np.bool_),
        saved_in=np.zeros(len(tensors["applied"]), np.int64),
    )
    mark = Position(facts["position"], facts["time_ms"], facts.get("first_ms"), Claim.from_json(facts.get("claim")))
    keys = _cut(tensors["keys"], tensors["key_lengths"])
    whole = Snapshot(facts["partition"], mark, beginning, keys, rows, facts["made_by"])
    if base is None:
        return whole, None
    removed = _cut(tensors["removed"], tensors["removed_lengths"])
    return replace(whole, base=base["position"], removed=removed), Link(base["file"], base["digest"])


def merged(whole: Snapshot, increments: list[Snapshot]) -> Snapshot:
    """The chain as one whole snapshot, in any order of sensors. Consumes the rows of the whole file."""
    if not increments:
        return whole
    places, keys = {key: place for place, key in enumerate(whole.keys)}, list(whole.keys)
    for key in chain.from_iterable(increment.keys for increment in increments):
        if key not in places:
            places[key] = len(keys)
            keys.append(key)
    rows = whole.rows
    if len(keys) > len(rows):
        width = rows.state.shape[1]
        rows = Rows.join([rows, Rows.zeros(len(keys) - len(rows), width)], width)
    there = np.ones(len(keys), np.bool_)
    for increment in increments:
        there[[places[key] for key in increment.removed if key in places]] = False
        at = np.fromiter((places[key] for key in increment.keys), np.int64, len(increment.keys))
        rows.put(at, increment.rows)
        there[at] = True
    if not there.all():
        keys, rows = list(compress(keys, there.tolist())), rows.take(np.flatnonzero(there))
    return replace(increments[-1], keys=keys, rows=rows, base=None, removed=[])


def _lengths(keys: list[bytes]) -> NDArray[np.int64]:
    return np.array([len(key) for key in keys], np.int64)


def _joined(keys: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8)


def _cut(joined: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[bytes]:
    """Splits joined keys."""
    text, ends = joined.tobytes(), np.cumsum(lengths).tolist()
    return [text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def _digest(tensors: Tensors, facts: str) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape};".encode())
        digest.update(np.ascontiguousarray(tensor).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
