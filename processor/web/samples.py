"""The last ten minutes of the series, for whoever opens the status page after something happened.

Responsible for reading the same series that /metrics serves every EVERY_S, in a thread of its own beside the loop, and for what
follows from two such samples: rates, shares of time, quantiles. Not responsible for what they mean (figures, verdicts).

All sums over partitions: one sample is about a kilobyte, however many partitions there are.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.metrics import CATALOGUE, PREFIX, STAGES, Metrics

EVERY_S = 2.0
NOW_S = 10.0  # what "now" is an average over
SAMPLES_MAX = 301  # ten minutes

Counts = NDArray[np.float64]
BOUNDS = {spec.name: np.array(spec.buckets) for spec in CATALOGUE if spec.buckets}


class Numbers:
    """Every series as it stands at one moment, by its name without the prefix and its labels' values in the catalogue's order."""

    def __init__(self, metrics: Metrics) -> None:
        self._values = {
            (sample.name.removeprefix(PREFIX), tuple(sample.labels.values())): sample.value
            for family in metrics.collect()
            for sample in family.samples
        }

    def value(self, name: str, *labels: str) -> float:
        """0 for a series that is not there."""
        return self._values.get((name, labels), 0.0)

    def known(self, name: str, *labels: str) -> float | None:
        return self._values.get((name, labels))

    def series(self, name: str) -> dict[str, float]:
        """Of a metric with one label: its value by that label's."""
        return {labels[0]: value for (found, labels), value in self._values.items() if found == name}

    def counts(self, name: str, *labels: str) -> Counts:
        """How many values lie in each of a histogram's buckets, the last one without a bound."""
        up_to = [self.value(f"{name}_bucket", *labels, bound) for bound in (*map(repr, map(float, BOUNDS[name])), "+Inf")]
        return np.diff(np.array(up_to), prepend=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """at_s is of the clock that only goes forward, unix_s of the wall. `lagging` is how many partitions the lag is summed over.

    The quantiles are of the NOW_S before it, None where nothing was committed. They are worked out once, not each time that somebody looks.
    """

    at_s: float
    unix_s: float
    readings: float
    predictions: float
    lag: float
    lagging: int
    evictions: float
    latency: Counts
    latency_p50_s: float | None
    latency_p99_s: float | None
    stage_s: Counts  # by STAGES
    stages: Counts  # [STAGES, buckets]
    dead_letters: dict[str, float]
    transactions: dict[str, float]
    replaying: dict[str, float]  # offsets left, by partition


class History:
    """Samples, oldest first. Written by one thread, read by those of requests."""

    def __init__(self, metrics: Metrics, *, now_s: Callable[[], float] = time.monotonic, unix_s: Callable[[], float] = time.time) -> None:
        self._metrics, self._now_s, self._unix_s = metrics, now_s, unix_s
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def take(self) -> None:
        """One more sample."""
        numbers, name = Numbers(self._metrics), "stage_seconds"
        lags, latency = numbers.series("lag_records"), numbers.counts("end_to_end_seconds")
        counts = latency - before(self.samples(), NOW_S - EVERY_S).latency if self._samples else np.zeros_like(latency)
        self._samples.append(
            Sample(
                at_s=self._now_s(),
                unix_s=self._unix_s(),
                readings=numbers.value("readings_total"),
                predictions=numbers.value("predictions_total"),
                lag=sum(lags.values()),
                lagging=len(lags),
                evictions=numbers.value("evictions_total"),
                latency=latency,
                latency_p50_s=quantile(counts, BOUNDS["end_to_end_seconds"], 0.50),
                latency_p99_s=quantile(counts, BOUNDS["end_to_end_seconds"], 0.99),
                stage_s=np.array([numbers.value(f"{name}_sum", stage) for stage in STAGES]),
                stages=np.array([numbers.counts(name, stage) for stage in STAGES]),
                dead_letters=numbers.series("dead_letters_total"),
                transactions=numbers.series("transactions_total"),
                replaying=numbers.series("restore_records_left"),
            )
        )

    def samples(self) -> list[Sample]:
        return list(self._samples)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Takes one every EVERY_S until the block ends."""
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(EVERY_S):
                self.take()

        self.take()
        thread = threading.Thread(target=go_on, name="history", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def before(samples: list[Sample], seconds: float) -> Sample:
    """The newest one that is at least so much older than the last; the first, where none reaches back so far."""
    last = samples[-1]
    # A sample is never quite on time: half an interval is not worth going one further back.
    return next((s for s in reversed(samples) if last.at_s - s.at_s >= seconds - EVERY_S / 2), samples[0])


def rate(begin: Sample, end: Sample, name: str) -> float | None:
    """By how much one of a sample's numbers changed a second; None without time between the two."""
    passed_s = end.at_s - begin.at_s
    return (getattr(end, name) - getattr(begin, name)) / passed_s if passed_s > 0 else None


def quantile(counts: Counts, bounds: Counts, share: float) -> float | None:
    """The value below which `share` of the counted ones lie, as if they were spread evenly over their bucket; None without any.

    The method of Prometheus's histogram_quantile: no better than the buckets are fine. Beyond the last bound it is that bound.
    """
    total = counts.sum()
    if total <= 0:
        return None
    rank = share * total
    up_to = np.cumsum(counts)
    bucket = int(np.searchsorted(up_to, rank))
    if bucket >= len(bounds):
        return float(bounds[-1])
    low = float(bounds[bucket - 1]) if bucket else 0.0
    into = (rank - (up_to[bucket] - counts[bucket])) / counts[bucket]
    return low + float(into) * (float(bounds[bucket]) - low)
