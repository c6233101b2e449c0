"""The tests' way to wait, under the name that they know: ask until the answer is there, with a deadline."""

from processor.testbed.patience import wait_for

__all__ = ["wait_for"]
