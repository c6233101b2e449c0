"""One process a name on a host: refused with the holder's pid, and free again however the holder ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

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
    (path,) = _lock_files(tmp_path)
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


def _lock_files(folder):
    InstanceLock("cluster", "group.a", folder).release()
    return list(folder.iterdir())
