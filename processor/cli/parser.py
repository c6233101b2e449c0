"""The argument parser: every command, its options, and its help."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processor.cli import commands
from processor.cli.given import settings_help
from processor.cli.types import a_day, above_zero, bins, encoding, partition, positive, separator, several, speed

Command = Callable[[argparse.Namespace, list[str]], int]


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="slotstream", description="Puts a recurrent Keras model on a Kafka topic.")
    parser.add_argument("--version", action="version", version=f"slotstream {version('slotstream')}")
    of_all = parser.add_subparsers(required=True, metavar="COMMAND")
    _with_settings(of_all, "run", commands.run, "read the input topic and write predictions, until stopped")
    _with_settings(of_all, "check", commands.check, "check settings, model, broker and topics, and report the findings")
    init = _with_settings(of_all, "init", commands.init, "create the missing topics")
    init.add_argument("--partitions", type=positive, metavar="N", help="number of partitions of the input topic (8)", default=8)
    init.add_argument("--replication-factor", type=positive, metavar="N", help="replicas of new topics (the broker's default)")
    trial = _with_settings(of_all, "try", commands.try_csv, "run a model on a CSV file without a broker; prints predictions as CSV")
    trial.add_argument("model", metavar="MODEL", help="the Keras file, instead of model.path")
    _with_csv(trial)
    trial.add_argument("--output", type=Path, metavar="FILE", help="write the predictions to this file")
    trial.add_argument("--plot", type=Path, metavar="OUT.png", help="plot the predictions, scores and alarms (needs the extra plot)")
    trial.add_argument(
        "--labels",
        metavar="COLUMN|FILE.json",
        help="compare alarms with this: the column that says which readings are anomalies, or a JSON file of windows of time by file",
    )
    proposed = "name the threshold that would have raised about N alarms a day in the file"
    trial.add_argument("--propose-threshold", type=a_day, metavar="N/day", help=proposed)
    feed = _with_settings(of_all, "feed", commands.feed, "send the readings in a CSV file to the input topic")
    _with_csv(feed)
    pace = feed.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=above_zero, metavar="N", help="readings a second (default: as fast as the broker accepts)")
    pace.add_argument("--speed", type=speed, metavar="60x", help="speed relative to the readings' timestamps")
    feed.add_argument("--from-line", type=positive, metavar="N", help="start at this line of the file", default=1)
    rekey = _with_settings(of_all, "rekey", commands.rekey, "copy a topic, each record once, with its sensor as its key")
    rekey.add_argument("source", metavar="FROM", help="the topic to copy")
    rekey.add_argument("target", metavar="TO", help="the topic to copy to, which must exist")
    rekey.add_argument("--key", metavar="KEY", help="where a record names its sensor: value:PATH or header:NAME (default: its own key)")
    rekey.add_argument("--to-end", action="store_true", help="stop at the end of FROM (default: go on until stopped)")
    profile = _with_settings(of_all, "profile", commands.profile, "write the bins of training data, by which the service counts drift")
    _with_csv(profile)
    profile.add_argument("-o", "--output", type=Path, metavar="FILE.json", default=Path("profile.json"), help="the profile (profile.json)")
    profile.add_argument("--bins", type=bins, metavar="N", default=10, help="quantile bins of each feature and output, 2 to 50 (10)")
    _with_plants(of_all)
    _with_state(of_all)
    verify = _with_settings(of_all, "verify", commands.verify, "inject faults into the service on a real Kafka, and compare every output")
    verify.add_argument("--seed", type=int, metavar="N", help="seed of the readings and faults (random)")
    verify.add_argument("--minutes", type=above_zero, metavar="M", help="how long to inject faults (10)", default=10.0)
    verify.add_argument("--kills", type=int, metavar="N", help="minimum number of kill -9 of instances (0)", default=0)
    verify.add_argument("--instances", type=several, metavar="N", help="number of instances of the service (3)", default=3)
    verify.add_argument("--brokers", type=int, choices=(1, 3), help="number of brokers: one, or a cluster (1)", default=1)
    verify.add_argument("--rate", type=above_zero, metavar="R", help="readings a second (300)", default=300.0)
    verify.add_argument("--model", type=Path, metavar="FILE", help="the Keras file (default: the demo's model)")
    verify.add_argument("--faults", metavar="A,B,C", help="inject only these faults (all)")
    sizes = _with_settings(of_all, "plan", commands.plan, "calculate memory, cores, partitions, disks and network for a number of sensors")
    sizes.add_argument("--model", metavar="FILE", help="the Keras file, instead of model.path")
    sizes.add_argument("--sensors", type=positive, metavar="N", required=True, help="number of sensors, over all instances")
    sizes.add_argument("--rate", type=above_zero, metavar="R", required=True, help="readings a second, over all sensors")
    sizes.add_argument("--partitions", type=positive, metavar="N", help="number of partitions of the input topic (default: recommends one)")
    sizes.add_argument("--instances", type=positive, metavar="N", help="number of instances of the service (default: enough for the rate)")
    sizes.add_argument("--steps", type=positive, metavar="N", help="readings per record (1)", default=1)
    sizes.add_argument("--key-bytes", type=positive, metavar="N", help="length of a sensor's name (20)", default=20)
    sizes.add_argument("--replication-factor", type=positive, metavar="N", help="replicas of the topics (3)", default=3)
    sizes.add_argument("--json", action="store_true", help="print one JSON object")
    of_models = of_all.add_parser("model", help="inspect a model file, or convert an old one", allow_abbrev=False)
    model = of_models.add_subparsers(required=True, metavar="COMMAND")
    show = _command(model, "show", commands.model_show, "show whether and how a model file is served")
    show.add_argument("file", metavar="FILE", help="a path, or a location as model.path takes it")
    show.add_argument("--mode", metavar="MODE", default="auto", help="the setting model.mode: auto, carried or windowed")
    show.add_argument("--window", type=positive, metavar="N", help="the setting model.window")
    show.add_argument("--output", metavar="STEPS", default="last", help="the setting model.output: last or all")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    convert = _command(model, "convert", commands.model_convert, "convert a file of Keras 1 or 2 to Keras 3")
    old = "a whole model: .h5, .hdf5, .keras or the folder of a SavedModel; or ARCHITECTURE.json WEIGHTS.h5"
    convert.add_argument("old", type=Path, metavar="OLD", nargs="+", help=old)
    convert.add_argument("new", type=Path, metavar="NEW.keras")
    convert.add_argument("--force", action="store_true", help="overwrite NEW.keras")
    return parser


class Parser(argparse.ArgumentParser):
    """Does not accept abbreviations, because a setting's name could be mistaken for a shortened option."""

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
        "--config", type=Path, metavar="FILE", help="YAML settings (default: SLOTSTREAM_CONFIG, or config/slotstream.yaml if it exists)"
    )
    return parser


