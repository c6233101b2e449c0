"""Keeps the process's standard streams open, able to print every name, and free of tracebacks when they fail.

What happens when one fails:

    standard output   its reader is gone      the command ends with 0; or continues silently, if its exit code is the result
                      cannot be written       SlotstreamError: one line, exit code 1
    standard error    either                  messages are lost, and nothing else happens: a log must not end a service
    any               closed (`>&-`)          replaced by /dev/null, so that no file or socket gets its descriptor
"""

import io
import os
import sys
import threading
from typing import TextIO

from processor.errors import SlotstreamError


class ReaderGone(Exception):
    """The reader of standard output has stopped reading: the command may end."""


class Output(io.FileIO):
    """Standard output's descriptor. Raises once, in the main thread, when it is lost; later output is discarded."""

    def __init__(self) -> None:
        super().__init__(1, "wb", closefd=False)
        self.ends_with_reader = True
        self._lost = False
        self._due: Exception | None = None

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if not self._lost:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._lost, self._due = True, ReaderGone() if self.ends_with_reader else None
            except OSError as error:
                self._lost, self._due = True, _cannot_be_written(error)
        if threading.current_thread() is threading.main_thread():
            self.raise_due()
        return len(memoryview(data).cast("B"))

    def raise_due(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            raise due


class Messages(io.FileIO):
    """Standard error's descriptor. Messages that cannot be written are lost; the next message is attempted again."""

    def __init__(self) -> None:
        super().__init__(2, "wb", closefd=False)

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data).cast("B"))


def prepare() -> None:
    """Replaces sys.stdout and sys.stderr, and opens closed descriptors. Call once, before opening anything else."""
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for descriptor in closed:
        # open() returns the lowest free descriptor, which is this one. Readable and writable, for any of the three.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if descriptor == 0:
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(Output(), sys.stdout)
    sys.stderr = _text(Messages(), sys.stderr, line_buffering=True)


def finish(code: int) -> int:
    """Flushes output; returns the exit code, with 1 instead of 0 if that fails."""
    try:
        sys.stdout.flush()
        _output_of(sys.stdout).raise_due()
    except ReaderGone:
        pass
    except SlotstreamError as error:
        sys.stderr.write(f"slotstream: {error}\n")
        code = code or error.exit_code
    sys.stderr.flush()
    return code


def go_on_without_reader() -> None:
    """For commands whose exit code is a verdict: with `| head` their output is cut, but they still end with that code."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, Output):
        raw.ends_with_reader = False


def _text(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool = False) -> io.TextIOWrapper:
    """The stream as Python opened it, but with another descriptor, and with unencodable characters written as \\xe4, \\u6e29."""
    wanted = isinstance(before, io.TextIOWrapper) and (before.line_buffering or before.write_through)
    encoding = before.encoding if before is not None else "utf-8"
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering or wanted)


def _output_of(stream: TextIO) -> Output:
    raw = stream.buffer.raw  # type: ignore[attr-defined]
    if not isinstance(raw, Output):
        raise TypeError("prepare() comes first")
    return raw


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _cannot_be_written(error: OSError) -> SlotstreamError:
    return SlotstreamError(
        f"standard output cannot be written ({error.strerror})",
        expected="a file, a pipe or a terminal that takes what is printed",
        do="make room, or print to another place",
    )
