"""From a model file's bytes to a Keras model, or to the reason why it is refused.

Responsible for reading no more of a file than may be read before its architecture is judged, and for turning everything that Keras raises
into one refusal. Must not import or run what a file names. Not responsible for what a model of the service may look like.
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from processor.errors import ModelRefused
from processor.model.backend import keras
from processor.model.file import contents, formats, h5, weight_limit
from processor.model.file.admission import (
    A_MODEL_FILE,
    broken,
    check_bytes,
    check_file,
    check_version,
    first_line,
    kind_of,
    no_model_in_zip,
)
from processor.model.file.formats import SAVE_AGAIN
from processor.model.file.own_code import OwnCode

CONFIG_BYTES_MAX = 16 << 20
WEIGHTS = "model.weights.h5"


@dataclass(frozen=True)
class ModelFile:
    """What a model file says before anything is built.

    kind: ".keras" or ".h5"; config: the architecture; weight_bytes: what its weights take in memory.
    """

    kind: str
    config: dict[str, Any]
    weight_bytes: int


def read(path: Path, own: OwnCode | None = None) -> ModelFile:
    """Reads a file as far as it can be judged without building anything of it. own: classes that may stand in it beside Keras's."""
    check_file(path)
    kind = kind_of(path)
    try:
        file = _read_h5(path) if kind == ".h5" else _read_zip(path)
        contents.check(file.config, own)
    except ModelRefused:
        raise
    except RecursionError as error:
        raise ModelRefused(
            f"{path} is nested too deep to be read", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN
        ) from error
    except Exception as error:  # zipfile, zlib, h5py and json each have their own ways to say that bytes are broken
        raise broken(path, error) from error
    check_bytes(f"the weights in {path} take", file.weight_bytes)
    return file


def _read_zip(path: Path) -> ModelFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise no_model_in_zip(path, names)
        check_bytes(f"{path}, unpacked, has", sum(member.file_size for member in archive.infolist()))
        check_bytes("its config.json has", archive.getinfo("config.json").file_size, bytes_max=CONFIG_BYTES_MAX)
        if damaged := archive.testzip():
            raise ModelRefused(f"{path} is damaged in its {damaged}", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN)
        if "metadata.json" in names:
            check_version(path, json.loads(archive.read("metadata.json")).get("keras_version"))
        config = json.loads(archive.read("config.json"))
        if WEIGHTS not in names:
            raise ModelRefused(f"{path} holds an architecture without weights", expected=A_MODEL_FILE, do=SAVE_AGAIN)
        with h5py.File(io.BytesIO(archive.read(WEIGHTS)), "r") as file:
            return ModelFile(".keras", config, h5.declared_bytes(file))


def _read_h5(path: Path) -> ModelFile:
    head = h5.read_apart(path)
    if head.config is None:
        raise ModelRefused(f"{path} holds weights only, no model", expected=A_MODEL_FILE, do=formats.TWO_HALVES)
    check_version(path, head.version)
    check_bytes("its architecture has", len(head.config), bytes_max=CONFIG_BYTES_MAX)
    return ModelFile(".h5", json.loads(head.config), head.weight_bytes)


@contextmanager
def _under_its_kind(path: Path, kind: str) -> Iterator[Path]:
    """A name for the file that ends in its kind: Keras goes by the name and not by what is in a file."""
    if path.suffix == kind:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{kind}"
        link.symlink_to(path.resolve())
        yield link


def build(path: Path, file: ModelFile, own: OwnCode | None = None) -> Any:
    """The model, built by Keras and no classes but its own and those of `own`; the one place where what Keras raises becomes a refusal."""
    limit, objects = weight_limit.Limit(file.weight_bytes), contents.own_objects(file.config, own)
    try:
        with warnings.catch_warnings(), limit.held():
            warnings.simplefilter("ignore")
            with _under_its_kind(path, file.kind) as named:
                return keras.saving.load_model(named, custom_objects=objects, compile=False, safe_mode=True)
    except Exception as error:
        found = f"Keras cannot load {path}: {first_line(error)}"
        if limit.exceeded:
            found = f"the layers in {path} are larger than the weights in it, which have {file.weight_bytes:,} bytes"
        raise ModelRefused(found, expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN) from error
