"""Merges the sources and validates the result: reports all mistakes at once, each with its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from processor.errors import ConfigurationError
from processor.settings.kafka import is_secret
from processor.settings.keys import as_yaml
from processor.settings.schema import Settings
from processor.settings.sources import ENV_CONFIG, Given, Sources, kind

CONFIG_DEFAULT = Path("config/slotstream.yaml")


def config_file(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """--config, or SLOTSTREAM_CONFIG, or config/slotstream.yaml in the working directory if it exists."""
    if explicit is not None:
        return explicit
    if named := environ.get(ENV_CONFIG):
        return Path(named)
    return CONFIG_DEFAULT if CONFIG_DEFAULT.is_file() else None


def load_settings(config: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Loads YAML file < environment < command line. Raises one ConfigurationError with the problems of all three."""
    sources = Sources()
    given = (sources.yaml_file(config) if config else {}) | sources.environment(environ) | sources.options(overrides)
    settings, problems = None, sources.problems
    try:
        settings = Settings(**_nested(given))
    except ValidationError as error:
        problems = problems + [_sentence(details, given) for details in error.errors(include_url=False)]
    if settings is None or problems:
        raise _as_error(problems)
    return settings


def _nested(given: Mapping[str, Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, one in given.items():
        section, _, rest = key.partition(".")
        if rest:
            tree.setdefault(section, {})[rest] = one.value
        else:
            tree[key] = one.value
    return tree


def _sentence(details: ErrorDetails, given: Mapping[str, Given]) -> str:
    context = details.get("ctx", {})
    key = context.get("key") or ".".join(str(part) for part in details["loc"])
    source = given.get(key)
    where = source.where if source else f"default: {key}"
    return f"{where}: found {_shown(key, context.get('found', details['input']))}, {details['msg']}"


def _shown(key: str, value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"file"}:
        return f"{{file: {value['file']}}}"
    if isinstance(value, Mapping | list):
        return kind(value)
    if is_secret(key) or key == "model.store" or isinstance(value, SecretStr):
        return "a value (hidden)"
    text = repr(value) if isinstance(value, str) else as_yaml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_error(problems: Sequence[str]) -> ConfigurationError:
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return ConfigurationError(
        "\n  - ".join([f"{count} in the settings:", *problems]),
        expected="the keys and values that docs/configuration.md and `slotstream run --help` list",
        do="correct them and start again",
        see="the-settings-are-wrong",
    )
