"""model.path, model.store: where the model file lies, here or elsewhere, and what it takes to read it from there.

As values.py, which has the values of most other settings: no source, no default. Must not open or fetch anything.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from processor.settings.kafka import FileSecret, is_secret
from processor.settings.values import Allowed, listed

WORDS = (
    "the path of a Keras model file, or s3://BUCKET/KEY, gs://BUCKET/KEY, https://HOST/PATH, mlflow:models:/NAME/VERSION, "
    "mlflow:models:/NAME@ALIAS"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|models:/)")
_MLFLOW = re.compile(r"mlflow:models:/(?P<name>[^/@:]+)(/(?P<version>\d+)|@(?P<alias>[^/@:]+))")


class Location(str):
    """A model file that lies elsewhere, as the settings name it."""

    __slots__ = ()

    @property
    def scheme(self) -> str:
        return self.partition(":")[0]

    @property
    def name(self) -> str:
        """Its last part, without a query."""
        return self.shown.rstrip("/").rpartition("/")[2]

    @property
    def shown(self) -> str:
        """Without what may be a secret: the query and the user of an address."""
        if self.scheme != "https":
            return str(self)
        parts = urlsplit(self)
        return f"https://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def registered(self) -> tuple[str, str | None, str | None]:
        """Name, version and alias of a model in an MLflow registry."""
        found = _MLFLOW.fullmatch(self)
        if found is None:
            raise ValueError(self)
        return found["name"], found["version"], found["alias"]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)


def model_path() -> Allowed:
    def parse(value: Any) -> Path | Location:
        if isinstance(value, Path):
            return value
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        if not _SCHEME.match(value):
            return Path(value)
        good = _MLFLOW.fullmatch(value) or re.fullmatch(r"(s3|gs|https)://[^/\s]+/\S+", value)
        if not good:
            raise ValueError
        return Location(value)

    return Allowed(WORDS, parse)


def store_options() -> Allowed:
    def parse(value: Any) -> dict[str, str | SecretStr]:
        found = listed(value)
        if not isinstance(found, Mapping):
            raise ValueError
        return {str(key): _option(str(key), of) for key, of in found.items()}

    return Allowed("{OPTION: text, or {file: PATH} for a secret}", parse)


def _option(key: str, value: Any) -> str | SecretStr:
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, Mapping):
        if set(value) != {"file"} or not isinstance(value["file"], str):
            raise ValueError
        try:
            return FileSecret(Path(value["file"]))
        except OSError as error:
            raise ValueError from error
    if not isinstance(value, str | int | float | bool):
        raise TypeError
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return SecretStr(text) if _is_secret(key) else text


def open_secret(text: str) -> bool:
    """Whether options as one line of YAML hold a secret in clear text."""
    try:
        found = listed(text)
    except ValueError:
        return is_secret(text)
    return isinstance(found, Mapping) and any(_is_secret(str(key)) and not isinstance(value, Mapping) for key, value in found.items())


def _is_secret(key: str) -> bool:
    return is_secret(key) or key.endswith("access_key_id")
