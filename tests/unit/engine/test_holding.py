"""Values that are missing: codec and engine beside the reference oracle, on whole logs, cut into batches and replayed in any way."""

from random import Random

import pytest
from whole_log import expected, log_of, served

from processor.settings import load_settings

NAMES = "--input.features=[a, b.c, d]"
HOLD = "--input.missing=hold"
FORMS = {
    "hold": [HOLD],
    "hold for a second": [HOLD, "--input.hold_max=1s", "--input.missing_values=[-200, N/A]"],
    "by feature": ["--input.missing={0: hold, 1: mean, 2: 4.5}", "--input.scale={mean: [1, 2, 3], std: 2}", "--input.missing_values=-200"],
    "named": [NAMES, "--input.missing={a: hold, b.c: 0.5}", "--input.missing_values=[N/A]", "--output.residual=true"],
    "dead letters": [NAMES, "--input.missing_values=[-200]"],
    "float32": [HOLD, "--input.format=float32", "--input.missing_values=[-200]", "--input.scale={min: 0, max: [2, 4, 8]}"],
    "quality": [HOLD, "--input.quality={field: q, good: [GOOD, 192]}", "--output.residual=true"],
    "named quality": [NAMES, HOLD, "--input.quality={field: {a: q, b.c: none.there}, good: [GOOD, true]}"],
    "gaps and late": [HOLD, "--reset.after_gap=3s", "--late=dead_letter", "--input.hold_max=2s"],
    "few steps": [HOLD, "--reset.after_steps=5", "--output.residual=true"],
    "each record": [HOLD, "--reset.each_record=true"],
    "expiry": [HOLD, "--state.expire_after=3s", "--input.hold_max=5s"],
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_served_is_what_the_oracle_says_of_every_record(name: str) -> None:
    settings = load_settings(None, FORMS[name], {})
    errors, held = set(), 0
    for seed in range(6):
        random = Random(f"{name} {seed}")
        log = log_of(random, settings, 250)
        want = expected(settings, log)
        assert served(settings, log, random, slots=random.choice([2, 8])) == want, f"seed {seed}"
        errors |= {answer for answer in want.values() if isinstance(answer, str)}
        held += sum("held" in answer for answer in want.values() if isinstance(answer, dict))
    assert "missing" in errors or name == "by feature"
    assert "non_finite_state" in errors
    assert held > 10 or name == "dead letters"