def _with_plants(among: Any) -> None:
    demo = _command(among, "demo", commands.demo, "run a simulated plant on this machine, with Kafka and the service")
    demo.add_argument("--seconds", type=above_zero, help="run for this long after the service is first ready (default: until Ctrl-C)")
    demo.add_argument("--crash", type=above_zero, metavar="SECONDS", help="kill -9 the service this long after it becomes ready, each time")
    plant = _command(among, "plant", commands.plant, "publish a simulated plant's readings to a topic, until stopped")
    plant.add_argument("--bootstrap", required=True, help="HOST:PORT of a Kafka broker")
    plant.add_argument("--topic", default="readings", help="topic for the readings (readings)")
    plant.add_argument("--seconds", type=above_zero, help="stop after this time (default: at SIGTERM or Ctrl-C)")
    for parser in (demo, plant):
        parser.add_argument("--rate", type=above_zero, default=2000, help="readings a second, over all sensors (2000)")
        parser.add_argument("--sensors", type=positive, default=500, help="machines in the plant (500)")
        parser.add_argument("--seed", type=int, default=1, help="seed of the plant (1)")


def _with_state(among: Any) -> None:
    of_states = among.add_parser("state", help="inspect sensors' states in the checkpoints, or reset a sensor", allow_abbrev=False)
    state = of_states.add_subparsers(required=True, metavar="COMMAND")
    listing = _with_settings(state, "list", commands.state_list, "list the sensors in the newest checkpoints")
    listing.add_argument("--sensor", metavar="PREFIX", default="", help="only sensors whose name begins with this")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")
    listing.add_argument("--limit", type=positive, metavar="N", help="maximum number of sensors")
    show = _with_settings(state, "show", commands.state_show, "show one sensor's state, layer by layer")
    show.add_argument("sensor", metavar="SENSOR", help="the sensor's name, or 0x and hex digits if its key is not UTF-8")
    export = _with_settings(state, "export", commands.state_export, "write all state rows to a file")
    export.add_argument("file", type=Path, metavar="FILE.safetensors")
    reset = _with_settings(state, "reset", commands.state_reset, "reset sensors, by sending a null record to the input")
    reset.add_argument("sensors", metavar="SENSOR", nargs="+", help="see show")
    reset.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    for parser in (listing, show, export, reset):
        parser.add_argument("--partition", type=partition, metavar="N", help="partition of the input (default: all with the sensor)")


def _with_csv(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the columns and the format of a CSV."""
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="a row of column names, then one reading per row")
    sensor = parser.add_mutually_exclusive_group(required=True)
    sensor.add_argument("--key", metavar="COLUMN", help="the column that names the sensor")
    sensor.add_argument("--sensor", metavar="NAME", help="the sensor of all rows")
    parser.add_argument("--columns", metavar="A,B", help="the features, in the model's order (default: all other columns, in file order)")
    parser.add_argument("--timestamp", metavar="COLUMN", help="the column of the reading's time; Date,Time for two columns")
    parser.add_argument(
        "--timestamp-unit", choices=["auto", "s", "ms", "us", "ns"], default="auto", help="unit of numeric Unix times (auto)"
    )
    parser.add_argument("--timestamp-format", metavar="FORM", help="format of Python's strptime: '%%d/%%m/%%Y %%H:%%M:%%S'")
    parser.add_argument(
        "--separator", type=separator, default="auto", metavar="NAME", help="comma, semicolon, tab, pipe, space or a character (auto)"
    )
    parser.add_argument("--decimal", choices=["auto", "comma", "point"], default="auto", help="decimal separator: 1,5 or 1.5 (auto)")
    parser.add_argument(
        "--missing", action="append", default=[], metavar="VALUE", help="a value that means missing, such as -200; repeatable"
    )
    parser.add_argument("--encoding", type=encoding, default="auto", metavar="NAME", help="utf-8, utf-16, latin-1, cp1252, others (auto)")
    parser.add_argument("--no-header", action="store_true", help="the file has no row of names: the columns are named 1, 2, 3")
