"""The instances of the service under test, each a process with a name, settings of its own, and a log for each of its starts.

Responsible for starting, ending and stopping them in every way, and for noticing one that ends without being asked. Not for why.
"""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from processor.errors import SlotstreamError
from processor.testbed import child_process as process
from processor.testbed.patience import patience_s
from processor.verify.harm import NoHarmError

PROBE_TIMEOUT_S = 5.0  # one that does not answer in time is asked again
STOP_S = 120.0  # drain_timeout, a last checkpoint and a leave
STOPPED_S = 10.0
STOPPED_STATES = ("T", "t", "")
SERVES = "serving metrics and health"
# Events after which an instance owns nothing, though the group has not taken it away.
GIVES_ALL_UP = ("the client lost its membership", "the Kafka client does not find the broker", "waiting for a missing permission")
RUNS_ON = "an instance that runs until it is stopped"


class Running:
    """One process, from its start to its end. asleep: it was sent SIGSTOP. host: the folder that stands for the host it runs on."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], host: Path) -> None:
        self.name, self.log, self.host = name, log, host
        self.asleep = False
        self._events: list[dict[str, Any]] = []
        self._read_bytes = 0  # of the log, whole lines only
        self._process = process.spawn(command, log, env=environment)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def ready(self) -> bool:
        return not self.asleep and self._get("/readyz") == 200

    @property
    def owned(self) -> set[int]:
        """The partitions that it has, by what it says."""
        owned = set[int]()
        for event in self.events():
            said, partitions = event["event"], event.get("partitions", ())
            if said == "partitions assigned":
                owned.update(partitions)
            elif said.startswith(("partitions revoked", "partitions lost")):
                owned.difference_update(partitions)
            elif said.startswith(GIVES_ALL_UP):
                owned.clear()
        return owned

    def said(self, words: str) -> bool:
        """It has logged an event that begins with these words."""
        return any(event["event"].startswith(words) for event in self.events())

    @property
    def starts(self) -> int:
        """How often a service in this process has begun to serve: more than once if something restarted it after it had ended."""
        return sum(event["event"] == SERVES for event in self.events())

    def events(self) -> Sequence[dict[str, Any]]:
        """What the log holds so far. Reads only the lines that are new since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a line of a library's
                event = json.loads(line)
                if isinstance(event, dict) and isinstance(event.get("event"), str):
                    self._events.append(event)
        return self._events

    def kill(self) -> None:
        """SIGKILL, asleep or not. Returns when it is gone. Raises NoHarmError if something else has ended it."""
        self._must_run("killed")
        self.discard()
        if self.exit_code != -signal.SIGKILL:
            raise NoHarmError(f"{self.name} was to be killed, and has ended with exit code {self.exit_code}")

    def discard(self) -> None:
        """Ends the process if it still runs; for the clean-up."""
        process.kill(self._process)

    def terminate(self) -> None:
        """SIGTERM. Returns at once. Raises NoHarmError if the process had ended before."""
        self._must_run("stopped")
        self._process.terminate()

    def sleep(self) -> None:
        """SIGSTOP. Returns when the process has stopped. Raises NoHarmError if it does not."""
        self._must_run("put to sleep")
        self.asleep = True
        self._process.send_signal(signal.SIGSTOP)
        until_s = time.monotonic() + patience_s(STOPPED_S)
        while (state := _state(self.pid)) not in STOPPED_STATES:
            if time.monotonic() > until_s:
                raise NoHarmError(f"{self.name} was put to sleep, and is in the state {state}")
            time.sleep(0.01)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.asleep = False

    def _must_run(self, to_be: str) -> None:
        if (code := self.exit_code) is not None:
            raise NoHarmError(f"{self.name} was to be {to_be}, and had ended before with exit code {code}")

    def failed(self, found: str, expected: str) -> SlotstreamError:
        return SlotstreamError(process.with_log(found, self.log).rstrip(), expected=expected, do=f"look at {self.log}")

    def _get(self, path: str) -> int:
        """Status; 0 when nothing answers."""
        url = next((event["url"] for event in self.events() if event["event"] == SERVES), None)
        if url is None:
            return 0
        try:
            with urllib.request.urlopen(url + path, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310 - its own log says http
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


class Instances:
    """All of them. options: the settings of an instance by its name, beside those that all have. folder: a new one, for the logs."""

    def __init__(self, common: Sequence[str], options: Mapping[str, Sequence[str]], folder: Path) -> None:
        folder.mkdir()
        self._common, self._folder = list(common), folder
        self.options = dict(options)
        self._running: dict[str, Running] = {}
        self._others: list[Running] = []  # what runs beside them, or was replaced: no one's end is noticed but by who started it
        self.starts = self.kills = 0

    @property
    def names(self) -> list[str]:
        """Those that run."""
        return list(self._running)

    def __getitem__(self, name: str) -> Running:
        return self._running[name]

    def __iter__(self) -> Iterator[Running]:
        return iter(list(self._running.values()))

    def start(self, name: str) -> Running:
        self._running[name] = started = self._spawn(name, self._folder)
        return started

    def start_beside(self, name: str, *, elsewhere: bool) -> Running:
        """A second process of that name, on the host of the first one or elsewhere, where the lock of the name is not seen."""
        host = self._folder / f"host-{self.starts}" if elsewhere else self._running[name].host
        host.mkdir(exist_ok=True)
        beside = self._spawn(name, host)
        self._others.append(beside)
        return beside

    def replace(self, name: str, successor: Running) -> Running:
        """The successor is the instance from now on; what was it is returned."""
        replaced, self._running[name] = self._running[name], successor
        self._others.append(replaced)
        return replaced

    def kill(self, name: str) -> Running:
        """Raises SlotstreamError if it has ended before, or has ended and was restarted."""
        killed = self._running[name]
        _check_one_start(killed)
        killed.kill()
        del self._running[name]
        self._others.append(killed)
        self.kills += 1
        return killed

    def forget(self, name: str) -> Running:
        """Its end is expected from now on."""
        forgotten = self._running.pop(name)
        self._others.append(forgotten)
        return forgotten

    def watch(self) -> None:
        """Raises SlotstreamError if one has ended without being asked to, restarted since or not."""
        for one in self:
            if (code := one.exit_code) is not None:
                raise one.failed(f"{one.name} ended by itself with exit code {code}", RUNS_ON)
            _check_one_start(one)

    def stop_all(self) -> None:
        """SIGTERM to all at once. Raises SlotstreamError if one does not end with 0."""
        stopped = [self.forget(name) for name in self.names]
        for one in stopped:
            one.terminate()
        until_s = time.monotonic() + patience_s(STOP_S)
        for one in stopped:
            _wait(one, until_s)
            if one.exit_code != 0:
                raise one.failed(f"{one.name} was asked to stop and ended with exit code {one.exit_code}", "0")
            _check_one_start(one)

    def close(self) -> None:
        """Kills whatever is left."""
        for one in [*self, *self._others]:
            one.discard()

    def _spawn(self, name: str, host: Path) -> Running:
        self.starts += 1
        command = [sys.executable, "-m", "processor.cli", "run", *self._common, *self.options[name], f"--instance={name}"]
        # The lock of a name lies in the temporary folder, and those of another run are no business of this one's.
        environment = os.environ | {"TMPDIR": str(host), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return Running(name, command, self._folder / f"{self.starts:03d}-{name}.log", environment, host)


def _check_one_start(one: Running) -> None:
    """A supervisor between this process and the service would hide an end, so the log is asked too."""
    if (starts := one.starts) > 1:
        raise one.failed(f"{one.name} ended by itself and was restarted: {starts} starts in {one.log.name}", RUNS_ON)


def _state(pid: int) -> str:
    """Of a process, as the kernel names it: T is stopped. Empty where the system does not show it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _wait(one: Running, until_s: float) -> None:
    while one.exit_code is None and time.monotonic() < until_s:
        time.sleep(0.05)


def differing(count: int, rng: Callable[[int], int], through_proxy: Sequence[str]) -> dict[str, list[str]]:
    """Settings of instances a, b, c, ... and of one more, which comes and goes: no two work alike, and none may be told by its answers.

    rng: a number below the one that it is given. through_proxy: the settings by which the second one reaches the broker.
    """

    def one_of(options: Sequence[str]) -> str:
        return options[rng(len(options))]

    found = {}
    for i in range(count + 1):
        slots, readings = one_of(("3", "8", "40", "200", "auto")), one_of(("16", "64", "300", "1000"))
        commit = ("1s", "100ms")[i % 2] if i < 2 else one_of(("20ms", "100ms", "400ms", "1s"))
        found[chr(ord("a") + i)] = [
            f"--slots={slots}",
            f"--batch.readings_max={readings}",
            f"--commit_interval={commit}",
            f"--leave_on_stop={'true' if i % 2 == 0 else 'false'}",
            *(through_proxy if i == 1 else ()),
        ]
    return found


def leaving(options: Mapping[str, Iterable[str]], *, leave: bool) -> set[str]:
    """The instances that hand their partitions over when they are stopped, or those that do not."""
    wanted = f"--leave_on_stop={'true' if leave else 'false'}"
    return {name for name, given in options.items() if wanted in given}
