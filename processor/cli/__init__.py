"""The command `slotstream`: words to functions, errors to exit codes.

Responsible for the arguments, for printing results on standard output, and for the one place where an error becomes a
message and an exit code. Not responsible for doing anything: each command calls the room that does.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 stopped on purpose, 130 interrupted.
"""

import sys
from collections.abc import Sequence

from processor.cli.given import settings_apart
from processor.cli.parser import Command, make_parser
from processor.errors import SlotstreamError
from processor.logs import SECRETS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. What is not a SlotstreamError is a bug, and keeps its traceback."""
    try:
        words, options = settings_apart(sys.argv[1:] if argv is None else argv)
        arguments, rest = make_parser().parse_known_args(words)
        command: Command = arguments.command
        return command(arguments, options + rest)
    except SlotstreamError as error:
        sys.stderr.write(f"slotstream: {SECRETS.hide(str(error))}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
