"""What every form of an old model file comes to: its configuration, and the arrays of each layer.

Responsible for what the readers of the forms share. Not responsible for any form (opening.py, saved_model.py).
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from processor.errors import ModelRefused
from processor.model.convert.old_model import OldLayer, OldModel
from processor.model.convert.weights import GATES, Stored
from processor.model.file.admission import BYTES_MAX, is_old

SAVE_WHOLE = "load it with the Keras that wrote it and save the whole model: model.save('model.h5')"


class Arrays(Protocol):
    def of(self, model: OldModel) -> Iterator[tuple[OldLayer, Sequence[Stored]]]: ...


@dataclass(frozen=True)
class OldFile:
    """version: of the Keras that wrote it. backend: "tensorflow", "theano" ..., or None where it does not say so."""

    version: str
    backend: str | None
    config: Any
    arrays: Arrays


def parts(layer: OldLayer) -> tuple[str, ...]:
    """What holds the arrays of a layer without layers in it, below the layer; "" is the layer itself."""
    if layer.kind == "MultiHeadAttention":
        return "_query_dense", "_key_dense", "_value_dense", "_output_dense"
    return ("cell",) if layer.kind in GATES else ("",)


def check_old(path: Path, version: str) -> None:
    if version.startswith("3"):
        raise ModelRefused(f"{path} was saved by Keras {version}", expected="a file of Keras 1 or 2", do=f"convert nothing: "
            f"slotstream model show {shlex.quote(str(path))} tells whether it can be served as it is")
    if not is_old(version):
        raise ModelRefused(f"{path} was saved by Keras {version}", expected="a file of Keras 1 or 2", do=SAVE_WHOLE)


def check_bytes_of_weights(size: int) -> None:
    if size > BYTES_MAX:
        raise ModelRefused(f"the weights have {size:,} bytes", expected=f"at most {BYTES_MAX:,}", do="serve a smaller model")
