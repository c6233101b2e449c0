"""One command, from its arguments to its exit code."""

import sys
from collections.abc import Sequence

from processor.cli.given import settings_apart
from processor.cli.parser import Command, make_parser
from processor.cli.streams import ReaderGone
from processor.errors import SlotstreamError
from processor.logs import SECRETS


def run_command(argv: Sequence[str]) -> int:
    """Returns the exit code. Raises SystemExit for help, version and wrong use, and KeyboardInterrupt."""
    try:
        words, options = settings_apart(argv)
        arguments, rest = make_parser().parse_known_args(words)
        command: Command = arguments.command
        return command(arguments, options + rest)
    except SlotstreamError as error:
        sys.stderr.write(f"slotstream: {SECRETS.hide(str(error))}\n")
        return error.exit_code
    except ReaderGone:
        return 0
