"""The whole process of a command: its streams before it, what is left to be written after it, and its end."""

import atexit
import os
from collections.abc import Sequence
from typing import NoReturn

from processor.cli import INTERRUPTED, interrupts, streams


def run(argv: Sequence[str]) -> NoReturn:
    """Ends the process with the command's exit code. Only a bug raises.

    The interpreter does not wind itself down. It would stop daemon threads (a restore, a look at the topics) wherever they are, and a
    thread inside a library of C++ or Rust takes the whole process with it: "FATAL: exception not rethrown", exit code -6, after a stop in
    good order.
    """
    streams.prepare()
    try:
        code = _run(argv)
    except BaseException:  # a bug: its traceback is told by sys.excepthook
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
