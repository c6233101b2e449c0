"""What the settings on schemas make of a codec: the readers of records, and what of a schema file does not fit the model's features.

Needs no broker and no registry: those come as a source of schemas.
"""

from processor.codec.paths import FieldPath
from processor.codec.schemas.avro_schema import SchemaError
from processor.codec.schemas.schema_readers import KINDS, Readers
from processor.errors import ConfigurationError
from processor.settings import Settings
from processor.written_schema import SchemaSource, WrittenSchema

VALUES = ("values",)


def readers_of(settings: Settings, schemas: SchemaSource | None) -> Readers:
    """Raises ConfigurationError for a schema file that cannot be used."""
    source = settings.input
    if source.value_schema is None:
        return Readers(source.format, source=schemas)
    try:
        return Readers(source.format, alone=schema_in_file(settings))
    except SchemaError as error:
        raise ConfigurationError(
            f"{source.value_schema.path}: {error}",
            expected=f"a schema of input.format: {source.format}",
            do="correct the file, or set input.schema to another",
            see="the-settings-are-wrong",
        ) from None


def schema_in_file(settings: Settings) -> WrittenSchema | None:
    """The schema of input.schema."""
    file = settings.input.value_schema
    return None if file is None else WrittenSchema(KINDS[settings.input.format], file.text, file.imports)


def check_fields(settings: Settings, readers: Readers) -> None:
    """Raises ConfigurationError if the schema file has none of the fields that the settings name: no record could be a reading."""
    if readers.alone is None:
        return
    source, fields = settings.input, readers.alone.fields
    if source.features is None:
        if VALUES not in fields.lists:
            raise _missing(settings, "no array `values`", fields.numeric())
        return
    if not any(fields.may_hold(FieldPath(name)) for name in source.features):
        raise _missing(settings, f"no number in any of the fields {', '.join(source.features[:5])}", fields.numeric())


def _missing(settings: Settings, what: str, numeric: str) -> ConfigurationError:
    return ConfigurationError(
        f"the schema in {settings.input.value_schema} has {what}; {numeric}",
        expected="an array `values` of numbers, or the model's features as fields",
        do="set input.features to the fields that are the features, in the model's order",
        see="settings-and-model-do-not-fit",
    )
