"""processor.systemd: what a supervisor is told, over a real socket; and the unit that asks for it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SMALL, L, Service, Stream, Topics, assert_exact, save_model
from places import ROOT
from waiting import wait_for

from processor.app.health import HUNG_S
from processor.errors import ConfigurationError, SlotstreamError, Stopped
from processor.settings import load_settings
from processor.systemd import EXTEND_EVERY_S, START_STEP_S, STOP_MARGIN_S, Systemd

UNITS = ROOT / "deploy" / "systemd"
UNIT = UNITS / "slotstream@.service"
SECRETS = UNITS / "examples" / "kafka-secrets.conf"


class Supervisor:
    """systemd's end of the socket."""

    def __init__(self, address: str):
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.lines: list[str] = []

    def read(self) -> list[str]:
        """What came since the last call, line by line."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found += self._socket.recv(65536).decode().split("\n")
        self.lines += found
        return found

    def has(self, *wanted: str) -> bool:
        self.read()
        return all(any(re.fullmatch(words, line) for line in self.lines) for words in wanted)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    found = Supervisor(str(tmp_path_factory.mktemp("s") / "notify"))
    yield found
    found.close()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def usec(seconds: float) -> str:
    return str(round(seconds * 1e6))


def watched(supervisor: Supervisor, clock: Clock, watchdog_s: float = 40.0) -> Systemd:
    return Systemd({"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": usec(watchdog_s), "WATCHDOG_PID": str(os.getpid())}, clock)


# -- what is sent -------------------------------------------------------------------------------------------------------------


def test_each_step_of_the_start_is_told_and_gets_its_time(supervisor):
    systemd = watched(supervisor, Clock())
    systemd.starting("compiling the model")
    assert supervisor.read() == ["STATUS=starting: compiling the model", f"EXTEND_TIMEOUT_USEC={usec(START_STEP_S)}"]


def test_it_is_ready_when_it_has_joined_and_only_once(supervisor):
    clock = Clock()
    systemd = watched(supervisor, clock)
    systemd.beat("joining", joined=False)
    assert supervisor.read() == ["STATUS=joining", f"EXTEND_TIMEOUT_USEC={usec(START_STEP_S)}"]
    systemd.beat("restoring", joined=True)
    assert supervisor.read() == ["STATUS=restoring", "READY=1"]
    systemd.beat("restoring", joined=False)  # away from the group for a while
    systemd.beat("restoring", joined=True)
    assert supervisor.read() == []


def test_a_long_wait_for_the_group_extends_the_start_and_feeds_no_watchdog(supervisor):
    clock = Clock()
    systemd = watched(supervisor, clock, watchdog_s=1.0)
    for _ in range(40):
        systemd.beat("joining", joined=False)
        clock.now_s += EXTEND_EVERY_S / 4
    assert supervisor.read() == ["STATUS=joining", *10 * [f"EXTEND_TIMEOUT_USEC={usec(START_STEP_S)}"]]


def test_beats_feed_the_watchdog_well_before_its_time_and_no_more_often(supervisor):
    clock = Clock()
    systemd = watched(supervisor, clock, watchdog_s=40.0)
    systemd.beat("ready", joined=True)
    supervisor.read()
    for _ in range(400):
        clock.now_s += 0.25
        systemd.beat("ready", joined=True)
    assert supervisor.read() == 10 * ["WATCHDOG=1"]


def test_without_beats_the_watchdog_is_not_fed(supervisor):
    systemd = watched(supervisor, Clock(), watchdog_s=0.001)
    systemd.beat("ready", joined=True)
    supervisor.read()
    assert not supervisor.has("WATCHDOG=1")


def test_the_end_is_told_once_with_the_time_that_it_takes_and_goes_on_feeding(supervisor):
    clock = Clock()
    systemd = watched(supervisor, clock)
    systemd.beat("ready", joined=True)
    supervisor.read()
    systemd.stopping(3600.0)
    systemd.stopping(3600.0)
    time = usec(3600.0 + STOP_MARGIN_S)
    assert supervisor.read() == ["STOPPING=1", "STATUS=stopping", f"EXTEND_TIMEOUT_USEC={time}", f"WATCHDOG_USEC={time}"]
    clock.now_s += 100.0
    systemd.beat("leaving", joined=False)
    assert supervisor.read() == ["WATCHDOG=1"]


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_of_this_process_none_is_fed(environment, supervisor):
    clock = Clock()
    systemd = Systemd({"NOTIFY_SOCKET": supervisor.address, **environment}, clock)
    for _ in range(10):
        systemd.beat("ready", joined=True)
        clock.now_s += 1000.0
    systemd.stopping(0.0)
    supervisor.read()
    assert not any("WATCHDOG" in line for line in supervisor.lines)


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/there/is/none"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_socket_nothing_happens(environment):
    systemd = Systemd(environment)
    assert not systemd.listens
    systemd.starting("step")
    systemd.beat("ready", joined=True)
    systemd.stopping(0.0)


def test_an_abstract_socket_is_one_too():
    supervisor = Supervisor(f"@slotstream-test-{os.getpid()}")
    Systemd({"NOTIFY_SOCKET": supervisor.address}).beat("ready", joined=True)
    assert supervisor.read() == ["STATUS=ready", "READY=1"]
    supervisor.close()


def test_a_supervisor_that_is_slow_or_gone_holds_nobody_up(supervisor):
    clock = Clock()
    systemd = watched(supervisor, clock)
    for number in range(10_000):  # far more than a socket's queue
        systemd.beat(f"status {number}", joined=True)
    supervisor.read()
    systemd.beat("status 9999", joined=True)
    assert supervisor.read()[0] == "STATUS=status 9999"  # the one that was missed
    supervisor.close()
    systemd.beat("gone", joined=True)


def test_ready_is_said_again_until_systemd_has_it(supervisor):
    systemd = watched(supervisor, Clock())
    for number in range(10_000):
        systemd.starting(f"step {number}")
    systemd.beat("ready", joined=True)
    assert "READY=1" not in supervisor.read()
    systemd.beat("ready", joined=True)
    assert supervisor.read() == ["STATUS=ready", "READY=1"]


# -- a service ----------------------------------------------------------------------------------------------------------------


def test_a_service_tells_of_its_life_and_works_on_when_nobody_reads_its_log(kafka, unique, tmp_path, supervisor):
    topics = Topics(kafka.bootstrap, unique("systemd"))
    stream = Stream(topics, 300)
    model = save_model(tmp_path / "model.keras", L.LSTM(4), L.Dense(2))
    locks = tmp_path / "run"
    locks.mkdir()
    service = Service(topics, model, tmp_path, *SMALL)
    environment = os.environ | {
        "NOTIFY_SOCKET": supervisor.address,
        "WATCHDOG_USEC": usec(2.0),
        "RUNTIME_DIRECTORY": str(locks),
    }
    words = [sys.executable, "-m", "processor.cli", "run", *service.options]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stderr.readline()
            process.stderr.close()
            wait_for(lambda: supervisor.has("READY=1"), lambda: supervisor.lines, timeout_s=200.0)
            assert list(locks.iterdir())
            stream.feed()
            wait_for(lambda: len(topics.answers()) >= stream.due, "all answers", every_s=0.5)
            wait_for(lambda: supervisor.has("WATCHDOG=1", "STATUS=3 partitions: ready"), lambda: supervisor.lines)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: supervisor.has("STOPPING=1"), lambda: supervisor.lines)
            assert process.wait(60) == 0
        finally:
            process.kill()
    steps = [line.removeprefix("STATUS=starting: ") for line in supervisor.lines if line.startswith("STATUS=starting: ")]
    assert steps == ["asking the broker for its topics", "importing TensorFlow", "loading the model", "compiling the model"]
    order = [next(i for i, line in enumerate(supervisor.lines) if line == word) for word in ("READY=1", "WATCHDOG=1", "STOPPING=1")]
    assert order == sorted(order)
    assert_exact(service, topics)
    assert list(locks.iterdir()) == []


# -- the unit -----------------------------------------------------------------------------------------------------------------


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Section, key, values in their order. configparser would keep one value a key."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    number, of = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[of]


def environment_of(path: Path) -> dict[str, str]:
    """The Environment= lines, with what systemd puts in for %H, %i and %d."""
    words = [word for line in unit(path)["Service"]["Environment"] for word in ([line[1:-1]] if line.startswith('"') else line.split())]
    return dict(word.replace("%H", "host.example").replace("%i", "a").replace("%d", "/run/credentials").split("=", 1) for word in words)


def test_the_unit_restarts_what_a_restart_may_mend_and_nothing_else():
    (service,) = [unit(UNIT)["Service"]]
    never = {int(code) for code in service["RestartPreventExitStatus"][0].split()}
    assert never == {ConfigurationError.exit_code, Stopped.exit_code}
    assert SlotstreamError.exit_code not in never
    assert service["Restart"] == ["on-failure"]
    assert unit(UNIT)["Unit"]["StartLimitIntervalSec"] == ["0"]  # a broker may be away for a day


def test_the_unit_waits_as_long_as_the_service_takes():
    service, settings = unit(UNIT)["Service"], load_settings(None, [], {})
    assert (service["Type"], service["NotifyAccess"]) == (["notify"], ["main"])
    assert seconds(service["TimeoutStopSec"][0]) > settings.drain_timeout + 5.0
    assert seconds(service["WatchdogSec"][0]) > HUNG_S  # /healthz says it first


def test_the_units_settings_are_settings_and_name_the_instance():
    found = {key: value for key, value in environment_of(UNIT).items() if key != "SLOTSTREAM_CONFIG"}
    settings = load_settings(None, [], {key: value for key, value in found.items() if key.startswith("SLOTSTREAM_")})
    assert settings.instance == "host.example-a"
    assert unit(UNIT)["Service"]["EnvironmentFile"] == ["-/etc/slotstream/%i.env"]
    assert unit(UNIT)["Install"]["WantedBy"] == ["multi-user.target"]


def test_the_units_folders_hold_checkpoints_and_locks():
    service = unit(UNIT)["Service"]
    assert service["StateDirectory"] == service["RuntimeDirectory"] == ["slotstream"]
    assert service["RuntimeDirectoryPreserve"] == ["yes"]  # else the first unit that stops removes the others' locks
    assert service["WorkingDirectory"] == ["%S/slotstream"]
    assert not load_settings(None, [], {}).checkpoint.path.is_absolute()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
        ("LimitNOFILE", "65536"),
        ("LimitCORE", "0"),
        ("MemoryDenyWriteExecute", "no"),
    ],
)
def test_the_unit_permits_no_more_than_the_service_needs(key: str, value: str):
    assert unit(UNIT)["Service"][key] == [value]


def test_the_drop_in_takes_secrets_from_credentials(monkeypatch, tmp_path):
    loaded = {line.partition(":")[0] for line in unit(SECRETS)["Service"]["LoadCredential"]}
    for name in loaded:
        (tmp_path / name).write_text("correct horse")
    found = {key: value.replace("/run/credentials", str(tmp_path)) for key, value in environment_of(SECRETS).items()}
    settings = load_settings(None, [], found)
    assert settings.secrets() == ["correct horse"]
    assert {path.name for path in settings.secret_files().values()} <= loaded
    assert settings.kafka_config()["ssl.ca.location"] == str(tmp_path / "kafka-ca.crt")


def test_systemd_itself_finds_nothing_wrong_where_it_is_installed(tmp_path):
    """What the tests above assert holds without it, too."""
    text = UNIT.read_text().replace("/opt/slotstream/bin/slotstream", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    drop_ins = tmp_path / f"{UNIT.name}.d"
    drop_ins.mkdir()
    shutil.copy(SECRETS, drop_ins)
    assert text.count(sys.executable) == 1
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        words = [analyze, "verify", "--man=no", str(tmp_path / "slotstream@a.service")]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
