"""What the settings on schemas make of a codec: the readers of records, and what of a schema file does not fit the model's features.

Needs no broker and no registry: those come as a source of schemas.
"""

from processor.codec.paths import FieldPath
from processor.codec.schemas.avro_schema import SchemaError
from processor.codec.schemas.schema_readers import KINDS, Readers
from processor.errors import ConfigurationError
from processor.registry.asked import AskedSchemas
from processor.registry.client import RegistryClient
from processor.settings import Settings
from processor.written_schema import SchemaSource, WrittenSchema

VALUES = ("values",)


def readers_of(settings: Settings, schemas: SchemaSource | None, *, nan: bool) -> Readers:
    """nan: a JSON record may hold NaN for no value. Raises ConfigurationError for a schema file that cannot be used."""
    source = settings.input
    if source.value_schema is None:
        return Readers(source.format, source=schemas, nan=nan)
    try:
        return Readers(source.format, alone=schema_in_file(settings), nan=nan)
    except SchemaError as error:
        raise ConfigurationError(
            f"{source.value_schema.path}: {error}",
            expected=f"a schema of input.format: {source.format}",
            do="correct the file, or set input.schema to another",
            see="the-settings-are-wrong",
        ) from None


def registry_of(settings: Settings) -> RegistryClient | None:
    """None where records name no schema."""
    if "url" not in settings.schema_registry or settings.input.format not in KINDS:
        return None
    return RegistryClient(settings.registry_config)


def asked_schemas(settings: Settings) -> SchemaSource | None:
    """The registry, for a command that looks once; None where records name no schema."""
    client = registry_of(settings)
    return None if client is None else AskedSchemas(client)


def without_schema(settings: Settings) -> Settings:
    """The same settings for records in JSON: what readings that come from elsewhere, as from a CSV, are written as.

    A reading of a schema becomes the same numbers and the same time.
    """
    if settings.input.format not in KINDS:
        return settings
    source = settings.input.model_copy(update={"format": "json", "value_schema": None})
    return settings.model_copy(update={"input": source})


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
        if VALUES not in fields.lists and not fields.may_hold(FieldPath("values")):
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
