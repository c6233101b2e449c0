"""What a model file may be before anything of it is read: its size, its kind, its Keras.

Responsible for telling files apart by content and for the refusals that all readers of model files share. Not responsible for what
an architecture may hold (load.py) nor for rebuilding old files (legacy.py).
"""

import shlex
from pathlib import Path
from typing import Any

from processor.errors import ModelRefused

BYTES_MAX = 2 << 30
H5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
A_MODEL_FILE = "a whole model saved by Keras 3 as .keras or .h5"
SAVE_AGAIN = "save the whole model with Keras 3: model.save('model.keras')"


def check_file(path: Path) -> None:
    """Raises ModelRefused for what is no file, cannot be read, or is too large."""
    if path.is_dir():
        kind = "a TensorFlow SavedModel folder" if (path / "saved_model.pb").exists() else "a directory"
        raise ModelRefused(f"{path} is {kind}", expected=A_MODEL_FILE, do=SAVE_AGAIN)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}", expected=A_MODEL_FILE, do="check model.path") from error
    if size == 0:
        raise ModelRefused(f"{path} is empty", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN)
    if size > BYTES_MAX:
        raise ModelRefused(f"{path} has {size:,} bytes", expected=f"at most {BYTES_MAX:,}", do="serve a smaller model")


def kind_of(path: Path) -> str:
    """ ".h5" or ".keras", by content; Keras itself goes by the name, so the name must agree."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ModelRefused(
            f"{path} is a Python pickle", expected=A_MODEL_FILE + "; a pickle is never loaded, since it can run code", do=SAVE_AGAIN
        )
    if head.lstrip()[:1] == b"{" and path.suffix == ".json":
        raise ModelRefused(
            f"{path} holds an architecture without weights", expected=A_MODEL_FILE, do="load its weights with the Keras that wrote it and "
            "save the whole model: model.save('model.h5')"
        )  # fmt: skip
    kind = ".h5" if head == H5_MAGIC else ".keras" if head[:4] == ZIP_MAGIC else None
    if kind is None:
        raise ModelRefused(f"{path} is not a Keras file: it begins with {head!r}", expected=A_MODEL_FILE, do=SAVE_AGAIN)
    if path.suffix not in ((".h5", ".hdf5") if kind == ".h5" else (".keras",)):
        raise ModelRefused(
            f"{path} holds a {kind} file under another name", expected=f"a name that ends in {kind}", do=f"rename it to {path.stem}{kind}"
        )
    return kind


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
