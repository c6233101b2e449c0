"""Which schema a record was written by, and the reader that was made of that schema.

Owns the readers, one a schema. Where schemas come from is the source's: a registry, or one file for all records.
"""

from typing import Any

from processor.codec.columns import Message
from processor.codec.reject import RejectError
from processor.codec.schemas.avro_records import AvroReader
from processor.codec.schemas.avro_schema import SchemaError, parsed
from processor.codec.schemas.frame import MAGIC, Frame, frame_of
from processor.codec.schemas.json_schema_records import JsonSchemaReader
from processor.codec.schemas.protobuf_records import ProtobufReader
from processor.codec.schemas.protobuf_schema import compiled, message_class, message_of
from processor.codec.schemas.schema_fields import SchemaReader
from processor.written_schema import AVRO, JSON, PROTOBUF, SchemaSource, WrittenSchema

KINDS = {"avro": AVRO, "protobuf": PROTOBUF, "json_schema": JSON}  # by input.format


def reader_of(schema: WrittenSchema, wanted: str, indexes: tuple[int, ...] = (), *, nan: bool = False) -> SchemaReader:
    """wanted: input.format. indexes: of a Protobuf message. nan: a JSON record may hold NaN. Raises SchemaError, ConfigurationError."""
    if schema.kind != KINDS[wanted]:
        raise SchemaError(f"the record's schema is {schema.kind}; expected {KINDS[wanted]} (input.format: {wanted})")
    if wanted == "protobuf":
        files = compiled(schema.text, schema.references)
        return ProtobufReader(message_class(files, message_of(files, indexes)))
    if wanted == "json_schema":
        return JsonSchemaReader(schema.text, nan=nan)
    return AvroReader(parsed(schema.text, schema.references))


class Readers:
    """
    wanted  input.format
    source  of the schemas of framed records
    alone   the schema of all records, which then have no frame
    nan     a JSON record may hold NaN for no value
    """

    def __init__(self, wanted: str, *, source: SchemaSource | None = None, alone: WrittenSchema | None = None, nan: bool = False) -> None:
        self._wanted, self._source, self._nan = wanted, source, nan
        self.with_indexes = wanted == "protobuf"
        self.alone = None if alone is None else reader_of(alone, wanted, nan=nan)
        self._made: dict[tuple[str, tuple[int, ...]], SchemaReader | str] = {}  # or why there is none

    def of(self, value: bytes, message: Message) -> tuple[SchemaReader, int]:
        """The reader of a record, and where its payload begins. Raises RejectError, SchemaPendingError."""
        if self.alone is not None:
            return self.alone, 0
        frame = frame_of(value, message.headers(), with_indexes=self.with_indexes)
        return self.by_frame(frame, message.partition()), frame.start

    def by_frame(self, frame: Frame, partition: int) -> SchemaReader:
        """Raises RejectError, SchemaPendingError."""
        # Asked each time: a partition may have met an id that was unknown when another already knew it.
        schema = self._source.schema(partition, frame.schema_id) if self._source is not None else None
        if schema is None:
            told = f"the schema registry does not know schema {frame.schema_id}; expected a registered one (on_unknown_schema: dead_letter)"
            raise RejectError("unknown_schema", told)
        key = frame.schema_id, frame.indexes
        made = self._made.get(key)
        if made is None:
            try:
                made = reader_of(schema, self._wanted, frame.indexes, nan=self._nan)
            except SchemaError as error:
                made = str(error)
            self._made[key] = made
        if isinstance(made, str):
            raise RejectError("bad_schema", f"schema {frame.schema_id} cannot be used: {made}")
        return made

    def read(self, value: bytes, message: Message) -> tuple[Any, SchemaReader]:
        """The record, and its schema's reader."""
        reader, start = self.of(value, message)
        try:
            return reader.read(value, start), reader
        except RejectError as error:
            if self.alone is not None and value[:1] == bytes([MAGIC]):
                told = f"{error.detail}. If it begins with a registry's frame, set schema_registry.url in place of input.schema"
                raise RejectError(error.error, told) from None
            raise
