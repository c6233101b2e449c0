"""What an HDF5 file of weights, or of a whole model, says before Keras reads it.

Responsible for refusing what leads out of the file, and for files whose bytes were changed: the HDF5 library may then run for ever, or end
the process. So a file that nothing else has checked is read by a process of its own first. Imports neither TensorFlow nor Keras.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from processor.errors import ModelRefused

READ_S = 30.0
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Head:
    """config: the architecture as JSON, None where there is none; version: Keras's, if named; weight_bytes: in memory."""

    config: str | None
    version: str | None
    weight_bytes: int


class BrokenError(Exception):
    """The file cannot be read. The text says how that showed."""


def read_apart(path: Path) -> Head:
    """Reads a whole file in a process of its own. Raises ModelRefused or BrokenError."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "processor.model.file.h5", str(path)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=READ_S, env=environment)
    except subprocess.TimeoutExpired as error:
        raise BrokenError(f"reading it does not end within {READ_S:.0f} s") from error
    if done.returncode < 0:
        raise BrokenError(f"reading it ends the process that does it, by signal {-done.returncode}")
    if done.returncode > 0 or not done.stdout:
        raise BrokenError((done.stderr.strip().splitlines() or ["nothing could be read"])[-1])
    said = json.loads(done.stdout)
    if "refused" in said:
        raise ModelRefused(said["refused"]["found"], expected=said["refused"]["expected"], do=said["refused"]["do"])
    return Head(**said)


def declared_bytes(file: Any) -> int:
    """How many bytes of weights an open HDF5 file declares. Raises ModelRefused if it leads out of itself."""
    return sum(dataset.size * dataset.dtype.itemsize for dataset in _datasets(file, set()))


def _datasets(group: Any, seen: set[int]) -> Iterator[Any]:
    for name in group:
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            raise _outside(f"{group.name} links to another place under {name}")
        item = group[name]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        if isinstance(item, h5py.Group):
            yield from _datasets(item, seen)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.external or item.is_virtual:
                raise _outside(f"{item.name} is kept in another file")
            yield item


def _outside(found: str) -> ModelRefused:
    return ModelRefused(f"the weights {found}", expected="a file that holds all of its weights", do="save the model again, in one file")


def _read(path: str) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        try:
            weight_bytes = declared_bytes(file)
        except ModelRefused as error:
            return {"refused": {"found": error.found, "expected": error.expected, "do": error.do}}
        for dataset in _datasets(file, set()):
            for attribute in dataset.attrs.values():
                del attribute
            for first in range(0, dataset.shape[0] if dataset.shape else 1, CHUNK_ROWS):
                dataset[first : first + CHUNK_ROWS] if dataset.shape else dataset[()]
        return {
            "config": _text(file.attrs.get("model_config")),
            "version": _text(file.attrs.get("keras_version")),
            "weight_bytes": int(weight_bytes),
        }


def _text(value: Any) -> str | None:
    return None if value is None else value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_read(sys.argv[1])))
