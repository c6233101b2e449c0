"""Where the faults happen: the instances, the broker, the disk, the proxy, the input, and the eye on all of them.

Responsible for waiting: whatever is waited for, an unexpected end, a difference or a stall ends it at once. Not for what is broken,
nor for the order of things.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from processor.errors import SlotstreamError
from processor.settings import Settings
from processor.testbed import child_process as process
from processor.testbed.kafka_cluster import KafkaCluster
from processor.testbed.patience import patience_s
from processor.verify.disk import Disk
from processor.verify.feeder import Feeder
from processor.verify.harm import Harm, NoHarmError
from processor.verify.instances import Instances, Running
from processor.verify.judge import Judge
from processor.verify.links import Links
from processor.verify.output_watch import Watch
from processor.verify.proxy import Proxy

POLL_S = 0.05
# All are scaled by the load of the machine.
STALL_MAX_S = 180.0  # two restarts after each other and the timeouts of a transaction that was left open
PROOF_MAX_S = 120.0
WAIT_MAX_S = 300.0  # every instance started at once, or all that came in while none worked
TELL_EVERY_S = 10.0


class Broker(Protocol):
    """One broker, or a cluster as a whole."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def pids(self) -> list[int]:
        """The process ids of those that run."""

    @property
    def crashed(self) -> Path | None:
        """The log of one that has ended without being asked to."""

    def start(self) -> object: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Site:
    """settings: of the phase. broker: one or a cluster, None where it is somebody else's. links: between the brokers of a cluster.
    disk: None where there is no right to mount. checkpoints: the folder of the directory store, None with the topic. tell: called every
    ten seconds, with what is waited for."""

    settings: Settings
    partitions: int
    rng: np.random.Generator
    instances: Instances
    feeder: Feeder
    judge: Judge
    watch: Watch
    broker: Broker | None
    links: Links | None
    proxy: Proxy | None
    disk: Disk | None
    checkpoints: Path | None
    tell: Callable[[str], None]
    harm: Harm = field(default_factory=Harm)
    _told_s: float = field(default_factory=time.monotonic)

    @property
    def cluster(self) -> KafkaCluster | None:
        """The broker, if it is several."""
        return self.broker if isinstance(self.broker, KafkaCluster) else None

    def wait(self, condition: Callable[[], object], what: str, limit_s: float = WAIT_MAX_S) -> None:
        """Until the condition holds. Raises SlotstreamError if it does not in time, and whatever turn() raises."""
        begun_s = time.monotonic()
        while not condition():
            self.turn(what)
            # Asked each time: load that comes while it waits counts.
            if (waited_s := time.monotonic() - begun_s) > patience_s(limit_s):
                raise SlotstreamError(f"not within {waited_s:.0f} s: {what}", expected="it to come", do="look at the logs")
            time.sleep(POLL_S)

    def pause(self, seconds: float, what: str) -> None:
        until_s = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until_s, what, seconds + WAIT_MAX_S)

    def proof(self, condition: Callable[[], object], what: str) -> None:
        """Waits for the condition, which shows that a fault did its harm. Raises NoHarmError if it does not hold in time."""
        begun_s = time.monotonic()
        while not condition():
            self.turn(what)
            if (waited_s := time.monotonic() - begun_s) > patience_s(PROOF_MAX_S):
                raise NoHarmError(f"not within {waited_s:.0f} s: {what}")
            time.sleep(POLL_S)

    def settle(self, *, ready: bool = True) -> None:
        """Until all that was fed so far is answered and every instance is ready. ready: False where one of them is asleep."""
        sent = self.feeder.sent
        self.wait(lambda: self.feeder.acknowledged >= sent, "all readings so far to be acknowledged")
        due = dict(self.feeder.last_due)
        self.wait(lambda: self.watch.answered(due), "all readings so far to be answered")
        if ready:
            self.wait(lambda: all(one.ready for one in self.instances), "every instance to be ready")

    def turn(self, what: str) -> None:
        """Raises DifferentError, and SlotstreamError for an unexpected end or a stall."""
        for failure in (self.watch.failure, self.feeder.failure):
            if failure is not None:
                raise failure
        self.instances.watch()
        if self.broker is not None and (log := self.broker.crashed) is not None:
            raise SlotstreamError(process.with_log("Kafka ended by itself", log), expected="a broker that runs", do="look at these lines")
        stalled_s = self.watch.stalls.current_s
        if stalled_s > (stall_max_s := patience_s(STALL_MAX_S)) and self.watch.pending:
            raise SlotstreamError(
                f"nothing has come out for {stalled_s:.0f} s, and readings wait ({what})",
                expected=f"answers within {stall_max_s:.0f} s",
                do="look at the logs of the instances",
            )
        if time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            self.tell(what)

    # Choices. Names are sorted first, so that the seed decides.

    def any_of(self, names: set[str] | list[str]) -> str:
        ordered = sorted(names)
        return ordered[int(self.rng.integers(len(ordered)))]

    def any_owner(self, among: set[str] | None = None) -> str:
        """An instance that has partitions; among: one of these."""

        def owners() -> set[str]:
            return {one.name for one in self.instances if one.owned and (among is None or one.name in among)}

        self.wait(owners, "an instance with partitions")
        return self.any_of(owners())

    def start(self, name: str) -> Running:
        return self.instances.start(name)

    def kill(self, name: str) -> Running:
        """kill -9. Raises NoHarmError if there is nothing to kill."""
        killed = self.instances.kill(name)
        self.harm.done("killed")
        return killed
