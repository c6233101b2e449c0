"""A status whose clock and figures are set by hand: for the tests of what it says, and of how the page shows what is rare or large."""

from collections.abc import Callable

import numpy as np

from processor import logs
from processor.app.health import About, LoopView, PartitionView, Served
from processor.metrics import Metrics
from processor.partitions import Beginning, Partition, Position, State
from processor.settings import Settings, load_settings
from processor.web.samples import EVERY_S, History
from processor.web.status import Status

OPTIONS = ["--model.path=/secret/folder/model.keras", "--instance=one", "--checkpoint.interval=30s"]


class Source:
    """A service as its probes tell of it."""

    def __init__(self) -> None:
        self.start_step: str | None = None
        self.trouble: str | None = None
        self.served: Served | None = Served("7e4e5ed5", "carried", "carried, because", 4, 2, None, 336)
        self.joined, self.is_alive, self.owned = True, True, list[Partition]()

    def alive(self) -> tuple[bool, str]:
        return self.is_alive, "alive" if self.is_alive else "the loop has not turned for 61 s"

    def ready(self) -> tuple[bool, str]:
        return self.start_step is None and self.joined and all(p.live and p.caught_up for p in self.owned), "because"

    @property
    def view(self) -> LoopView:
        return LoopView(self.joined, self.ready()[0], tuple(map(PartitionView.of, sorted(self.owned, key=lambda p: p.number))))


class Watched:
    """A status whose clock is turned by hand, over figures that are set by hand."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.at_s, self.metrics, self.source = 1000.0, Metrics(), Source()
        self.recent = logs.Recent()
        self.history = History(self.metrics, now_s=lambda: self.at_s, unix_s=lambda: 1_700_000_000 + self.at_s)
        settings = settings or load_settings(None, OPTIONS, {})
        clocks = {"now_s": lambda: self.at_s, "unix_s": lambda: 1_700_000_000 + self.at_s}
        self.status = Status(About.of(settings), self.metrics, self.source, self.history, self.recent, **clocks)
        self.history.take()

    def own(self, count: int = 2, *, state: State = State.LIVE, caught_up: bool = True, lag: int = 0) -> list[Partition]:
        for number in range(count):
            partition = Partition(number, 0.0, state=state, caught_up=caught_up)
            partition.beginning = Beginning(100, "lineage", "fingerprint", "topic", count)
            partition.applied = partition.committed = Position(5100, None)
            self.source.owned.append(partition)
            self.metrics.set("checkpoint_age_seconds", 12 + number, partition=number)
            if state is State.LIVE:
                self.metrics.set("lag_records", lag, partition=number)
        return self.source.owned

    def go_on(self, samples: int, each: Callable[[], None] = lambda: None) -> None:
        for _ in range(samples):
            self.at_s += EVERY_S
            each()
            self.history.take()

    def work(self, readings: int) -> Callable[[], None]:
        """So many readings answered in an interval, each in 100 ms, the loop busy for half of it."""

        def each() -> None:
            self.metrics.add("readings_total", readings)
            self.metrics.add("predictions_total", readings)
            self.metrics.observe("end_to_end_seconds", np.full(readings, 0.1))
            for stage, seconds in (("consume", 1.0), ("apply", 0.6), ("commit", 0.3)):
                self.metrics.observe("stage_seconds", seconds, stage=stage)

        return each

    def verdict(self, name: str) -> tuple[str, str, str]:
        told = self.status.told()["verdicts"][name]
        return told["level"], told["word"], told["reason"]
