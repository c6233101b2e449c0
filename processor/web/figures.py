"""The figures of the status page, from samples of the series of /metrics and from the newest view of the loop.

Responsible for sums, rates and what is left; not for what they mean to people (verdicts). Names carry their unit: _s seconds, _ratio
from 0 to 1, records and readings counts. None is what cannot be told yet.
"""

from itertools import pairwise
from typing import Any

from processor.app.health import PartitionView
from processor.metrics import STAGES
from processor.web.samples import BOUNDS, NOW_S, Numbers, Sample, before, quantile, rate

TREND_S = 60.0
THRASH_RATIO = 0.1
LATE_INTERVALS = 3


def partition_row(view: PartitionView, numbers: Numbers) -> dict[str, Any]:
    label = str(view.number)
    return {
        "partition": view.number,
        "state": view.state,
        "lag_records": numbers.known("lag_records", label),
        "checkpoint_age_s": numbers.known("checkpoint_age_seconds", label) if view.live else None,
        "restore_records_left": numbers.known("restore_records_left", label),
        "committed": view.committed,
        "replay_records": view.replay_records,
    }


def state_safety(rows: list[dict[str, Any]], numbers: Numbers, interval_s: float) -> dict[str, Any]:
    """How old the checkpoints are, and what a restart would replay. interval_s: between two checkpoints of a partition."""
    ages = [row["checkpoint_age_s"] for row in rows if row["checkpoint_age_s"] is not None]
    written = numbers.value("checkpoint_seconds_count")
    return {
        "interval_s": interval_s,
        "late_s": LATE_INTERVALS * interval_s,
        "oldest_s": max(ages, default=None),
        "replay_records": sum(row["replay_records"] or 0 for row in rows) if ages else None,
        "written": int(written),
        "write_mean_s": numbers.value("checkpoint_seconds_sum") / written if written else None,
        "last_bytes": int(numbers.value("checkpoint_bytes")) if written else None,
    }


def restore_left(rows: list[dict[str, Any]], samples: list[Sample]) -> dict[str, Any] | None:
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


def flow_of(samples: list[Sample]) -> dict[str, Any]:
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


def time_spent(samples: list[Sample]) -> dict[str, Any]:
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


def slots_used(samples: list[Sample], numbers: Numbers) -> dict[str, Any]:
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


def dead_letters(samples: list[Sample], numbers: Numbers) -> list[dict[str, Any]]:
    """By reason, the most frequent first; `recent` is since the oldest sample."""
    first = samples[0].dead_letters
    told = [
        {"reason": reason, "total": int(total), "recent": int(total - first.get(reason, 0.0))}
        for reason, total in numbers.series("dead_letters_total").items()
    ]
    return sorted(told, key=lambda row: (-row["total"], row["reason"]))


def history_points(samples: list[Sample]) -> dict[str, list[float | None]]:
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
