"""How long to wait before it is called a failure, on a machine that may have other work.

Owns the scale of time limits alone. The limits themselves stand beside what they limit, and hold for a machine with nothing else to do.
"""

import os

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
