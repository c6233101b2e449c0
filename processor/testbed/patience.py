"""How to wait, and how long before it is called a failure, on a machine that may have other work.

Owns the one way to ask until an answer is there, and the scale of time limits. The limits themselves are next to what they limit, and
apply to a machine with nothing else to do.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SCALE_MAX = 8.0  # whatever hangs is still found


def patience_s(limit_s: float) -> float:
    """The limit times how many processes want each core, by the load average of the last minute. Never less than the limit.

    Every limit here is some seconds of processor time (a start of TensorFlow, a restore, a broker's recovery) and some timeouts of
    Kafka. Beside N busy processes on each core the processor time takes N + 1 times as long.
    """
    try:
        waiting = os.getloadavg()[0] / _cores()
    except OSError:
        waiting = SCALE_MAX  # unknown: too patient is better than a false alarm
    return limit_s * min(max(1.0, waiting), SCALE_MAX)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_for(condition: Callable[[], T], what: Callable[[], str] | str, timeout_s: float = 60.0, every_s: float = 0.05) -> T:
    """The condition's first true value, asked for again and again. Raises AssertionError, with `what`, when the time is over."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if found := condition():
            return found
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what() if callable(what) else what}")
