"""model.code: the one Python file that the service runs for a model, named by the operator with its digest.

As values.py, which has the values of most other settings: no source, no default. Must not open the file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor.settings.values import Allowed, listed

KEYS = {"module", "path", "sha256"}
WORDS = "{module: my_layers, path: my_layers.py, sha256: 64 hex digits, as `sha256sum my_layers.py` prints them}"


@dataclass(frozen=True, slots=True)
class ModelCode:
    """module: the name that the file's classes have as their module. sha256: of the file's bytes, in lower-case hex."""

    module: str
    path: Path
    sha256: str


def model_code() -> Allowed:
    def parse(value: Any) -> ModelCode:
        if isinstance(value, ModelCode):
            return value
        found = listed(value)
        if not isinstance(found, Mapping) or set(found) != KEYS or not all(isinstance(found[key], str) for key in ("module", "path")):
            raise ValueError
        digest = str(found["sha256"]).lower()
        if not all(part.isidentifier() for part in found["module"].split(".")) or not found["path"].strip():
            raise ValueError
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError
        return ModelCode(found["module"], Path(found["path"]), digest)

    return Allowed(WORDS, parse)
