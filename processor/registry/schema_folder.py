"""Keeps schemas as files beside the checkpoints: <path>/<group>/<topic>/schemas/<id>.json, and <partition>-<id>.unknown.

Files are written once, synced, and never changed; an id's schema is the same for all partitions and instances that share the folder.
"""

import os
import secrets
from pathlib import Path

from processor.errors import SlotstreamError
from processor.registry.schemas import Answer
from processor.written_schema import WrittenSchema

FOLDER = "schemas"


class SchemaFolder:
    """folder: of one group and topic."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._kept: set[tuple[int, str]] = set()

    def kept(self, partition: int, schema_id: str) -> Answer | None:
        if self._unknown(partition, schema_id).exists():
            return Answer(None)
        try:
            return Answer(WrittenSchema.from_json(self._file(schema_id).read_bytes()))
        except (OSError, ValueError):  # never kept, or damaged: the registry is asked again
            return None

    def keep(self, partition: int, schema_id: str, answer: Answer) -> None:
        """Raises SlotstreamError if the disk does not take it."""
        if (partition, schema_id) in self._kept:
            return
        path = self._unknown(partition, schema_id) if answer.schema is None else self._file(schema_id)
        text = "" if answer.schema is None else answer.schema.to_json()
        try:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                self._write(path, text)
        except (OSError, ValueError) as error:
            raise SlotstreamError(
                f"schema {schema_id} cannot be kept in {self._folder} ({error})",
                expected="a folder with room that this process may write to (checkpoint.path)",
                do="create it, make room, or correct its owner",
                see="the-checkpoint-folder-cannot-be-written",
            ) from error
        self._kept.add((partition, schema_id))

    def _file(self, schema_id: str) -> Path:
        return self._folder / f"{schema_id}.json"

    def _unknown(self, partition: int, schema_id: str) -> Path:
        return self._folder / f"{partition}-{schema_id}.unknown"

    def _write(self, path: Path, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            with own.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            own.replace(path)
        finally:
            own.unlink(missing_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
