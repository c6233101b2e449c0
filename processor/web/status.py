"""What the status page shows, as one JSON object: four verdicts, and the figures that they rest on.

Responsible for what the figures mean to whoever is on duty: is it ready, is it keeping up, where does the time go, is the state
safe. Counts nothing itself: figures come from the series of /metrics and from history's samples, the rest from the probes and the
settings. Of the settings nothing of `kafka` is told, and of the model's path only the file's name.

Names carry their unit: _s seconds, _ratio from 0 to 1, records and readings counts. null is what cannot be told yet.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from processor.logs import LIBRDKAFKA, Recent
from processor.metrics import STAGES, Metrics
from processor.partitions import Partition
from processor.settings import Settings
from processor.web.history import BOUNDS, EVERY_S, NOW_S, History, Numbers, Sample, before, quantile, rate

if TYPE_CHECKING:
    from processor.app.health import Served

TREND_S = 60.0
IN_TIME_S = 2.0  # so much work waiting is no lag: a commit is due ten times a second, and a poll takes its time
SAME_S = 1.0  # asked more often than this, the answer is the one before
LATE_INTERVALS = 3
OVERDUE_INTERVALS = 10
REFUSED_RATIO, REFUSED_BAD_RATIO = 0.01, 0.25  # of the records: worth a look, and a wrong sender or setting
BUSY_RATIO = 0.9
TROUBLE_S = 30.0  # the client repeats what lasts every 10 s (logs.REPEAT_S)
THRASH_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """wait: it cannot be told yet, or is under way and needs nobody."""

    level: Literal["good", "wait", "warn", "bad"]
    word: str
    reason: str


class Source(Protocol):
    """What the service tells of itself (app.health.Health)."""

    @property
    def start_step(self) -> str | None: ...

    @property
    def served(self) -> "Served | None": ...

    @property
    def trouble(self) -> str | None: ...

    @property
    def joined(self) -> bool: ...

    def alive(self) -> tuple[bool, str]: ...

    def ready(self) -> tuple[bool, str]: ...

    def partitions(self) -> list[Partition]: ...


class Status:
    """Asked by the threads of requests; one of them works it out, the others get the same answer."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        source: Source,
        history: History,
        recent: Recent,
        *,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._metrics, self._source, self._history, self._recent = settings, metrics, source, history, recent
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
        now_s = self._now_s()
        partitions = sorted(self._source.partitions(), key=lambda p: p.number)
        rows = [_partition(p, numbers) for p in partitions]
        restore, flow, time_spent = _restore(rows, samples), _flow(samples), _time(samples)
        state = self._state(rows, numbers)
        return {
            "at": self._unix_s(),
            "refresh_s": EVERY_S,
            "verdicts": {
                "ready": asdict(self._ready(rows, restore, flow)),
                "pace": asdict(self._pace(rows, flow, samples)),
                "time": asdict(_spent(time_spent)),
                "state": asdict(_safe(state)),
            },
            "service": self._service(now_s),
            "model": self._model(),
            "flow": flow,
            "time": time_spent,
            "slots": _slots(samples, numbers),
            "state": state,
            "restore": restore,
            "partitions": rows,
            "dead_letters": _dead_letters(samples, numbers),
            "transactions": numbers.series("transactions_total"),
            "rebalances": numbers.series("rebalances_total"),
            "gaps": numbers.series("gaps_total"),
            "messages": self._recent.messages(),
            "history": _history(samples),
        }

    def _client_failed_s(self) -> float | None:
        """How long ago the Kafka client told of an error; None if it has not lately."""
        told = (m["timestamp"] for m in self._recent.messages() if m.get("logger") == LIBRDKAFKA and m["level"] != "warning")
        ago_s = self._unix_s() - datetime.fromisoformat(newest).timestamp() if (newest := next(told, None)) else None
        return ago_s if ago_s is not None and ago_s < TROUBLE_S else None

    def _service(self, now_s: float) -> dict[str, Any]:
        settings = self._settings
        return {
            "version": version("slotstream"),
            "group": settings.group_id,
            "instance": settings.instance_name,
            "input": settings.input.topic,
            "output": settings.output.topic,
            "dead_letters": settings.dead_letter_topic,
            "checkpoints": settings.checkpoint_topic or "a folder",
            "delivery": settings.delivery,
            "commit_interval_s": settings.commit_interval,
            "started_at": self._started_unix_s,
            "uptime_s": now_s - self._started_s,
        }

    def _model(self) -> dict[str, Any]:
        served = self._source.served
        return {"file": self._settings.model.path.name, **(asdict(served) if served is not None else {})}

    def _ready(self, rows: list[dict[str, Any]], restore: dict[str, Any] | None, flow: dict[str, Any]) -> Verdict:
        source = self._source
        alive, hung = source.alive()
        if not alive:
            return Verdict("bad", "Hung", f"{_sentence(hung)} Whoever watches /healthz will restart it.")
        if (trouble := source.trouble) is not None:
            return Verdict("bad", "Waiting", _sentence(trouble))
        if source.ready()[0]:
            if not rows:
                return Verdict("good", "Ready", "It stands by: the group has no partition left for this instance.")
            return Verdict("good", "Ready", f"{_all(len(rows))} restored and caught up.")
        if source.start_step is not None:
            return Verdict("wait", "Starting", f"It is {source.start_step}.")
        if not source.joined:
            return Verdict("wait", "Joining", "It waits for the group to give it partitions.")
        if restore is not None:
            return Verdict("wait", "Restoring", _restoring(restore, len(rows)))
        lag, left_s = flow["lag_records"], flow["caught_up_in_s"]
        if lag is None:
            return Verdict("wait", "Catching up", "It begins to read what waits.")
        left = f", about {duration(left_s)} left" if left_s is not None else ""
        return Verdict("wait", "Catching up", f"{lag:,} {'record waits' if lag == 1 else 'records wait'}{left}.")

    def _pace(self, rows: list[dict[str, Any]], flow: dict[str, Any], samples: list[Sample]) -> Verdict:
        if (trouble := self._source.trouble) is not None:
            return Verdict("bad", "Stands still", _sentence(trouble))
        return _refusing(samples) or _pace(rows, flow, self._client_failed_s())

    def _state(self, rows: list[dict[str, Any]], numbers: Numbers) -> dict[str, Any]:
        ages = [row["checkpoint_age_s"] for row in rows if row["checkpoint_age_s"] is not None]
        written, interval_s = numbers.value("checkpoint_seconds_count"), self._settings.checkpoint.interval
        return {
            "interval_s": interval_s,
            "late_s": LATE_INTERVALS * interval_s,
            "oldest_s": max(ages, default=None),
            "replay_records": sum(row["replay_records"] or 0 for row in rows) if ages else None,
            "written": int(written),
            "write_mean_s": numbers.value("checkpoint_seconds_sum") / written if written else None,
            "last_bytes": int(numbers.value("checkpoint_bytes")) if written else None,
        }


