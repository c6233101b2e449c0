"""The command `slotstream`: maps arguments to functions, and errors to exit codes.

Responsible for the arguments, for printing results on standard output, and for turning an error into a message and an exit code, which
happens only here. The work itself is done by the room that each command calls.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 stopped on purpose, 130 interrupted. It is not a failure if the reader of
standard output stops early (`| head`); it is one if standard output cannot be written.

Nothing is imported here, because interrupts are handled quietly only once main() runs.
"""

import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Any exception other than SlotstreamError is a bug, and keeps its traceback.

    Without argv this is the whole process: it also owns the standard streams and SIGINT from here on.
    """
    try:
        if argv is None:
            from processor.cli import interrupts

            interrupts.install()
            from processor.cli.process import run

            return run(sys.argv[1:])
        from processor.cli.command import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
