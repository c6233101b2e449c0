"""The command `slotstream`: words to functions, errors to exit codes.

Responsible for the arguments, for printing results on standard output, and for the one place where an error becomes a
message and an exit code. Not responsible for doing anything: each command calls the room that does, and imports it only
then, because TensorFlow alone takes seconds and a mistyped option must be told at once.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 stopped on purpose, 130 interrupted.
"""

import argparse
import codecs
import importlib
import importlib.util
import json
import os
import secrets
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from processor.errors import ConfigurationError, SlotstreamError
from processor.logs import SECRETS
from processor.settings import ENV_CONFIG, Settings, config_file, keys, load_settings

if TYPE_CHECKING:
    from processor.tools.csv_file import Form
    from processor.tools.rows import Wanted

Command = Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. What is not a SlotstreamError is a bug, and keeps its traceback."""
    try:
        words, options = _settings_apart(sys.argv[1:] if argv is None else argv)
        arguments, rest = _parser().parse_known_args(words)
        command: Command = arguments.command
        return command(arguments, options + rest)
    except SlotstreamError as error:
        sys.stderr.write(f"slotstream: {SECRETS.hide(str(error))}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


# The commands.


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    from processor import logs
    from processor.metrics import Metrics

    logs.configure(settings.log.level, settings.log.format)
    recent = logs.keep_recent()
    from processor.service import Service
    from processor.web.pages import status_pages
    from processor.web.server import serve

    metrics = Metrics(with_process=True)
    service = Service(settings, metrics)
    with (
        status_pages(settings, metrics, service.probes, recent) as pages,
        serve(settings.http.host, settings.http.port, metrics, service.probes, pages),
    ):
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
        table.add_row("ok" if finding.good else "BAD", finding.what, SECRETS.hide(finding.found), SECRETS.hide(finding.do))
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


def _try(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, [*rest, f"--model.path={arguments.model}"])
    form, wanted = _of_csv(arguments)
    _quiet_clients()
    from processor.tools.try_model import try_model

    try:
        tried = try_model(settings, arguments.file, form, wanted, sys.stdout, output=arguments.output, plot=arguments.plot)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 1 if tried.errors.total() == tried.readings else 0


def _feed(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    form, wanted = _of_csv(arguments)
    _quiet_clients()
    from processor.tools.feed import Pace, feed

    fed = feed(settings, arguments.file, form, wanted, Pace(rate=arguments.rate, speed=arguments.speed), from_line=arguments.from_line)
    sys.stdout.write(f"{settings.input.topic}: {fed}\n")
    if fed.interrupted:
        sys.stdout.write(f"interrupted: go on with --from-line {fed.next_line}\n")
        return 130
    return 1 if fed.left_out and not fed.delivered else 0


def _state_list(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _warning_clients()
    from processor.tools.state import list_sensors

    wanted = {"partition": arguments.partition, "prefix": arguments.sensor, "limit": arguments.limit}
    return _print_lines(list_sensors(settings, **wanted, as_json=arguments.json, tell=_tell))


def _state_show(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _warning_clients()
    from processor.tools.state_show import show

    return _print_lines(show(settings, arguments.sensor, partition=arguments.partition, tell=_tell))


def _state_export(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _warning_clients()
    from processor.tools.state import export

    sys.stdout.write(f"{export(settings, arguments.file, partition=arguments.partition, tell=_tell)}\n")
    return 0


def _state_reset(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, rest)
    _warning_clients()
    from processor.tools.state_reset import find, send

    resets = find(settings, arguments.sensors, partition=arguments.partition, tell=_tell)
    if not arguments.yes and sys.stdin.isatty():
        for reset in resets:
            _tell(str(reset))
        if not _confirmed(f"Forget their readings, for good, in {settings.input.topic}? [y/N] "):
            _tell("nothing was sent")
            return 1
    return _print_lines(iter(send(settings, resets)))


def _confirmed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_lines(lines: Iterator[str]) -> int:
    """Each as soon as it is there: there may be a million."""
    try:
        for line in lines:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _tell(line: str) -> None:
    """What is no result."""
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")


def _warning_clients() -> None:
    """That a checkpoint was passed over is to be known by whoever looks into them."""
    from processor import logs

    logs.configure("warning", "console")


def _of_csv(arguments: argparse.Namespace) -> tuple["Form", "Wanted"]:
    from processor.tools.csv_file import Form
    from processor.tools.rows import Wanted

    return (
        Form(arguments.separator, arguments.encoding, header=not arguments.no_header),
        Wanted(
            key=arguments.key,
            sensor=arguments.sensor,
            columns=arguments.columns,
            timestamp=arguments.timestamp,
            timestamp_unit=arguments.timestamp_unit,
            timestamp_format=arguments.timestamp_format,
            decimal=arguments.decimal,
        ),
    )


def _quiet_clients() -> None:
    """What the Kafka client says on its way is no result; what fails comes as an error."""
    from processor import logs

    logs.configure("error", "console")


def _demo(_arguments: argparse.Namespace, rest: list[str]) -> int:
    if importlib.util.find_spec("processor.sandbox.demo") is None:
        raise ConfigurationError("there is no demo here", expected="a version that has it", do="see `slotstream --help`")
    return int(importlib.import_module("processor.sandbox.demo").main(rest))


def _plant(_arguments: argparse.Namespace, rest: list[str]) -> int:
    from processor.sandbox.plant import main as publish_plant

    return publish_plant(rest)


def _verify(arguments: argparse.Namespace, rest: list[str]) -> int:
    config = arguments.config or (Path(os.environ[ENV_CONFIG]) if os.environ.get(ENV_CONFIG) else None)
    SECRETS.keep(load_settings(config, rest, os.environ).secrets())
    _quiet_clients()
    from processor.tools.verify.run import Options, main

    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    faults = tuple(arguments.faults.split(",")) if arguments.faults else ()
    model = arguments.model or Path(__file__).resolve().parent / "sandbox" / "demo.keras"
    many = (arguments.minutes, arguments.kills, arguments.instances)
    return main(Options(seed, *many, model, faults, config, tuple(rest), arguments.rate))


def _plan(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(arguments, [*rest, f"--model.path={arguments.model}"] if arguments.model else rest)
    _quiet_clients()
    from processor.tools.plan import Wanted, lines, plan
    from processor.tools.plan_measure import measure

    wanted = Wanted(
        arguments.sensors,
        arguments.rate,
        partitions=arguments.partitions,
        instances=arguments.instances,
        key_bytes=arguments.key_bytes,
        steps=arguments.steps,
        replication=arguments.replication_factor,
    )
    found = plan(wanted, measure(settings, wanted), settings)
    return _print_lines(iter([json.dumps(found.as_json())] if arguments.json else lines(found)))


def _model_show(arguments: argparse.Namespace, rest: list[str]) -> int:
    _expect_nothing(rest)
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.load import describe_file

    found = describe_file(arguments.file, mode=arguments.mode, window=arguments.window, output=arguments.output)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print_pairs(found)
    return 0 if found["servable"] else 1


def _model_convert(arguments: argparse.Namespace, rest: list[str]) -> int:
    _expect_nothing(rest)
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.legacy import convert_file
    from processor.model.load import describe_file

    converted = convert_file(arguments.old, arguments.new, force=arguments.force)
    _print_pairs(
        {
            "saved by": f"Keras {converted.version}",
            "found": ", ".join(converted.layers),
            "changed": "; ".join(converted.changed) or "nothing",
            "left out": "optimizer, losses, initialisers, regularisers",
            "written": str(arguments.new),
            **describe_file(arguments.new),
        }
    )
    return 0


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


def _settings_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words, and the settings among them with their values: argparse would take such a value for a file's name."""
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


