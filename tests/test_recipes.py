"""The recipes: on the real Kafka, with the numbers of Keras; and what docs/recipes.md says that Keras refuses is what it refuses."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest

from processor.sandbox.kafka import EmbeddedKafka
from recipes import engine_runs, fixed_batch, one_sensor, reconstruction, residuals, short_sequences, trained_windows
from recipes.running import Outcome, difference, refusal, show_model

CLASSIC = (one_sensor, fixed_batch, short_sequences)
RECORDS = {
    one_sensor: [5, 5],
    fixed_batch: [1000],
    short_sequences: [20],
    residuals: [2880],
    trained_windows: [300, 300],
    reconstruction: [200, 200, 200],
    engine_runs: [183, 167, 138],
}
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"


def name_of(recipe: ModuleType) -> str:
    return recipe.__name__.rpartition(".")[2]


@pytest.mark.parametrize("recipe", RECORDS, ids=name_of)
def test_a_recipe_gives_the_predictions_of_keras(recipe: ModuleType, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    outcomes = recipe.run(kafka.bootstrap, tmp_path)
    assert [outcome.predictions for outcome in outcomes] == RECORDS[recipe]
    assert all(outcome.difference <= 1e-5 for outcome in outcomes), outcomes


def test_every_recipe_is_run_and_told_of() -> None:
    files = {path.name for path in (ROOT / "recipes").glob("*.py")} - {"__init__.py", "__main__.py", "running.py"}
    assert {f"{name_of(recipe)}.py" for recipe in RECORDS} == files
    for told in (PAGE, ROOT / "docs" / "architecture.md", ROOT / "recipes" / "__main__.py"):
        assert [name for name in files if name.removesuffix(".py") not in told.read_text()] == []


@pytest.mark.parametrize("recipe", CLASSIC, ids=name_of)
@pytest.mark.parametrize("attempt", ["model", "reset"])
def test_keras_refuses_what_is_found_on_the_web_as_the_page_says(recipe: ModuleType, attempt: str) -> None:
    model = recipe.stateful_model()
    calls: dict[str, Callable[[], object]] = {"model": recipe.model_from_the_web, "reset": lambda: recipe.reset_from_the_web(model)}
    message = refusal(calls[attempt])
    assert message in PAGE.read_text()
    assert ("batch_input_shape" if attempt == "model" else "reset_states") in message


def test_one_call_on_the_sequence_of_five_ends_where_five_steps_do() -> None:
    model = one_sensor.stateful_model()
    carried, whole = one_sensor.step_by_step(model, reset_each=False), one_sensor.whole_sequence(model)
    assert difference(carried[-1], whole) <= 1e-6


def test_resetting_after_every_step_removes_the_memory() -> None:
    model = one_sensor.stateful_model()
    carried, independent = (one_sensor.step_by_step(model, reset_each=reset) for reset in (False, True))
    assert difference(carried[0], independent[0]) <= 1e-6
    assert np.abs(carried[1:] - independent[1:]).min() > 1e-3


def test_a_row_of_a_stateful_batch_is_a_sensor() -> None:
    model = fixed_batch.stateful_model()
    assert difference(fixed_batch.batch_by_batch(model), fixed_batch.sensor_by_sensor(model)) <= 1e-6


def test_five_predictions_a_record_are_a_call_on_each_sequence_alone() -> None:
    model = short_sequences.stateful_model()
    stateless = keras.Sequential([keras.Input((None, 1)), keras.layers.LSTM(128, return_sequences=True), keras.layers.Dense(1)])
    stateless.set_weights(model.get_weights())
    expected = short_sequences.sequence_by_sequence(model)
    assert expected.shape == (20, 5, 1)
    assert difference(expected, stateless.predict(short_sequences.SEQUENCES, verbose=0)) <= 1e-6


def test_the_mean_of_the_last_residuals_flags_a_sensor_once_there_are_enough() -> None:
    flags = residuals.Flags(1.0)
    outputs = [{"sensor": "a", "residual": None}, {"sensor": "a", "residual": 9.0, "warming_up": True}]
    outputs += [{"sensor": sensor, "residual": residual} for residual in (0, 0, 0, 0, 3, 3, 1) for sensor in "ab"]
    assert [flags.flagged(output) for output in outputs] == [False] * 14 + [True] * 2


def test_the_faults_of_the_plant_are_found_by_the_residuals_of_keras() -> None:
    model, (readings, faulty) = residuals.trained_forecaster(), residuals.plant_with_faults()
    off = residuals.residuals_of_keras(model, readings)
    flags = np.zeros(faulty.shape, np.bool_)
    consumer = residuals.Flags(residuals.threshold_of(residuals.residuals_of_keras(model, residuals.plant(2, 100, residuals.STEPS))))
    for sensor, step in np.ndindex(off.shape):
        output = {"sensor": sensor, "residual": off[sensor, step], "warming_up": step + 2 < residuals.WARMUP_STEPS}
        flags[sensor, step + 1] = consumer.flagged(output)
    precision, recall = residuals.precision_and_recall(flags, faulty)
    assert precision > 0.8
    assert recall > 0.8


def test_the_lines_on_the_modes_of_a_window_are_those_of_model_show(tmp_path: Path) -> None:
    shown = [show_model(trained_windows.windowed_model(), tmp_path, *options) for options in ((), ("--mode", "carried"))]
    assert shown[0]["why"] in PAGE.read_text()
    assert shown[1]["past_window"] in PAGE.read_text()


@pytest.mark.parametrize(
    "outcome",
    [Outcome("a prediction is missing", 5, 4, 0.0), Outcome("one came twice", 5, 6, 0.0), Outcome("another number", 5, 5, 1.1e-5)],
    ids=lambda outcome: outcome.what,
)
def test_an_outcome_that_is_not_equal_says_so(outcome: Outcome) -> None:
    assert not outcome.good
    assert str(outcome).endswith("NOT EQUAL")


def test_predictions_of_another_shape_are_infinitely_different() -> None:
    assert difference([[1.0], [2.0]], [[1.0]]) == float("inf")


def test_what_is_not_refused_has_no_refusal() -> None:
    assert refusal(one_sensor.stateful_model) == ""
