"""What verify must find when it is fooled: an end that a supervisor hides, a fault that did no harm, a run that compared nothing.

Lost, doubled, swapped and changed answers are shown to the judge in test_verify_parts.py; an output that somebody else publishes a
second time, on a real broker, in test_verify.py.
"""

import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from waiting import wait_for

from processor.errors import ConfigurationError, SlotstreamError
from processor.testbed import patience
from processor.testbed.embedded_kafka import free_port
from processor.verify import faults, site
from processor.verify.faults import FAULTS, Fault
from processor.verify.harm import NoHarmError
from processor.verify.instances import Instances, Running
from processor.verify.proxy import Proxy, Route
from processor.verify.report import Phase, Totals
from processor.verify.run import Options, main
from processor.verify.site import Site

# Stands for the service, without TensorFlow: takes the lock of its name, says what the service says, and runs until SIGTERM.
SERVICE = """
import json, signal, sys
from processor.errors import ConfigurationError
from processor.instance_lock import InstanceLock
try:
    lock = InstanceLock("cluster", sys.argv[1])
except ConfigurationError as error:
    print(error)
    sys.exit(2)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for event in (
    {"event": "serving metrics and health", "url": "http://127.0.0.1:9"},
    {"event": "partitions assigned", "partitions": [0, 1]},
):
    print(json.dumps(event), flush=True)
while True:
    signal.pause()
"""
# Starts a child again and again, which serves and dies.
SUPERVISOR = """
import subprocess, sys
child = 'print(\\'{"event": "serving metrics and health", "url": "http://127.0.0.1:9"}\\')'
while True:
    subprocess.run([sys.executable, "-c", child])
"""


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instances]:
    """Each start is a process of SERVICE on its host."""
    numbers = itertools.count()

    def spawn(self: Instances, name: str, host: Path) -> Running:
        command = [sys.executable, "-c", SERVICE, name]
        return Running(name, command, self._folder / f"{next(numbers)}.log", os.environ | {"TMPDIR": str(host)}, host)

    monkeypatch.setattr(Instances, "_spawn", spawn)
    options = {"a": ["--leave_on_stop=true"], "b": ["--leave_on_stop=false"]}
    found = Instances([], options, tmp_path / "instances")
    yield found
    found.close()


def started(instances: Instances, name: str = "a") -> Running:
    one = instances.start(name)
    wait_for(lambda: one.owned, f"{name} to serve")
    return one


def supervised(folder: Path) -> Running:
    one = Running("a", [sys.executable, "-c", SUPERVISOR], folder / "supervised.log", os.environ, folder)
    wait_for(lambda: one.starts > 1, "a restart")
    return one