def _settings(arguments: argparse.Namespace, rest: list[str]) -> Settings:
    settings = load_settings(config_file(arguments.config, os.environ), rest, os.environ)
    SECRETS.keep(settings.secrets())
    sys.excepthook, threading.excepthook = _uncaught, lambda failed: _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)
    return settings


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """A bug's traceback, without what a library may have quoted in it."""
    sys.stderr.write(SECRETS.hide("".join(traceback.format_exception(kind, error, trace))))


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
    trial = _with_settings(commands, "try", _try, "run a model on a CSV, without a broker: predictions as CSV on standard output")
    trial.add_argument("model", type=Path, metavar="MODEL", help="the Keras file (in place of model.path)")
    _with_csv(trial)
    trial.add_argument("--output", type=Path, metavar="FILE", help="write the predictions there")
    trial.add_argument("--plot", type=Path, metavar="OUT.png", help="draw them (needs the extra plot)")
    feed = _with_settings(commands, "feed", _feed, "put a CSV on the input topic")
    _with_csv(feed)
    pace = feed.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_above_zero, metavar="N", help="readings a second (as fast as the broker takes them)")
    pace.add_argument("--speed", type=_speed, metavar="60x", help="as many times as fast as the readings' timestamps")
    feed.add_argument("--from-line", type=_positive, metavar="N", help="begin at this line of the file", default=1)
    _command(commands, "demo", _demo, "a whole plant on this machine: Kafka, sensors, the service")
    # Its options are its own, and so is their help.
    _command(commands, "plant", _plant, "publish a simulated plant's readings to a topic, until stopped", add_help=False)
    _with_state(commands)
    verify = _with_settings(commands, "verify", _verify, "break instances of the service on a real Kafka and compare every output")
    verify.add_argument("--seed", type=int, metavar="N", help="of the readings and of what is broken (a random one)")
    verify.add_argument("--minutes", type=_above_zero, metavar="M", help="how long to break things (10)", default=10.0)
    verify.add_argument("--kills", type=int, metavar="N", help="kill -9 instances so often at least (0)", default=0)
    verify.add_argument("--instances", type=_several, metavar="N", help="of the service (3)", default=3)
    verify.add_argument("--rate", type=_above_zero, metavar="R", help="readings a second (300)", default=300.0)
    verify.add_argument("--model", type=Path, metavar="FILE", help="the Keras file (the demo's)")
    verify.add_argument("--faults", metavar="A,B,C", help="only these (all)")
    sizes = _with_settings(commands, "plan", _plan, "tell what so many sensors take: memory, cores, partitions, disks, network")
    sizes.add_argument("--model", type=Path, metavar="FILE", help="the Keras file (in place of model.path)")
    sizes.add_argument("--sensors", type=_positive, metavar="N", required=True, help="of all instances")
    sizes.add_argument("--rate", type=_above_zero, metavar="R", required=True, help="readings a second, of all sensors")
    sizes.add_argument("--partitions", type=_positive, metavar="N", help="of the input topic (recommended)")
    sizes.add_argument("--instances", type=_positive, metavar="N", help="of the service (as many as the rate takes)")
    sizes.add_argument("--steps", type=_positive, metavar="N", help="readings in a record (1)", default=1)
    sizes.add_argument("--key-bytes", type=_positive, metavar="N", help="of a sensor's name (20)", default=20)
    sizes.add_argument("--replication-factor", type=_positive, metavar="N", help="of the topics (3)", default=3)
    sizes.add_argument("--json", action="store_true", help="one JSON object")
    of_models = commands.add_parser("model", help="look at a model file, convert an old one", allow_abbrev=False)
    model = of_models.add_subparsers(required=True, metavar="COMMAND")
    show = _command(model, "show", _model_show, "tell whether and how a model file is served")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--mode", metavar="MODE", default="auto", help="as model.mode: auto, carried or windowed")
    show.add_argument("--window", type=_positive, metavar="N", help="as model.window")
    show.add_argument("--output", metavar="STEPS", default="last", help="as model.output: last or all")
    show.add_argument("--json", action="store_true", help="one JSON object")
    convert = _command(model, "convert", _model_convert, "rebuild a file of Keras 1 or 2 for Keras 3")
    convert.add_argument("old", type=Path, metavar="OLD", help="a whole model: .h5, .hdf5 or .keras")
    convert.add_argument("new", type=Path, metavar="NEW.keras")
    convert.add_argument("--force", action="store_true", help="overwrite NEW.keras")
    return parser


