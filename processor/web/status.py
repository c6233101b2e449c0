"""What the status page shows, as one JSON object: four verdicts, and the figures that they rest on.

Responsible for what the figures mean to whoever is on duty: is it ready, is it keeping up, where does the time go, is the state
safe. Counts nothing itself: figures come from the series of /metrics and from history's samples, the rest from the probes and the
settings. Of the settings nothing of `kafka` is told, and of the model's path only the file's name.

Names carry their unit: _s seconds, _ratio from 0 to 1, records and readings counts. null is what cannot be told yet.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from typing import Any, Protocol

import orjson

from processor.app.health import About, LoopView, Served
from processor.logs import LIBRDKAFKA, Recent
from processor.metrics import Metrics
from processor.web import figures, verdicts
from processor.web.samples import EVERY_S, History, Numbers
from processor.web.verdicts import Probed

SAME_S = 1.0  # asked more often than this, the answer is the one before
TROUBLE_S = 30.0  # the client repeats what lasts every 10 s (logs.REPEAT_S)


class Source(Protocol):
    """What the service tells of itself (app.health.Health)."""

    @property
    def start_step(self) -> str | None: ...

    @property
    def served(self) -> Served | None: ...

    @property
    def trouble(self) -> str | None: ...

    @property
    def view(self) -> LoopView: ...

    def alive(self) -> tuple[bool, str]: ...

    def ready(self) -> tuple[bool, str]: ...


class Status:
    """Asked by the threads of requests; one of them works it out, the others get the same answer."""

    def __init__(
        self,
        about: About,
        metrics: Metrics,
        source: Source,
        history: History,
        recent: Recent,
        *,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._about, self._metrics, self._source, self._history, self._recent = about, metrics, source, history, recent
        self._now_s, self._unix_s = now_s, unix_s
        self._started_s, self._started_unix_s = now_s(), unix_s()
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] | None = None

    def json(self) -> bytes:
        """At most SAME_S old: however many look at the page, the loop shares its interpreter with one of them."""
        with self._lock:
            now_s = self._now_s()
            if self._made is None or now_s - self._made[0] >= SAME_S:
                self._made = now_s, orjson.dumps(self.told())
            return self._made[1]

    def told(self) -> dict[str, Any]:
        numbers, samples = Numbers(self._metrics), self._history.samples()
        view, probed = self._source.view, self._probed()
        rows = [figures.partition_row(partition, numbers) for partition in view.partitions]
        restore, flow, spent = figures.restore_left(rows, samples), figures.flow_of(samples), figures.time_spent(samples)
        state = figures.state_safety(rows, numbers, self._about.checkpoint_interval_s)
        pace = verdicts.pace(probed, flow, samples, owns=bool(rows), client_failed_s=self._client_failed_s())
        return {
            "at": self._unix_s(),
            "refresh_s": EVERY_S,
            "verdicts": {
                "ready": asdict(verdicts.readiness(probed, len(rows), restore, flow)),
                "pace": asdict(pace),
                "time": asdict(verdicts.business(spent)),
                "state": asdict(verdicts.safety(state)),
            },
            "service": self._service(),
            "model": self._model(),
            "flow": flow,
            "time": spent,
            "slots": figures.slots_used(samples, numbers),
            "state": state,
            "restore": restore,
            "partitions": rows,
            "dead_letters": figures.dead_letters(samples, numbers),
            "transactions": numbers.series("transactions_total"),
            "rebalances": numbers.series("rebalances_total"),
            "gaps": numbers.series("gaps_total"),
            "messages": self._recent.messages(),
            "history": figures.history_points(samples),
        }

    def _probed(self) -> Probed:
        source = self._source
        alive, hung = source.alive()
        return Probed(None if alive else hung, source.trouble, source.start_step, source.view.joined, source.ready()[0])

    def _client_failed_s(self) -> float | None:
        """How long ago the Kafka client told of an error; None if it has not lately."""
        told = (m["timestamp"] for m in self._recent.messages() if m.get("logger") == LIBRDKAFKA and m["level"] != "warning")
        ago_s = self._unix_s() - datetime.fromisoformat(newest).timestamp() if (newest := next(told, None)) else None
        return ago_s if ago_s is not None and ago_s < TROUBLE_S else None

    def _service(self) -> dict[str, Any]:
        about = self._about
        return {
            "version": version("slotstream"),
            "group": about.group,
            "instance": about.instance,
            "input": about.input,
            "output": about.output,
            "dead_letters": about.dead_letters,
            "checkpoints": about.checkpoints,
            "delivery": about.delivery,
            "commit_interval_s": about.commit_interval_s,
            "sensors": about.sensors,
            "started_at": self._started_unix_s,
            "uptime_s": self._now_s() - self._started_s,
        }

    def _model(self) -> dict[str, Any]:
        served = self._source.served
        return {"file": self._about.model_file, **(asdict(served) if served is not None else {})}
