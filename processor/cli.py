"""The command `slotstream`: words to functions, errors to exit codes.

Responsible for the arguments, for printing results on standard output, and for the one place where an error becomes a
message and an exit code. Not responsible for doing anything: each command calls the room that does, and imports it only
then, because TensorFlow alone takes seconds and a mistyped option must be told at once.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 stopped on purpose, 130 interrupted.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processor.errors import ConfigurationError, SlotstreamError
from processor.settings import Settings, config_file, keys, load_settings

Command = Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. What is not a SlotstreamError is a bug, and keeps its traceback."""
    try:
        arguments, rest = _parser().parse_known_args(argv)
        command: Command = arguments.command
        return command(arguments, rest)
    except SlotstreamError as error:
        sys.stderr.write(f"slotstream: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


# The commands.


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    from processor import logs
    from processor.metrics import Metrics

    logs.configure(settings.log.level, settings.log.format)
    from processor.service import Service
    from processor.web.server import serve

    metrics = Metrics()
    service = Service(settings, metrics)
    with serve(settings.http.host, settings.http.port, metrics, service.probes):
        return service.run()


def _check(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _quiet_clients()
    from rich.console import Console
    from rich.table import Table

    from processor.tools.check import check

    findings = check(settings)
    table = Table("", "what", "found", "to do")
    for finding in findings:
        table.add_row("ok" if finding.good else "BAD", finding.what, finding.found, finding.do)
    # What was found is printed as it is: [x] in a broker's answer is no style. A file is not as narrow as a terminal.
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 200).print(table)
    return 0 if all(finding.good for finding in findings) else 1


def _init(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _quiet_clients()
    from processor.stream import admin

    for line in admin.init(settings, arguments.partitions, arguments.replication_factor):
        sys.stdout.write(f"{line}\n")
    return 0


def _quiet_clients() -> None:
    """What the Kafka client says on its way is no result; what fails comes as an error."""
    from processor import logs

    logs.configure("error", "console")


def _demo(_arguments: argparse.Namespace, rest: list[str]) -> int:
    if importlib.util.find_spec("processor.sandbox.demo") is None:
        raise ConfigurationError("there is no demo here", expected="a version that has it", do="see `slotstream --help`")
    return int(importlib.import_module("processor.sandbox.demo").main(rest))


def _model_show(arguments: argparse.Namespace, rest: list[str]) -> int:
    _expect_nothing(rest)
    from processor.model.load import describe_file

    found = describe_file(arguments.file, mode=arguments.mode, window=arguments.window, output=arguments.output)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print_pairs(found)
    return 0 if found["servable"] else 1


def _print_pairs(found: dict[str, Any]) -> None:
    width = max(map(len, found)) + 2
    for key, value in found.items():
        lines = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        for line in lines:
            sys.stdout.write(f"{key:{width}}{_readable(line)}\n")
            key = ""


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)


# The arguments.


def _settings(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    return load_settings(config_file(arguments.config, os.environ), rest, os.environ)


def _expect_nothing(rest: list[str]) -> None:
    if rest:
        raise ConfigurationError(f"found {' '.join(rest)}", expected="nothing more", do="see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="slotstream", description="Puts a recurrent Keras model on a Kafka topic.")
    parser.add_argument("--version", action="version", version=f"slotstream {version('slotstream')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _with_settings(commands, "run", _run, "read the input topic, write predictions, until stopped")
    _with_settings(commands, "check", _check, "tell what is right and wrong with settings, model, broker and topics")
    init = _with_settings(commands, "init", _init, "create the topics that are missing")
    init.add_argument("--partitions", type=_positive, metavar="N", help="of the input topic (8)", default=8)
    init.add_argument("--replication-factor", type=_positive, metavar="N", help="of new topics (the broker's default)")
    _command(commands, "demo", _demo, "a whole plant on this machine: Kafka, sensors, the service")
    model = commands.add_parser("model", help="look at a model file", allow_abbrev=False).add_subparsers(required=True, metavar="COMMAND")
    show = _command(model, "show", _model_show, "tell whether and how a model file is served")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--mode", metavar="MODE", default="auto", help="as model.mode: auto, carried or windowed")
    show.add_argument("--window", type=_positive, metavar="N", help="as model.window")
    show.add_argument("--output", metavar="STEPS", default="last", help="as model.output: last or all")
    show.add_argument("--json", action="store_true", help="one JSON object")
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviations: a setting's name must not be taken for a shortened option."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def format_help(self) -> str:
        return super().format_help() + (f"\n{_settings_help()}" if self.get_default("has_settings") else "")


def _command(commands: Any, name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
    parser.set_defaults(command=function)
    return parser


def _with_settings(commands: Any, name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, function, help_text)
    parser.set_defaults(has_settings=True)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML settings (SLOTSTREAM_CONFIG, else config/slotstream.yaml if there)"
    )
    return parser


def _settings_help() -> str:
    lines = [
        "settings, each also a key of the YAML file and an environment variable (SLOTSTREAM_INPUT__TOPIC):",
        "  --kafka KEY=VALUE, again for each",
    ]
    for key in keys():
        if key.name != "kafka":
            lines.append(f"  --{key.name} (default {key.default})")
        lines += textwrap.wrap(f"{key.meaning}. Allowed: {key.allowed}.", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
