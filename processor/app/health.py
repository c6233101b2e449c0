"""The state of the service for /healthz, /readyz and the status page."""

import time
from dataclasses import dataclass

from processor.errors import NotPermitted
from processor.kafka.refusals import RefusalWatch
from processor.kafka.topic_watch import TopicWatch
from processor.loop.loop import Loop
from processor.partitions import Partition
from processor.systemd import Systemd

HUNG_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """The model as it is served. window: steps, None if the state is carried; state_bytes: of one sensor."""

    fingerprint: str
    mode: str
    why: str
    features: int
    outputs: int
    window: int | None
    state_bytes: int


class Health:
    """The state for /healthz, /readyz and the status page. The loop's thread writes it, the web thread reads it."""

    def __init__(self, systemd: Systemd | None = None) -> None:
        self._loop: Loop | None = None
        self._systemd = systemd or Systemd()
        self._turned_at_s: float | None = None  # None until the loop runs: compiling is not a hang
        self._start_step: str | None = "reading its settings"
        self.served: Served | None = None
        self.topics: TopicWatch | None = None
        self.refusals: RefusalWatch | None = None
        self.not_permitted: NotPermitted | None = None  # the permission that the loop is waiting for

    def beat(self) -> None:
        """The loop turns, or waits for the broker: /healthz and systemd's watchdog depend only on this."""
        self._turned_at_s = time.monotonic()
        if self._loop is not None and self._systemd.listens:
            self._systemd.beat(f"{len(self._loop.partitions)} partitions: {self.ready()[1]}", joined=self.joined)

    def watch(self, loop: Loop) -> None:
        self._loop, self._start_step = loop, None

    @property
    def start_step(self) -> str | None:
        """None once the loop runs."""
        return self._start_step

    @start_step.setter
    def start_step(self, step: str) -> None:
        self._start_step = step
        self._systemd.starting(step)

    def stopping(self, drain_timeout_s: float) -> None:
        """The service is stopping, and may take this long for its last commit and checkpoint."""
        self._systemd.stopping(drain_timeout_s)

    def alive(self) -> tuple[bool, str]:
        since_s = 0.0 if self._turned_at_s is None else time.monotonic() - self._turned_at_s
        if since_s > HUNG_S:
            return False, f"the loop has not turned for {since_s:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        loop = self._loop
        if (trouble := self.trouble) is not None:
            return False, trouble
        if loop is None:
            return False, "starting"
        if not loop.ready:
            return False, f"restoring {loop.restoring} partitions" if loop.restoring else "joining, or catching up with the backlog"
        return True, "ready"

    @property
    def trouble(self) -> str | None:
        """The problem that the service is waiting for someone to fix; None if there is none."""
        if self.topics is not None and (gone := self.topics.trouble) is not None:
            return gone
        refused = self.not_permitted or (None if self.refusals is None else self.refusals.reason)
        return None if refused is None else f"{refused.found}; to do: {refused.do}"

    @property
    def joined(self) -> bool:
        """Whether the group has answered with an assignment, even an empty one."""
        return self._loop is not None and self._loop.joined

    def partitions(self) -> list[Partition]:
        """The partitions of this instance, read-only: the loop owns them, and keeps changing them."""
        return [] if self._loop is None else list(self._loop.partitions.values())
