"""processor.metrics: what is counted comes out as Prometheus text, and nothing that is not in the catalogue goes in."""

import re
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from prometheus_client.parser import text_string_to_metric_families

from processor.metrics import CATALOGUE, PREFIX, STAGES, Metrics
from processor.records import ERRORS

STEADY = settings(deadline=None, derandomize=True)  # the same examples each time, however busy the machine is


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_every_metric_of_the_catalogue_is_rendered_with_its_meaning() -> None:
    metrics = Metrics()
    text = metrics.render().decode()
    for spec in CATALOGUE:
        assert f"# HELP {PREFIX}{spec.name} {spec.meaning} [{spec.unit}]\n# TYPE {PREFIX}{spec.name} {spec.kind}\n" in text


@pytest.mark.skipif(sys.platform != "linux", reason="the client library reads /proc")
def test_the_process_tells_when_it_started_and_what_it_takes() -> None:
    text = Metrics(with_process=True).render().decode()
    for name in ("process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert re.search(rf"^{name} [1-9]", text, re.MULTILINE), name


def test_the_catalogue_keeps_to_base_units_and_kinds() -> None:
    assert len({spec.name for spec in CATALOGUE}) == len(CATALOGUE)
    for spec in CATALOGUE:
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert list(spec.buckets) == sorted(set(spec.buckets))
        assert (spec.unit == "seconds") == spec.name.endswith("_seconds")
        assert (spec.unit == "bytes") == spec.name.endswith("_bytes")
        assert "sensor" not in spec.labels


def test_series_that_are_known_beforehand_start_at_zero() -> None:
    found = samples(Metrics())
    for error in ERRORS:
        assert found["slotstream_dead_letters_total", (("error", error),)] == 0
    for stage in STAGES:
        assert found["slotstream_stage_seconds_count", (("stage", stage),)] == 0
    for result in ("committed", "aborted"):
        assert found["slotstream_transactions_total", (("result", result),)] == 0
    assert found["slotstream_ready", ()] == 0
    assert not [name for name, labels in found if dict(labels).get("partition")]


def test_counters_add_and_gauges_are_set() -> None:
    metrics = Metrics()
    metrics.add("readings_total")
    metrics.add("readings_total", 41)
    metrics.add("dead_letters_total", 2, error="late")
    metrics.set("slots", 64)
    metrics.set("slots", 128)
    assert metrics.value("readings_total") == 42
    found = samples(metrics)
    assert found["slotstream_readings_total", ()] == 42
    assert found["slotstream_dead_letters_total", (("error", "late"),)] == 2
    assert found["slotstream_slots", ()] == 128


def test_a_forgotten_partition_is_gone_and_others_stay() -> None:
    metrics = Metrics()
    metrics.set("lag_records", 5, partition=0)
    metrics.set("lag_records", 7, partition=1)
    metrics.forget("lag_records", partition=0)
    metrics.forget("lag_records", partition=9)
    assert [key for key in samples(metrics) if key[0] == "slotstream_lag_records"] == [("slotstream_lag_records", (("partition", "1"),))]
    with pytest.raises(KeyError):
        metrics.value("lag_records", partition=0)


def test_an_info_metric_carries_its_labels() -> None:
    metrics = Metrics()
    metrics.set("build_info", 1, version='0.1"\n', python="3.12", tensorflow="2.21.0", librdkafka="2.16.1")
    labels = (("librdkafka", "2.16.1"), ("python", "3.12"), ("tensorflow", "2.21.0"), ("version", '0.1"\n'))
    assert samples(metrics)["slotstream_build_info", labels] == 1


@pytest.mark.parametrize("spec", [spec for spec in CATALOGUE if spec.kind == "histogram"], ids=lambda spec: spec.name)
def test_a_bucket_holds_its_own_bound(spec) -> None:
    metrics = Metrics()
    labels = {label: values[0] for label, values in spec.labels.items()}
    for bound in spec.buckets:
        metrics.observe(spec.name, bound, **labels)
        metrics.observe(spec.name, np.array([np.nextafter(bound, np.inf)]), **labels)
    found = samples(metrics)
    for index, bound in enumerate(spec.buckets):
        key = tuple(sorted({**labels, "le": repr(float(bound))}.items()))
        assert found[f"{PREFIX}{spec.name}_bucket", key] == 2 * index + 1
    assert found[f"{PREFIX}{spec.name}_count", tuple(labels.items())] == 2 * len(spec.buckets)


@STEADY
@given(arrays(np.float64, st.integers(0, 50), elements=st.floats(-10, 1e5)))
def test_an_array_counts_as_its_values_one_by_one(values: np.ndarray) -> None:
    at_once, one_by_one = Metrics(), Metrics()
    at_once.observe("end_to_end_seconds", values)
    for value in values:
        one_by_one.observe("end_to_end_seconds", float(value))
    left, right = samples(at_once), samples(one_by_one)
    total = ("slotstream_end_to_end_seconds_sum", ())
    assert left.pop(total) == pytest.approx(right.pop(total), rel=1e-9)
    assert left == right
    assert at_once.value("end_to_end_seconds") == len(values)


@STEADY
@given(st.lists(st.floats(0, 1e4), max_size=50))
def test_buckets_are_what_prometheus_means_by_them(values: list[float]) -> None:
    metrics = Metrics()
    metrics.observe("restore_seconds", np.array(values, np.float32).reshape(1, -1))
    found = samples(metrics)
    for (name, labels), counted in found.items():
        if name == "slotstream_restore_seconds_bucket":
            assert counted == sum(float(np.float32(value)) <= float(dict(labels)["le"]) for value in values)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda metrics: metrics.add("reading_total"),
        lambda metrics: metrics.add("slotstream_readings_total"),
        lambda metrics: metrics.add("slots"),
        lambda metrics: metrics.set("readings_total", 1),
        lambda metrics: metrics.observe("slots", 1),
        lambda metrics: metrics.add("readings_total", sensor="pump-7"),
        lambda metrics: metrics.add("dead_letters_total"),
        lambda metrics: metrics.add("dead_letters_total", error="oops"),
        lambda metrics: metrics.set("lag_records", 1, topic="a"),
        lambda metrics: metrics.forget("nothing"),
        lambda metrics: metrics.value("nothing"),
    ],
)
def test_what_is_not_in_the_catalogue_is_refused(wrong) -> None:
    metrics = Metrics()
    before = metrics.render()
    with pytest.raises(KeyError, match="expected"):
        wrong(metrics)
    assert metrics.render() == before


def test_a_counter_does_not_fall() -> None:
    with pytest.raises(ValueError, match="expected a counter to rise only"):
        Metrics().add("readings_total", -1)


def test_two_metrics_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.add("readings_total")
    one.observe("batch_readings", 1)
    assert (other.value("readings_total"), other.value("batch_readings")) == (0, 0)


def test_nothing_is_lost_between_threads_while_another_renders() -> None:
    metrics = Metrics()

    def count() -> None:
        for number in range(2000):
            metrics.add("readings_total")
            metrics.observe("stage_seconds", 0.01, stage="apply")
            metrics.set("lag_records", number, partition=number % 50)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    for thread in threads:
        thread.join()
    assert metrics.value("readings_total") == 8000
    assert metrics.value("stage_seconds", stage="apply") == 8000
