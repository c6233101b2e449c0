"""The state of the service for /healthz, /readyz and the status page.

The loop's thread publishes an immutable view of itself each turn. The web threads read the newest view, and never a live object.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple, Self

from processor.app.sensor_book import SensorBook
from processor.errors import NotPermitted
from processor.kafka.refusals import RefusalWatch
from processor.kafka.topic_watch import TopicWatch
from processor.loop.loop import Loop
from processor.partitions import Partition
from processor.registry.schemas import Schemas
from processor.settings import Settings
from processor.systemd import Systemd

HUNG_S = 60.0
WAITING_S = 15.0  # longer than a turn takes that waits for nobody


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


@dataclass(frozen=True, slots=True)
class About:
    """The settings that the status page shows. Of `kafka` nothing is shown, and of the model's path only the file's name."""

    group: str
    instance: str
    input: str
    output: str
    dead_letters: str
    checkpoints: str
    delivery: str
    commit_interval_s: float
    checkpoint_interval_s: float
    model_file: str
    sensors: bool

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            group=settings.group_id,
            instance=settings.instance_name,
            input=settings.input.topic,
            output=settings.output.topic,
            dead_letters=settings.dead_letter_topic,
            checkpoints=settings.checkpoint_topic or "a folder",
            delivery=settings.delivery,
            commit_interval_s=settings.commit_interval,
            checkpoint_interval_s=settings.checkpoint.interval,
            model_file=settings.model.path.name,
            sensors=settings.http.sensors,
        )


class PartitionView(NamedTuple):
    """A partition as the loop last had it. state: restoring, joining, catching up or live. committed: an offset, of a live one.

    replay_records: what a restart would replay, which lies between the checkpoint (or the state's origin) and the committed offset.
    """

    number: int
    state: str
    live: bool
    committed: int | None
    replay_records: int | None

    @classmethod
    def of(cls, partition: Partition) -> Self:
        if not partition.live:
            return cls(partition.number, partition.state.value, False, None, None)
        committed, begun_at = partition.committed.offset, partition.checkpoint_position
        if begun_at is None and partition.beginning is not None:
            begun_at = partition.beginning.origin
        replay = None if begun_at is None else max(0, committed - begun_at)
        return cls(partition.number, partition.state.value if partition.caught_up else "catching up", True, committed, replay)


class LoopView(NamedTuple):
    """The loop as it last was. joined: the group has answered with an assignment, be it empty. partitions: by number."""

    joined: bool = False
    ready: bool = False
    partitions: tuple[PartitionView, ...] = ()

    @classmethod
    def of(cls, loop: Loop) -> Self:
        return cls(loop.joined, loop.ready, tuple(PartitionView.of(loop.partitions[number]) for number in sorted(loop.partitions)))


class Health:
    """The state for /healthz, /readyz and the status page. The loop's thread writes it, the web thread reads it."""

    def __init__(self, systemd: Systemd | None = None) -> None:
        self._loop: Loop | None = None
        self._systemd = systemd or Systemd()
        self._turned_at_s: float | None = None  # None until the loop runs: compiling is not a hang
        self._turn_ended_s: float | None = None  # None until the first turn has ended
        self._start_step: str | None = "reading its settings"
        self._steps_at_s: list[tuple[str, float]] = [("reading its settings", time.monotonic())]
        self.view = LoopView()
        self.served: Served | None = None
        self.book: SensorBook | None = None  # of http.sensors, once the loop runs
        self.topics: TopicWatch | None = None
        self.refusals: RefusalWatch | None = None
        self.schemas: Schemas | None = None
        self.not_permitted: NotPermitted | None = None  # the permission that the loop is waiting for

    def beat(self) -> None:
        """The loop turns, or waits for the broker: /healthz and systemd's watchdog depend only on this."""
        self._turned_at_s = time.monotonic()
        if self._loop is not None:
            self.view = view = LoopView.of(self._loop)
            if self._systemd.listens:
                self._systemd.beat(f"{len(view.partitions)} partitions: {self.ready()[1]}", joined=view.joined)

    def turned(self) -> None:
        """A turn of the loop has ended: it waits for nobody."""
        self._turn_ended_s = time.monotonic()

    def watch(self, loop: Loop) -> None:
        self._loop, self._start_step = loop, None

    @property
    def start_step(self) -> str | None:
        """None once the loop runs."""
        return self._start_step

    @start_step.setter
    def start_step(self, step: str) -> None:
        self._start_step = step
        self._steps_at_s.append((step, time.monotonic()))
        self._systemd.starting(step)

    def start_seconds(self) -> dict[str, float]:
        """How long each step of the start took, the last one up to now."""
        ends_s = [at_s for _, at_s in self._steps_at_s[1:]] + [time.monotonic()]
        return {step: round(end_s - at_s, 2) for (step, at_s), end_s in zip(self._steps_at_s, ends_s, strict=True)}

    def stopping(self, drain_timeout_s: float) -> None:
        """The service is stopping, and may take this long for its last commit and checkpoint."""
        self._systemd.stopping(drain_timeout_s)

    def alive(self) -> tuple[bool, str]:
        since_s = 0.0 if self._turned_at_s is None else time.monotonic() - self._turned_at_s
        if since_s > HUNG_S:
            return False, f"the loop has not turned for {since_s:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        view = self.view
        if (trouble := self.trouble) is not None:
            return False, trouble
        if self._start_step is not None:
            return False, "starting"
        if not view.ready:
            restoring = sum(not partition.live for partition in view.partitions)
            return False, f"restoring {restoring} partitions" if restoring else "joining, or catching up with the backlog"
        return True, "ready"

    @property
    def trouble(self) -> str | None:
        """What the service is waiting for: something to be fixed, or the broker; None if nothing."""
        if self.topics is not None and (gone := self.topics.trouble) is not None:
            return gone
        if self.schemas is not None and (waits := self.schemas.trouble) is not None:
            return waits
        refused = self.not_permitted or (None if self.refusals is None else self.refusals.reason)
        if refused is not None:
            return f"{refused.found}; to do: {refused.do}"
        waited_s = 0.0 if self._turn_ended_s is None else time.monotonic() - self._turn_ended_s
        return f"waiting for the broker for {waited_s:.0f} s" if waited_s > WAITING_S else None
