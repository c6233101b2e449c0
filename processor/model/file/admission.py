"""What a model file may be before anything of it is read: its size, its kind, its Keras.

Responsible for telling files apart by content and for the refusals that all readers of model files share. Not responsible for what
is said of files of other kinds (formats.py), for what an architecture may hold (contents.py), nor for rebuilding old files (convert).
"""

import shlex
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from processor.errors import ModelRefused
from processor.model.file import formats
from processor.model.file.formats import SAVE_AGAIN

BYTES_MAX = 2 << 30
H5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
A_MODEL_FILE = "a whole model saved by Keras 3 as .keras or .h5"


def check_file(path: Path) -> None:
    """Raises ModelRefused for what is no file, cannot be read, or is too large."""
    if path.is_dir():
        what, do = formats.folder(path)
        raise ModelRefused(f"{path} is {what}", expected=A_MODEL_FILE, do=do)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}", expected=A_MODEL_FILE, do="check model.path") from error
    if size == 0:
        raise ModelRefused(f"{path} is empty", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN)
    check_bytes(f"{path} has", size)


def check_bytes(subject: str, size: int, *, bytes_max: int | None = None) -> None:
    limit = BYTES_MAX if bytes_max is None else bytes_max
    if size > limit:
        raise ModelRefused(f"{subject} {size:,} bytes", expected=f"at most {limit:,}", do="serve a smaller model")


def kind_of(path: Path) -> str:
    """ ".h5" or ".keras", by content: files of both kinds are found under the other's name, and under names without an ending."""
    with path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if head.startswith(H5_MAGIC):
        return ".h5"
    if head.startswith(ZIP_MAGIC) and (path.suffix not in formats.BY_NAME or _holds_a_model(path)):
        return ".keras"
    found = formats.foreign(path, head)
    what, do = found or (f"not a Keras file: it begins with {head[:8]!r}", SAVE_AGAIN)
    raise ModelRefused(f"{path} is {what}", expected=A_MODEL_FILE, do=do)


def _holds_a_model(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def no_model_in_zip(path: Path, names: Collection[str]) -> ModelRefused:
    """The refusal of a zip without a config.json, by what else is in it."""
    inside = next((name for name in names if name.endswith((".keras", ".h5", ".hdf5", "saved_model.pb"))), None)
    do = SAVE_AGAIN if inside is None else f"unpack it, and name what is in it: {inside.removesuffix('/saved_model.pb')}"
    return ModelRefused(f"{path} is a zip file without a Keras model in it", expected=A_MODEL_FILE, do=do)


def version_of(stored: Any) -> str:
    """The Keras that wrote a file; those before 1.2 did not say so, and none after them left it out."""
    return stored.decode() if isinstance(stored, bytes) else str(stored or "1")


def is_old(version: str) -> bool:
    """Whether `model convert` is for this version; standalone Keras, tf.keras and tf_keras count alike."""
    return version.partition(".")[0] in ("1", "2")


def check_version(path: Path, stored: Any) -> None:
    """Raises ModelRefused for every Keras but 3, with the command that makes such a file of an old one."""
    version = version_of(stored)
    if is_old(version):
        new = path.with_suffix(".keras") if path.suffix != ".keras" else path.with_name(f"{path.stem}-3.keras")
        raise ModelRefused(
            f"{path} was saved by Keras {version}",
            expected="a file saved by Keras 3",
            do=f"slotstream model convert {shlex.quote(str(path))} {shlex.quote(str(new))}",
        )
    if not version.startswith("3"):
        raise ModelRefused(f"{path} was saved by Keras {version}", expected="a file saved by Keras 3", do=SAVE_AGAIN)


def broken(path: Path, error: Exception) -> ModelRefused:
    """The refusal of a file that a reader stumbled over; zipfile, zlib, h5py and json each have their own ways to say so."""
    return ModelRefused(f"{path} is damaged: {first_line(error)}", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN)


def first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
