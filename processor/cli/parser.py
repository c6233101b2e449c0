"""Words to arguments: every command, its options, and its help."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processor.cli import commands
from processor.cli.given import settings_help
from processor.cli.types import above_zero, encoding, partition, positive, separator, several, speed

Command = Callable[[argparse.Namespace, list[str]], int]


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="slotstream", description="Puts a recurrent Keras model on a Kafka topic.")
    parser.add_argument("--version", action="version", version=f"slotstream {version('slotstream')}")
    of_all = parser.add_subparsers(required=True, metavar="COMMAND")
    _with_settings(of_all, "run", commands.run, "read the input topic, write predictions, until stopped")
    _with_settings(of_all, "check", commands.check, "tell what is right and wrong with settings, model, broker and topics")
    init = _with_settings(of_all, "init", commands.init, "create the topics that are missing")
    init.add_argument("--partitions", type=positive, metavar="N", help="of the input topic (8)", default=8)
    init.add_argument("--replication-factor", type=positive, metavar="N", help="of new topics (the broker's default)")
    trial = _with_settings(of_all, "try", commands.try_csv, "run a model on a CSV, without a broker: predictions as CSV on standard output")
    trial.add_argument("model", type=Path, metavar="MODEL", help="the Keras file (in place of model.path)")
    _with_csv(trial)
    trial.add_argument("--output", type=Path, metavar="FILE", help="write the predictions there")
    trial.add_argument("--plot", type=Path, metavar="OUT.png", help="draw them (needs the extra plot)")
    feed = _with_settings(of_all, "feed", commands.feed, "put a CSV on the input topic")
    _with_csv(feed)
    pace = feed.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=above_zero, metavar="N", help="readings a second (as fast as the broker takes them)")
    pace.add_argument("--speed", type=speed, metavar="60x", help="as many times as fast as the readings' timestamps")
    feed.add_argument("--from-line", type=positive, metavar="N", help="begin at this line of the file", default=1)
    _with_plants(of_all)
    _with_state(of_all)
    verify = _with_settings(of_all, "verify", commands.verify, "break instances of the service on a real Kafka and compare every output")
    verify.add_argument("--seed", type=int, metavar="N", help="of the readings and of what is broken (a random one)")
    verify.add_argument("--minutes", type=above_zero, metavar="M", help="how long to break things (10)", default=10.0)
    verify.add_argument("--kills", type=int, metavar="N", help="kill -9 instances so often at least (0)", default=0)
    verify.add_argument("--instances", type=several, metavar="N", help="of the service (3)", default=3)
    verify.add_argument("--brokers", type=int, choices=(1, 3), help="of the Kafka that is broken: one, or a cluster (1)", default=1)
    verify.add_argument("--rate", type=above_zero, metavar="R", help="readings a second (300)", default=300.0)
    verify.add_argument("--model", type=Path, metavar="FILE", help="the Keras file (the demo's)")
    verify.add_argument("--faults", metavar="A,B,C", help="only these (all)")
    sizes = _with_settings(of_all, "plan", commands.plan, "tell what so many sensors take: memory, cores, partitions, disks, network")
    sizes.add_argument("--model", type=Path, metavar="FILE", help="the Keras file (in place of model.path)")
    sizes.add_argument("--sensors", type=positive, metavar="N", required=True, help="of all instances")
    sizes.add_argument("--rate", type=above_zero, metavar="R", required=True, help="readings a second, of all sensors")
    sizes.add_argument("--partitions", type=positive, metavar="N", help="of the input topic (recommended)")
    sizes.add_argument("--instances", type=positive, metavar="N", help="of the service (as many as the rate takes)")
    sizes.add_argument("--steps", type=positive, metavar="N", help="readings in a record (1)", default=1)
    sizes.add_argument("--key-bytes", type=positive, metavar="N", help="of a sensor's name (20)", default=20)
    sizes.add_argument("--replication-factor", type=positive, metavar="N", help="of the topics (3)", default=3)
    sizes.add_argument("--json", action="store_true", help="one JSON object")
    of_models = of_all.add_parser("model", help="look at a model file, convert an old one", allow_abbrev=False)
    model = of_models.add_subparsers(required=True, metavar="COMMAND")
    show = _command(model, "show", commands.model_show, "tell whether and how a model file is served")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--mode", metavar="MODE", default="auto", help="as model.mode: auto, carried or windowed")
    show.add_argument("--window", type=positive, metavar="N", help="as model.window")
    show.add_argument("--output", metavar="STEPS", default="last", help="as model.output: last or all")
    show.add_argument("--json", action="store_true", help="one JSON object")
    convert = _command(model, "convert", commands.model_convert, "rebuild a file of Keras 1 or 2 for Keras 3")
    old = "a whole model: .h5, .hdf5, .keras or the folder of a SavedModel; or ARCHITECTURE.json WEIGHTS.h5"
    convert.add_argument("old", type=Path, metavar="OLD", nargs="+", help=old)
    convert.add_argument("new", type=Path, metavar="NEW.keras")
    convert.add_argument("--force", action="store_true", help="overwrite NEW.keras")
    return parser


class Parser(argparse.ArgumentParser):
    """No abbreviations: a setting's name must not be taken for a shortened option."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def format_help(self) -> str:
        return super().format_help() + (f"\n{settings_help()}" if self.get_default("has_settings") else "")


