"""processor.cli: words to functions, errors to exit codes, and nothing heavy before it is needed."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from processor import cli, logs
from processor.csv_io.csv_file import Form
from processor.csv_io.csv_rows import Wanted
from processor.errors import ConfigurationError, Fenced, ModelRefused, SlotstreamError
from processor.settings import Settings, keys


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration file and no variable of the machine's, and the log is left alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOTSTREAM_CONFIG", raising=False)
    monkeypatch.setattr(logs, "configure", lambda *_: None)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Puts a module in the place of a room below the command."""
    fake = ModuleType(name)
    for key, value in contents.items():
        setattr(fake, key, value)
    monkeypatch.setitem(sys.modules, name, fake)
    parent, _, child = name.rpartition(".")
    __import__(parent)
    monkeypatch.setattr(sys.modules[parent], child, fake, raising=False)


class Probes:
    def alive(self) -> tuple[bool, str]:
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        return True, "ready"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type:
    class Service:
        settings: Settings
        ends: Any = 0

        def __init__(self, settings: Settings, metrics: object) -> None:
            type(self).settings, self.probes = settings, Probes()

        def run(self) -> int:
            if isinstance(self.ends, BaseException):
                raise self.ends
            return self.ends

    module(monkeypatch, "processor.app.service", Service=Service)
    return Service


RUN = ["run", "--http.port", "0"]


def test_run_builds_the_service_from_all_three_sources(service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.yaml").write_text("input: {topic: from-file}\nhttp: {port: 0}")
    monkeypatch.setenv("SLOTSTREAM_OUTPUT__TOPIC", "from-env")
    assert cli.main(["run", "--config", "my.yaml", "--group=from-option", "--kafka", "client.id=-x"]) == 0
    assert (service.settings.input.topic, service.settings.output.topic, service.settings.group) == ("from-file", "from-env", "from-option")
    assert service.settings.kafka_config()["client.id"] == "-x"


def test_the_file_in_its_usual_place_is_found(service: Any, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/slotstream.yaml").write_text("group: usual\nhttp: {port: 0}")
    assert cli.main(["run"]) == 0
    assert service.settings.group == "usual"


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (0, 0),
        (3, 3),
        (KeyboardInterrupt(), 130),
        (SlotstreamError("found", expected="expected", do="do"), 1),
        (ConfigurationError("found", expected="expected", do="do"), 2),
        (ModelRefused("found", expected="expected", do="do"), 2),
        (Fenced("found", expected="expected", do="do"), 3),
    ],
)
def test_every_end_has_its_exit_code(service: Any, ends: Any, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    service.ends = ends
    assert cli.main(RUN) == code
    said = capsys.readouterr().err
    assert said == (f"slotstream: {ends}\n" if isinstance(ends, SlotstreamError) else "")


def test_a_bug_keeps_its_traceback(service: Any) -> None:
    service.ends = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        cli.main(RUN)


def test_a_port_in_use_ends_with_2(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["run", f"--http.port={taken.getsockname()[1]}"]) == 2
    assert "http.port" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "check", "init"])
def test_wrong_settings_end_with_2_and_say_all(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--slots=0", "--input.topc", "x", "stray"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("slotstream: 3 problems in the settings:\n")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["model"],
        ["model", "show"],
        ["model", "convert", "old.h5"],
        ["model", "convert", "old.h5", "new.h5"],
        ["init", "--partitions", "0"],
        ["init", "--partitions=x"],
        ["model", "show", "a", "b", "--x"],
        ["try", "m.keras"],
        ["try", "m.keras", "a.csv"],
        ["feed", "--key=a"],
        ["feed", "a.csv", "--key=a", "--sensor=b"],
        ["feed", "a.csv", "--key=a", "--rate=0"],
        ["feed", "a.csv", "--key=a", "--speed=fast"],
        ["feed", "a.csv", "--key=a", "--rate=1", "--speed=2"],
        ["feed", "a.csv", "--key=a", "--from-line=0"],
        ["feed", "a.csv", "--key=a", "--separator=ab"],
        ["feed", "a.csv", "--key=a", "--encoding=morse"],
        ["feed", "a.csv", "--key=a", "stray"],
        ["state"],
        ["state", "list", "stray"],
        ["state", "list", "--limit=0"],
        ["state", "list", "--partition=-1"],
        ["state", "show"],
        ["state", "show", "a", "b"],
        ["state", "export"],
        ["state", "reset"],
        ["state", "reset", "a", "--partition=x"],
    ],
)
def test_wrong_use_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stopped:
        code = int(str(stopped.code))
    assert code == 2
    assert "slotstream" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["try", "m.keras", "a.csv", "--key=a"], ["feed", "a.csv", "--key=a"]])
