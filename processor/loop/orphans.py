"""Partitions that nobody would ever own: found by whoever has just joined, who then leaves and joins once more.

A member that is to give partitions up does so and joins again; only then are they given to others. If its process is replaced between
the two, the successor joins under the same name, and a broker starts no rebalance for that: it hands over what the predecessor was to
keep, and what it had given up stays with nobody, for as long as nobody comes or goes. Seen on a real broker after kill -9 and SIGSTOP.
"""

import time
from collections.abc import Callable

EVERY_S = 2.0
# Longer than a member takes that gives partitions up in good order: they too have no owner meanwhile.
PATIENCE_S = 10.0


class Orphans:
    """unowned: asks the group which partitions no member has; None where it does not say, or moves partitions just now."""

    def __init__(self, unowned: Callable[[], set[int] | None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._unowned, self._now_s = unowned, now_s
        self._patience_s = PATIENCE_S
        self._due_s: float | None = None  # when to ask; None: there is no need to
        self._since_s: float | None = None  # the group was first seen with orphans, and has not moved since

    def joined(self) -> None:
        """This instance joins, or joins again."""
        self._due_s, self._since_s = self._now_s(), None

    def moved(self) -> None:
        """The group has dealt its partitions out again."""
        self._since_s = None

    def found(self) -> set[int]:
        """Partitions that had no owner for long; empty otherwise. To be called turn by turn: it asks now and then, until all have one."""
        now_s = self._now_s()
        if self._due_s is None or now_s < self._due_s:
            return set()
        self._due_s = now_s + EVERY_S
        partitions = self._unowned()
        if partitions is None:
            self._since_s = None
        elif not partitions:
            self._due_s = None
        else:
            self._since_s = now_s if self._since_s is None else self._since_s
            if now_s - self._since_s >= self._patience_s:
                self._patience_s *= 2  # where it does not help, it is not done for ever
                self.moved()
                return partitions
        return set()
