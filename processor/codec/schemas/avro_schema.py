"""An Avro schema as a tree whose names are resolved, and what it says of its fields.

Reads the schema's JSON; how a value is written is avro_records' and avro_plan's. Logical types stay beside their type.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from processor.codec.schemas.schema_fields import SchemaFields

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
NUMBERS = {"int", "long", "float", "double"}
_UNITS = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns", "date": "days"}
_UNITS |= {f"local-{name}": unit for name, unit in _UNITS.items() if name != "date"}
DEPTH_MAX = 32  # of records within records when fields are listed


class SchemaError(ValueError):
    """The text is no schema that can be read; says why."""


@dataclass(slots=True)
class Avro:
    """A type. kind: its name in Avro's words; of a named type `name` too.

    logical   the logical type, None without one; scale: of a decimal
    parts     of a record its fields' types, of a union its branches, of an array or a map one
    names     of a record its fields, of an enum its symbols
    size      of a fixed, bytes
    """

    kind: str
    name: str = ""
    logical: str | None = None
    scale: int = 0
    parts: list["Avro"] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def is_decimal(self) -> bool:
        return self.logical == "decimal" and self.kind in ("bytes", "fixed")

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, or null."""
        if self.kind == "union":
            branches = [part for part in self.parts if part.kind != "null"]
            return bool(branches) and all(part.is_number for part in branches)
        return self.kind in NUMBERS or self.is_decimal


def parsed(text: str, references: Sequence[tuple[str, str]] = ()) -> Avro:
    """Raises SchemaError."""
    names: dict[str, Avro] = {}
    try:
        for _, other in references:
            _Parser(names).type_of(_json(other), "")
        return _Parser(names).type_of(_json(text), "")
    except RecursionError:
        raise SchemaError("the Avro schema nests too deep") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.strip() in PRIMITIVES:
            return text.strip()
        raise SchemaError(f"the Avro schema is not JSON: {error}") from None


class _Parser:
    def __init__(self, names: dict[str, Avro]) -> None:
        self._names = names

    def type_of(self, given: Any, space: str) -> Avro:
        """space: the namespace around it."""
        if isinstance(given, str):
            return Avro(given) if given in PRIMITIVES else self._named(given, space)
        if isinstance(given, list):
            return Avro("union", parts=[self.type_of(branch, space) for branch in given])
        if not isinstance(given, Mapping) or "type" not in given:
            raise SchemaError(f"the Avro schema has {str(given)[:60]} in place of a type")
        kind = given["type"]
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(kind, given, space)
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            if inner not in given:
                raise SchemaError(f"the Avro schema has {kind} without {inner}")
            return Avro(str(kind), parts=[self.type_of(given[inner], space)])
        found = self.type_of(kind, space)
        if found.kind in PRIMITIVES:
            found.logical, found.scale = given.get("logicalType"), _whole(given.get("scale", 0))
        return found

    def _named(self, name: str, space: str) -> Avro:
        for full in (name if "." in name else f"{space}.{name}" if space else name, name):
            if full in self._names:
                return self._names[full]
        raise SchemaError(f"the Avro schema refers to {name[:60]}, which it does not define")

    def _define(self, kind: str, given: Mapping[str, Any], space: str) -> Avro:
        name = given.get("name")
        if not isinstance(name, str) or not name:
            raise SchemaError(f"the Avro schema has a type {kind} without a name")
        if "." in name:
            space = name.rpartition(".")[0]
        else:
            space = given.get("namespace", space) or ""
            name = f"{space}.{name}" if space else name
        made = self._names[name] = Avro("record" if kind == "error" else kind, name)
        if kind == "enum":
            made.names = [str(symbol) for symbol in given.get("symbols", ())]
        elif kind == "fixed":
            made.size, made.logical, made.scale = _whole(given.get("size")), given.get("logicalType"), _whole(given.get("scale", 0))
        else:
            for inner in _fields(given, name):
                made.names.append(str(inner["name"]))
                made.parts.append(self.type_of(inner["type"], space))
        return made


def _fields(given: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    fields = given.get("fields")
    if not isinstance(fields, list) or not all(isinstance(one, Mapping) and "name" in one and "type" in one for one in fields):
        raise SchemaError(f"the Avro schema's record {name} has no list of fields, each with a name and a type")
    return fields


def _whole(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= 100_000:
        raise SchemaError(f"the Avro schema has {str(found)[:40]} in place of a size or scale")
    return found


def fields_of(schema: Avro) -> SchemaFields:
    """Of records within records; what lies in arrays and maps has no path."""
    found = SchemaFields()
    for path, kind in _walk(schema, (), ()):
        if kind.is_number:
            found.numbers.append(path)
        elif kind.kind == "array":
            found.lists.append(path)
        elif kind.kind in ("map", "union"):
            found.open.append(path)
        plain = _not_null(kind)
        if plain.logical in _UNITS and plain.kind in ("int", "long"):
            found.units[path] = _UNITS[plain.logical]
    return found


def _walk(schema: Avro, path: tuple[str, ...], inside: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Avro]]:
    """Each field that is no record, once; a record that lies in itself is not entered again."""
    schema = _not_null(schema)
    if schema.kind != "record":
        if path:
            yield path, schema
        return
    if schema.name in inside or len(path) > DEPTH_MAX:
        return
    for name, part in zip(schema.names, schema.parts, strict=True):
        yield from _walk(part, (*path, name), (*inside, schema.name))


def _not_null(schema: Avro) -> Avro:
    """The one branch of a union that is not null; any other type as it is."""
    if schema.kind != "union":
        return schema
    branches = [part for part in schema.parts if part.kind != "null"]
    return branches[0] if len(branches) == 1 else schema
