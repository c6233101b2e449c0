"""The profile of training data: its bins, its file, and whether it fits the model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processor.app.drift_profile import Column, Profile, drift_counts
from processor.app.sensor_form import SensorForm, Units
from processor.errors import ConfigurationError
from processor.metrics import Metrics
from processor.settings import Scale

FORM = SensorForm(
    features=("pressure", "speed"),
    outputs=("load",),
    reading=Units([(Scale((10.0,), (2.0,)), 1), (None, 1)]),
    answer=Units([(None, 1)]),
    forecasts=(),
    countable=frozenset({0}),
    parts=(),
    window=None,
)
GOOD: dict[str, Any] = {
    "profile": 1,
    "readings": 100,
    "features": {"pressure": {"edges": [12.0, 14.0], "shares": [0.2, 0.3, 0.5]}},
    "outputs": {"load": {"edges": [], "shares": [1.0]}},
}


def profile_of(tmp_path: Path, told: Any) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


def test_bins_hold_equal_shares_of_the_training_data() -> None:
    column = Column.of(np.arange(1000, dtype=np.float32), 4)
    assert column.shares == pytest.approx([0.25] * 4, abs=0.002)
    assert column.edges == pytest.approx([250, 500, 750], abs=2)


def test_a_value_that_the_training_data_never_left_has_an_empty_bin_on_either_side() -> None:
    column = Column.of(np.full(50, 3, np.float32), 10)
    assert column.shares == (0.0, 1.0, 0.0)
    assert column.edges[0] < 3.0 == column.edges[1]
    assert np.float32(column.edges[0]) == np.nextafter(np.float32(3), np.float32(-np.inf))


def test_few_values_have_a_bin_each() -> None:
    column = Column.of(np.array([0, 0, 0, 1, 1, 2, np.nan], np.float32), 10)
    assert column.shares == pytest.approx([0, 0.5, 1 / 3, 1 / 6], abs=1e-5)


def test_a_column_without_values_has_one_bin() -> None:
    assert Column.of(np.full(3, np.nan, np.float32), 10) == Column((), (1.0,))


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    column = Column.of(np.random.default_rng(1).standard_normal(1000).astype(np.float32), 10)
    for profile in (Profile(1000, {"a b": column, "ü": column}, {"y": column}), Profile(1, {}, {})):
        path = profile_of(tmp_path, profile.to_json())
        assert Profile.read(path) == profile


def test_edges_are_in_the_features_own_unit(tmp_path: Path) -> None:
    metrics = Metrics()
    counts = drift_counts(profile_of(tmp_path, GOOD), FORM, metrics)
    (of_features, _) = counts._bins
    assert of_features.count(np.array([[0.9, 0], [1.1, 0], [1.9, 0], [3, 0]], np.float32)).tolist() == [[1, 2, 1]]  # at 1 and 2
    assert [metrics.value("feature_expected_ratio", feature="pressure", bin=i) for i in range(3)] == [0.2, 0.3, 0.5]
    assert metrics.value("prediction_expected_ratio", output="load", bin=0) == 1


def test_a_feature_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(FORM, features=("pressure_bar", "speed"))
    with pytest.raises(ConfigurationError, match="has the features pressure, which the model does not have") as caught:
        drift_counts(profile_of(tmp_path, GOOD), other, Metrics())
    assert "some of pressure_bar, speed" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"profile": 2}, "is not a profile of format 1"),
        ({"readings": "many"}, "readings is 'many'"),
        ({"features": []}, "features is no object by name"),
        ({"features": {"pressure": []}}, "features.pressure has no lists of numbers"),
        ({"features": {"pressure": {"edges": [1], "shares": [1]}}}, "has 1 edges and 1 shares"),
        ({"features": {"pressure": {"edges": [2, 1], "shares": [0.2, 0.3, 0.5]}}}, "the edges of features.pressure do not rise"),
        ({"features": {"pressure": {"edges": [1], "shares": [0.2, 0.3]}}}, "their sum is 0.5"),
        ({"features": {"pressure": {"edges": [1], "shares": [-0.2, 1.2]}}}, "no shares of a whole"),
        ({"features": {"pressure": {"edges": [True], "shares": [0.5, 0.5]}}}, "no lists of numbers"),
        ({"features": {"pressure": {"edges": list(range(60)), "shares": [1, *[0] * 60]}}}, "has 60 edges"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_what_is_wrong(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = profile_of(tmp_path, {**GOOD, **change})
    with pytest.raises(ConfigurationError, match=f"drift.profile is {path}, and .*{why}"):
        Profile.read(path)


NAN = '{"profile": 1, "readings": 1, "features": {"a": {"edges": [NaN], "shares": [0, 1]}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1e999", NAN])
def test_what_is_no_json_object_of_numbers_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="slotstream profile"):
        Profile.read(profile_of(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Profile.read(tmp_path / "nothing.json")
