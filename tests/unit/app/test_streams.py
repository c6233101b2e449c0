"""The standard streams of every command: full, closed, or with a reader that has read enough; and Ctrl-C before anything runs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processor import logs
from processor.cli import streams

pytestmark = pytest.mark.full  # each starts a process

COMMAND = [sys.executable, "-m", "processor.cli"]
PRINT = ["run", "--help"]  # more than a pipe's buffer would be, in short lines
WRONG = ["run", "--slots=0"]
REDIRECTED = {
    "full output": ">/dev/full",
    "closed output": ">&-",
    "full errors": "2>/dev/full",
    "closed errors": "2>&-",
    "nothing open": "<&- >&- 2>&-",
    "gone reader": "| true",
    "gone reader of errors": "2>&1 | true",
}


def shell(command: str, *, unbuffered: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Of a pipe, the exit code is that of its first command."""
    environment |= {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    words = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("redirected", REDIRECTED)
def test_help_ends_quietly_and_only_a_full_output_is_an_error(redirected: str, unbuffered: bool):
    found = shell(f"{' '.join([*COMMAND, *PRINT])} {REDIRECTED[redirected]}", unbuffered=unbuffered)
    if redirected == "full output":
        assert found.returncode == 1
        assert found.stderr.startswith("slotstream: standard output cannot be written (No space left on device). ")
        assert found.stderr.count("\n") == 1
    else:
        assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("redirected", REDIRECTED)
def test_an_error_keeps_its_exit_code(redirected: str):
    found = shell(f"{' '.join([*COMMAND, *WRONG])} {REDIRECTED[redirected]}")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


@contextlib.contextmanager
def standard_output(path_or_pipe):
    """This descriptor as 1, with the streams of a command upon it."""
    before, streams_before = os.dup(1), (sys.stdout, sys.stderr)
    os.dup2(path_or_pipe, 1)
    try:
        streams.prepare()
        yield
    finally:
        sys.stdout, sys.stderr = streams_before
        os.dup2(before, 1)
        os.close(before)


@pytest.fixture
def pipe_without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_is_gone_ends_a_command_once(pipe_without_reader):
    with standard_output(pipe_without_reader):
        with pytest.raises(streams.ReaderGone):
            print("a line", flush=True)
        sys.stdout.write("what a command writes when it cleans up\n")
        assert streams.finish(0) == 0


def test_a_verdict_goes_on_without_its_reader(pipe_without_reader):
    with standard_output(pipe_without_reader):
        streams.go_on_without_reader()
        sys.stdout.write("a line\n")
        sys.stdout.flush()
        assert streams.finish(3) == 3


@pytest.mark.parametrize(("code", "after"), [(0, 1), (1, 1), (130, 130)])
def test_a_full_disk_found_at_the_end_is_an_error_of_its_own(code: int, after: int):
    full = os.open("/dev/full", os.O_WRONLY)
    with standard_output(full):
        sys.stdout.reconfigure(line_buffering=False)
        sys.stdout.write("a line\n")
        assert streams.finish(code) == after
        assert streams.finish(0) == 0  # said once
    os.close(full)


def test_a_log_goes_on_when_its_disk_has_room_again(tmp_path: Path):
    """Messages of a service while standard error cannot be written are lost, and raise nothing; later ones are written."""
    program = """
import os, sys
from processor.cli import streams
streams.prepare()
from processor import logs
import structlog
logs.configure("info", "json")
log = structlog.get_logger()
log.info("before")
disk = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
for _ in range(10_000):
    log.info("lost")
os.dup2(disk, 2)
log.info("after")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert [word for word in ("before", "lost", "after") if word in found.stderr] == ["before", "after"]


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_every_name_can_be_printed(environment: dict[str, str], tmp_path: Path):
    program = """
import sys
from processor.cli import streams
streams.prepare()
for stream in (sys.stdout, sys.stderr):
    stream.write("t\\xe4nk \\u6e29\\u5ea6 \\udcff\\n")
sys.exit(streams.finish(0))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=os.environ | environment)
    assert found.returncode == 0, found.stderr
    for written in (found.stdout, found.stderr):
        assert written.decode() in ("tänk 温度 \\udcff\n", "t\\xe4nk \\u6e29\\u5ea6 \\udcff\n")


INTERRUPTED = """
import os, signal, sys
from processor.cli import interrupts, main
import processor.cli

class Interrupt:
    '''Comes with the import of a module, as a Ctrl-C does at the start.'''
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["slotstream", *{words!r}]
sys.exit(main())
"""


@pytest.mark.parametrize(
    "name", ["processor.cli.streams", "processor.cli.command", "processor.settings", "structlog", "processor.cli.types"]
)
def test_ctrl_c_while_a_command_is_imported_ends_with_130_and_no_word(name: str):
    program = INTERRUPTED.format(name=name, words=["run", "--help"])
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path: Path):
    """In a process of its own: the alarm by which it waits is the one by which pytest ends a test that takes too long."""
    (tmp_path / "being_imported.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nreached = True\n")
    program = """
import signal
from processor.cli import interrupts
interrupts.install()
import being_imported
assert being_imported.reached
try:
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (found.returncode, found.stdout, found.stderr) == (0, "interrupted\n", "")


def test_ctrl_c_that_the_parent_wants_ignored_is_ignored():
    program = """
import os, signal, sys
from processor.cli import main
os.kill(os.getpid(), signal.SIGINT)
sys.argv[1:] = ["--version"]
sys.exit(main())
"""
    words = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", sys.executable, "-c", program]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("slotstream ")


def test_logging_to_a_stream_that_raises_ends_nothing():
    """Also where no command has prepared the streams: standard-library logging tells of it, and goes on."""

    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def isatty(self) -> bool:
            return False

    import logging

    import structlog

    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    try:
        logs.configure("info", "json", Full())  # type: ignore[arg-type]
        structlog.get_logger().info("into the void")
    finally:
        logging.captureWarnings(False)
        root.handlers[:], logging.raiseExceptions = handlers, raises
        root.setLevel(level)
        structlog.reset_defaults()
