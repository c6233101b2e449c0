"""Separates the settings from a command's other arguments, and registers their secrets, so that they are never printed."""

import argparse
import os
import sys
import textwrap
import threading
import traceback
from collections.abc import Sequence
from types import TracebackType

from processor.errors import ConfigurationError
from processor.logs import SECRETS
from processor.settings import CLIENTS, Settings, config_file, keys, load_settings


def settings_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other arguments, and the settings with their values, which argparse could mistake for a file name."""
    names = {key.name for key in keys()}
    left, options = list[str](), list[str]()
    to_come = list(words)
    while to_come:
        word = to_come.pop(0)
        option, equals, _ = word.partition("=")
        if not option.startswith("--") or not (option[2:] in names or "." in option):
            left.append(word)
            continue
        options.append(word)
        if not equals and to_come and not to_come[0].startswith("--"):
            options.append(to_come.pop(0))
    return left, options


def settings_of(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    settings = load_settings(config_file(arguments.config, os.environ), rest, os.environ)
    SECRETS.keep(settings.secrets())
    sys.excepthook, threading.excepthook = uncaught, lambda failed: uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)
    return settings


def uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Prints the traceback of a bug, without secrets that a library may have quoted."""
    sys.stderr.write(SECRETS.hide("".join(traceback.format_exception(kind, error, trace))))


def expect_nothing(rest: list[str]) -> None:
    if rest:
        raise ConfigurationError(f"found {' '.join(rest)}", expected="nothing more", do="see --help")


OF_MODEL_FILES = ("--model.code", "--model.store", "--model.cache")


def settings_of_model(rest: list[str], file: str) -> Settings:
    """Those that a command on one model file takes, and the file as its model.path."""
    expect_nothing([word for word in rest if word.startswith("--") and word.partition("=")[0] not in OF_MODEL_FILES])
    settings = load_settings(None, [*rest, f"--model.path={file}"], {})
    SECRETS.keep(settings.secrets())
    return settings


def settings_help() -> str:
    lines = [
        "settings, each also a key of the YAML file and an environment variable (SLOTSTREAM_INPUT__TOPIC):",
    ]
    for key in keys():
        lines.append(f"  --{key.name} KEY=VALUE, again for each" if key.name in CLIENTS else f"  --{key.name} (default {key.default})")
        lines += textwrap.wrap(f"{key.meaning}. Allowed: {key.allowed}.", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"
