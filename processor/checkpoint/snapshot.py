"""One partition's state at one commit boundary, and its form on disk.

A snapshot is a cache of a pure function of the log: it may be old, never wrong. So whatever reads as damaged, as of another
format, or as of another beginning is passed over, and costs a replay.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.slots.rows import Rows
from processor.stream.assignment import Beginning, Mark

FORMAT = 1


class UnusableError(Exception):
    """The bytes are no snapshot of this format: torn, altered, or something else."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All sensors of a partition, or those that changed since `base`; every row with an applied offset below mark.position.

    made_by   which TensorFlow and instruction set computed it: bits are promised within one of each
    base      the position of the snapshot that this one adds to; None: it is whole
    removed   sensors that the base may hold and that are gone
    """

    partition: int
    mark: Mark
    beginning: Beginning
    keys: list[bytes]
    rows: Rows
    made_by: dict[str, str] = field(default_factory=dict)
    base: int | None = None
    removed: list[bytes] = field(default_factory=list)


Tensors = dict[str, NDArray[Any]]


def to_tensors(snapshot: Snapshot) -> tuple[Tensors, dict[str, str]]:
    """Named arrays and text metadata, which hold a digest of it all."""
    rows = snapshot.rows
    tensors: Tensors = {
        "state": np.ascontiguousarray(rows.state),
        "applied": rows.applied,
        "steps": rows.steps,
        "event_ms": rows.event_ms,
        "incomplete": rows.incomplete.astype(np.uint8),
        "key_lengths": np.array([len(key) for key in snapshot.keys], np.int64),
        "keys": np.frombuffer(b"".join(snapshot.keys), np.uint8),
    }
    facts = {
        "format": FORMAT,
        "partition": snapshot.partition,
        "position": snapshot.mark.position,
        "time_ms": snapshot.mark.time_ms,
        "first_ms": snapshot.mark.first_ms,
        "beginning": snapshot.beginning.to_metadata(),
        "made_by": snapshot.made_by,
    }
    metadata = {"slotstream": json.dumps(facts, sort_keys=True)}
    return tensors, {**metadata, "digest": _digest(tensors, metadata["slotstream"])}


def from_tensors(tensors: Tensors, metadata: dict[str, str]) -> Snapshot:
    """Raises UnusableError for anything that to_tensors() did not make."""
    if metadata.get("digest") != _digest(tensors, metadata.get("slotstream", "")):
        raise UnusableError("its digest differs from its content")
    facts = json.loads(metadata["slotstream"])
    if facts["format"] != FORMAT:
        raise UnusableError(f"it is of format {facts['format']}, expected {FORMAT}")
    beginning = Beginning.from_metadata(facts["beginning"])
    if beginning is None:
        raise UnusableError("it does not say what it is a function of")
    n = len(tensors["applied"])
    rows = Rows(
        state=tensors["state"],
        applied=tensors["applied"],
        steps=tensors["steps"],
        event_ms=tensors["event_ms"],
        incomplete=tensors["incomplete"].astype(np.bool_),
        saved_in=np.zeros(n, np.int64),
    )
    ends = np.cumsum(tensors["key_lengths"]).tolist()
    joined = tensors["keys"].tobytes()
    keys = [joined[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if n else []
    mark = Mark(facts["position"], facts["time_ms"], facts.get("first_ms"))
    return Snapshot(facts["partition"], mark, beginning, keys, rows, facts["made_by"])


def _digest(tensors: Tensors, facts: str) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape};".encode())
        digest.update(np.ascontiguousarray(tensor).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
