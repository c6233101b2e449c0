"""One function per command: takes settings and arguments, calls the room that does the work, returns an exit code.

Each function imports its room only when it runs, because TensorFlow alone takes seconds and a mistyped option must be reported at once.
"""

import argparse
import faulthandler
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from processor.cli.given import code_of, expect_nothing, settings_of
from processor.cli.printing import confirmed, print_lines, print_pairs, tell
from processor.cli.streams import go_on_without_reader
from processor.errors import ConfigurationError
from processor.logs import SECRETS
from processor.settings import ENV_CONFIG, load_settings

if TYPE_CHECKING:
    from processor.csv_io.csv_file import Form
    from processor.csv_io.csv_rows import Wanted

LEVELS = {"ok": "ok", "warning": "warn", "error": "BAD"}


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    go_on_without_reader()
    settings = settings_of(arguments, rest)
    from processor import logs
    from processor.metrics import Metrics

    logs.configure(settings.log.level, settings.log.format)
    recent = logs.keep_recent()
    faulthandler.enable(file=2)  # so that a watchdog's SIGABRT prints the stack of each thread
    from processor.app.health import About
    from processor.app.service import Service
    from processor.web.pages import status_pages
    from processor.web.server import serve

    metrics = Metrics(with_process=True)
    service = Service(settings, metrics)
    with (
        status_pages(About.of(settings), metrics, service.probes, recent) as pages,
        serve(settings.http.host, settings.http.port, metrics, service.probes, pages),
    ):
        return service.run()


def check(arguments: argparse.Namespace, rest: list[str]) -> int:
    go_on_without_reader()
    settings = settings_of(arguments, rest)
    _quiet_clients()
    from rich.console import Console
    from rich.table import Table

    from processor.doctor.check import check

    findings = check(settings)
    table = Table("", "what", "found", "to do")
    for finding in findings:
        table.add_row(LEVELS[finding.level], finding.what, SECRETS.hide(finding.found), SECRETS.hide(finding.do))
    # Findings are printed unchanged: [x] in a broker's answer is not markup. A file is not as narrow as a terminal.
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 200).print(table)
    return 0 if all(finding.good for finding in findings) else 1


def init(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, rest)
    _quiet_clients()
    from processor.kafka.create_topics import init

    for line in init(settings, arguments.partitions, arguments.replication_factor):
        sys.stdout.write(f"{line}\n")
    return 0


def try_csv(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, [*rest, f"--model.path={arguments.model}"])
    form, wanted = _of_csv(arguments)
    _quiet_clients()
    from processor.csv_io.try_model import try_model

    tried = try_model(settings, arguments.file, form, wanted, sys.stdout, output=arguments.output, plot=arguments.plot)
    return 1 if tried.errors.total() == tried.readings else 0


def feed(arguments: argparse.Namespace, rest: list[str]) -> int:
    go_on_without_reader()
    settings = settings_of(arguments, rest)
    form, wanted = _of_csv(arguments)
    _quiet_clients()
    from processor.csv_io.feed import Pace, feed

    fed = feed(settings, arguments.file, form, wanted, Pace(rate=arguments.rate, speed=arguments.speed), from_line=arguments.from_line)
    sys.stdout.write(f"{settings.input.topic}: {fed}\n")
    if fed.interrupted:
        sys.stdout.write(f"interrupted: go on with --from-line {fed.next_line}\n")
        return 130
    return 1 if fed.left_out and not fed.delivered else 0


def state_list(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, rest)
    _warning_clients()
    from processor.states.state_list import list_sensors

    wanted = {"partition": arguments.partition, "prefix": arguments.sensor, "limit": arguments.limit}
    return print_lines(list_sensors(settings, **wanted, as_json=arguments.json, tell=tell))


def state_show(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, rest)
    _warning_clients()
    from processor.states.state_show import show

    return print_lines(show(settings, arguments.sensor, partition=arguments.partition, tell=tell))


def state_export(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, rest)
    _warning_clients()
    from processor.states.export import export

    sys.stdout.write(f"{export(settings, arguments.file, partition=arguments.partition, tell=tell)}\n")
    return 0


