"""The command `slotstream`: words to functions, errors to exit codes.

Responsible for the arguments, for printing results on standard output, and for the one place where an error becomes a
message and an exit code. Not responsible for doing anything: each command calls the room that does.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 stopped on purpose, 130 interrupted. A reader of standard output
that has read enough (`| head`) is no failure; a standard output that cannot be written is one.

Nothing is imported here, because an interrupt is answered quietly only from main() on.
"""

import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. What is not a SlotstreamError is a bug, and keeps its traceback.

    Without argv this is the whole process: it also owns the standard streams and SIGINT, from here to the end.
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
