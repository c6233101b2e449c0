"""The process of a command: prepares the streams, flushes output, and ends."""

import atexit
import os
from collections.abc import Sequence
from typing import NoReturn

from processor.cli import INTERRUPTED, interrupts, streams


def run(argv: Sequence[str]) -> NoReturn:
    """Ends the process with the command's exit code. Only a bug raises.

    Skips the interpreter's shutdown. It would stop daemon threads (a restore, a check of the topics) wherever they are, and a thread
    inside a C++ or Rust library then aborts the whole process: "FATAL: exception not rethrown", exit code -6, after a normal stop.
    """
    streams.prepare()
    try:
        code = _run(argv)
    except BaseException:  # a bug: sys.excepthook prints its traceback
        streams.finish(1)
        raise
    interrupts.end_at_once()
    code = streams.finish(code)
    atexit._run_exitfuncs()
    os._exit(code)


def _run(argv: Sequence[str]) -> int:
    try:
        from processor.cli.command import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # argparse: help, version, wrong use
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
