"""Alarms and a model: which of its numbers is judged, and what does not fit."""

from types import SimpleNamespace

import pytest

from processor.alarms.score import Score
from processor.app.alarm_rules import decider_of
from processor.errors import ConfigurationError
from processor.records import Output
from processor.settings import load_settings

ABOVE = "--alarm.raise={above: 2}"
ONE = SimpleNamespace(named_outputs=(Output("y", 0, 3),), features=3)
WINDOW = SimpleNamespace(named_outputs=(Output("y", 0, 12, rows=4),))
TWO = SimpleNamespace(named_outputs=(Output("next", 0, 3), Output("left[0]", 3, 4)))


@pytest.mark.parametrize(
    ("model", "options", "score"),
    [
        (ONE, ["--output.residual=[2, 0, 1]"], Score("residual", features=(2, 0, 1))),
        (ONE, ["--alarm.score=prediction[2]"], Score("prediction", 2)),
        (ONE, ["--alarm.score=predicted_y[1]", "--output.scale={mean: [1, 2, 3], std: 4}"], Score("prediction", 1, 2.0, 4.0)),
        (ONE, ["--alarm.score=prediction[1]", "--output.scale={mean: 1, std: 4}"], Score("prediction", 1, 1.0, 4.0)),
        (TWO, ["--alarm.score=predicted_next[2]"], Score("prediction", 2)),
        (TWO, ["--alarm.score=predicted_left[0]"], Score("prediction", 3)),
    ],
)
def test_the_score_is_the_number_that_is_named(model, options, score):
    decider = decider_of(load_settings(None, [ABOVE, *options], {}), model)
    assert decider.score == score


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (ONE, [], "output.residual is false"),
        (ONE, ["--alarm.score=prediction"], "prediction[0] to prediction[2]"),
        (ONE, ["--alarm.score=prediction[3]"], "prediction[0] to prediction[2]"),
        (ONE, ["--alarm.score=predicted_z"], "alarm.score is predicted_z, which the model does not give"),
        (TWO, ["--alarm.score=prediction[0]"], "predicted_next[0] to [2], predicted_left[0]"),
        (WINDOW, ["--alarm.score=prediction[0]"], "a prediction is a list of 4 steps"),
    ],
)
def test_a_score_that_there_is_not_is_refused_with_those_that_there_are(model, options, told):
    with pytest.raises(ConfigurationError) as caught:
        decider_of(load_settings(None, [ABOVE, *options], {}), model)
    assert told in str(caught.value)


def test_without_a_threshold_there_are_no_alarms():
    assert decider_of(load_settings(None, [], {}), ONE) is None
