"""A schema as its writer registered it, and what a codec asks of whoever keeps schemas.

Contains only data and the two ways in which a schema may be missing. The codec reads records by it; the registry's room gets and keeps it.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol

AVRO, PROTOBUF, JSON = "AVRO", "PROTOBUF", "JSON"


@dataclass(frozen=True, slots=True)
class WrittenSchema:
    """
    kind        AVRO, PROTOBUF or JSON, as registries name them
    text        the schema itself
    references  (name, text) of each schema that it refers to, those first that others refer to
    """

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "text": self.text, "references": self.references})

    @classmethod
    def from_json(cls, text: str | bytes) -> "WrittenSchema":
        """Raises ValueError for anything that to_json() did not write."""
        found: Any = json.loads(text)
        try:
            pairs = tuple((str(name), str(schema)) for name, schema in found["references"])
            return cls(str(found["kind"]), str(found["text"]), pairs)
        except (TypeError, KeyError) as error:
            raise ValueError("no kept schema") from error


class SchemaPendingError(Exception):
    """The schema is not known yet: the registry has not answered. The same record is to be decoded again later, and not before."""


class SchemaSource(Protocol):
    def schema(self, partition: int, schema_id: str, /) -> WrittenSchema | None:
        """The schema of an id (digits, or a GUID); None if the registry does not know it.

        For a partition and an id the answer never changes. Raises SchemaPendingError until there is one.
        """