def test_wrong_settings_of_a_command_with_files_end_with_2_and_say_all(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--slots=0", "--input.topc", "x", "--colums=a"]) == 2
    assert capsys.readouterr().err.startswith("slotstream: 3 problems in the settings:\n")


def test_options_are_not_abbreviated(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--conf", "x.yaml"]) == 2
    assert "--conf: unknown key" in capsys.readouterr().err


@dataclass
class Finding:
    level: str
    what: str = "topic readings"
    found: str = "8 partitions"
    do: str = ""

    @property
    def good(self) -> bool:
        return self.level != "error"


@pytest.mark.parametrize(("findings", "code"), [(["ok", "ok"], 0), (["ok", "warning"], 0), (["warning", "error"], 1), ([], 0)])
def test_check_prints_what_it_finds(
    findings: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module(monkeypatch, "processor.doctor.check", check=lambda settings: [Finding(level) for level in findings])
    assert cli.main(["check"]) == code
    printed = capsys.readouterr().out
    assert printed.count("8 partitions") == len(findings)
    assert printed.count("BAD") == findings.count("error")
    assert printed.count("warn") == findings.count("warning")


def test_check_prints_marks_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module(monkeypatch, "processor.doctor.check", check=lambda settings: [Finding("error", found="found [/x] [red]", do="set [bold]")])
    assert cli.main(["check"]) == 1
    assert "found [/x] [red]" in capsys.readouterr().out


def test_init_hands_over_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def init(settings: Settings, partitions: int, replication_factor: int | None) -> list[str]:
        asked.append((settings.input.topic, partitions, replication_factor))
        return ["created readings", "predictions is there"]

    module(monkeypatch, "processor.kafka.create_topics", init=init)
    assert cli.main(["init", "--input.topic", "a"]) == 0
    assert cli.main(["init", "--partitions", "3", "--input.topic", "b", "--replication-factor=2"]) == 0
    assert asked == [("a", 8, None), ("b", 3, 2)]
    assert capsys.readouterr().out == "created readings\npredictions is there\n" * 2


@dataclass
class Tried:
    errors: Counter[str]
    readings: int


NO_ALARMS = {"labels": None, "alarms_a_day": None}


@pytest.mark.parametrize(("bad", "code"), [(0, 0), (1, 0), (2, 1)])
def test_try_hands_over_what_was_asked_for(bad: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def try_model(settings: Settings, path: Path, form: Form, wanted: Wanted, out: object, **options: object) -> Tried:
        asked.append((settings.model.path, settings.output.residual, settings.input.topic, path, form, wanted, options))
        return Tried(Counter({"bad_schema": bad}), 2)

    module(monkeypatch, "processor.csv_io.try_model", try_model=try_model)
    words = ["try", "--output.residual", "true", "m.keras", "--input.topic", "a", "a.csv", "--output", "b.csv", "--columns=x,y"]
    assert cli.main([*words, "--sensor=s", "--separator=\\t", "--encoding=latin1", "--no-header"]) == code
    form, wanted = Form("tab", "iso8859-1", header=False), Wanted(sensor="s", columns="x,y")
    assert asked == [(Path("m.keras"), True, "a", Path("a.csv"), form, wanted, {**NO_ALARMS, "output": Path("b.csv"), "plot": None})]


@dataclass
class Fed:
    delivered: int = 3
    left_out: int = 0
    interrupted: bool = False
    next_line: int = 9

    def __str__(self) -> str:
        return "3 readings"


@pytest.mark.parametrize(
    ("fed", "code", "said"),
    [
        (Fed(), 0, "a: 3 readings\n"),
        (Fed(left_out=1), 0, "a: 3 readings\n"),
        (Fed(delivered=0, left_out=1), 1, "a: 3 readings\n"),
        (Fed(interrupted=True), 130, "a: 3 readings\ninterrupted: go on with --from-line 9\n"),
    ],
)
def test_feed_hands_over_what_was_asked_for(
    fed: Fed, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def feed(settings: Settings, path: Path, form: Form, wanted: Wanted, pace: dict[str, object], *, from_line: int) -> Fed:
        asked.append((path, form, wanted, pace, from_line))
        return fed

    module(monkeypatch, "processor.csv_io.feed", feed=feed, Pace=dict)
    words = ["feed", "a.csv", "--input.topic", "a", "--key", "pump", "--timestamp=Date,Time", "--speed", "60x", "--from-line=7"]
    assert cli.main(words) == code
    assert asked == [(Path("a.csv"), Form(), Wanted(key="pump", timestamp="Date,Time"), {"rate": None, "speed": 60.0}, 7)]
    assert capsys.readouterr().out == said


def test_state_list_hands_over_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def list_sensors(settings: Settings, *, tell: Callable[[str], None], **wanted: object) -> Iterator[str]:
        asked.append((settings.input.topic, wanted))
        tell("told")
        yield "line"

    module(monkeypatch, "processor.states.state_list", list_sensors=list_sensors)
    assert cli.main(["state", "list", "--input.topic", "a"]) == 0
    assert cli.main(["state", "list", "--sensor", "pump.7", "--json", "--limit=9", "--partition=0", "--input.topic=b"]) == 0
    assert asked == [
        ("a", {"partition": None, "prefix": "", "limit": None, "as_json": False}),
        ("b", {"partition": 0, "prefix": "pump.7", "limit": 9, "as_json": True}),
    ]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("line\n" * 2, "told\n" * 2)


SHOWN = {
    "servable": True,
    "mode": "carried",
    "why": "it is [stateful]",
    "window": None,
    "layers": [{"name": "lstm", "shape": [None, 64]}, {"name": "dense", "shape": [None, 1]}],
}


def test_model_show_prints_a_table_or_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module(monkeypatch, "processor.model.load", describe_file=lambda path, **_: SHOWN)
    assert cli.main(["model", "show", "a.keras"]) == 0
    printed = capsys.readouterr().out
    for text in ("carried", "it is [stateful]", "name lstm, shape [null, 64]", "name dense"):
        assert text in printed
    assert cli.main(["model", "show", "a.keras", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SHOWN


def test_model_show_judges_a_file_by_the_settings_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    module(monkeypatch, "processor.model.load", describe_file=lambda path, **options: asked.append(options) or SHOWN)
    assert cli.main(["model", "show", "a.keras"]) == 0
    assert cli.main(["model", "show", "a.keras", "--mode", "windowed", "--window", "30", "--output", "all"]) == 0
    assert asked == [
        {"mode": "auto", "window": None, "output": "last", "code": None},
        {"mode": "windowed", "window": 30, "output": "all", "code": None},
    ]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_model_show_of_a_file_that_cannot_be_served_ends_with_1(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "processor.model.load", describe_file=lambda path, **_: {"servable": False, "why": f"no such file: {path}"})
    assert cli.main(["model", "show", "a.keras", *form]) == 1


def test_demo_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    module(monkeypatch, "processor.demo.demo", main=lambda options: asked.append(options) or 7, Options=lambda *values: values)
    assert cli.main(["demo", "--seconds", "5"]) == 7
    assert asked == [(5.0, None, 2000, 500, 1)]


def test_demo_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--second", "5"]) == 2
    assert "--second" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "check", "init", "try", "feed", "state list"])
def test_help_lists_every_setting_with_default_and_meaning(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command.split(), "--help"])
    assert stopped.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for key in keys():
        given = "KEY=VALUE, again for each" if key.name in ("kafka", "schema_registry") else f"(default {key.default})"
        assert f"--{key.name} {given} {key.meaning}. Allowed: {key.allowed}." in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"slotstream {version('slotstream')}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "--slots=0"],
        ["check", "--slots=0"],
        ["model", "show", "--help"],
        ["model", "convert", "--help"],
        ["try", "--help"],
        ["try", "m.keras", "a.csv", "--key=a", "--slots=0"],
        ["feed", "--help"],
        ["feed", "a.csv", "--key=a", "--slots=0"],
        ["state", "list", "--help"],
        ["state", "reset", "a", "--slots=0"],
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(words: list[str]) -> None:
    program = f"""
import sys
from processor.cli import main
try:
    main({words!r})
except SystemExit:
    pass
sys.exit(", ".join({{"tensorflow", "keras", "confluent_kafka", "numpy"}} & set(sys.modules)) or 0)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "processor.cli", "run", "--slots=0"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("slotstream: 1 problem in the settings:\n  - command line: --slots: found '0'")
    assert found.stdout == ""
