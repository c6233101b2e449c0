"""`slotstream plan`: its sums add up, more is never less, and its memory is what an engine of that many sensors takes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from harness import L, save_model
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from processor.cli import main
from processor.settings import load_settings
from processor.sizing.estimate import BUSY_MAX, memory_parts, plan, slots_for
from processor.sizing.plan_lines import lines
from processor.sizing.plan_parts import NOTHING, Measured, Part, Plan, Range, Stepped, Wanted

SETTINGS = load_settings(None, [], {})
FOLDER = load_settings(None, ["--checkpoint.store=directory"], {})
MEASURED = Measured(
    mode="carried",
    features=10,
    outputs=1,
    row_numbers=128,
    base_bytes=700_000_000,
    start_s=10.0,
    batches=(Stepped(16, 5e-5, 1e-3, 4e-5, 1.2e-3), Stepped(256, 5e-4, 2e-3, 4e-4, 4e-3), Stepped(4096, 8e-3, 3e-2, 6e-3, 6e-2)),
    copy_row_s=2e-7,
    value_bytes=120,
    output_bytes=130,
)

wanted = st.builds(
    Wanted,
    sensors=st.integers(1, 3_000_000),
    readings_per_s=st.floats(0.1, 200_000),
    partitions=st.integers(1, 64),
    instances=st.integers(1, 8),
    key_bytes=st.integers(1, 60),
    steps=st.integers(1, 8),
)
small_settings = given_settings(max_examples=60, deadline=None, derandomize=True)


def of(parts: tuple[Part, ...]) -> Range:
    return sum((part.of for part in parts), NOTHING)


def figures(found: Plan) -> list[Range]:
    """Of one instance and of all, everything that must not fall when more is asked."""
    parts = (*found.memory, *found.memory_peaks, *found.network)
    return [part.of for part in parts] + [found.memory_steady, found.memory_peak, found.cores, found.checkpoint_bytes]


@small_settings
@given(wanted=wanted, settings=st.sampled_from([SETTINGS, FOLDER]))
def test_the_parts_are_all_there_is(wanted: Wanted, settings) -> None:
    found = plan(wanted, MEASURED, settings)
    assert found.memory_steady == of(found.memory)
    assert found.start_total == of(found.start)
    for end in ("low", "high"):
        most = max(getattr(part.of, end) for part in found.memory_peaks)
        assert getattr(found.memory_peak, end) == pytest.approx(getattr(found.memory_steady, end) + most)
    assert found.limit_bytes >= found.memory_peak.high, "the limit holds what is taken for a moment"
    assert all(0 <= figure.low <= figure.high for figure in figures(found))


@small_settings
@given(wanted=wanted, more=st.integers(1, 1_000_000), settings=st.sampled_from([SETTINGS, FOLDER]))
def test_more_sensors_take_no_less(wanted: Wanted, more: int, settings) -> None:
    before, after = (plan(each, MEASURED, settings) for each in (wanted, replace(wanted, sensors=wanted.sensors + more)))
    assert after.limit_bytes >= before.limit_bytes
    # Rows move from parked to slots as the recommended slots rise: together they do not fall.
    for a, b in (
        (before.memory_steady, after.memory_steady),
        (before.memory_peak, after.memory_peak),
        (before.checkpoint_bytes, after.checkpoint_bytes),
    ):
        assert (a.low, a.high) <= (b.low * (1 + 1e-9), b.high * (1 + 1e-9))


@small_settings
@given(wanted=wanted, factor=st.floats(1.1, 10), settings=st.sampled_from([SETTINGS, FOLDER]))
def test_a_higher_rate_takes_no_less(wanted: Wanted, factor: float, settings) -> None:
    before, after = (plan(each, MEASURED, settings) for each in (wanted, replace(wanted, readings_per_s=wanted.readings_per_s * factor)))
    for a, b in zip(figures(before), figures(after), strict=True):
        assert a.low <= b.low * (1 + 1e-9) + 1e-9
        assert a.high <= b.high * (1 + 1e-9) + 1e-9


@small_settings
@given(wanted=wanted)
def test_what_is_recommended_keeps_the_loop_below_what_is_planned_with(wanted: Wanted) -> None:
    found = plan(replace(wanted, partitions=None, instances=None), MEASURED, SETTINGS)
    assert found.partitions >= found.instances
    even = wanted.readings_per_s / found.instances
    assert even <= BUSY_MAX * found.capacity * 1.05 or found.instances >= 256
    fewer = found.instances - 1
    if fewer:
        alone = plan(replace(wanted, partitions=None, instances=fewer), MEASURED, SETTINGS)
        assert wanted.readings_per_s / fewer > BUSY_MAX * alone.capacity * 0.95, "one less would do"


def test_a_sensor_is_seated_if_nothing_else_was_set() -> None:
    assert slots_for(SETTINGS, MEASURED, 65_536) == (65_536, "auto")
    assert slots_for(SETTINGS, MEASURED, 65_537) == (66_000, "66000")
    assert slots_for(load_settings(None, ["--slots=500"], {}), MEASURED, 65_537) == (500, "500")


def test_parking_on_a_disk_takes_the_states_out_of_memory() -> None:
    few, disk = (load_settings(None, ["--slots=1000", *more], {}) for more in ([], ["--parking.path=/var/tmp"]))
    asked = Wanted(200_000, 100, instances=1, partitions=8)
    memory, parked = plan(asked, MEASURED, few), plan(asked, MEASURED, disk)
    states = 199_000 * 4 * MEASURED.row_numbers
    assert (memory.parked_bytes_on_disk, parked.parked_bytes_on_disk) == (0, states)
    assert memory.memory_steady.low - parked.memory_steady.low >= states
    assert any(line.startswith("parked  ") and "102 MB" in line for line in lines(parked))


def test_a_slower_machine_takes_more_instances() -> None:
    slow = replace(
        MEASURED, batches=tuple(replace(b, decode_s=3 * b.decode_s, apply_s=3 * b.apply_s, cpu_s=3 * b.cpu_s) for b in MEASURED.batches)
    )
    asked = Wanted(10_000, 100_000)
    assert plan(asked, slow, SETTINGS).instances > plan(asked, MEASURED, SETTINGS).instances


def test_every_part_is_told_with_where_it_comes_from() -> None:
    found = plan(Wanted(100_000, 20_000), MEASURED, SETTINGS)
    text = "\n".join(lines(found))
    for part in (*found.memory, *found.memory_peaks, *found.start, *found.network):
        (line,) = [line for line in text.splitlines() if line[14:].startswith(f"{part.name}  ")]
        assert line.endswith(part.source)


# -- against what is there ------------------------------------------------------------------------------------

FILL = """
import json, sys
import numpy as np
from processor.engine import Engine, Shapes
from processor.records import Batch
from processor.sizing.measure import resident_bytes

