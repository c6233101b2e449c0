"""A line from time to time while something takes long: what is being done, and for how long already.

Responsible for the thread that says it. Large models load and compile for minutes, in calls that give no sign of life of their own.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType

EVERY_S = 5.0


class Heartbeat:
    """`with Heartbeat(say) as heartbeat: heartbeat.doing = "loading"` calls say("loading", seconds) every `every_s` seconds.

    seconds: since the beginning. say is called by a thread of the heartbeat's own.
    """

    def __init__(self, say: Callable[[str, float], object], *, every_s: float = EVERY_S) -> None:
        self.doing = "working"
        self._say, self._every_s, self._over = say, every_s, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        began = time.monotonic()
        while not self._over.wait(self._every_s):
            self._say(self.doing, time.monotonic() - began)