class _Parser(argparse.ArgumentParser):
    """No abbreviations: a setting's name must not be taken for a shortened option."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def format_help(self) -> str:
        return super().format_help() + (f"\n{_settings_help()}" if self.get_default("has_settings") else "")


def _command(commands: Any, name: str, function: Command, help_text: str, **options: Any) -> argparse.ArgumentParser:
    description = f"{help_text[0].upper()}{help_text[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=description, **options)
    parser.set_defaults(command=function)
    return parser


def _with_settings(commands: Any, name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, function, help_text)
    parser.set_defaults(has_settings=True)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML settings (SLOTSTREAM_CONFIG, else config/slotstream.yaml if there)"
    )
    return parser


def _with_state(commands: Any) -> None:
    of_states = commands.add_parser("state", help="look at the sensors' states in the checkpoints, reset a sensor", allow_abbrev=False)
    state = of_states.add_subparsers(required=True, metavar="COMMAND")
    listing = _with_settings(state, "list", _state_list, "tell which sensors the newest checkpoints hold")
    listing.add_argument("--sensor", metavar="PREFIX", default="", help="only those whose names begin so")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument("--limit", type=_positive, metavar="N", help="at most so many sensors")
    show = _with_settings(state, "show", _state_show, "tell of one sensor's state, layer by layer")
    show.add_argument("sensor", metavar="SENSOR", help="its name, or 0x and hex where its key is no UTF-8")
    export = _with_settings(state, "export", _state_export, "write all state rows to a file")
    export.add_argument("file", type=Path, metavar="FILE.safetensors")
    reset = _with_settings(state, "reset", _state_reset, "make sensors begin anew, by a null record in the input")
    reset.add_argument("sensors", metavar="SENSOR", nargs="+", help="as for show")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    for parser in (listing, show, export, reset):
        parser.add_argument("--partition", type=_partition, metavar="N", help="of the input topic (all that have the sensor)")


def _with_csv(parser: argparse.ArgumentParser) -> None:
    """What a CSV's columns are, and how it is written."""
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="a row of names, then a reading a row")
    sensor = parser.add_mutually_exclusive_group(required=True)
    sensor.add_argument("--key", metavar="COLUMN", help="the column that names the sensor")
    sensor.add_argument("--sensor", metavar="NAME", help="the sensor that all rows are of")
    parser.add_argument("--columns", metavar="A,B", help="the features, in the model's order (all other columns, in file order)")
    parser.add_argument("--timestamp", metavar="COLUMN", help="the time of a reading; Date,Time for two columns")
    parser.add_argument("--timestamp-unit", choices=["auto", "s", "ms", "us", "ns"], default="auto", help="of numbers; Unix time (auto)")
    parser.add_argument("--timestamp-format", metavar="FORM", help="as of Python's strptime: '%%d/%%m/%%Y %%H:%%M:%%S'")
    parser.add_argument(
        "--separator", type=_separator, default="auto", metavar="NAME", help="comma, semicolon, tab, pipe, space or a character (auto)"
    )
    parser.add_argument("--decimal", choices=["auto", "comma", "point"], default="auto", help="1,5 or 1.5 (auto)")
    parser.add_argument("--encoding", type=_encoding, default="auto", metavar="NAME", help="utf-8, utf-16, latin-1, cp1252, others (auto)")
    parser.add_argument("--no-header", action="store_true", help="there is no row of names: the columns are 1, 2, 3")


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


def _partition(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _several(text: str) -> int:
    """Partitions move between at least two."""
    if not text.isdecimal() or not 2 <= int(text) <= 20:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 2 to 20")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


def _speed(text: str) -> float:
    """60x or 60."""
    return _above_zero(text.removesuffix("x"))


def _separator(text: str) -> str:
    from processor.tools.csv_file import SEPARATORS

    text = "tab" if text == "\\t" else text
    if text != "auto" and text not in SEPARATORS and (len(text) != 1 or text.isalnum() or text in '"\r\n'):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, {', '.join(SEPARATORS)} or one character")
    return text


def _encoding(text: str) -> str:
    try:
        return text if text == "auto" else codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, utf-8, utf-16, latin-1, cp1252 or another name") from None


if __name__ == "__main__":
    sys.exit(main())