def _command(among: Any, name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    description = f"{help_text[0].upper()}{help_text[1:]}."
    parser: argparse.ArgumentParser = among.add_parser(name, help=help_text, description=description)
    parser.set_defaults(command=function)
    return parser


def _with_settings(among: Any, name: str, function: Command, help_text: str) -> argparse.ArgumentParser:
    parser = _command(among, name, function, help_text)
    parser.set_defaults(has_settings=True)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML settings (SLOTSTREAM_CONFIG, else config/slotstream.yaml if there)"
    )
    return parser


def _with_plants(among: Any) -> None:
    demo = _command(among, "demo", commands.demo, "a whole plant on this machine: Kafka, sensors, the service")
    demo.add_argument("--seconds", type=above_zero, help="run this long after the service is first ready (default: until Ctrl-C)")
    demo.add_argument("--crash", type=above_zero, metavar="SECONDS", help="kill -9 the service this long after each time it is ready")
    plant = _command(among, "plant", commands.plant, "publish a simulated plant's readings to a topic, until stopped")
    plant.add_argument("--bootstrap", required=True, help="HOST:PORT of a Kafka broker")
    plant.add_argument("--topic", default="readings", help="where the readings go (readings)")
    plant.add_argument("--seconds", type=above_zero, help="stop after this long (default: at SIGTERM or Ctrl-C)")
    for parser in (demo, plant):
        parser.add_argument("--rate", type=above_zero, default=2000, help="readings a second, all sensors together (2000)")
        parser.add_argument("--sensors", type=positive, default=500, help="machines in the plant (500)")
        parser.add_argument("--seed", type=int, default=1, help="of the plant (1)")


def _with_state(among: Any) -> None:
    of_states = among.add_parser("state", help="look at the sensors' states in the checkpoints, reset a sensor", allow_abbrev=False)
    state = of_states.add_subparsers(required=True, metavar="COMMAND")
    listing = _with_settings(state, "list", commands.state_list, "tell which sensors the newest checkpoints hold")
    listing.add_argument("--sensor", metavar="PREFIX", default="", help="only those whose names begin so")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument("--limit", type=positive, metavar="N", help="at most so many sensors")
    show = _with_settings(state, "show", commands.state_show, "tell of one sensor's state, layer by layer")
    show.add_argument("sensor", metavar="SENSOR", help="its name, or 0x and hex where its key is no UTF-8")
    export = _with_settings(state, "export", commands.state_export, "write all state rows to a file")
    export.add_argument("file", type=Path, metavar="FILE.safetensors")
    reset = _with_settings(state, "reset", commands.state_reset, "make sensors begin anew, by a null record in the input")
    reset.add_argument("sensors", metavar="SENSOR", nargs="+", help="as for show")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    for parser in (listing, show, export, reset):
        parser.add_argument("--partition", type=partition, metavar="N", help="of the input topic (all that have the sensor)")


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
        "--separator", type=separator, default="auto", metavar="NAME", help="comma, semicolon, tab, pipe, space or a character (auto)"
    )
    parser.add_argument("--decimal", choices=["auto", "comma", "point"], default="auto", help="1,5 or 1.5 (auto)")
    parser.add_argument(
        "--missing", action="append", default=[], metavar="VALUE", help="what stands for no number, such as -200; again for each"
    )
    parser.add_argument("--encoding", type=encoding, default="auto", metavar="NAME", help="utf-8, utf-16, latin-1, cp1252, others (auto)")
    parser.add_argument("--no-header", action="store_true", help="there is no row of names: the columns are 1, 2, 3")
