"""`slotstream state export`: every row of the newest checkpoints in one safetensors file."""

import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from processor.errors import SlotstreamError
from processor.settings import Settings
from processor.slots.rows import Rows
from processor.states.display import age_said
from processor.states.newest import Seen, checkpoints
from processor.words import counted

EXPORT_FORMAT = 1


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
