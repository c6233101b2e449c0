"""Ctrl-C at any moment of a command: KeyboardInterrupt, but never in the middle of an import.

An exception that is raised within an import can come out as another one (Python 3.11 makes a RuntimeError of it while a class is
created) or end an extension module half initialised. So it waits for the end of the import; a second Ctrl-C does not.
"""

import os
import signal
from types import FrameType

from processor.cli import INTERRUPTED

RETRY_S = 0.001
IMPORT = "<frozen importlib._bootstrap>"


def install() -> None:
    """Takes SIGINT over, unless whoever started the process wants it ignored, and SIGALRM."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)


def end_at_once() -> None:
    """From here on nothing is left to be cleaned up: for the interpreter's own end, which would print a traceback.

    An interrupt that still waits for the end of an import ends the process here: its alarm would outlive the handler.
    """
    if signal.getsignal(signal.SIGINT) is _interrupt:
        if signal.setitimer(signal.ITIMER_REAL, 0)[0] > 0:
            os._exit(INTERRUPTED)
        signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))


def _interrupt(number: int, frame: FrameType | None) -> None:
    waits = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    if number == signal.SIGINT and waits:
        os._exit(INTERRUPTED)
    if _importing(frame):
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        return
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT:
            return True
        frame = frame.f_back
    return False
