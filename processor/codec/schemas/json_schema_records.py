"""Reads JSON behind a registry's frame, or of one JSON Schema: the record says by itself what it holds.

The schema is read for messages alone: which fields may be numbers. It does not judge records; the model's features do.
"""

import json
from collections.abc import Mapping
from typing import Any

from processor.codec.schemas.avro_schema import SchemaError
from processor.codec.schemas.schema_fields import SchemaFields
from processor.codec.whole_json import load_json

DEPTH_MAX = 16
_CLOSED = {"string", "boolean", "null"}


class JsonSchemaReader:
    """text: the JSON Schema. nan: what Python's json writes for NaN is read as no value. Raises SchemaError."""

    def __init__(self, text: str, *, nan: bool) -> None:
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"the JSON Schema is not JSON: {error}") from None
        if not isinstance(schema, Mapping | bool):
            raise SchemaError("the JSON Schema is no object")
        self.fields, self._nan = SchemaFields(), nan
        _list_fields(schema, (), self.fields)

    def read(self, data: bytes, start: int) -> Any:
        return load_json(data[start:] if start else data, nan=self._nan)


def _list_fields(schema: Any, path: tuple[str, ...], found: SchemaFields) -> None:
    """What a schema leaves open, by a reference or a choice, may be anything."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    kinds = _kinds(schema)
    if isinstance(properties, Mapping) and len(path) < DEPTH_MAX:
        for name, inner in properties.items():
            _list_fields(inner, (*path, str(name)), found)
        if path:
            return
    if path and kinds & {"number", "integer"}:
        found.numbers.append(path)
    elif path and kinds == {"array"}:
        found.lists.append(path)
    elif not isinstance(properties, Mapping) and not (kinds and kinds <= _CLOSED):
        found.open.append(path)


def _kinds(schema: Any) -> set[str]:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    found = kind if isinstance(kind, list) else [kind]
    kinds = {str(one) for one in found if one is not None}
    return kinds - {"null"} or kinds