def state_reset(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, rest)
    _warning_clients()
    from processor.states.state_reset import find, send

    resets = find(settings, arguments.sensors, partition=arguments.partition, tell=tell)
    if not arguments.yes and sys.stdin.isatty():
        for reset in resets:
            tell(str(reset))
        if not confirmed(f"Forget their readings, for good, in {settings.input.topic}? [y/N] "):
            tell("nothing was sent")
            return 1
    return print_lines(iter(send(settings, resets)))


def demo(arguments: argparse.Namespace, rest: list[str]) -> int:
    expect_nothing(rest)
    from processor.demo.demo import Options, main

    return main(Options(arguments.seconds, arguments.crash, arguments.rate, arguments.sensors, arguments.seed))


def plant(arguments: argparse.Namespace, rest: list[str]) -> int:
    expect_nothing(rest)
    from processor.demo.plant import Plant, publish_until_stopped

    plant = Plant(arguments.seed, arguments.sensors)
    return publish_until_stopped(plant, arguments.bootstrap, arguments.topic, rate=arguments.rate, seconds=arguments.seconds)


def verify(arguments: argparse.Namespace, rest: list[str]) -> int:
    go_on_without_reader()
    config = arguments.config or (Path(os.environ[ENV_CONFIG]) if os.environ.get(ENV_CONFIG) else None)
    SECRETS.keep(load_settings(config, rest, os.environ).secrets())
    _quiet_clients()
    from processor.verify.run import Options, main

    options = Options(
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        minutes=arguments.minutes,
        kills=arguments.kills,
        instances=arguments.instances,
        rate=arguments.rate,
        brokers=arguments.brokers,
        model=arguments.model or Path(__file__).resolve().parents[1] / "demo" / "demo.keras",
        forecasts=arguments.model is None,
        faults=tuple(arguments.faults.split(",")) if arguments.faults else (),
        config=config,
        words=tuple(rest),
    )
    return main(options)


def plan(arguments: argparse.Namespace, rest: list[str]) -> int:
    settings = settings_of(arguments, [*rest, f"--model.path={arguments.model}"] if arguments.model else rest)
    _quiet_clients()
    from processor.sizing.estimate import plan
    from processor.sizing.measure import measure
    from processor.sizing.plan_lines import lines
    from processor.sizing.plan_parts import Wanted

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
    return print_lines(iter([json.dumps(found.as_json())] if arguments.json else lines(found)))


def model_show(arguments: argparse.Namespace, rest: list[str]) -> int:
    go_on_without_reader()
    code = code_of(rest)
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.file.own_code import CodeFile
    from processor.model.heartbeat import Heartbeat
    from processor.model.load import describe_file

    with Heartbeat(_still) as heartbeat:
        heartbeat.doing = f"loading and trying {arguments.file}"
        own = None if code is None else CodeFile(code.module, code.path, code.sha256)
        found = describe_file(arguments.file, mode=arguments.mode, window=arguments.window, output=arguments.output, code=own)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        print_pairs(found)
    return 0 if found["servable"] else 1


def model_convert(arguments: argparse.Namespace, rest: list[str]) -> int:
    expect_nothing(rest)
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.convert.convert import convert_file
    from processor.model.load import describe_file

    old, *weights = arguments.old
    if len(weights) > 1:
        raise ConfigurationError(f"found {len(arguments.old)} old files", expected="one, or ARCHITECTURE.json WEIGHTS.h5", do="see --help")
    converted = convert_file(old, arguments.new, weights_file=weights[0] if weights else None, force=arguments.force)
    print_pairs(
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


def _still(doing: str, seconds: float) -> None:
    tell(f"{doing}: {seconds:.0f} s so far")


def _of_csv(arguments: argparse.Namespace) -> tuple["Form", "Wanted"]:
    from processor.csv_io.csv_file import Form
    from processor.csv_io.csv_rows import Wanted

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
            missing=tuple(arguments.missing),
        ),
    )


def _quiet_clients() -> None:
    """Silences the Kafka client's messages, which are not results; failures are raised as errors."""
    from processor import logs

    logs.configure("error", "console")


def _warning_clients() -> None:
    """Shows only warnings, such as that a checkpoint was skipped."""
    from processor import logs

    logs.configure("warning", "console")
