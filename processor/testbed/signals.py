"""What Ctrl-C, SIGTERM and SIGHUP do to a command that has processes and folders to clean up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """What Ctrl-C (and SIGTERM, SIGHUP) does: at first it ends the demo at once; while `deferred` the first one only sets `seen`, so
    that a run ends in good order; during the clean-up it does nothing."""

    def __init__(self) -> None:
        self.seen = False
        self._deferred = False
        self._ignored = False

    def install(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def ignore(self) -> None:
        self._ignored = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        first, self.seen = not self.seen, True
        if not self._ignored and not (self._deferred and first):
            raise KeyboardInterrupt
