"""Alarms beside the reference oracle: on whole logs, cut into batches, undone, replayed and restarted in any way."""

from collections import Counter
from random import Random

import pytest
from whole_log import expected, log_of, served

from processor.settings import load_settings

RESIDUAL = "--output.residual=true"
ABOVE = "--alarm.raise={above: 4}"
RULES = {
    "above": [RESIDUAL, ABOVE],
    "in a row": [RESIDUAL, "--alarm.raise={above: 3, for: 2}", "--alarm.clear={below: 2.5, for: 2}"],
    "below": [RESIDUAL, "--alarm.raise={below: 3}", "--alarm.clear={above: 4}"],
    "a number of the prediction": ["--alarm.score=prediction[1]", "--alarm.raise={above: 8}", "--output.scale={mean: [1, 2, 3], std: 2}"],
    "an output by name": ["--alarm.score=predicted_y[2]", "--alarm.raise={below: 2, for: 2}", "--alarm.clear={for: 2}"],
    "the features": ["--input.features=[a, b.c, d]", "--output.residual=each", "--alarm.raise={above: 3}"],
    "a reconstruction": ["--output.reconstruction=true", "--alarm.score=reconstruction", "--alarm.raise={above: 1.4}"],
    "a named field": ["--output.fields=[u, v, w]", "--alarm.score=predicted_v", "--alarm.raise={above: 8}", "--output.residual=each"],
    "a mean": [RESIDUAL, "--alarm.mean_of=4", "--alarm.raise={above: 4}", "--alarm.clear={below: 3.5}"],
    "repeated": [RESIDUAL, "--alarm.raise={above: 2}", "--alarm.clear={below: 1, for: 3}", "--alarm.repeat=2s"],
    "deviations": [RESIDUAL, "--alarm.raise={above: {mad: 1.2, warmup: 10}}", "--alarm.clear={below: {mad: 0.5}, for: 2}"],
    "deviations below": [RESIDUAL, "--alarm.raise={below: {mad: 0.8, warmup: 10}}", "--alarm.mean_of=2"],
    "a quantile": [RESIDUAL, "--alarm.raise={above: {quantile: 0.8, warmup: 12}}"],
    "a low quantile": [RESIDUAL, "--alarm.raise={below: {quantile: 0.1, warmup: 10}}", "--alarm.clear={above: 3}"],
    "by name": [RESIDUAL, ABOVE, '--alarm.thresholds={"s0": 2, "s[12]": {raise: 3, clear: 1}, "*9": 1}', "--alarm.clear={below: 3}"],
    "by name and learnt": [RESIDUAL, "--alarm.raise={above: {quantile: 0.7, warmup: 10}}", '--alarm.thresholds={"s?": 3}'],
    "warming up": [RESIDUAL, ABOVE, "--model.warmup_steps=3"],
    "resets": [RESIDUAL, "--alarm.raise={above: 2}", "--reset.after_gap=3s", "--reset.after_steps=9", "--late=dead_letter"],
    "expiry": [RESIDUAL, "--alarm.raise={above: 2}", "--alarm.clear={below: 0.5}", "--state.expire_after=3s"],
    "silence": ["--alarm.silent=4s", "--reset.after_steps=9"],
    "silence and alarms": [RESIDUAL, "--alarm.raise={above: 2}", "--alarm.silent=1s", "--late=dead_letter"],
    "silence and dead letters": [RESIDUAL, ABOVE, "--alarm.silent=2s", "--input.missing=hold", "--input.missing_values=[-200, N/A]"],
    "each record": ["--alarm.score=prediction[0]", "--alarm.raise={above: 3}", "--reset.each_record=true"],
    "held": [RESIDUAL, ABOVE, "--input.missing=hold", "--input.hold_max=1s", "--input.missing_values=[-200, N/A]"],
}


@pytest.mark.parametrize("name", RULES)
def test_each_alarm_is_raised_and_cleared_once_as_the_oracle_says(name: str) -> None:
    settings = load_settings(None, ["--input.missing=0.5", "--input.missing_values=[-200, N/A]", *RULES[name]], {})
    states = Counter[str]()
    for seed in range(4):
        random = Random(f"{name} {seed}")
        log = log_of(random, settings, 250)
        want = expected(settings, log)
        found = served(settings, log, random, slots=random.choice([2, 8]))
        assert found == want, f"seed {seed}"
        told = [each for key, value in want.items() if isinstance(key, tuple) for _, each in value]
        states.update(each["state"] for each in told)
        assert_each_is_raised_and_cleared_once(told)
    assert min(states["raised"], states["cleared"]) > 5
    assert states["repeated"] > 5 or name != "repeated"


def assert_each_is_raised_and_cleared_once(told: list[dict[str, object]]) -> None:
    """Of the records of one partition in order: each id is raised once, then cleared at most once, and nothing in between but repeated."""
    lasting = dict[object, object]()  # by sensor
    ids = Counter[object]()
    for each in told:
        if each["state"] == "raised":
            assert (each["sensor"], each["level"]) not in lasting
            lasting[each["sensor"], each["level"]] = each["id"]
            ids[each["id"]] += 1
        else:
            of = each["sensor"], each["previous_level"]
            assert lasting.get(of) == each["id"]
            if each["state"] == "cleared":
                del lasting[of]
    assert set(ids.values()) <= {1}
