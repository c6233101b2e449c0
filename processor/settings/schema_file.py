"""The value of input.schema: a schema file, read with the files that it imports when the settings are loaded.

Knows where files lie and what they hold; whether that is a schema is the codec's to say.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor.settings.values import Allowed, FaultError, reason_of

IMPORTS_MAX = 100
_IMPORT = re.compile(r'^\s*import\s+(?:public\s+|weak\s+)?"([^"]+)"\s*;', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """path: as the settings have it. imports: (name, text) of each file that it imports and that lies beside it, imported ones first."""

    path: Path
    text: str
    imports: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Hex, of everything that was read."""
        parts = [self.text, *(part for pair in self.imports for part in pair)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return str(self.path)


def schema_file() -> Allowed:
    def parse(value: Any) -> SchemaFile:
        if isinstance(value, SchemaFile):
            return value
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            raise ValueError
        return _read(Path(value))

    return Allowed("the path of a .avsc, .proto or JSON Schema file", parse)


def _read(path: Path) -> SchemaFile:
    try:
        text = path.read_text(encoding="utf-8")
        imports = dict[str, str]()
        if path.suffix == ".proto":
            _follow(path.parent, text, imports)
    except (OSError, ValueError) as error:
        raise FaultError(f"the file cannot be read ({reason_of(error)})") from None
    return SchemaFile(path, text, tuple(imports.items()))


def _follow(folder: Path, text: str, found: dict[str, str]) -> None:
    """Adds the files that lie in the folder; google's own are the compiler's."""
    for name in _IMPORT.findall(text):
        if name not in found and (folder / name).is_file() and len(found) < IMPORTS_MAX:
            inner = (folder / name).read_text(encoding="utf-8")
            _follow(folder, inner, found)
            found[name] = inner
