"""The sources of values: the YAML file, the environment and the command line, each flattened to dotted keys.

Responsible for every problem of a source: invalid YAML, unknown keys, duplicate keys. Not responsible for the values, which the schema
validates once the sources are merged.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from processor.settings.kafka import is_secret, kafka_key
from processor.settings.keys import CLIENTS, keys, sections
from processor.settings.model_path import open_secret
from processor.settings.values import reason_of

ENV_PREFIX = "SLOTSTREAM_"
ENV_CONFIG = "SLOTSTREAM_CONFIG"
NOT_HERE = "expected {file: PATH} as its value, or the secret in the environment or in the YAML file"

# Kubernetes adds these variables to every pod in the namespace of a Service named slotstream: they are addresses, not settings.
_SERVICE_LINK = re.compile(r"SLOTSTREAM_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
FILE_TEXT = re.compile(r"\{\s*file:\s*(?P<path>[^{}]+?)\s*\}")


@dataclass(frozen=True, slots=True)
class Given:
    where: str  # the source, and the key as that source spells it
    value: Any


class Sources:
    """Flattens each source to dotted keys, and collects all problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._sections = set(sections())
        self._known = [key.name for key in keys()]

    def yaml_file(self, path: Path) -> dict[str, Given]:
        def walk(prefix: str, mapping: Mapping[Any, Any]) -> Iterator[tuple[str, str, Any]]:
            for name, value in mapping.items():
                key = f"{prefix}{name}"
                if not prefix and (name in self._sections or name in CLIENTS) and (isinstance(value, Mapping) or value is None):
                    yield from walk(f"{name}.", value or {})
                else:
                    yield key, f"{path}: {key}", value

        try:
            return self._collect(walk("", _read_yaml(path)), str, once=True)
        except _UnreadableError as error:
            self.problems.append(f"{path}: {error}")
            return {}

    def environment(self, environ: Mapping[str, str]) -> dict[str, Given]:
        def walk() -> Iterator[tuple[str, str, Any]]:
            for name, text in environ.items():
                if name.upper().startswith(ENV_PREFIX) and name.upper() != ENV_CONFIG and not _SERVICE_LINK.fullmatch(name):
                    key = name[len(ENV_PREFIX) :].lower().replace("__", ".", 1)
                    yield key, f"environment: {name}", _from_text(key, text)

        return self._collect(walk(), lambda key: ENV_PREFIX + key.upper().replace(".", "__"), once=True)

    def options(self, words: Sequence[str]) -> dict[str, Given]:
        return self._collect(self._options(list(words)), lambda key: f"--{key}", once=False)

    def _options(self, words: list[str]) -> Iterator[tuple[str, str, Any]]:
        while words:
            option, equals, text = words.pop(0).partition("=")
            if not option.startswith("--") or option == "--":
                self.problems.append(f"command line: found {option}, expected an option such as --input.topic")
                continue
            if not equals and (not words or words[0].startswith("--")):
                self.problems.append(f"command line: {option}: found no value, expected {option} VALUE")
                continue
            key, text = option[2:], text if equals else words.pop(0)
            if key in CLIENTS:
                client, (name, equals, text) = key, text.partition("=")
                if not equals:
                    self.problems.append(f"command line: --{client}: found no equals sign, expected --{client} KEY=VALUE")
                    continue
                key, option = f"{client}.{name}", f"--{client} {name}"
            if key.partition(".")[0] in CLIENTS and is_secret(key) and not FILE_TEXT.fullmatch(text):
                self.problems.append(f"command line: {option}: found a secret, which every user of this machine can see there, {NOT_HERE}")
                continue
            if key == "model.store" and open_secret(text):
                self.problems.append(f"command line: {option}: found a secret, which every user of this machine can see there, {NOT_HERE}")
                continue
            yield key, f"command line: {option}", _from_text(key, text)

    def _collect(self, found: Iterable[tuple[str, str, Any]], spell: Callable[[str], str], *, once: bool) -> dict[str, Given]:
        given: dict[str, Given] = {}
        for key, where, value in found:
            section, _, rest = key.partition(".")
            if section in CLIENTS and "=" in rest:  # sasl.password=... in place of a key: the message must not repeat it
                self.problems.append(f"{where.partition('=')[0]}: found an equals sign in a key, expected the key and its value apart")
                continue
            if section in CLIENTS and rest:
                key = f"{section}.{kafka_key(rest)}"
            elif key in self._sections or key in CLIENTS:
                self.problems.append(f"{where}: found {kind(value)}, expected {key} to hold keys: {spell(self._first_in(key))} and others")
                continue
            elif key not in self._known:
                self.problems.append(f"{where}: unknown key{self._nearest(key, value, spell)}")
                continue
            if once and key in given:
                self.problems.append(f"{where}: the key was given already, as {given[key].where.partition(': ')[2]}, expected it once")
            given[key] = Given(where, value)
        return given

    def _first_in(self, section: str) -> str:
        of_clients = {"kafka": "kafka.bootstrap.servers", "schema_registry": "schema_registry.url"}
        return of_clients.get(section) or next(known for known in self._known if known.startswith(f"{section}."))

    def _nearest(self, key: str, value: Any, spell: Callable[[str], str]) -> str:
        if isinstance(value, Mapping) and (of := difflib.get_close_matches(key, sorted({*self._sections, *CLIENTS}), 1)):
            return f", the nearest that holds keys is {spell(of[0])}"
        last = key.rpartition(".")[2]
        near = difflib.get_close_matches(key, self._known, 1, 0.75) or [known for known in self._known if known.rpartition(".")[2] == last]
        near = near or difflib.get_close_matches(key, self._known, 1, 0.5)
        return f", the nearest is {spell(near[0])}" if near else ", expected one that `slotstream run --help` lists"


class _UnreadableError(Exception):
    """The reason why a file cannot be used, without quoting the file."""


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"found {reason_of(error)}, expected a readable YAML file") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _UnreadableError(_yaml_problem(error)) from None
    if content is not None and not isinstance(content, Mapping):
        raise _UnreadableError(f"found {kind(content)}, expected keys and values")
    return content or {}


class _UniqueKeys(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML silently keeps only the last, so that half a section could be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: Exception) -> str:
    """Reports only the position and the duplicate key, because the parser's own message quotes the file, including secrets."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = str(getattr(error, "problem", ""))
    if problem.endswith("stands twice"):
        return f"{place}{problem}, expected it once"
    if "'\\t'" in problem:
        return f"{place}found a tab, expected spaces: YAML has no tabs before a key"
    return f"{place}found something that is not YAML, expected `key: value` (values with : # * & ! % @ or braces need quotes)"


def _from_text(key: str, text: str) -> Any:
    """Values other than text in the environment and on the command line: null, and the file of a secret."""
    if key.partition(".")[0] in CLIENTS:
        match = FILE_TEXT.fullmatch(text)
        return {"file": match["path"]} if match else text
    return None if text == "null" else text


def kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "keys and values"
    return "a list" if isinstance(value, list) else "a single value" if value is not None else "nothing"