@pytest.fixture
def make_site(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    """A site where all is answered at once. What a fault waits for as its proof is not waited for long."""
    monkeypatch.setattr(site, "PROOF_MAX_S", 0.2)
    monkeypatch.setattr(faults, "OUTAGE_S", 0.0)
    monkeypatch.setattr(faults, "SESSION_S", -2.0)
    monkeypatch.setattr(Site, "pause", lambda _self, _seconds, _what: None)
    feeder = SimpleNamespace(failure=None, sent=1, acknowledged=1, last_due={0: 0}, boost=1.0)
    watch = SimpleNamespace(failure=None, pending=False, stalls=SimpleNamespace(current_s=0.0), answered=lambda _due: True)

    def make(**what: Any) -> Site:
        rest = dict.fromkeys(("settings", "judge", "broker", "links", "proxy", "disk", "checkpoints")) | what
        fed = {"rng": np.random.default_rng(1), "partitions": 1, "instances": instances, "feeder": feeder, "watch": watch}
        return Site(**fed, **rest, tell=lambda _what: None)  # type: ignore[arg-type]

    return make


def fault(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


# -- instances ------------------------------------------------------------------------------------------------------------------


def test_an_instance_that_died_and_was_restarted_by_a_supervisor_is_noticed(instances: Instances, tmp_path: Path) -> None:
    instances._running["a"] = supervised(tmp_path)  # its child serves, dies, and is started again
    with pytest.raises(SlotstreamError, match=r"a ended by itself and was restarted: \d+ starts in supervised.log"):
        instances.watch()
    with pytest.raises(SlotstreamError, match="was restarted"):
        instances.kill("a")


def test_a_second_process_is_refused_on_the_host_of_a_successor_too(instances: Instances) -> None:
    started(instances)
    successor = instances.start_beside("a", elsewhere=True)
    wait_for(lambda: successor.owned, "the successor to serve: the first one's lock lies on another host")
    instances.replace("a", successor)
    second = instances.start_beside("a", elsewhere=False)
    wait_for(lambda: second.exit_code is not None, "the second process to be refused")
    assert (second.exit_code, second.host) == (2, successor.host)


def test_the_fault_twice_finds_a_second_process_that_is_refused_wherever_the_first_one_runs(
    instances: Instances, make_site: Callable[..., Site]
) -> None:
    started(instances)
    successor = instances.start_beside("a", elsewhere=True)
    wait_for(lambda: successor.owned, "the successor to serve")
    instances.replace("a", successor)
    assert fault("twice").inflict(make_site()) == {"refused": 1}


def test_a_second_process_that_ends_with_2_for_another_reason_is_not_taken_for_refused(
    instances: Instances, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(instances)

    def wrong(self: Instances, name: str, host: Path) -> Running:
        return Running(name, [sys.executable, "-c", "raise SystemExit(2)"], self._folder / "wrong.log", os.environ, host)

    monkeypatch.setattr(Instances, "_spawn", wrong)
    with pytest.raises(SlotstreamError, match="for another reason than its name"):
        fault("twice").inflict(make_site())


# -- faults that never happened -------------------------------------------------------------------------------------------------


def assert_did_not_happen(name: str, at: Site, why: str) -> None:
    with pytest.raises(NoHarmError, match=rf"the fault {name} did not happen: .*{why}") as found:
        fault(name).inflict(at)
    assert found.value.exit_code == 1


def test_a_fault_that_does_nothing_did_not_happen(make_site: Callable[..., Site]) -> None:
    at = make_site()
    at.harm.done("killed")  # by the fault before
    with pytest.raises(NoHarmError, match="the fault sunshine did not happen: it broke nothing"):
        Fault("sunshine", "nothing", lambda _site: None).inflict(at)


def test_a_kill_counts_what_it_killed_and_one_that_killed_nothing_did_not_happen(
    instances: Instances, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, at = started(instances), make_site()
    assert fault("kill").inflict(at) == {"killed": 1}
    assert one.exit_code == -9
    assert instances.kills == 1
    one = instances["a"]
    wait_for(lambda: one.owned, "the next process to serve")
    one.discard()
    assert_did_not_happen("kill", at, "a was to be killed, and had ended before with exit code -9")
    assert instances.kills == 1
    # And one whose signal reaches nobody.
    survivor = started(instances)
    with monkeypatch.context() as patched:
        patched.setattr(Running, "discard", lambda _self: None)
        assert_did_not_happen("kill", at, "a was to be killed, and has ended with exit code None")
    assert survivor.exit_code is None


@pytest.mark.parametrize("name", ["sleep", "zombie", "leave", "stay"])
def test_what_has_ended_before_cannot_sleep_or_stop(name: str, instances: Instances, make_site: Callable[..., Site]) -> None:
    for one in (started(instances), started(instances, "b")):
        one.discard()
    assert_did_not_happen(name, make_site(), "had ended before with exit code -9")


def test_a_sleep_that_the_process_sleeps_through_without_stopping_did_not_happen(
    instances: Instances, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = started(instances)
    monkeypatch.setattr("processor.verify.instances.STOPPED_S", 0.1)
    with monkeypatch.context() as patched:
        patched.setattr(one._process, "send_signal", lambda _number: None)
        assert_did_not_happen("sleep", make_site(), "a was put to sleep, and is in the state [RS]")


@pytest.mark.parametrize("name", ["sleep", "leave"])
def test_partitions_that_nobody_else_takes_are_no_harm(name: str, instances: Instances, make_site: Callable[..., Site]) -> None:
    started(instances)
    assert_did_not_happen(name, make_site(), "others to have taken the partitions of a")


def test_partitions_that_another_one_takes_are_counted(instances: Instances, make_site: Callable[..., Site]) -> None:
    for name in ("a", "b"):
        started(instances, name)
    assert fault("sleep").inflict(make_site()) == {"partitions moved": 2}


class Broker:
    """A broker whose ends do nothing. pids: of this process, which runs, or none."""

    crashed = None

    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def kill(self) -> None: ...

    def stop(self) -> None: ...

    def start(self) -> None: ...


@pytest.mark.parametrize("name", ["broker-kill", "broker-away"])
def test_a_broker_that_does_not_end_was_not_broken(name: str, make_site: Callable[..., Site]) -> None:
    assert_did_not_happen(name, make_site(broker=Broker(os.getpid())), "brokers ended: 0")
    assert_did_not_happen(name, make_site(broker=Broker()), "brokers ended: 0")


@pytest.mark.parametrize(("name", "what"), [("cut", "a connection to be there"), ("slow", "the proxy to slow something")])
def test_a_way_to_the_broker_that_nobody_uses_was_not_broken(name: str, what: str, make_site: Callable[..., Site]) -> None:
    with Proxy(Route(free_port(), free_port())) as proxy:
        assert_did_not_happen(name, make_site(proxy=proxy), what)


class Disk:
    def __init__(self, written: int) -> None:
        self._written = written

    def fill(self) -> int:
        return self._written

    def free(self) -> None: ...

    def read_only(self) -> None: ...

    def writable(self) -> None: ...


def test_a_disk_that_was_not_filled_and_one_that_nobody_missed_were_not_broken(
    instances: Instances, make_site: Callable[..., Site]
) -> None:
    one = started(instances)
    assert_did_not_happen("disk-full", make_site(disk=Disk(0)), "bytes filled: 0")
    full, read_only = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)
    assert_did_not_happen("disk-full", make_site(disk=Disk(5)), rf"an instance to say that it cannot write \({full}\)")
    # A complaint of another kind is none.
    one._events.append({"event": faults.COULD_NOT_WRITE, "error": full})
    assert_did_not_happen("disk-read-only", make_site(disk=Disk(5)), rf"an instance to say that it cannot write \({read_only}\)")


def test_checkpoints_that_are_not_there_or_stay_as_they_were_were_not_torn(
    instances: Instances, make_site: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = make_site(checkpoints=tmp_path)
    one = started(instances)
    assert_did_not_happen("torn", at, "a checkpoint of partition 0, to damage it")
    file = tmp_path / "group" / "lineage" / "0" / "9.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(100))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda _self, _data: 0)
        assert_did_not_happen("torn", at, "files damaged: 0")
    assert one.exit_code == -9
    started(instances)
    assert fault("torn").inflict(make_site(checkpoints=tmp_path)) == {"killed": 1, "files damaged": 1}
    assert file.read_bytes() != bytes(100)


# -- nothing compared -----------------------------------------------------------------------------------------------------------


def totals(*predictions: int) -> Totals:
    found = Totals(7, records=100)
    for store, count in zip(("topic", "directory"), predictions, strict=False):
        found.phases[store] = Phase(count, 90, 3, kills=2, starts=5)
    return found


def test_a_phase_that_compared_no_prediction_and_a_run_that_broke_nothing_prove_nothing() -> None:
    found = totals(10, 0)
    with pytest.raises(SlotstreamError, match="nothing was broken"):
        found.must_prove("topic")
    found.survived("kill", 1.5, {"killed": 1})
    found.must_prove("topic")
    with pytest.raises(SlotstreamError, match="no prediction was compared with checkpoints in the directory, of 100 records"):
        found.must_prove("directory")


def test_the_last_line_says_how_much_of_each_kind_was_compared_in_each_phase() -> None:
    found = totals(10, 20)
    found.survived("kill", 1.5, {"killed": 1})
    found.survived("kill", 1.0, {"killed": 1})
    assert str(found) == (
        "verify: seed=7 records=100 predictions=30 dead_letters=6 faults=2 lost=0 duplicated=0 different=0 longest_stall_s=1.5 "
        "kills=4 starts=10 topic_predictions=10 topic_dead_letters=3 directory_predictions=20 directory_dead_letters=3"
    )
    assert found.scores["kill"].harm == {"killed": 2}


def test_kills_without_the_fault_that_kills_are_refused(tmp_path: Path) -> None:
    options = Options(1, 1.0, kills=5, instances=2, rate=1.0, model=tmp_path / "none.keras", faults=("cut",))
    with pytest.raises(ConfigurationError, match="5 kills, and faults without kill"):
        main(options)


# -- a machine that has other work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "limit_s"), [(0.1, 100.0), (2.0, 100.0), (6.0, 300.0), (1000.0, 800.0)])
def test_limits_grow_with_the_processes_that_want_each_core_and_never_without_bound(
    load: float, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(patience, "_cores", lambda: 2)
    assert patience.patience_s(100.0) == limit_s
