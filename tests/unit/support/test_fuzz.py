"""Bad input in bulk: nothing that reads bytes raises, hangs, grows, or judges a record otherwise than the reference oracle.

100,000 inputs here; `make fuzz` gives as many as one likes.
"""

from random import Random

import fuzz as module
import pytest
from fuzz import Finding, fuzz, run_batch
from fuzz_targets import Target, all_targets
from mutate import Mutator
from structlog.testing import capture_logs

from processor.codec import json_records

SEED = 20


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_hundred_thousand_bad_inputs_are_refused_as_the_contract_says(tmp_path):
    targets = list(all_targets(tmp_path, oracle_share=0.1))
    with capture_logs():
        counts, found = fuzz(targets, 100_000, SEED)
    assert found == []
    assert sum(counts.values()) >= 100_000
    assert min(counts.values()) >= 900, counts


def test_an_input_can_be_made_again_from_its_seed():
    first, again = (Mutator(Random("1 json 7")) for _ in range(2))
    assert [first.mutated(first.json_record((), 3)) for _ in range(50)] == [again.mutated(again.json_record((), 3)) for _ in range(50)]


# -- what is wrong is found ------------------------------------------------------------------------------------------------


class Bad(Target):
    name, inputs, share = "bad", 10, 1.0

    def __init__(self, run):
        self.run = run


def test_an_exception_is_a_finding_that_names_what_makes_it_again():
    found = run_batch(Bad(lambda random: {}["gone"]), 5, 9)
    assert [(f.target, f.batch) for f in found] == [("bad", 9)]
    assert "KeyError in test_fuzz.py" in found[0].what


def test_a_batch_that_takes_long_is_a_finding(monkeypatch):
    monkeypatch.setattr(module, "BATCH_S_MAX", 0.0)
    assert "took" in run_batch(Bad(lambda random: None), 5, 9)[0].what


def test_memory_that_grows_is_a_finding(monkeypatch):
    sizes = iter([100_000_000, 200_000_000])
    monkeypatch.setattr(module, "resident_bytes", lambda: next(sizes))
    _, found = fuzz([Bad(lambda random: None)], 100, 5)
    assert found == [Finding("memory", 0, "100 MB more at the end than after a tenth of the inputs")]


def test_fuzzing_ends_when_it_finds_too_much():
    counts, found = fuzz([Bad(lambda random: 1 / 0)], 10_000, 5)
    assert (counts, len(found)) == ({"bad": 200}, 20)


@pytest.mark.full
@pytest.mark.parametrize("change", [{"DEPTH_MAX": 95}, {"DEPTH_MAX": 105}, {"DIGITS_MAX": 1}, {"_check_finite": lambda numbers: None}])
def test_a_codec_that_judges_otherwise_than_the_oracle_is_found_out(change, monkeypatch, tmp_path):
    for name, value in change.items():
        monkeypatch.setattr(json_records, name, value)
    target = next(all_targets(tmp_path, oracle_share=1.0))
    _, found = fuzz([target], 60_000, SEED)
    assert found


def test_only_the_command_ends_its_process_when_a_batch_hangs(monkeypatch):
    """Armed by fuzz() itself, the timer outlived the test and ended pytest's process two minutes later."""
    monkeypatch.setattr(module, "TELL_EVERY_S", -1.0)
    monkeypatch.setattr(module.faulthandler, "dump_traceback_later", lambda *_, **__: pytest.fail("armed"))
    lines: list[str] = []
    fuzz([Bad(lambda random: None)], 100, 5, tell=lines.append)
    assert len(lines) == 10
