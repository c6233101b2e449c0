"""Records of a schema as their senders write them: fastavro's bytes, and the registry's frame before them."""

import io
import json
import urllib.request
from typing import Any

import fastavro


def avro(schema: Any, record: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return out.getvalue()


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def reading(*, time: Any = None, items: Any = "double", name: str = "Reading") -> dict[str, Any]:
    """A schema with a time and `values`."""
    time = time or {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "timestamp", "type": time}, {"name": "values", "type": {"type": "array", "items": items}}]
    return {"type": "record", "name": name, "namespace": "plant", "fields": fields}


class Source:
    """Schemas by id, for a codec without a registry. None: unknown."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        from processor.written_schema import WrittenSchema

        self._schemas = {key: None if one is None else WrittenSchema("AVRO", json.dumps(one)) for key, one in schemas.items()}

    def schema(self, _partition: int, schema_id: str) -> Any:
        return self._schemas.get(schema_id)


def register(url: str, subject: str, schema: Any, kind: str = "AVRO") -> int:
    """Registers a schema at a real registry; returns its id."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    body = json.dumps({"schema": text, "schemaType": kind}).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(f"{url}/subjects/{subject}/versions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.loads(answer.read())["id"])
