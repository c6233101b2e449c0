"""Readings and predictions by the bins of a profile: each in one bin, and only what is committed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.loop.drift_counts import Bins, DriftCounts
from processor.metrics import Metrics
from processor.records import Applied, Batch

STEADY = settings(deadline=None, derandomize=True, max_examples=60)


def batch_of(x: list[list[float]], y: list[list[float]], *, steps: list[int] | None = None) -> tuple[Batch, Applied]:
    per = np.array(steps or [1] * len(x))
    n = len(per)
    none, at = np.zeros(n, np.bool_), np.arange(n)
    batch = Batch([0] * n, [b"a"] * n, at, at, at, per, none, none, np.array(x, np.float32))
    applied = Applied(
        y=np.array(y, np.float32), last=np.cumsum(per) - 1, steps=at, residual=np.zeros(n, np.float32), warming=none, filling=none.copy(),
        finite=~none, late=none.copy(), reset_by=np.zeros(n, np.int8),
    )  # fmt: skip
    return batch, applied


def counted(metrics: Metrics, name: str, label: str, column: str, bins: int) -> list[float]:
    return [metrics.value(name, **{label: column, "bin": i}) for i in range(bins)]


def drift(metrics: Metrics) -> DriftCounts:
    return DriftCounts(metrics, ["a", "b"], Bins([0, 2], [[0.0, 1.0], [5.0]]), ["y"], Bins([0], [[0.0]]))


def test_a_value_belongs_to_the_first_bin_whose_edge_is_not_below_it() -> None:
    assert Bins([1], [[0.0, 1.0]]).count(np.array([[9, -1], [9, 0], [9, 0.5], [9, 1], [9, 1.5], [9, np.nan]], np.float32)).tolist() == [
        [2, 2, 1]
    ]


@STEADY
@given(st.lists(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2), max_size=50))
def test_bins_count_as_a_search_for_each_value_does(rows: list[list[float]]) -> None:
    numbers = np.array(rows, np.float32).reshape(-1, 2)
    edges = [[-1.0, 0.0, 0.5, 2.0], [0.0]]
    found = Bins([0, 1], edges).count(numbers)
    for i, of_column in enumerate(edges):
        wanted = np.bincount(np.searchsorted(np.float32(of_column), numbers[:, i]), minlength=5)
        assert found[i].tolist() == wanted.tolist()


def test_more_readings_than_a_small_number_holds_are_counted() -> None:
    assert Bins([0], [[0.0]]).count(np.zeros((70_000, 1), np.float32)).tolist() == [[70_000, 0]]


def test_only_what_is_committed_is_counted() -> None:
    metrics = Metrics()
    counts = drift(metrics)
    assert counted(metrics, "feature_total", "feature", "a", 3) == [0, 0, 0]  # there from the start
    counts.applied(*batch_of([[0.5, 0, 9], [-1, 0, 0]], [[1], [-1]]))
    counts.applied(*batch_of([[2, 0, 0]], [[1]]))
    assert counted(metrics, "feature_total", "feature", "a", 3) == [0, 0, 0]
    counts.commit()
    counts.applied(*batch_of([[0.5, 0, 9]], [[1]]))
    counts.abort()
    counts.commit()
    assert counted(metrics, "feature_total", "feature", "a", 3) == [1, 1, 1]
    assert counted(metrics, "feature_total", "feature", "b", 2) == [2, 1]
    assert counted(metrics, "prediction_total", "output", "y", 2) == [1, 2]
    with pytest.raises(KeyError):
        metrics.value("feature_total", feature="b", bin=2)  # a column has only its own bins


def test_what_was_left_out_missing_or_not_predicted_is_not_counted() -> None:
    metrics = Metrics()
    counts = drift(metrics)
    batch, applied = batch_of([[0.5, 0, 9]] * 4, [[1]] * 4, steps=[2, 1, 1])
    batch.missing = np.zeros((4, 3), np.bool_)
    batch.missing[0, 0] = True
    applied.late[1], applied.filling[2] = True, True
    counts.applied(batch, applied)
    counts.commit()
    assert sum(counted(metrics, "feature_total", "feature", "a", 3)) == 2  # of two steps one was missing, and one reading more
    assert sum(counted(metrics, "feature_total", "feature", "b", 2)) == 3
    assert sum(counted(metrics, "prediction_total", "output", "y", 2)) == 2
