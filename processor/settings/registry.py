"""The section `schema_registry`: the properties of the registry's client, which of them are numbers, and which are secret.

As kafka.py, whose spelling of keys, secrets and {file: PATH} it shares.
"""

import difflib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from pydantic import SecretStr, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from processor.settings.kafka import is_secret, kafka_key, secret_file

NUMBERS = {"timeout", "cache.capacity", "cache.latest.ttl.sec", "max.retries", "retries.wait.ms", "retries.max.wait.ms"}
# What confluent-kafka's SchemaRegistryClient takes; those of a function in Python are of no use in a file.
KNOWN = NUMBERS | {
    "url",
    "proxy",
    "ssl.ca.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.certificate.location",
    "basic.auth.user.info",
    "bearer.auth.credentials.source",
    "bearer.auth.token",
    "bearer.auth.logical.cluster",
    "bearer.auth.identity.pool.id",
    "bearer.auth.client.id",
    "bearer.auth.client.secret",
    "bearer.auth.scope",
    "bearer.auth.issuer.endpoint.url",
    "bearer.auth.issuer.endpoint.query",
}
URL_WORDS = "http:// or https:// and a host, several separated by commas"


def registry_properties(given: Any, source: Any) -> dict[str, str | SecretStr]:
    """The properties as text, secrets wrapped; those that are null are left out. Raises ValidationError, PydanticCustomError.

    source: the section input, which says whether records have a schema; None if it was refused.
    """
    if not isinstance(given, Mapping):
        raise PydanticCustomError("expected", "expected {words}", {"words": "the properties of the registry's client and their values"})
    read: dict[str, str | SecretStr] = {}
    problems: list[InitErrorDetails] = []
    for key, value in given.items():
        try:
            if value is not None:
                read[kafka_key(key)] = _value(kafka_key(key), value)
        except PydanticCustomError as problem:
            problems.append({"type": problem, "loc": (kafka_key(key),), "input": value})
    if problems:
        raise ValidationError.from_exception_data("schema_registry", problems)
    if source is not None:
        _check_source(source.format, source.value_schema, read)
    return read


def _check_source(format_: str, file: Any, properties: Mapping[str, Any]) -> None:
    """Records of a schema need one, from a file or from a registry, and no other needs any. Raises PydanticCustomError."""
    context = {"key": "schema_registry.url", "found": None}
    if format_ not in ("json", "float32") and file is None and "url" not in properties:
        words = f"the registry's address, or input.schema with a schema file (input.format: {format_})"
        raise PydanticCustomError("expected", "expected {words}", {**context, "words": words})
    if file is not None and "url" in properties:
        words = "null with input.schema: records have a registry's frame, or one schema that is known from the file"
        raise PydanticCustomError("expected", "expected {words}", {**context, "words": words, "found": properties["url"]})


def client_properties(properties: Mapping[str, str]) -> dict[str, Any]:
    """As the client takes them: its numbers as numbers."""
    return {key: float(value) if key in NUMBERS else value for key, value in properties.items()}


def _value(key: str, value: Any) -> str | SecretStr:
    if key not in KNOWN:
        near = difflib.get_close_matches(key, sorted(KNOWN), 1, 0.3)
        context = {"near": near[0] if near else "url"}
        raise PydanticCustomError("refused", "the registry's client has no such property, the nearest is {near}", context)
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, Mapping) and set(value) == {"file"} and isinstance(value["file"], str):
        return secret_file(value["file"])
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value) or not str(value):
        raise PydanticCustomError("expected", "expected {words}", {"words": "text, a number, or {file: PATH}"})
    if key in NUMBERS:
        _check_number(str(value))
    if key == "url":
        _check_url(str(value))
    return SecretStr(str(value)) if is_secret(key) else str(value)


def _check_number(text: str) -> None:
    try:
        good = 0 <= float(text) < float("inf")
    except ValueError:
        good = False
    if not good:
        raise PydanticCustomError("expected", "expected {words}", {"words": "a number, 0 or more"})


def _check_url(text: str) -> None:
    for url in text.split(","):
        found = urlparse(url.strip())
        if found.scheme not in ("http", "https") or not found.hostname:
            raise PydanticCustomError("expected", "expected {words}", {"words": URL_WORDS})
        if found.username is not None or found.password is not None:
            context = {"found": f"{found.scheme}://...@{found.hostname}"}
            raise PydanticCustomError("refused", "expected no user in it: set basic.auth.user.info to user:password instead", context)
