"""Starts `slotstream` processes from one that has TensorFlow imported already: half of the processor time of a start is that import.

Owns how a test's service comes to be a process, not what it does. The service is a process as any other: its own session of signals,
environment, folder, log and exit code. It dies with the tests' process.
"""

import atexit
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

from processor.testbed.child_process import tied

_MESSAGE_BYTES_MAX = 1 << 20


class Forked:
    """What subprocess.Popen is for its child, as far as the tests ask."""

    def __init__(self, answers: int) -> None:
        self._answers = os.fdopen(answers, "r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("slotstream", timeout or 0.0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(command: list[str], log: int, environment: dict[str, str], folder: Path) -> Forked:
    """`python *command` with its output in the open file `log`. command: ["-m", module, ...] or [path of a program, ...]."""
    answers, answer = os.pipe()
    message = json.dumps({"command": command, "environment": environment, "folder": str(folder)}).encode()
    socket.send_fds(_server(), [message], [log, answer])
    os.close(answer)
    return Forked(answers)


@functools.cache
def _server() -> socket.socket:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = tied([sys.executable, "-W", "ignore", __file__, str(there.fileno())])
    process = subprocess.Popen(command, pass_fds=[there.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    there.close()
    atexit.register(process.kill)
    return here


def _serve(requests: socket.socket) -> None:
    from processor import cli  # noqa: F401 - all that a start imports
    from processor.app import service  # noqa: F401
    from processor.model import load, quiet, tiles  # noqa: F401

    quiet.import_tensorflow()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the keepers are nobody's to wait for
    while True:
        message, handles, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES_MAX, 2)
        if not message:
            return
        log, answer = handles
        if os.fork() == 0:
            requests.close()
            _keep(json.loads(message), log, answer)
        os.close(log)
        os.close(answer)


def _keep(request: dict, log: int, answer: int) -> None:
    """The service's parent: tells its process id, and then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        _die_with_parent()
        _become(request, log)
    os.close(log)
    os.write(answer, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict, log: int) -> None:
    code: object = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        first, *words = request["command"]
        if first == "-m":
            sys.argv = words
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *words]
            runpy.run_path(first, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        threading._shutdown()  # as at the end of any process: threads are joined, and what is registered is called
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
