"""One process a name on a host: refused with the holder's pid, and free again however the holder ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from processor import instance_lock
from processor.errors import ConfigurationError
from processor.instance_lock import InstanceLock

HOLDER = """
import sys
from pathlib import Path
from processor.instance_lock import InstanceLock
lock = InstanceLock("cluster", "group.a", Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of group.a until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_with_the_pid_of_the_first(holder, tmp_path):
    with pytest.raises(ConfigurationError, match=rf"group\.a already runs on this host, as pid {holder.pid}\b"):
        InstanceLock("cluster", "group.a", tmp_path)


def test_it_stays_refused_after_a_refusal(holder, tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"pid {holder.pid}"):
            InstanceLock("cluster", "group.a", tmp_path)


def test_a_killed_process_gives_the_name_back(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    InstanceLock("cluster", "group.a", tmp_path).release()


def test_a_process_that_ends_gives_the_name_back(holder, tmp_path):
    holder.stdin.close()
    holder.wait(30)
    InstanceLock("cluster", "group.a", tmp_path).release()


@pytest.mark.parametrize(("cluster", "name"), [("cluster", "group.b"), ("other", "group.a")])
def test_another_name_or_another_cluster_is_free(holder, tmp_path, cluster, name):
    InstanceLock(cluster, name, tmp_path).release()


def test_what_was_released_can_be_held_again(tmp_path):
    InstanceLock("cluster", "group.a", tmp_path).release()
    InstanceLock("cluster", "group.a", tmp_path).release()


def test_the_pid_told_is_the_present_holders(tmp_path):
    """A longer pid of an earlier holder leaves no digits behind."""
    lock = InstanceLock("cluster", "group.a", tmp_path)
    (path,) = tmp_path.iterdir()
    lock.release()
    path.write_text("4194303999\n")
    lock = InstanceLock("cluster", "group.a", tmp_path)
    with pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}\."):
        InstanceLock("cluster", "group.a", tmp_path)
    lock.release()


def test_a_child_process_does_not_keep_the_name(tmp_path):
    lock = InstanceLock("cluster", "group.a", tmp_path)
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        try:
            assert child.stdout.readline() == b"up\n"
            lock.release()
            InstanceLock("cluster", "group.a", tmp_path).release()
        finally:
            child.kill()


def test_the_file_is_gone_with_the_release(tmp_path):
    InstanceLock("cluster", "group.a", tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_at_the_next_start_of_any_instance(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    left = {*tmp_path.iterdir(), tmp_path / f"slotstream-{'0' * 16}.lock", tmp_path / f"slotstream-{'1' * 16}.lock"}
    (tmp_path / f"slotstream-{'0' * 16}.lock").touch()  # killed before it wrote its pid
    (tmp_path / f"slotstream-{'1' * 16}.lock").write_text("4194303999\n")
    others = {tmp_path / "slotstream-notes.lock", tmp_path / f"other-{'0' * 16}.lock"}
    for path in others:
        path.touch()
    lock = InstanceLock("cluster", "group.b", tmp_path)
    assert not {*tmp_path.iterdir()} & left
    lock.release()
    assert {*tmp_path.iterdir()} == others


def test_a_start_leaves_the_locks_of_other_instances_alone(holder, tmp_path):
    (path,) = tmp_path.iterdir()
    InstanceLock("cluster", "group.b", tmp_path).release()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigurationError, match=f"pid {holder.pid}"):
        InstanceLock("cluster", "group.a", tmp_path)


def test_a_held_lock_whose_pid_is_unknown_here_stays_held(holder, tmp_path, monkeypatch):
    """As that of a process in another container, which shares the folder."""
    monkeypatch.setattr(instance_lock, "UNNAMED_S", 0.1)
    (path,) = tmp_path.iterdir()
    path.write_text("4194303999\n")
    with pytest.raises(ConfigurationError, match="as pid 4194303999"):
        InstanceLock("cluster", "group.a", tmp_path)
    assert path.exists()


CONTENDER = """
import os, sys, time
from pathlib import Path
from processor import instance_lock
from processor.errors import ConfigurationError
from processor.instance_lock import InstanceLock
folder, log, name = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND), sys.argv[3]
for _ in range(int(sys.argv[4])):
    try:
        lock = InstanceLock("cluster", name, folder)
    except ConfigurationError:
        continue
    os.write(log, f"+{name}\\n".encode())
    os.write(log, f"-{name}\\n".encode())
    lock.release()
"""


def test_of_many_that_start_and_end_at_once_never_two_hold_a_name(tmp_path):
    """Removing the file of a lock is the classic race: another process has just opened it."""
    log, folder = tmp_path / "log", tmp_path / "locks"
    log.touch()
    folder.mkdir()
    words = [sys.executable, "-c", CONTENDER, str(folder), str(log)]
    contenders = [subprocess.Popen([*words, name, "300"]) for name in ("a", "a", "a", "b")]
    assert [contender.wait(120) for contender in contenders] == [0] * 4
    for name in ("a", "b"):
        events = [line[0] for line in log.read_text().splitlines() if line[1:] == name]
        assert events == ["+", "-"] * (len(events) // 2)
        assert events
    assert log.read_text().count("+b") == 300  # nobody else wants that name: what removes stale files must not refuse it
    assert list(folder.iterdir()) == []


def test_units_of_systemd_share_their_runtime_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/run/another")
    lock = InstanceLock("cluster", "group.a")
    assert len(list(tmp_path.iterdir())) == 1
    lock.release()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot be written in .*missing \(No such file or directory\)"):
        InstanceLock("cluster", "group.a", tmp_path / "missing")
