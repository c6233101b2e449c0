"""What the alarms of a file come to: their table, a threshold for so many a day, and how they match labels."""

import json

import numpy as np
import pytest

from processor.csv_io.alarm_report import DAY_MS, AlarmReport, Told
from processor.csv_io.labels import is_anomaly, windows_of
from processor.errors import ConfigurationError

HOUR = 3_600_000


def report(scores, alarms=None, labels=None, **options):
    found = AlarmReport(**{"above": True, "raise_for": 1, "clear_for": 1, **options})
    for i, score in enumerate(scores):
        found.add("pump", i * HOUR, i, score, bool(alarms and alarms[i]), None if labels is None else bool(labels[i]))
    return found


def test_an_alarm_is_told_from_its_raising_to_the_reading_that_cleared_it():
    found = report([1, 5, 7, 1, 2, 9], [0, 1, 1, 0, 0, 1])
    assert found.alarms() == [Told("pump", HOUR, 3 * HOUR, 7.0, 2), Told("pump", 5 * HOUR, None, 9.0, 1)]
    assert list(found.table())[1] == "  pump: 1970-01-01 01:00:00 to 1970-01-01 03:00:00, 2 readings, highest score 7"
    assert list(report([1.0]).table()) == ["0 alarms"]


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("readings", [1, 3])
def test_the_threshold_that_is_proposed_raises_no_more_than_so_many_a_day(above, readings):
    rng = np.random.default_rng(1)
    scores = [None, *rng.normal(size=2000)]
    found = report(scores, above=above, raise_for=readings)
    threshold, raised = found.threshold(a_day=1)
    days = 2000 * HOUR / DAY_MS
    beyond = [score is not None and (score > threshold if above else score < threshold) for score in scores]
    streak, active, count = 0, False, 0
    for is_beyond in beyond:
        streak = streak + 1 if is_beyond else 0
        active = is_beyond and (active or streak >= readings)
        count += active and streak == readings
    assert count == raised <= days
    assert raised > days / 3


@pytest.mark.parametrize(("above", "threshold"), [(True, 9.0), (False, -1.0)])
def test_in_less_than_a_day_the_threshold_is_one_that_no_score_passes(above, threshold):
    assert report([1.0, -1.0, 9.0, 2.0], above=above).threshold(a_day=1) == (threshold, 0)


def test_without_times_or_scores_no_threshold_is_proposed():
    assert report([None, None]).threshold(1) is None
    assert report([3.0]).threshold(1) is None


def test_alarms_are_compared_with_labels_by_reading_and_by_span():
    found = report([0] * 8, [0, 1, 1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1, 0, 0])
    assert found.judged() == (
        "against the labels: precision 0.333, recall 0.333 of readings; 1 of 2 labelled spans met by an alarm, 1 of 2 alarms in none"
    )
    assert report([0, 0]).judged() is None


def test_labels_are_numbers_or_words():
    assert [is_anomaly(cell) for cell in ("1", "1.0", "true", "Anomaly", "-1")] == [True] * 5
    assert [is_anomaly(cell) for cell in ("0", "0.0", "", "false", "Normal", "nan")] == [False] * 6


def test_windows_are_those_of_the_file(tmp_path):
    path = tmp_path / "combined_windows.json"
    path.write_text(json.dumps({"known/taxi.csv": [["1970-01-01 00:00:01.000000", "1970-01-01 00:00:02"]], "known/other.csv": []}))
    windows = windows_of(path, tmp_path / "taxi.csv")
    assert [windows.holds(ms) for ms in (999, 1000, 2000, 2001)] == [False, True, True, False]
    with pytest.raises(ConfigurationError, match=r"0 entries for bus\.csv"):
        windows_of(path, tmp_path / "bus.csv")
    path.write_text("[1]")
    with pytest.raises(ConfigurationError, match="other things than windows"):
        windows_of(path, tmp_path / "taxi.csv")
