"""Values that are missing, as a record alone decides them; the reference oracle agrees. What is held: tests/unit/engine/test_holding.py."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from judge import Judge, Record, echo_model, verdict

from processor.app.fit import codec_of, record_bytes_of, shapes_of
from processor.app.forms import decoder_of, missing_policies
from processor.errors import ConfigurationError
from processor.metrics import Metrics
from processor.recorder import Recorder
from processor.records import Applied
from processor.settings import Settings, load_settings

NAMES = "--input.features=[a, b.c]"
FILL = "--input.missing={0: 7, 1: -1}"


def settings(*options: str) -> Settings:
    return load_settings(None, list(options), {})


def both(found: Any, *options: str) -> Any:
    """What the codec makes of a record, which the oracle must say too: its numbers, or the error."""
    value = found if isinstance(found, bytes) else json.dumps(found).encode()
    given = settings(*options)
    said = verdict(Record(value), codec_of(given, echo_model(2), "3f2a9c01"))
    assert Judge(given, 2).verdict(value) == said
    return said if isinstance(said, str) else said[2]


@pytest.mark.parametrize("none", [None, math.nan, -200, "N/A"])
def test_what_stands_for_none_is_missing_and_the_settings_say_what_stands_for_it(none: Any) -> None:
    values = "--input.missing_values=[-200, N/A]"
    assert both({"values": [none, 3]}, FILL, values) == [[7.0, 3.0]]
    assert both({"a": 2, "b": {"c": none}}, NAMES, "--input.missing={a: 7, b.c: -1}", values) == [[2.0, -1.0]]


def test_a_field_that_is_absent_is_missing_but_a_record_with_none_of_them_is_no_reading() -> None:
    missing = "--input.missing={a: 7, b.c: -1}"
    for record in ({"a": 2}, {"a": 2, "b": None}, {"a": 2, "b": 5}):
        assert both(record, NAMES, missing) == [[2.0, -1.0]]
    assert both({"a": None}, NAMES, missing) == [[7.0, -1.0]]
    assert both({}, NAMES, missing) == both({"b": {}}, NAMES, missing) == both(b"null", NAMES, missing) == "bad_schema"


def test_what_is_neither_a_number_nor_missing_is_no_reading() -> None:
    for value in ("x", True, [1], {}, "NaN"):
        assert both({"values": [value, 3]}, FILL) == "bad_schema"
    for value in (b'{"values":[Infinity,1]}', b'{"values":[1,-Infinity]}'):
        assert both(value, FILL) == "bad_encoding"
    assert both(b'{"values":[1e999,1]}', FILL) == "not_finite"
    assert both({"values": [None]}, FILL) == "wrong_feature_count"


def test_a_mean_is_nought_in_the_models_scale() -> None:
    assert both({"values": [None, 3]}, "--input.missing=mean", "--input.scale={mean: [1.1, 2], std: [0.3, 2]}") == [[0.0, 0.5]]


def test_a_feature_that_nothing_stands_for_makes_a_dead_letter() -> None:
    assert both({"values": [None, 3]}, "--input.missing={1: 7}") == "missing"
    assert both({"values": [-200, 3]}, "--input.missing_values=-200") == "missing"
    assert both({"values": [None, 3]}) == "bad_schema", "as ever, where nothing is said of missing values"


def test_a_nan_of_float32_is_missing_and_so_is_the_float32_of_a_value() -> None:
    options = ("--input.format=float32", FILL, "--input.missing_values=[-999.9]")
    for number in (math.nan, -999.9):
        assert both(struct.pack("<2f", number, 3), *options) == [[7.0, 3.0]]
    assert both(struct.pack("<2f", math.inf, 3), *options) == "not_finite"
    assert both(struct.pack("<3f", math.nan, 3, 3), *options) == "wrong_feature_count"


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        ("GOOD", [[1.0, 2.0]]),
        (192.0, [[1.0, 2.0]]),
        (None, [[1.0, 2.0]]),
        ("BAD", [[7.0, -1.0]]),
        (True, [[7.0, -1.0]]),
        (["GOOD", "BAD"], [[1.0, -1.0]]),
        ({"0": "BAD"}, [[7.0, 2.0]]),
        ({"1": {}, "0": None}, [[1.0, -1.0]]),
        (["GOOD"], "bad_schema"),
    ],
)
def test_a_value_of_a_bad_quality_is_missing_whatever_it_is(quality: Any, expected: Any) -> None:
    given = (FILL, "--input.quality={field: meta.q, good: [GOOD, 192]}")
    assert both({"values": [1, 2], "meta": {"q": quality}}, *given) == expected
    assert both({"values": [1, 2]}, *given) == [[1.0, 2.0]]


def test_each_feature_may_have_a_quality_of_its_own() -> None:
    given = (NAMES, "--input.missing={a: 7, b.c: -1}", "--input.quality={field: {b.c: b.q}, good: true}")
    assert both({"a": 1, "b": {"c": "broken", "q": False}}, *given) == [[1.0, -1.0]]
    assert both({"a": 1, "b": {"c": 2, "q": True}}, *given) == [[1.0, 2.0]]
    assert both({"a": 1, "b": {"c": "broken", "q": True}}, *given) == "bad_schema"


def applied_of(batch: Any) -> Applied:
    n = len(batch)
    no = np.zeros(n, np.bool_)
    last, residual = np.cumsum(batch.steps) - 1, np.full(n, np.nan, np.float32)
    return Applied(batch.x, last, batch.steps, residual, no, no, ~no, no, np.zeros(n, np.int8))


def test_outputs_list_what_was_not_measured_and_a_metric_counts_it_by_feature() -> None:
    given = settings(NAMES, "--input.missing={a: 7, b.c: hold}")
    codec = codec_of(given, echo_model(2), "m")
    decoded = codec.decode([Record(value) for value in (b'{"a":1,"b":{"c":2}}', b'{"b":{"c":2}}', b'{"a":null}')])
    applied = applied_of(decoded.batch)
    first, second, third = (json.loads(value or b"") for value in codec.encode(decoded.batch, applied))
    assert "held" not in first
    assert (second["held"], third["held"]) == (["a"], ["a", "b.c"])
    assert list(second)[:3] == ["sensor", "timestamp", "prediction"]
    metrics = Metrics()
    recorder = Recorder(metrics, ["a", "b.c"])
    applied.missing = np.array([False, False, True])
    for end in (recorder.abort, recorder.commit):
        recorder.applied(decoded.batch, applied, decoded.resets, [])
        end()
    assert [metrics.value("missing_values_total", feature=name) for name in ("a", "b.c")] == [1, 0]


def test_the_row_keeps_held_values_and_their_times_behind_all_else() -> None:
    def shapes(*options: str) -> Any:
        return shapes_of(echo_model(2), settings("--output.residual=true", *options))

    assert shapes().row_width == 1 + 2
    assert shapes("--input.missing={1: hold}").held == slice(3, 4)
    assert shapes("--input.missing=hold", "--input.hold_max=1h").held == slice(3, 9)


@pytest.mark.parametrize("options", [["--input.missing=hold"], ["--input.missing=hold", "--input.features=[a, \"é\"]"]])
def test_the_largest_output_has_room_for_every_name(options: list[str]) -> None:
    given = settings(*options)
    shapes, without = shapes_of(echo_model(2), given), settings(*options[1:])
    more = record_bytes_of(given, echo_model(2), shapes).output - record_bytes_of(without, echo_model(2), shapes).output
    assert more >= len(b',"held":[0,1]')


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--input.missing=mean"], "input.scale is null"),
        (["--input.missing=mean", "--input.scale={min: 0, max: 1}"], "of min and max"),
        (["--input.missing={temperature: hold}"], "names temperature, which is no feature"),
        (["--input.missing={2: hold}"], "numbers from 0 to 1"),
    ],
)
def test_what_does_not_fit_the_model_is_told(options: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        missing_policies(settings(*options), 2)


def test_a_category_has_no_mean() -> None:
    scale = "--input.scale={mean: [1, 12.3], std: 2}"
    missing_policies(settings("--input.missing={0: mean}", scale), 2, categories=(None, 4))
    for options in (["--input.missing=mean"], ["--input.missing={1: mean}"], ["--input.missing={b.c: mean}", NAMES]):
        with pytest.raises(ConfigurationError, match=r"mean for (1|b\.c), which is a category"):
            missing_policies(settings(*options, scale), 2, categories=(None, 4))


def test_a_category_that_is_missing_is_held_whatever_the_scale_of_the_measurements() -> None:
    given = settings("--input.missing=hold", "--input.scale={mean: [1, 12.3], std: 2}")
    decoded = decoder_of(given, 2, categories=(None, 4)).decode([Record(b'{"values":[3,null]}'), Record(b'{"values":[3,2]}')])
    assert decoded.rejected == []
    assert decoded.batch.x[:, 0].tolist() == [1.0, 1.0]
    assert decoded.batch.x[1, 1] == 2.0
    assert decoded.batch.missing is not None
    assert decoded.batch.missing.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    "option",
    [
        "--input.missing=drop",
        "--input.missing=1e31",
        "--input.missing={}",
        "--input.missing={a: drop}",
        "--input.missing_values=[true]",
        "--input.missing_values=[[1]]",
        "--input.quality=q",
        "--input.quality={field: q}",
        "--input.quality={field: a..b, good: 1}",
        "--input.quality={field: q, good: []}",
        "--input.hold_max=5",
    ],
)
def test_what_cannot_be_is_refused_by_its_key(option: str) -> None:
    with pytest.raises(ConfigurationError, match=option.partition("=")[0].removeprefix("--")):
        settings(option)


def test_only_what_is_said_is_in_the_fingerprint() -> None:
    plain = settings().deciding()
    assert settings("--input.missing=dead_letter", "--input.missing_values=[]").deciding() == plain
    said = settings("--input.missing={a: hold, b: 1}", "--input.hold_max=5m", "--input.quality={field: q, good: [GOOD]}").deciding()
    added = {key: value for key, value in said.items() if key not in plain}
    assert json.loads(json.dumps(added)) == {
        "input.missing": {"a": "hold", "b": 1.0},
        "input.hold_max": 300.0,
        "input.quality": {"field": "q", "good": ["GOOD"]},
    }