def _partition(partition: Partition, numbers: Numbers) -> dict[str, Any]:
    """A partition as the loop has it at this moment. What a restart would replay lies between its checkpoint and its offset."""
    label, live = str(partition.number), partition.live
    begun_at = partition.checkpoint_position
    if begun_at is None and partition.beginning is not None:
        begun_at = partition.beginning.origin
    return {
        "partition": partition.number,
        "state": "catching up" if live and not partition.caught_up else partition.state.value,
        "lag_records": numbers.known("lag_records", label),
        "checkpoint_age_s": numbers.known("checkpoint_age_seconds", label) if live else None,
        "restore_records_left": numbers.known("restore_records_left", label),
        "committed": partition.committed.offset if live else None,
        "replay_records": max(0, partition.committed.offset - begun_at) if live and begun_at is not None else None,
    }


def _restore(rows: list[dict[str, Any]], samples: list[Sample]) -> dict[str, Any] | None:
    """None when nothing is restored. What waits for its turn has no figure yet, so the time left is that of what is replayed now."""
    waiting = [row for row in rows if row["state"] in ("restoring", "joining")]
    if not waiting:
        return None
    left = [row["restore_records_left"] for row in waiting if row["restore_records_left"] is not None]
    per_second = _replayed_per_s(samples)
    return {
        "partitions": len(waiting),
        "replaying": len(left),
        "records_left": int(sum(left)) if left else None,
        "records_per_second": per_second if left else None,
        "left_s": sum(left) / per_second if left and per_second else None,
    }


def _replayed_per_s(samples: list[Sample]) -> float | None:
    """In the last NOW_S, as far as something was replayed in them. What has no figure any more is done."""
    passed_s = done = 0.0
    for earlier, later in pairwise(samples[samples.index(before(samples, NOW_S)) :]):
        if earlier.replaying:
            passed_s += later.at_s - earlier.at_s
            done += sum(max(0.0, left - later.replaying.get(number, 0.0)) for number, left in earlier.replaying.items())
    return done / passed_s if passed_s > 0 else None


