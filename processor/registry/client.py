"""The schema registry over HTTP: one schema by its id, with all that it refers to.

confluent-kafka's client does the requests, its retries and its back-off; of its serializers nothing is used. Every answer other than a
schema or "no such id" is an outage: the caller waits, whatever the reason.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from processor.errors import ConfigurationError
from processor.written_schema import AVRO, WrittenSchema

TIMEOUT_S = 10.0  # of one request; the client itself has none
REFERENCES_MAX = 200
NOT_FOUND = 404
# A registry's own codes for what it does not have: 40401 a subject, 40402 a version, 40403 a schema. Another 404 is no registry's.
UNKNOWN = range(40400, 40500)


class UnknownSchemaError(Exception):
    """The registry answered that it has no such schema."""


class RegistryDownError(Exception):
    """The registry did not answer, or not with a schema; the text says what it did."""


class RegistryClient:
    """properties: of confluent-kafka's client, read again for each client so that renewed secrets are used. Any thread may ask."""

    def __init__(self, properties: Callable[[], dict[str, Any]]) -> None:
        self._properties = properties
        self._client: Any = None
        self._one_at_a_time = threading.Lock()

    @property
    def url(self) -> str:
        return str(self._properties()["url"])

    def schema(self, schema_id: str) -> WrittenSchema:
        """schema_id: digits, or a GUID. Raises UnknownSchemaError, RegistryDownError."""

        with self._one_at_a_time:
            return self._asked(schema_id)

    def _asked(self, schema_id: str) -> WrittenSchema:
        client = self._client = self._client or _made(self._properties())
        from confluent_kafka.schema_registry import SchemaRegistryError

        try:
            found = client.get_schema(int(schema_id)) if schema_id.isdecimal() else client.get_schema_by_guid(schema_id)
            references = dict[str, str]()
            _follow(client, found, references)
            return WrittenSchema(found.schema_type or AVRO, found.schema_str, tuple(references.items()))
        except ConfigurationError:
            raise
        except SchemaRegistryError as error:
            if error.http_status_code == NOT_FOUND and error.error_code in UNKNOWN:
                raise UnknownSchemaError(str(error.error_message)) from error
            self._renew()
            raise RegistryDownError(f"it answers {error.http_status_code}: {_short(error.error_message)}") from error
        except Exception as error:
            self._renew()
            raise RegistryDownError(f"{type(error).__name__}: {_short(error)}") from error

    def _renew(self) -> None:
        """The next request is another client's: a secret may have been renewed, and nothing that went wrong is kept."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()


def _follow(client: Any, schema: Any, found: dict[str, str]) -> None:
    """Adds all schemas that this one refers to, by the name of each reference."""
    for reference in schema.references or ():
        if reference.name in found:
            continue
        if len(found) >= REFERENCES_MAX:
            raise RegistryDownError(f"a schema refers to more than {REFERENCES_MAX} others")
        inner = client.get_version(reference.subject, reference.version).schema
        _follow(client, inner, found)
        found[reference.name] = inner.schema_str


def _made(properties: dict[str, Any]) -> Any:
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise registry_extra_missing() from error
    try:
        return SchemaRegistryClient({"timeout": TIMEOUT_S, **properties})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ConfigurationError(
            f"the properties under schema_registry do not go together: {error}",
            expected="what confluent-kafka's SchemaRegistryClient takes",
            do="correct them",
            see="the-settings-are-wrong",
        ) from error


def registry_extra_missing() -> ConfigurationError:
    return ConfigurationError(
        "the packages for a schema registry are not installed",
        expected="those of the extra registry",
        do="pip install 'slotstream[registry]'",
        see="the-settings-are-wrong",
    )


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text[:200] or "no reason"
