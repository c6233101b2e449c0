"""The end of a command's process, seen from outside."""

import subprocess
import sys

# What the interpreter's own end would run: it collects modules. By then it has stopped daemon threads, each where it was.
SCRIPT = """
import atexit, sys, threading
class Module:
    def __del__(self):
        print("the interpreter wound itself down", file=sys.__stderr__, flush=True)
sys.modules["planted"] = Module()
atexit.register(print, "atexit ran", flush=True)
threading.Thread(target=threading.Event().wait, daemon=True).start()
from processor.cli import main
sys.argv[1:] = {argv}
main()
"""


def ended(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT.format(argv=argv)], capture_output=True, text=True, timeout=300)


def test_a_command_ends_its_process_without_stopping_the_threads_of_libraries_midway():
    result = ended(["--version"])
    assert result.returncode == 0
    assert result.stdout.startswith("slotstream ")
    assert "atexit ran" in result.stdout
    assert result.stderr == ""


def test_the_exit_code_is_the_commands():
    assert ended(["no-such-command"]).returncode == 2
