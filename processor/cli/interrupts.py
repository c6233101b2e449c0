"""Ctrl-C at any moment of a command: raises KeyboardInterrupt, but never in the middle of an import.

An exception that is raised during an import can be converted to another one (Python 3.11 raises RuntimeError while a class is being
created), or leave an extension module half initialised. So the interrupt waits for the end of the import; a second Ctrl-C does not wait.
"""

import os
import signal
from types import FrameType

from processor.cli import INTERRUPTED

RETRY_S = 0.001
IMPORT = "<frozen importlib._bootstrap>"


def install() -> None:
    """Handles SIGINT, unless the parent process has set it to be ignored, and SIGALRM."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)


def end_at_once() -> None:
    """Call once nothing is left to clean up: an interrupt then ends the process at once, without the interpreter's traceback.

    An interrupt that is still waiting for the end of an import ends the process here, because its alarm would outlive the handler.
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
