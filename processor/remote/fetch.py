"""From model.path to a file on this machine: a remote one is resolved once, copied into a folder under its digest, and proved there.

Responsible for the folder, which may be lost at any time, and for never trusting what lies in it without its digest. Not responsible for
how a place is read (web.py, object_store.py, mlflow_registry.py).
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from processor.errors import ConfigurationError
from processor.remote.mlflow_registry import RegisteredModel
from processor.remote.object_store import StoredObject
from processor.remote.place import Pinned, Place
from processor.remote.web import WebFile
from processor.settings import Location

BYTES_MAX = 2 << 30


@dataclass(frozen=True)
class Fetched:
    """path: of the copy. sha256: of its bytes. pinned: what the location meant when it was copied."""

    path: Path
    sha256: str
    pinned: Pinned


def place_of(location: Location, options: Mapping[str, str]) -> Place:
    if location.scheme == "https":
        return WebFile(str(location), location.shown, options)
    return RegisteredModel(location, options) if location.scheme == "mlflow" else StoredObject(str(location), options)


def fetch(place: Place, folder: Path, *, bytes_max: int = BYTES_MAX) -> Fetched:
    """The model file of a place, in the folder. Raises SlotstreamError."""
    pinned = place.look()
    _check_size(place.shown, pinned.size or 0, bytes_max)
    index = folder / (hashlib.sha256(f"{place.shown}\n{pinned.version}".encode()).hexdigest() + ".version")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = index.read_text(encoding="ascii").strip() if pinned.version is not None and index.exists() else ""
        if known and (copy := folder / f"{known}.model").is_file() and _digest(copy) == known:
            return Fetched(copy, known, pinned)
        return _copied(place, pinned, folder, index, bytes_max)
    except OSError as error:
        raise ConfigurationError(
            f"the model cannot be kept in {folder} ({error.strerror})",
            expected="a folder with room that this process may write to (model.cache)",
            do="create it, make room, correct its owner, or set model.cache",
            see="the-model-cannot-be-fetched",
        ) from error


def _copied(place: Place, pinned: Pinned, folder: Path, index: Path, bytes_max: int) -> Fetched:
    total, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            for part in place.read(pinned):
                size += len(part)
                _check_size(place.shown, size, bytes_max)
                total.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            digest = total.hexdigest()
            path = folder / f"{digest}.model"
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _write(index, digest)
    return Fetched(path, digest, pinned)


def _write(path: Path, text: str) -> None:
    """The whole text or none of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="ascii") as file:
        file.write(text)
    os.replace(file.name, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_size(shown: str, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise ConfigurationError(
            f"{shown} has {size:,} bytes or more",
            expected=f"a model of at most {bytes_max:,}",
            do="name a model file",
            see="the-model-cannot-be-fetched",
        )
