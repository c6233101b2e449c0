"""What the figures of the status page come to, in words for whoever is on duty: is the service ready, does it keep up, where does the
time go, is the state safe.

Responsible for the levels and their thresholds. Takes figures (figures.py) and the probes' answers; reads no metric and no clock.
"""

from dataclasses import dataclass
from typing import Any, Literal

from processor.web.samples import NOW_S, Sample

IN_TIME_S = 2.0  # so much work waiting is no lag: a commit is due ten times a second, and a poll takes its time
OVERDUE_INTERVALS = 10
REFUSED_RATIO, REFUSED_BAD_RATIO = 0.01, 0.25  # of the records: worth a look, and a wrong sender or setting
BUSY_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """wait: it cannot be told yet, or is under way and needs nobody."""

    level: Literal["good", "wait", "warn", "bad"]
    word: str
    reason: str


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes answer at this moment. hung, trouble, start_step: None where there is none."""

    hung: str | None
    trouble: str | None
    start_step: str | None
    joined: bool
    ready: bool


def readiness(probed: Probed, partitions: int, restore: dict[str, Any] | None, flow: dict[str, Any]) -> Verdict:
    if probed.hung is not None:
        return Verdict("bad", "Hung", f"{_sentence(probed.hung)} Whoever watches /healthz will restart it.")
    if probed.trouble is not None:
        return Verdict("bad", "Waiting", _sentence(probed.trouble))
    if probed.ready:
        if not partitions:
            return Verdict("good", "Ready", "It stands by: the group has no partition left for this instance.")
        return Verdict("good", "Ready", f"{_all(partitions)} restored and caught up.")
    if probed.start_step is not None:
        return Verdict("wait", "Starting", f"It is {probed.start_step}.")
    if not probed.joined:
        return Verdict("wait", "Joining", "It waits for the group to give it partitions.")
    if restore is not None:
        return Verdict("wait", "Restoring", _restoring(restore, partitions))
    lag, left_s = flow["lag_records"], flow["caught_up_in_s"]
    if lag is None:
        return Verdict("wait", "Catching up", "It begins to read what waits.")
    left = f", about {duration(left_s)} left" if left_s is not None else ""
    return Verdict("wait", "Catching up", f"{lag:,} {'record waits' if lag == 1 else 'records wait'}{left}.")


def pace(probed: Probed, flow: dict[str, Any], samples: list[Sample], *, owns: bool, client_failed_s: float | None) -> Verdict:
    """owns: there is a partition. client_failed_s: how long ago the Kafka client told of an error; None if it has not lately."""
    if probed.trouble is not None:
        return Verdict("bad", "Stands still", _sentence(probed.trouble))
    return _refusing(samples) or _keeping_up(flow, owns=owns, client_failed_s=client_failed_s)


def business(spent: dict[str, Any]) -> Verdict:
    busy = spent["busy_ratio"]
    if busy is None:
        return Verdict("wait", "Not yet", "The loop has not turned.")
    most = sorted((s for s in spent["stages"] if s["stage"] != "consume"), key=lambda s: -s["ratio"])[:2]
    into = " and ".join(f"{s['stage']} ({s['ratio']:.0%})" for s in most)
    return Verdict("warn" if busy >= BUSY_RATIO else "good", f"{busy:.0%} busy", f"Most goes into {into}; the rest waits for readings.")


def safety(state: dict[str, Any]) -> Verdict:
    oldest, interval = state["oldest_s"], state["interval_s"]
    if oldest is None:
        return Verdict("wait", "Not yet", "No partition is live.")
    replay = f"a restart replays {_count(state['replay_records'], 'record')}"
    if oldest <= state["late_s"]:
        return Verdict("good", "Safe", f"The oldest checkpoint is {duration(oldest)} old; {replay}.")
    overdue = oldest > OVERDUE_INTERVALS * interval
    told = f"A partition's checkpoint is {duration(oldest)} old, and one is due every {duration(interval)}; {replay}."
    return Verdict("bad" if overdue else "warn", "Overdue" if overdue else "Late", told)


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


def _keeping_up(flow: dict[str, Any], *, owns: bool, client_failed_s: float | None) -> Verdict:
    lag, answered, grows = flow["lag_records"], flow["answered_per_second"], flow["lag_grows_per_second"]
    if not owns or lag is None or answered is None:
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
