"""Old model files, rebuilt for Keras 3: `slotstream model convert OLD NEW.keras`.

Responsible for the way from a file of Keras 1 or 2 to one of Keras 3, and for writing it whole or not at all. Neither Keras 2 nor any
code from the file is run. Not responsible for the parts of the way: opening.py opens a file, configuration.py reads what it
describes, weights.py turns its arrays, rebuild.py builds the model.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor.errors import ConfigurationError, ModelRefused, SlotstreamError
from processor.model.convert.arrays import OldFile
from processor.model.convert.configuration import read_model
from processor.model.convert.old_model import OldModel, all_layers
from processor.model.convert.opening import opened
from processor.model.convert.rebuild import build
from processor.model.convert.weights import Weights, convert
from processor.model.file.admission import first_line


@dataclass(frozen=True)
class Converted:
    """version: of the Keras that wrote the old file. layers: as "name (class)". changed: what is not as it was, a line each."""

    version: str
    layers: tuple[str, ...]
    changed: tuple[str, ...]


def convert_file(old: Path, new: Path, *, weights_file: Path | None = None, force: bool = False) -> Converted:
    """Writes what an old file computes as a .keras file of Keras 3. weights_file: beside an architecture in JSON. Optimizer, losses,
    initialisers and regularisers are left out.

    Raises ModelRefused for an old file that cannot be rebuilt exactly, ConfigurationError for a name that cannot be written to.
    """
    _check_names(old, new, force=force)
    changed: list[str] = []
    with opened(old, weights_file) as file:
        model = read_model(file.config)
        weights = _weights(file, model, changed)
        version = file.version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = build(model, weights, changed)
    except ModelRefused:
        raise
    except Exception as error:  # whatever Keras has against a layer, in its own words
        raise ModelRefused(
            f"Keras 3 cannot build what {old} describes: {first_line(error)}", expected="a model that fits its weights", do="copy the file "
            "again, or build the model in Keras 3"
        ) from error  # fmt: skip
    with _written(new, force=force) as temporary:
        built.save(temporary)
    return Converted(version, tuple(layer.label for layer in all_layers(model)), tuple(dict.fromkeys(changed)))


def _weights(file: OldFile, model: OldModel, changed: list[str]) -> dict[Any, Weights]:
    return {layer: convert(layer, stored, backend=file.backend, changed=changed) for layer, stored in file.arrays.of(model)}


def _check_names(old: Path, new: Path, *, force: bool) -> None:
    if new.suffix != ".keras":
        raise ConfigurationError(f"{new} does not end in .keras", expected="a name for a file of Keras 3", do=f"name it {new.stem}.keras")
    if new.exists() and old.exists() and new.samefile(old):
        raise ConfigurationError(f"{old} and {new} are one file", expected="another name", do="give the new file a name of its own")
    if new.is_dir():
        raise ConfigurationError(f"{new} is a directory", expected="a name for a file", do="give the new file another name")
    if new.exists() and not force:
        raise _exists(new)


@contextmanager
def _written(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary name beside a path, which becomes the path when everything is written and never before."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.keras")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename it fails if the name was taken meanwhile
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        found = f"{path} cannot be written: {error.strerror or error}"
        raise SlotstreamError(found, expected="a folder to write in", do="name a file in another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is there already", expected="a new name", do="name another file, or overwrite it with --force")
