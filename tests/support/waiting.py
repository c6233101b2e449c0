"""One way to wait: ask until the answer is there, with a deadline."""

import time


def wait_for(condition, what, timeout_s=60.0, every_s=0.05):
    """The condition's first true value; fails with `what` when the time is over."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        found = condition()
        if found:
            return found
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what() if callable(what) else what}")
