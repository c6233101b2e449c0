"""Child processes that never outlive their parent, and that the terminal's Ctrl-C does not reach.

Responsible for starting and ending one process. Not for what it does, nor for waiting until it is of use.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs in the child before the real program takes its place: ask the kernel for SIGKILL at the parent's death, and look whether that
# was a moment ago already. A program of its own, since code between fork and exec (preexec_fn) can deadlock in a process with threads.
# The kernel means the parent's *thread*: start children from a thread that stays.
_TIED = """\
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def spawn(command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
    """Starts `command` with its output appended to the file `log`, in a session of its own so that Ctrl-C is left to the parent.

    On Linux it dies with this process, even by kill -9; elsewhere only by `stop`.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=env, cwd=cwd
        )


def tied(command: Sequence[str]) -> list[str]:
    """`command` so wrapped that it is killed when the calling process dies; unchanged where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def stop(process: "subprocess.Popen[bytes]", patience_s: float) -> int:
    """SIGTERM, then SIGKILL after `patience_s`; waits for the end and returns the exit code (negative: the signal)."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return kill(process)


def kill(process: "subprocess.Popen[bytes]") -> int:
    """SIGKILL, at once; waits for the end and returns the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    return process.wait()


def last_lines(log: Path, lines_max: int = 12) -> str:
    """The end of a log file, for an error message; without the stack frames of Java, which push the reason out."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    return "\n".join([line for line in text.splitlines() if not line.startswith("\tat ")][-lines_max:]) or "(an empty log)"


def with_log(found: str, log: Path) -> str:
    """`found` and the end of the log that shows why."""
    return f"{found}; the end of {log.name}:\n{last_lines(log)}\n"
