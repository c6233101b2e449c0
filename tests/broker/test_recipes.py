"""The recipes: on the real Kafka, with the numbers of Keras; and what docs/recipes.md says that Keras refuses is what it refuses."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import pytest
import yaml
from places import ROOT

from processor.model.load import describe_file
from processor.settings import Settings
from processor.testbed.embedded_kafka import EmbeddedKafka
from recipes import engine_runs, fixed_batch, one_sensor, predict_loop, reconstruction, residuals, scalers, short_sequences, trained_windows
from recipes.running import Outcome, difference, refusal

CLASSIC = (one_sensor, fixed_batch, short_sequences)
RECORDS = {
    one_sensor: [5, 5],
    fixed_batch: [1000],
    short_sequences: [20],
    residuals: [2880],
    trained_windows: [300, 300],
    reconstruction: [200, 200, 200],
    engine_runs: [183, 167, 138],
    predict_loop: [6000],
    scalers: [60],
}
PAGE = ROOT / "docs" / "recipes.md"


def name_of(recipe: ModuleType) -> str:
    return recipe.__name__.rpartition(".")[2]


# Of those that train and serve as others do: by `make soak`.
LONGER = {"engine_runs", "fixed_batch", "predict_loop", "reconstruction", "trained_windows"}


@pytest.mark.long
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(recipe, marks=[pytest.mark.soak] if name_of(recipe) in LONGER else []) for recipe in RECORDS],
    ids=name_of,
)
def test_a_recipe_gives_the_predictions_of_keras(recipe: ModuleType, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    outcomes = recipe.run(kafka.bootstrap, tmp_path)
    assert [outcome.predictions for outcome in outcomes] == RECORDS[recipe]
    assert all(outcome.difference <= 1e-5 for outcome in outcomes), outcomes


def test_every_recipe_is_run_and_told_of() -> None:
    files = {path.name for path in (ROOT / "recipes").glob("*.py")} - {"__init__.py", "__main__.py", "running.py"}
    assert {f"{name_of(recipe)}.py" for recipe in RECORDS} == files
    for told in (PAGE, ROOT / "docs" / "code-map.md", ROOT / "recipes" / "__main__.py"):
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


@pytest.mark.long
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


@pytest.mark.long
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
    file = tmp_path / "model.keras"
    trained_windows.windowed_model().save(file)
    assert describe_file(file)["why"] in PAGE.read_text()
    assert describe_file(file, mode="carried")["past_window"] in PAGE.read_text()


X = np.array([[10.0, 5.0, 1e6], [30.0, 5.0, 1e6 + 0.5], [20.0, 5.0, 1e6 + 2.0]])
SCALERS = [scalers.standard_scaler(X), *(scalers.min_max_scaler(X, to) for to in ((0, 1), (-1, 1), (0.1, 0.9), (2, 5)))]


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda scaler: str(getattr(scaler, "feature_range", "standard")))
def test_a_scaler_as_settings_scales_as_it_does_itself(scaler: SimpleNamespace) -> None:
    scale = Settings(input={"scale": yaml.safe_load(yaml.safe_dump(scalers.as_scale(scaler)))}).input.scale
    assert scale is not None
    others = X + np.array([5.0, -1.0, 3.0])
    expected = (others - scaler.mean_) / scaler.scale_ if hasattr(scaler, "mean_") else others * scaler.scale_ + scaler.min_
    np.testing.assert_allclose((others - scale.offset) / scale.divisor, expected, rtol=1e-9, atol=1e-9)


def test_the_ends_of_the_data_are_the_settings_of_a_min_max_scaler() -> None:
    assert scalers.as_scale(scalers.min_max_scaler(X)) == {"min": [10.0, 5.0, 1e6], "max": [30.0, 6.0, 1e6 + 2.0]}
    assert scalers.as_scale(scalers.min_max_scaler(X[:, :1], (-1, 1))) == {"min": [20.0], "max": [30.0]}


def test_a_scaler_without_mean_or_deviation_has_none_in_the_settings() -> None:
    neither = SimpleNamespace(with_mean=False, with_std=False, mean_=None, scale_=None, n_features_in_=2)
    assert scalers.as_scale(neither) == {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    only_mean = SimpleNamespace(with_mean=True, with_std=False, mean_=np.array([3.0]), scale_=None)
    assert scalers.as_scale(only_mean) == {"mean": [3.0], "std": [1.0]}


def test_scalers_that_are_no_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="clips"):
        scalers.as_scale(SimpleNamespace(data_min_=X[0], clip=True))
    with pytest.raises(ValueError, match="this is a SimpleNamespace"):
        scalers.as_scale(SimpleNamespace(center_=0.0))


def test_the_page_shows_the_function_and_the_settings_that_the_program_has() -> None:
    page = PAGE.read_text()
    body = inspect.getsource(scalers.as_scale).partition('"""A fitted')[2]
    assert body in page
    scales = {"input": {"scale": scalers.as_scale(scalers.standard_scaler(scalers.READINGS))}}
    scales["output"] = {"scale": scalers.as_scale(scalers.min_max_scaler(scalers.TARGETS, (-1, 1)))}
    shown = yaml.safe_load("input:\n" + page.partition("```yaml\ninput:\n")[2].partition("```")[0])
    for section, scale in scales.items():
        for key, numbers in scale["scale"].items():
            np.testing.assert_allclose(shown[section]["scale"][key], numbers, rtol=1e-12)


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
