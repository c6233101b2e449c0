"""The list of all settings, for the sources, --help and docs/configuration.md."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from processor.settings.schema import Settings
from processor.settings.section import Section
from processor.settings.values import Allowed, format_duration

# The sections whose keys are a client's own properties.
CLIENTS = ("kafka", "schema_registry")


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `default` and `allowed` are written as in YAML."""

    name: str
    default: str
    allowed: str
    meaning: str


def sections() -> dict[str, type[Section]]:
    """The keys that contain other keys."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def keys() -> Iterator[Key]:
    """Every setting in the order of the configuration file."""
    parts = sections()
    for name, field in Settings.model_fields.items():
        if name in parts:
            yield from (_described(f"{name}.{part.alias or inner}", part) for inner, part in parts[name].model_fields.items())
        else:
            yield _described(name, field)


def _described(name: str, field: FieldInfo) -> Key:
    allowed = next((extra for extra in field.metadata if isinstance(extra, Allowed)), None)
    words = allowed.words if allowed else "text, a number, true, false, or {file: PATH}"
    is_duration = words.startswith("a duration") and field.default is not None
    default = format_duration(field.default) if is_duration else as_yaml(field.default)
    return Key(name, default, words, field.description or "")


def as_yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'{key}: "{inner}"' for key, inner in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