sensors, slots, width, partitions = map(int, sys.argv[1:])

class Adds:
    class Shape: rows, steps_max = 4096, 2
    shapes = [Shape]
    def buffers(self, rung):
        return np.zeros((2, 4096, 1), np.float32), np.zeros(4096, np.int32), np.zeros((4096, width), np.float32)
    def run(self, rung, x, counts, steps, state):
        return x, state + 1, np.ones((2, 4096), np.bool_)

def apply(engine, first, last):
    n = last - first
    zeros, no = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    of = [i % partitions for i in range(first, last)]
    keys = [b"sensor-%013d" % i for i in range(first, last)]
    engine.apply(Batch(of, keys, np.arange(first, last), zeros, zeros, zeros + 1, no, no, np.ones((n, 1), np.float32)))
    engine.commit()

apply(Engine(Adds(), Shapes(1, 1, width), slots=4096), 0, 4096)  # what any engine takes is there before
before = resident_bytes()
engine = Engine(Adds(), Shapes(1, 1, width), slots=slots)
for first in range(0, sensors, 4096):
    apply(engine, first, min(first + 4096, sensors))
print(json.dumps(resident_bytes() - before))
"""


@pytest.mark.parametrize("slots", [200_000, 50_000], ids=["seated", "parked"])
def test_an_engine_of_so_many_sensors_takes_the_memory_that_is_told(slots: int) -> None:
    sensors, partitions = 200_000, 8
    done = subprocess.run(
        [sys.executable, "-c", FILL, *map(str, (sensors, slots, 128, partitions))], capture_output=True, text=True, timeout=120, check=True
    )
    parts = memory_parts(Wanted(sensors, 1.0, key_bytes=20), MEASURED, SETTINGS, sensors, slots, partitions)
    told = of(tuple(part for part in parts if part.name in ("rows in slots", "parked rows", "names of sensors")))
    found = json.loads(done.stdout)
    assert told.low * 0.9 <= found <= told.high * 1.1, f"found {found / 1e6:.0f} MB, told {told.low / 1e6:.0f} to {told.high / 1e6:.0f}"


def test_the_command_measures_and_tells(tmp_path: Path, capsys) -> None:
    model = save_model(tmp_path / "model.keras", L.LSTM(4), L.Dense(2))
    asked = ["plan", "--model", str(model), "--sensors", "5000", "--rate", "100", "--batch.readings_max=64", "--instances", "2"]
    assert main([*asked, "--json", "--steps", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["row_numbers"] == 8
    assert found["measured"]["base_bytes"] > 200e6
    assert [batch["readings"] for batch in found["measured"]["batches"]] == [16, 64]
    assert all(batch[stage] > 0 for batch in found["measured"]["batches"] for stage in ("decode_s", "apply_s", "encode_s", "cpu_s"))
    assert found["memory_steady"]["low"] == pytest.approx(sum(part["of"]["low"] for part in found["memory"]))
    assert (found["instances"], found["partitions"], found["slots_setting"]) == (2, 8, "auto")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sensors", "0", "--rate", "1"], "expected a whole number, 1 or more"),
        (["--sensors", "10", "--rate", "0"], "expected a number above 0"),
        (["--sensors", "10"], "--rate"),
    ],
)
def test_what_cannot_be_planned_is_told_at_once(options, words, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
