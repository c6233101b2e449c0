"""Features in fields of their own, float32 records and scales: what is a reading, and that the reference oracle agrees."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judge import RECORD_MS, Judge, Record, echo_model, verdict

from processor.errors import ConfigurationError
from processor.records import Applied
from processor.service import codec_of, shapes_of
from processor.settings import Settings, load_settings
from processor.tools.oracle import as_published

F = 3
NAMES = "[temperature, motor.current, motor.vibration]"
deterministic = hypothesis_settings(max_examples=300, deadline=None, derandomize=True)


def settings(*options: str) -> Settings:
    return load_settings(None, ["--input.record_steps_max=4", *options], {})


def both(value: bytes, given: Settings, features: int = F) -> Any:
    """What the codec makes of a value, which the oracle must say too."""
    found = verdict(Record(value), codec_of(given, echo_model(features), "3f2a9c01"))
    assert Judge(given, features).verdict(value) == found
    return found


# -- fields ---------------------------------------------------------------------------------------------


def named(temperature: Any = 1, current: Any = 2.5, vibration: Any = -3, **others: Any) -> bytes:
    return json.dumps({"temperature": temperature, "motor": {"current": current, "vibration": vibration}, **others}).encode()


def test_features_are_fields_in_the_models_order_whatever_theirs_and_extras_are_ignored():
    found = [1], [RECORD_MS - 7], [[1.0, 2.5, -3.0]]
    assert both(named(timestamp=RECORD_MS - 7), settings(f"--input.features={NAMES}")) == found
    shuffled = b'{"x":[1],"motor":{"y":{},"vibration":-3,"current":2.5},"timestamp":%d,"temperature":1,"temp":"no"}' % (RECORD_MS - 7)
    assert both(shuffled, settings(f"--input.features={NAMES}")) == found


def test_one_feature_is_a_field_too():
    assert both(b'{"load": 7}', settings("--input.features=load"), 1) == ([1], [RECORD_MS], [[7.0]])
    assert both(b'{"a":{"b":{"c": 7}}}', settings("--input.features=[a.b.c]"), 1) == ([1], [RECORD_MS], [[7.0]])


def test_a_field_may_have_any_name():
    names = ["values", "", "f0", "class", "Temperatur °C", "x y", "'a'"]
    given = settings("--input.features=" + json.dumps([n for n in names if n]))
    value = json.dumps({name: i for i, name in enumerate(names)}).encode()
    assert both(value, given, 6) == ([1], [RECORD_MS], [[0.0, 2.0, 3.0, 4.0, 5.0, 6.0]])


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "bad_encoding"),
        (b"[1,2,3]", "bad_schema"),
        (b'{"values":[1,2,3]}', "bad_schema"),
        (b'{"temperature":1,"motor":{"current":2}}', "bad_schema"),
        (b'{"temperature":1,"motor":5}', "bad_schema"),
        (b'{"temperature":1,"motor.current":2,"motor.vibration":3}', "bad_schema"),
        (named(temperature=None), "bad_schema"),
        (named(current="2.5"), "bad_schema"),
        (named(current=True), "bad_schema"),
        (named(vibration=[1]), "bad_schema"),
        (named(temperature=math.nan), "bad_encoding"),
        (named().replace(b"2.5", b"1e999"), "not_finite"),
        (named(temperature=None).replace(b"2.5", b"1e999"), "bad_schema"),
        (named(temperature=1e39), "not_finite"),
        (named(timestamp="yesterday"), "bad_timestamp"),
        (named(timestamp={}), "bad_timestamp"),
        (named(timestamp=RECORD_MS + 4_000_000), "bad_timestamp"),
    ],
)
def test_a_field_that_is_no_number_makes_a_dead_letter(value, error):
    assert both(value, settings(f"--input.features={NAMES}")) == error


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["current", "x"]), inner, max_size=3)),
    max_leaves=5,
)


@deterministic
@given(st.dictionaries(st.sampled_from(["temperature", "motor", "timestamp", "values"]), json_values))
def test_the_oracle_says_the_same_of_any_object(found):
    both(json.dumps(found).encode(), settings("--input.features=[temperature, motor.current]"), 2)


# -- float32 --------------------------------------------------------------------------------------------


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def test_a_float32_record_is_its_steps_one_after_another_at_the_records_own_time():
    assert both(packed(1, 2, 3), settings("--input.format=float32")) == ([1], [RECORD_MS], [[1.0, 2.0, 3.0]])
    found = [2], [RECORD_MS], [[1.0, 2.0, 3.0], [-1.5, 0.0, 1e-40]]
    x = verdict(Record(packed(1, 2, 3, -1.5, 0, 1e-40)), codec_of(settings("--input.format=float32"), echo_model(F), "m"))
    assert x[:2] == found[:2]
    np.testing.assert_array_equal(np.float32(x[2]), np.float32(found[2]))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "bad_encoding"),
        (b"\0" * 11, "bad_encoding"),
        (packed(1, 2), "wrong_feature_count"),
        (packed(1, 2, 3, 4), "wrong_feature_count"),
        (packed(*range(15)), "too_large"),
        (packed(*range(13)), "too_large"),
        (packed(1, math.nan, 3), "not_finite"),
        (packed(1, 2, 3, 4, 5, -math.inf), "not_finite"),
    ],
)
def test_bytes_that_are_no_steps_make_a_dead_letter(value, error):
    assert both(value, settings("--input.format=float32")) == error


@deterministic
@given(st.binary(max_size=64))
def test_the_oracle_says_the_same_of_any_bytes(value):
    both(value, settings("--input.format=float32"))


def test_a_float32_record_without_a_time_has_none():
    assert verdict(Record(packed(1, 2, 3), kind=0), codec_of(settings("--input.format=float32"), echo_model(F), "m")) == "bad_timestamp"


# -- scales ---------------------------------------------------------------------------------------------


def test_features_are_scaled_as_scikit_learn_does():
    x = np.random.default_rng(1).normal(size=(4, F)) * [1, 100, 1e-3] + [0, 1e6, 5]
    mean, std, low, high = x.mean(0), x.std(0), x.min(0), x.max(0)
    value = json.dumps({"values": x.tolist()}).encode()
    standard = settings(f"--input.scale={{mean: {mean.tolist()}, std: {std.tolist()}}}")
    np.testing.assert_allclose(both(value, standard)[2], (x - mean) / std, rtol=1e-6)
    ranged = settings(f"--input.scale={{min: {low.tolist()}, max: {high.tolist()}}}")
    np.testing.assert_allclose(both(value, ranged)[2], (x - low) / (high - low), rtol=1e-6, atol=1e-7)
    one = settings("--input.scale={mean: 2, std: 0.5}", f"--input.features={NAMES}")
    assert both(named(), one)[2] == [[-2.0, 1.0, -10.0]]
    assert both(packed(1, 2.5, -3), settings("--input.scale={min: 1e-1, max: 1.1}", "--input.format=float32"))[2][0][0] == np.float32(0.9)


def test_what_a_scale_carries_past_float32_is_not_finite():
    given = settings("--input.scale={mean: 0, std: 1e-30}")
    assert both(b'{"values":[1,1,1]}', given)[0] == [1]
    assert both(b'{"values":[1,1e10,1]}', given) == "not_finite"
    assert both(b'{"values":[1,1e300,1]}', given) == "not_finite"
    assert both(b'{"values":[1,1e300,1]}', settings("--input.scale={mean: 0, std: 1e290}"))[2] == [[0.0, 1e10, 0.0]]


def applied_to(y: Any, steps: int = 1) -> Applied:
    zeros = np.zeros(1, bool)
    y = np.array(y, np.float32).reshape(steps, -1)
    last = np.array([steps - 1])
    return Applied(y, last, np.array([9]), np.full(1, np.nan, np.float32), zeros, zeros, ~zeros, zeros, np.zeros(1, np.int8))


def published(y: Any, given: Settings, **model: Any) -> Any:
    served = echo_model(F)
    served.__dict__.update(model)
    codec = codec_of(given, served, "3f2a9c01")
    batch = codec.decode([Record(b'{"values":[1,2,3]}')]).batch
    (out,) = codec.encode(batch, applied_to(y))
    return as_published(out)


def test_predictions_are_written_in_their_own_units():
    assert published([1, -2, 0], settings("--output.scale={mean: [10, 20, 30], std: [1, 2, 3]}"))["prediction"] == [11.0, 16.0, 30.0]
    assert published([0.5, 0, 1], settings("--output.scale={min: -10, max: 10}"))["prediction"] == [0.0, -10.0, 10.0]
    largest = float(np.finfo(np.float32).max)
    assert published([1e38, -1e38, 0], settings("--output.scale={mean: 0, std: 1e30}"))["prediction"] == [largest, -largest, 0.0]


def test_a_windows_steps_are_a_list_of_lists_each_scaled():
    y, scale = [1, 2, 3, 4, 5, 6], "--output.scale={mean: [0, 100, 0], std: 1}"
    assert published(y, settings(scale), output_steps=2, outputs=6)["prediction"] == [[1.0, 102.0, 3.0], [4.0, 105.0, 6.0]]
    assert published([1, 2], settings(), output_steps=2, outputs=2)["prediction"] == [[1.0], [2.0]]


def test_predictions_past_the_trained_window_are_marked():
    assert published([1, 2, 3], settings(), trained_window=8)["past_window"] is True
    assert "past_window" not in published([1, 2, 3], settings(), trained_window=9)


# -- what must fit the model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--input.features=a,b"], "input.features is for 2, and the model has 3 features"),
        (["--input.scale={mean: [1,2], std: 1}"], "input.scale is for 2, and the model has 3 features"),
        (["--output.scale={mean: [1,2], std: 1}"], "output.scale is for 2, and the model has 3 outputs"),
        (["--output.residual=[0, 1]"], "output.residual is for 2 features, and the model gives 3 outputs"),
        (["--output.residual=[0, 1, 3]"], "names 3, which is no feature.*numbers from 0 to 2"),
        (["--output.residual=[a, 1, 2]"], "names a, which is no feature"),
        (["--output.residual=[c, 2, b]", "--input.features=a,b,c"], "names a feature twice"),
    ],
)
def test_columns_that_do_not_fit_the_model_are_refused(options, says):
    with pytest.raises(ConfigurationError, match=says):
        shapes_of(echo_model(F), settings(*options))


def test_a_residual_of_a_list_of_steps_is_refused():
    served = echo_model(F)
    served.output_steps = 1
    with pytest.raises(ConfigurationError, match="a prediction is a list of 1 steps"):
        shapes_of(served, settings("--output.residual=true"))


def test_a_residual_may_be_of_some_features_by_name_or_number():
    served = echo_model(F)
    served.outputs = 2
    shapes = shapes_of(served, settings("--output.residual=[c, 0]", "--input.features=a,b,c"))
    assert shapes.residual == (2, 0)
    assert shapes.row_width == shapes.width + 2
