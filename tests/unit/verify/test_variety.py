"""What is drawn for a verification from its seed: always settings that can be served, and never what the user has spoken of."""

from processor.settings import load_settings
from processor.verify.variety import drawn

SEEDS = range(200)


def test_what_is_drawn_is_always_allowed_and_of_every_kind() -> None:
    found = [load_settings(None, drawn(seed, None, [], {}, forecasts=True), {}) for seed in SEEDS]
    raised = [settings.alarm.raise_ for settings in found if settings.alarm.raise_ is not None]
    assert {(each.above, type(each.at).__name__) for each in raised} == {(a, b) for a in (True, False) for b in ("float", "Learnt")}
    assert len(raised) < len(found)
    assert {settings.alarm.silent is None for settings in found} == {True, False}


def test_a_section_that_the_user_has_set_is_left_alone() -> None:
    for seed in SEEDS:
        assert not any(word.startswith("--alarm") for word in drawn(seed, None, ["--alarm.mean_of=2"], {}, forecasts=True))
        assert not any(word.startswith("--input") for word in drawn(seed, None, [], {"SLOTSTREAM_INPUT__TOPIC": "a"}, forecasts=True))
        assert not any(word.startswith("--alarm") for word in drawn(seed, None, [], {}))