def _flow(samples: list[Sample]) -> dict[str, Any]:
    last, now = samples[-1], before(samples, NOW_S)
    answered_per_s, grows_per_s = _answered_per_s(now, last), _grows_per_s(samples)
    return {
        "readings_per_second": rate(now, last, "readings"),
        "predictions_per_second": rate(now, last, "predictions"),
        "answered_per_second": answered_per_s,
        "lag_records": int(last.lag) if last.lagging else None,
        "lag_s": last.lag / answered_per_s if last.lagging and answered_per_s else None,
        "lag_grows_per_second": grows_per_s,
        "caught_up_in_s": last.lag / -grows_per_s if grows_per_s is not None and grows_per_s < 0 else None,
        "latency_p50_s": last.latency_p50_s,
        "latency_p99_s": last.latency_p99_s,
    }


def _grows_per_s(samples: list[Sample]) -> float | None:
    """The lag's trend over the last TREND_S. While partitions come and go, the sum of their lags jumps: that is none."""
    last, begin = samples[-1], before(samples, TREND_S)
    same = next(s for s in samples if s.at_s >= begin.at_s and s.lagging == last.lagging)
    return rate(same, last, "lag") if last.at_s - same.at_s >= NOW_S else None


def _answered_per_s(begin: Sample, end: Sample) -> float | None:
    """Records that became a prediction or a dead letter."""
    predictions, passed_s = rate(begin, end, "predictions"), end.at_s - begin.at_s
    if predictions is None:
        return None
    return predictions + (sum(end.dead_letters.values()) - sum(begin.dead_letters.values())) / passed_s


def _time(samples: list[Sample]) -> dict[str, Any]:
    """Where the loop's time went in the last TREND_S, or since it turned first. To consume is mostly to wait for readings."""
    last, begin, consume = samples[-1], before(samples, TREND_S), STAGES.index("consume")
    turning = [s for s in samples if s.at_s >= begin.at_s and s.stages[consume].sum()]
    begin = turning[0] if turning else last
    passed_s = last.at_s - begin.at_s
    spent, counts, bounds = last.stage_s - begin.stage_s, last.stages - begin.stages, BOUNDS["stage_seconds"]
    turned = passed_s > 0
    stages = [
        {
            "stage": stage,
            "ratio": float(spent[i]) / passed_s if turned else None,
            "mean_s": float(spent[i] / counts[i].sum()) if counts[i].sum() else None,
            "p99_s": quantile(counts[i], bounds, 0.99),
        }
        for i, stage in enumerate(STAGES)
    ]
    rest = max(0.0, 1.0 - float(spent.sum()) / passed_s) if turned else None
    stages.append({"stage": "other", "ratio": rest, "mean_s": None, "p99_s": None})
    busy = max(0.0, 1.0 - float(spent[consume]) / passed_s) if turned else None
    return {"over_s": passed_s, "busy_ratio": busy, "stages": stages}


def _slots(samples: list[Sample], numbers: Numbers) -> dict[str, Any]:
    last, begin = samples[-1], before(samples, TREND_S)
    turns, rows = numbers.value("batch_readings_count"), numbers.value("tile_fill_ratio_count")
    evictions, readings = rate(begin, last, "evictions"), rate(begin, last, "readings")
    return {
        "slots": int(numbers.value("slots")),
        "used": int(numbers.value("slots_used")),
        "parked": int(numbers.value("sensors_parked")),
        "evictions_per_second": evictions,
        "thrash": bool(evictions and readings and evictions > THRASH_RATIO * readings),
        "expired": int(numbers.value("sensors_expired_total")),
        "batch_readings_mean": numbers.value("batch_readings_sum") / turns if turns else None,
        "tile_fill_ratio_mean": numbers.value("tile_fill_ratio_sum") / rows if rows else None,
    }


def _dead_letters(samples: list[Sample], numbers: Numbers) -> list[dict[str, Any]]:
    """By reason, the most frequent first; `recent` is since the oldest sample."""
    first = samples[0].dead_letters
    told = [
        {"reason": reason, "total": int(total), "recent": int(total - first.get(reason, 0.0))}
        for reason, total in numbers.series("dead_letters_total").items()
    ]
    return sorted(told, key=lambda row: (-row["total"], row["reason"]))


def _history(samples: list[Sample]) -> dict[str, list[float | None]]:
    """A point a sample but for the first: a rate needs two."""
    points: dict[str, list[float | None]] = {
        key: [] for key in ("at", "readings_per_second", "lag_records", "latency_p50_s", "latency_p99_s")
    }
    for earlier, sample in pairwise(samples):
        points["at"].append(round(sample.unix_s, 1))
        points["readings_per_second"].append(_rounded(rate(earlier, sample, "readings"), 1))
        points["lag_records"].append(sample.lag if sample.lagging else None)
        points["latency_p50_s"].append(_rounded(sample.latency_p50_s, 4))
        points["latency_p99_s"].append(_rounded(sample.latency_p99_s, 4))
    return points


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


