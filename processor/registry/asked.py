"""Schemas by id for a command that looks once: asked of the registry on the caller's thread, and kept nowhere."""

from processor.errors import SlotstreamError
from processor.registry.client import RegistryClient, RegistryDownError, UnknownSchemaError
from processor.written_schema import WrittenSchema


class AskedSchemas:
    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._found: dict[str, WrittenSchema | None] = {}

    def schema(self, _partition: int, schema_id: str) -> WrittenSchema | None:
        """As SchemaSource says, and never pending. Raises SlotstreamError if the registry does not answer."""
        if schema_id not in self._found:
            try:
                self._found[schema_id] = self._client.schema(schema_id)
            except UnknownSchemaError:
                self._found[schema_id] = None
            except RegistryDownError as error:
                raise SlotstreamError(
                    f"the schema registry {self._client.url} does not give schema {schema_id} ({error})",
                    expected="a schema registry that answers",
                    do="start it, or correct the properties under schema_registry",
                ) from error
        return self._found[schema_id]
