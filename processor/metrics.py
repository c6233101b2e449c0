"""The metrics of the service: the catalogue, the values, and their Prometheus text.

Ensures that every name, label and label value in use is in CATALOGUE, from which docs/metrics.md is generated. Not responsible for
serving the text (web.server) nor for when something is counted (loop, service).

On Linux the client library adds its metrics for every process (process_*: start, memory, processor time).

Code uses names without the prefix `slotstream_`. Base units: seconds, bytes, ratios from 0 to 1. No label contains a sensor's name, so
the number of series is bounded by the number of partitions.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Literal

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from processor.records import ALARM, CLEARED, ERRORS, RAISED, REPEATED, RULES, SILENT

PREFIX = "slotstream_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STAGES = ("consume", "decode", "apply", "encode", "publish", "commit", "checkpoint")

_STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_LONG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_RATIO_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric. `labels` maps each label to its values, empty when they are not known in advance."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    def first_series(self) -> Iterator[tuple[str, ...]]:
        """The series that are known in advance: an alert on a rate needs them from the start."""
        if all(self.labels.values()):
            yield from product(*self.labels.values())


def _partition() -> dict[str, tuple[str, ...]]:
    return {"partition": ()}


def _free(*names: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(names, ())


CATALOGUE: tuple[Spec, ...] = (
    Spec("readings_total", "counter", "readings", "readings stepped through the model, not counting replays"),
    Spec("predictions_total", "counter", "records", "prediction records in committed transactions"),
    Spec("dead_letters_total", "counter", "records", "records that could not be used, by reason", {"error": ERRORS}),
    Spec("schema_registry_waiting", "gauge", "1", "1 while records wait for a schema that the schema registry does not give"),
    Spec(
        "schema_registry_requests_total",
        "counter",
        "requests",
        "requests to the schema registry for a schema, with the client's own retries, by result",
        {"result": ("found", "unknown", "failed")},
    ),
    Spec(
        "missing_values_total",
        "counter",
        "values",
        "missing values that were replaced (input.missing), by feature, without those in dead letters",
        _free("feature"),
    ),
    Spec(
        "alarms_total",
        "counter",
        "records",
        "what became of alarms (alarm.raise), and of silent sensors (alarm.silent), in committed transactions",
        {"level": (ALARM, SILENT), "state": (RAISED, CLEARED, REPEATED)},
    ),
    Spec(
        "resets_total",
        "counter",
        "resets",
        "resets of sensors' states, by cause: the header sequence (single counts as a start and an end), a null value, a setting under "
        "reset, or expiry of a state that was still in memory",
        {"reason": ("start", "end", "null", "each_record", *RULES)},
    ),
    Spec("batch_readings", "histogram", "readings", "readings applied per turn of the loop", buckets=_BATCH_BUCKETS),
    Spec("stage_seconds", "histogram", "seconds", "time that a turn spent in each stage", {"stage": STAGES}, _STAGE_BUCKETS_S),
    Spec("end_to_end_seconds", "histogram", "seconds", "time from a record's timestamp to its commit", buckets=_LATENCY_BUCKETS_S),
    Spec(
        "lag_records",
        "gauge",
        "offsets",
        "offsets from the committed offset to the partition's end, including control records",
        _partition(),
    ),
    Spec(
        "partitions",
        "gauge",
        "partitions",
        "partitions that this instance owns, by state: restoring (state is being rebuilt), joining (beginning is being committed), live",
        {"state": ("restoring", "joining", "live")},
    ),
    Spec("input_partitions", "gauge", "partitions", "partitions of the input topic as of the start, which all instances together own"),
    Spec("slots", "gauge", "rows", "rows of the state matrix, which are ready for a step"),
    Spec("slots_used", "gauge", "rows", "rows of the state matrix that hold a sensor"),
    Spec("sensors_parked", "gauge", "sensors", "sensors whose row is stored outside the slots"),
    Spec("evictions_total", "counter", "sensors", "sensors parked to free their slot for another sensor"),
    Spec("sensors_expired_total", "counter", "sensors", "sensors whose row was dropped because they had expired (state.expire_after)"),
    Spec(
        "sensors_split",
        "gauge",
        "sensors",
        "sensors found in several partitions since the start, by sampling: each has a separate state in each partition",
    ),
    Spec("tile_fill_ratio", "histogram", "ratio", "share of a turn's computed rows that contained a reading", buckets=_RATIO_BUCKETS),
    Spec("checkpoint_seconds", "histogram", "seconds", "time to write one partition's checkpoint", buckets=_LONG_BUCKETS_S),
    Spec(
        "checkpoint_age_seconds",
        "gauge",
        "seconds",
        "time since the partition's last checkpoint; 0 if nothing has been committed since",
        _partition(),
    ),
    Spec("checkpoint_interval_seconds", "gauge", "seconds", "the setting checkpoint.interval, for comparison with the age"),
    Spec("checkpoint_bytes", "gauge", "bytes", "size of the last checkpoint written"),
    Spec("restore_seconds", "histogram", "seconds", "time from a partition's assignment until it is live", buckets=_LONG_BUCKETS_S),
    Spec(
        "restore_records_left",
        "gauge",
        "offsets",
        "offsets left to replay for a partition that is being restored, including control records; no series afterwards",
        _partition(),
    ),
    Spec("replayed_readings_total", "counter", "readings", "readings replayed to rebuild states, without publishing"),
    Spec("transactions_total", "counter", "transactions", "transactions, by result", {"result": ("committed", "aborted", "fenced")}),
    Spec("rebalances_total", "counter", "events", "changes to this instance's partitions", {"kind": ("assigned", "revoked", "lost")}),
    Spec(
        "gaps_total",
        "counter",
        "partitions",
        "times a partition continued after its log had lost readings: by on_gap (rebuild, cold) or on_lost_input (continue)",
        {"policy": ("rebuild", "cold", "continue")},
    ),
    Spec(
        "model_info",
        "gauge",
        "1",
        "the model in use, where its file lies and the file's digest",
        _free("fingerprint", "model", "sha256", "mode", "features", "outputs", "state_bytes"),
    ),
    Spec("model_moved", "gauge", "boolean", "1 while model.path means another model than the one that is served, which is never followed"),
    Spec("build_info", "gauge", "1", "the versions in use", _free("version", "python", "tensorflow", "librdkafka")),
    Spec(
        "topic_gone",
        "gauge",
        "boolean",
        "1 while the topic does not exist on the broker, by setting: the service waits for it, and ends after a minute",
        {"topic": ("input", "output", "dead_letter", "checkpoint", "alarm")},
    ),
    Spec(
        "topic_findings",
        "gauge",
        "findings",
        "problems with the topics' settings, as in `slotstream check`: warnings, and errors, which would end the next start",
        {"level": ("warning", "error")},
    ),
    Spec(
        "feature_total",
        "counter",
        "readings",
        "readings by the bins of the training data (drift.profile), by feature, without missing values",
        _free("feature", "bin"),
    ),
    Spec(
        "prediction_total",
        "counter",
        "readings",
        "predictions by the bins of the training data (drift.profile), by output",
        _free("output", "bin"),
    ),
    Spec("feature_expected_ratio", "gauge", "ratio", "share of the training data in each bin of a feature", _free("feature", "bin")),
    Spec(
        "prediction_expected_ratio", "gauge", "ratio", "share of the training data's predictions in each bin", _free("output", "bin")
    ),
    Spec("ready", "gauge", "boolean", "1 when every assigned partition is restored and has caught up (/readyz)"),
)


class Metrics:
    """The metrics of one process. The loop writes them, the web thread reads them; every method is thread-safe."""

    def __init__(self, *, with_process: bool = False) -> None:
        """with_process: also include the metrics of the process, which change by themselves."""
        self._lock = threading.Lock()
        self._specs = {spec.name: spec for spec in CATALOGUE}
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {}
        for spec in CATALOGUE:
            if spec.kind == "histogram":
                self._histograms[spec.name] = {labels: _Histogram(spec.buckets) for labels in spec.first_series()}
            else:
                self._numbers[spec.name] = dict.fromkeys(spec.first_series(), 0.0)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if with_process:
            ProcessCollector(registry=self._registry)

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        """Increases a counter. `value` must not be negative."""
        key = self._key(name, labels, "counter")
        if value < 0:
            raise ValueError(f"found {value} added to {name}, expected a counter to rise only")
        with self._lock:
            series = self._numbers[name]
            series[key] = series.get(key, 0.0) + value

    def add_each(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Increases many series of a counter at once, by their labels' values in the catalogue's order."""
        labels = self._specs[name].labels
        if any(len(key) != len(labels) for key in values) or any(labels.values()) or min(values.values(), default=0) < 0:
            raise ValueError(f"found {name} with other labels than {', '.join(labels)}, or a negative value")
        with self._lock:
            series = self._numbers[name]
            for key, value in values.items():
                series[key] = series.get(key, 0.0) + value

    def set(self, name: str, value: float, **labels: object) -> None:
        """Sets a gauge."""
        key = self._key(name, labels, "gauge")
        with self._lock:
            self._numbers[name][key] = float(value)

    def observe(self, name: str, value: float | npt.NDArray[np.floating] | npt.NDArray[np.integer], **labels: object) -> None:
        """Adds one finite value, or each value of an array, to a histogram. Negative values (a clock that is behind) count as 0."""
        key = self._key(name, labels, "histogram")
        with self._lock:
            histogram = self._histograms[name].get(key)
            if histogram is None:
                histogram = self._histograms[name][key] = _Histogram(self._specs[name].buckets)
            histogram.observe(value)

    def forget(self, name: str, **labels: object) -> None:
        """Removes a series of a gauge: that of a partition which this instance no longer owns."""
        key = self._key(name, labels, "gauge")
        with self._lock:
            self._numbers[name].pop(key, None)

    def value(self, name: str, **labels: object) -> float:
        """The value of a counter or gauge, or the number of values in a histogram. Raises KeyError for a series that does not exist."""
        key = self._key(name, labels)
        with self._lock:
            if name in self._histograms:
                return float(sum(self._histograms[name][key].counts))
            return self._numbers[name][key]

    def total(self, name: str, **labels: object) -> float:
        """The sum of a histogram's values."""
        key = self._key(name, labels, "histogram")
        with self._lock:
            return self._histograms[name][key].sum

    def render(self) -> bytes:
        """All series as Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; called by the registry."""
        for spec in CATALOGUE:
            with self._lock:
                family = self._family(spec)
            yield family

    def _family(self, spec: Spec) -> Metric:
        name, help_text, labels = PREFIX + spec.name, f"{spec.meaning} [{spec.unit}]", list(spec.labels)
        if spec.kind == "histogram":
            histogram = HistogramMetricFamily(name, help_text, labels=labels)
            for key, counted in self._histograms[spec.name].items():
                histogram.add_metric(key, counted.buckets(), counted.sum)
            return histogram
        family: CounterMetricFamily | GaugeMetricFamily
        family = (CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily)(name, help_text, labels=labels)
        for key, value in self._numbers[spec.name].items():
            family.add_metric(key, value)
        return family

    def _key(self, name: str, labels: Mapping[str, object], kind: str | None = None) -> tuple[str, ...]:
        spec = self._specs.get(name)
        if spec is None or (kind is not None and spec.kind != kind):
            raise KeyError(f"found the {kind or 'metric'} {name}, expected one of processor.metrics.CATALOGUE")
        if not spec.labels and not labels:
            return ()
        if labels.keys() != spec.labels.keys():
            raise KeyError(f"found the labels {sorted(labels)} of {name}, expected {sorted(spec.labels)}")
        key = tuple(str(labels[label]) for label in spec.labels)
        for value, (label, allowed) in zip(key, spec.labels.items(), strict=True):
            if allowed and value not in allowed:
                raise KeyError(f"found {label}={value} of {name}, expected one of {', '.join(allowed)}")
        return key


class _Histogram:
    """Counts by bucket. Not thread-safe: Metrics holds the lock."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)  # a list, because single values are far more frequent than arrays
        self.sum = 0.0
        self._bounds = bounds

    def observe(self, value: float | npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> None:
        if isinstance(value, np.ndarray):
            values = np.maximum(value.ravel(), 0)
            # The first bound that is not below the value: a bucket includes its bound.
            where = np.searchsorted(self._bounds, values, side="left")
            self.counts = (np.bincount(where, minlength=len(self.counts)) + self.counts).tolist()
            self.sum += float(values.sum(dtype=np.float64))
        else:
            one = max(float(value), 0.0)
            self.counts[bisect_left(self._bounds, one)] += 1
            self.sum += one

    def buckets(self) -> list[tuple[str, float]]:
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))