# What it comes to, in words.


def _restoring(restore: dict[str, Any], owned: int) -> str:
    told = f"{restore['partitions']} of {_count(owned, 'partition')} {'waits' if restore['partitions'] == 1 else 'wait'} for the state"
    if restore["records_left"] is None:
        return f"{told}: looking for the newest checkpoint."
    left = f", about {duration(restore['left_s'])} left" if restore["left_s"] is not None else ""
    return f"{told}: {restore['records_left']:,} records to replay{left}."


def _refusing(samples: list[Sample]) -> Verdict | None:
    """None while next to all records since the oldest sample had predictions."""
    first, last = samples[0], samples[-1]
    refused = {error: count - first.dead_letters.get(error, 0.0) for error, count in last.dead_letters.items()}
    bad = sum(refused.values())
    records = bad + last.predictions - first.predictions
    if not bad or bad <= REFUSED_RATIO * records:
        return None
    most = max(refused, key=lambda error: refused[error])
    told = f"{bad:,.0f} of {_count(records, 'record')} of the last {duration(last.at_s - first.at_s)} became dead letters"
    level: Literal["warn", "bad"] = "bad" if bad > REFUSED_BAD_RATIO * records else "warn"
    return Verdict(level, "Refusing records", f"{told}, most often for {most}: the log names an example.")


def _pace(rows: list[dict[str, Any]], flow: dict[str, Any], client_failed_s: float | None) -> Verdict:
    lag, answered, grows = flow["lag_records"], flow["answered_per_second"], flow["lag_grows_per_second"]
    if not rows or lag is None or answered is None:
        return Verdict("wait", "Not yet", "No partition is live.")
    if not answered:
        if not lag and client_failed_s is not None:
            # Without a broker nothing arrives, and how much waits is not known.
            told = f"No reading arrives, and the Kafka client told of an error {duration(client_failed_s)} ago: see the last errors."
            return Verdict("warn", "Cut off?", told)
        if not lag:
            return Verdict("good", "Idle", "No reading arrives, and none waits.")
        wait = "1 record waits" if lag == 1 else f"{lag:,} records wait"
        return Verdict("bad", "Stalled", f"{wait}, and none was answered in the last {NOW_S:.0f} s.")
    behind = f"{_count(lag, 'record')} behind, {duration(flow['lag_s'])} of work"
    if flow["lag_s"] <= IN_TIME_S:
        p99_s = flow["latency_p99_s"]
        soon = f"; 99% of the predictions within {duration(p99_s)}" if p99_s is not None else ""
        return Verdict("good", "Keeping up", f"{flow['readings_per_second']:,.0f} readings/s, {behind}{soon}.")
    if grows is None:
        return Verdict("warn", "Behind", f"{behind}.")
    if abs(grows) < 0.02 * answered:
        return Verdict("warn", "Behind", f"{behind}; it neither grows nor shrinks.")
    if grows > 0:
        return Verdict("bad", "Falling behind", f"{behind}; {grows:,.0f} more each second.")
    return Verdict("warn", "Catching up", f"{behind}; about {duration(flow['caught_up_in_s'])} left.")


def _spent(spent: dict[str, Any]) -> Verdict:
    busy = spent["busy_ratio"]
    if busy is None:
        return Verdict("wait", "Not yet", "The loop has not turned.")
    most = sorted((s for s in spent["stages"] if s["stage"] != "consume"), key=lambda s: -s["ratio"])[:2]
    into = " and ".join(f"{s['stage']} ({s['ratio']:.0%})" for s in most)
    return Verdict("warn" if busy >= BUSY_RATIO else "good", f"{busy:.0%} busy", f"Most goes into {into}; the rest waits for readings.")


def _safe(state: dict[str, Any]) -> Verdict:
    oldest, interval = state["oldest_s"], state["interval_s"]
    if oldest is None:
        return Verdict("wait", "Not yet", "No partition is live.")
    replay = f"a restart replays {_count(state['replay_records'], 'record')}"
    if oldest <= state["late_s"]:
        return Verdict("good", "Safe", f"The oldest checkpoint is {duration(oldest)} old; {replay}.")
    overdue = oldest > OVERDUE_INTERVALS * interval
    told = f"A partition's checkpoint is {duration(oldest)} old, and one is due every {duration(interval)}; {replay}."
    return Verdict("bad" if overdue else "warn", "Overdue" if overdue else "Late", told)


def _all(partitions: int) -> str:
    return "Its one partition is" if partitions == 1 else f"All {partitions} partitions are"


def _count(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def duration(seconds: float) -> str:
    """12 ms, 5 s, 3.4 s, 41 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
