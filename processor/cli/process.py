"""The whole process of a command: its streams before it, what is left to be written after it."""

from collections.abc import Sequence

from processor.cli import INTERRUPTED, interrupts, streams


def run(argv: Sequence[str]) -> int:
    """The exit code. Only a bug raises."""
    streams.prepare()
    try:
        code = _run(argv)
    except BaseException:  # a bug: its traceback is told by sys.excepthook
        streams.finish(1)
        raise
    interrupts.end_at_once()
    return streams.finish(code)


def _run(argv: Sequence[str]) -> int:
    try:
        from processor.cli.command import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # argparse: help, version, wrong use
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
