"""What the CSV tools and verify send is what the settings under `input` describe."""

import json
from itertools import islice

import pytest
from judge import Judge as Echo

from processor.csv_io.csv_rows import Reading, value_of
from processor.settings import load_settings
from processor.verify.oracle_records import InputRecord
from processor.verify.readings import Readings
from processor.verify.variety import drawn

TIME_MS = 1_700_000_000_123


@pytest.mark.parametrize(
    ("unit", "told"), [("auto", TIME_MS), ("ms", TIME_MS), ("s", TIME_MS / 1000), ("us", TIME_MS * 1000), ("ns", TIME_MS * 10**6)]
)
def test_a_time_goes_where_the_settings_want_it_and_in_their_unit(unit: str, told: float) -> None:
    reading = Reading(2, "pump", TIME_MS, [1.5], None)
    assert json.loads(value_of(reading, "json", ["meta.x"], timestamp="meta.at", unit=unit)) == {"meta": {"x": 1.5, "at": told}}
    assert json.loads(value_of(reading, "json", None, timestamp=None, unit=unit)) == {"values": [1.5]}


def test_a_time_that_could_not_be_read_is_no_time_in_any_unit() -> None:
    reading = Reading(2, "pump", "not read: x", [1.5], "timestamp is x")
    assert json.loads(value_of(reading, "json", None, timestamp="at", unit="s")) == {"at": "not read: x", "values": [1.5]}


def forms(count: int) -> list[list[str]]:
    return [drawn(seed, None, [], {}) for seed in range(count)]


def test_a_seed_draws_the_same_form_again_and_seeds_draw_different_ones() -> None:
    assert forms(40) == forms(40)
    assert len({tuple(form) for form in forms(40)}) > 8


def test_what_the_user_says_of_the_input_is_left_alone(tmp_path) -> None:
    seed = next(seed for seed, form in enumerate(forms(40)) if form)
    assert drawn(seed, None, ["--input.format=float32"], {}) == []
    assert drawn(seed, tmp_path / "settings.yaml", [], {}) == []
    assert drawn(seed, None, [], {"SLOTSTREAM_INPUT__FORMAT": "float32"}) == []
    assert drawn(seed, None, ["--output.residual=false"], {"SLOTSTREAM_GROUP": "g"}) != []


def test_outputs_have_scores_where_the_model_allows_it_and_the_user_says_nothing_of_them() -> None:
    scored = [drawn(seed, None, [], {}, forecasts=True) for seed in range(40)]
    assert [[option for option in form if option.startswith("--input.")] for form in scored] == forms(40)
    chosen = {option for form in scored for option in form if option.startswith("--output.")}
    assert {"--output.residual=each", "--output.reconstruction=true"} < chosen
    for form in scored:
        load_settings(None, form, {})
    left_alone = [drawn(seed, None, ["--output.residual=false"], {}, forecasts=True) for seed in range(40)]
    assert [[option for option in form if not option.startswith("--alarm.")] for form in left_alone] == forms(40)


@pytest.mark.parametrize("form", [form for form in forms(12) if form], ids=" ".join)
def test_most_readings_of_each_form_are_good(form: list[str]) -> None:
    settings = load_settings(None, form, {})
    oracle = Echo(settings, 2)._reference
    answers = []
    for offset, sent in enumerate(islice(Readings(1, settings, features=2, partitions=4, start_ms=TIME_MS), 1000)):
        answer = oracle.feed(InputRecord(sent.partition, offset, sent.key, sent.value, sent.record_ms, sent.headers))
        assert sent.due == (answer is not None)
        answers.append(answer)
    assert sum(isinstance(answer, dict) for answer in answers) > 750
