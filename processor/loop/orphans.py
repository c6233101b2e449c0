"""Detects partitions without an owner: a member that has just joined looks for them, and if there are any, leaves and rejoins.

A member that has to give up partitions does so and then rejoins; only then are they assigned to others. If its process is replaced
between these two steps, the successor joins under the same name, and the broker starts no rebalance for that: it assigns the partitions
that the predecessor was to keep, and the others stay without an owner until a member joins or leaves. This happened on a real broker
after kill -9 and SIGSTOP.
"""

import time
from collections.abc import Callable

EVERY_S = 2.0
# Longer than a normal revoke takes, during which the partitions also have no owner.
PATIENCE_S = 10.0


class Orphans:
    """unowned: asks the group for partitions that no member owns; returns None if it gives no answer or is rebalancing."""

    def __init__(self, unowned: Callable[[], set[int] | None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._unowned, self._now_s = unowned, now_s
        self._patience_s = PATIENCE_S
        self._due_s: float | None = None  # when to ask; None: no need to ask
        self._since_s: float | None = None  # when orphans were first seen without a change since

    def joined(self) -> None:
        """This instance joins or rejoins."""
        self._due_s, self._since_s = self._now_s(), None

    def moved(self) -> None:
        """The group has reassigned its partitions."""
        self._since_s = None

    def found(self) -> set[int]:
        """Partitions that have long had no owner; otherwise empty. Call it every turn: it asks occasionally until all have an owner."""
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
                self._patience_s *= 2  # if rejoining does not help, do it less and less often
                self.moved()
                return partitions
        return set()
