"""Features in fields of their own, float32 records and scales: what is a reading, and that the reference oracle agrees."""

import json
import math
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judge import RECORD_MS, Judge, Record, echo, echo_model, verdict

from processor.app.fit import codec_of, record_bytes_of, shapes_of
from processor.errors import ConfigurationError
from processor.records import Applied, Output
from processor.settings import Settings, load_settings
from processor.verify import oracle_scores
from processor.verify.oracle import Reference, as_published
from processor.verify.oracle_records import InputRecord

F = 3
NAMES = "[temperature, motor.current, motor.vibration]"
deterministic = hypothesis_settings(max_examples=300, deadline=None, derandomize=True)


def settings(*options: str) -> Settings:
    return load_settings(None, ["--input.record_steps_max=4", *options], {})


def both(value: bytes, given: Settings, features: int = F, headers: Any = ()) -> Any:
    """What the codec makes of a value, which the oracle must say too."""
    found = verdict(Record(value, h=list(headers)), codec_of(given, echo_model(features), "3f2a9c01"))
    assert Judge(given, features).verdict(value, headers) == found
    return found


def detail(value: bytes, given: Settings, features: int = F, headers: Any = ()) -> str:
    """What the dead letter says to the sender."""
    ((_, rejected),) = codec_of(given, echo_model(features), "m").decode([Record(value, h=list(headers))]).rejected
    return rejected.detail


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
        (b'{"temperature":1,"motor.current":2,"motor":{"current":2}}', "bad_schema"),
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


# -- keys with dots -----------------------------------------------------------------------------------------


def test_a_key_with_dots_is_taken_as_it_is_written_before_its_dots_descend():
    given = settings(f"--input.features={NAMES}")
    found = [1], [RECORD_MS], [[1.0, 2.0, 3.0]]
    assert both(b'{"temperature":1,"motor.current":2,"motor.vibration":3}', given) == found
    assert both(b'{"temperature":1,"motor":{"current":2},"motor.vibration":3}', given) == found, "one of each"
    assert both(b'{"temperature":1,"motor.current":2,"motor":{"current":9,"vibration":3}}', given) == found, "the key wins"
    assert both(b'{"temperature":1,"motor.current":null,"motor":{"current":9,"vibration":3}}', given) == "bad_schema"
    assert both(b'{"PR03.TT229": 71.5}', settings("--input.features=PR03.TT229"), 1) == ([1], [RECORD_MS], [[71.5]])


def test_in_quotes_dots_do_not_descend():
    given = settings("""--input.features=['"PR03.TT229".value', '"a.b"."c.d"', motor.current]""")
    assert both(b'{"PR03.TT229":{"value":1},"a.b":{"c.d":2},"motor":{"current":3}}', given) == ([1], [RECORD_MS], [[1.0, 2.0, 3.0]])
    assert both(b'{"PR03.TT229":{"value":1},"a.b":{"c.d":2},"motor.current":3}', given) == ([1], [RECORD_MS], [[1.0, 2.0, 3.0]])
    assert both(b'{"PR03":{"TT229":{"value":1}},"a.b":{"c.d":2},"motor":{"current":3}}', given) == "bad_schema"
    written = json.dumps({'"PR03.TT229".value': 1, "a.b": {"c.d": 2}, "motor": {"current": 3}}).encode()
    assert both(written, given) == "bad_schema", "a name in quotes is never a key as it is written"


def test_a_missing_key_with_dots_is_explained():
    found = detail(b'{"PR03.TT22": 71.5}', settings("--input.features=PR03.TT229"), 1)
    assert "neither a key PR03.TT229 nor, since dots descend, a number TT229 in PR03 (the record has PR03.TT22)" in found
    assert "no number value in PR03.TT229" in detail(b'{"a": 1}', settings('--input.features="PR03.TT229".value'), 1)


def test_a_record_of_fields_is_told_of_the_setting_that_names_them():
    found = detail(b'{"temperature": 1, "current": 2}', settings(), 2)
    assert "no list `values` (the record has temperature, current)" in found
    assert "input.features" in found


@pytest.mark.full
@deterministic
@given(
    st.dictionaries(
        st.sampled_from(["motor", "motor.current", "timestamp"]),
        st.recursive(
            st.one_of(st.none(), st.integers(-9, 9), st.floats(-9, 9)),
            lambda inner: st.dictionaries(st.just("current"), inner),
            max_leaves=3,
        ),
    )
)
def test_the_oracle_says_the_same_of_any_keys_with_dots(found):
    both(json.dumps(found).encode(), settings("--input.features=[motor.current]"), 1)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["current", "x"]), inner, max_size=3)),
    max_leaves=5,
)


@pytest.mark.full
@deterministic
@given(st.dictionaries(st.sampled_from(["temperature", "motor", "timestamp", "values"]), json_values))
def test_the_oracle_says_the_same_of_any_object(found):
    both(json.dumps(found).encode(), settings("--input.features=[temperature, motor.current]"), 2)


# -- float32 --------------------------------------------------------------------------------------------


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def steps(text: bytes | None) -> Any:
    return (("steps", text),)


def test_a_float32_record_is_one_step_or_as_many_as_its_header_says_at_the_records_own_time():
    assert both(packed(1, 2, 3), settings("--input.format=float32")) == ([1], [RECORD_MS], [[1.0, 2.0, 3.0]])
    given, found = settings("--input.format=float32"), [[1.0, 2.0, 3.0], [-1.5, 0.0, 1e-40]]
    x = both(packed(1, 2, 3, -1.5, 0, 1e-40), given, headers=steps(b"2"))
    assert x[:2] == ([2], [RECORD_MS])
    np.testing.assert_array_equal(np.float32(x[2]), np.float32(found))
    assert both(packed(1, 2, 3), given, headers=steps(b"1")) == ([1], [RECORD_MS], [[1.0, 2.0, 3.0]])
    assert both(packed(*range(12)), given, headers=steps(b"04"))[0] == [4]


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (b"", (), "bad_encoding"),
        (b"\0" * 11, (), "bad_encoding"),
        (packed(1, 2), (), "wrong_feature_count"),
        (packed(1, 2, 3, 4), (), "wrong_feature_count"),
        (packed(*range(6)), (), "wrong_feature_count"),
        (struct.pack("<3d", 1, 2, 3), (), "wrong_feature_count"),
        (struct.pack("<6d", *range(6)), steps(b"2"), "wrong_feature_count"),
        (packed(*range(6)), steps(b"1"), "wrong_feature_count"),
        (packed(1, 2, 3), steps(b"2"), "wrong_feature_count"),
        (packed(*range(15)), steps(b"5"), "too_large"),
        (packed(1, 2, 3), steps(b"999999999"), "too_large"),
        (packed(1, 2, 3), steps(b"0"), "bad_schema"),
        (packed(1, 2, 3), steps(b"-1"), "bad_schema"),
        (packed(1, 2, 3), steps(None), "bad_schema"),
        (packed(1, 2, 3), steps(b"1" * 10), "bad_schema"),
        (packed(1, 2, 3), steps(b"\xb2"), "bad_schema"),
        (packed(1, math.nan, 3), (), "not_finite"),
        (packed(math.nan, math.inf, -math.inf), (), "not_finite"),
        (packed(1, 2, 3, 4, 5, -math.inf), steps(b"2"), "not_finite"),
        (struct.pack(">3f", 71.5, 20.25, 3), (), "bad_encoding"),
        (struct.pack("<3i", 71, 20, 3), (), "bad_encoding"),
        (packed(1e31, -2e35, 3), (), "bad_encoding"),
        (packed(1e31, -2e35, math.nan), (), "bad_encoding"),
    ],
)
def test_bytes_that_are_no_steps_make_a_dead_letter(value, headers, error):
    assert both(value, settings("--input.format=float32"), headers=headers) == error


def test_a_number_that_no_sensor_sends_is_taken_where_most_are_readings():
    assert both(packed(1e31, 1, 2), settings("--input.format=float32"))[0] == [1]
    assert both(packed(1e-40, 0, 2), settings("--input.format=float32"))[0] == [1]


def test_bytes_of_another_type_are_named():
    given = settings("--input.format=float32")
    assert "They may be 3 float64: send float32. If they are 2 steps, say so in the header steps" in detail(packed(*range(6)), given)
    assert "float64" in detail(struct.pack("<3i", 71, 20, 3), given)
    assert "float64" in detail(struct.pack("<6d", *range(6)), given, headers=steps(b"2"))


def test_records_of_another_type_leave_their_neighbours_alone():
    codec = codec_of(settings("--input.format=float32"), echo_model(F), "m")
    values = [packed(1, 2, 3), struct.pack("<3i", 1, 2, 3), packed(4, 5, 6), packed(1, math.nan, 3), None, packed(7, 8, 9)]
    decoded = codec.decode([Record(value, o=i) for i, value in enumerate(values)])
    assert decoded.source == [0, 2, 4, 5]
    assert [(i, r.error) for i, r in decoded.rejected] == [(1, "bad_encoding"), (3, "not_finite")]
    assert decoded.batch.x.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.full
@deterministic
@given(st.binary(max_size=64), st.sampled_from([(), *(steps(b"%d" % n) for n in range(1, 6))]))
def test_the_oracle_says_the_same_of_any_bytes_and_steps(value, headers):
    both(value, settings("--input.format=float32"), headers=headers)


@pytest.mark.full
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
    assert published(y, settings(scale), named_outputs=(Output("y", 0, 6, rows=2),))["prediction"] == [[1.0, 102.0, 3.0], [4.0, 105.0, 6.0]]
    assert published([1, 2], settings(), named_outputs=(Output("y", 0, 2, rows=2),))["prediction"] == [[1.0], [2.0]]


def with_categories(count):
    served = echo_model(F)
    served.inputs = SimpleNamespace(categories=(None, count, None), each=())
    return served


@pytest.mark.parametrize(
    ("given", "verdict"),
    [(0, 0.0), (3, 3.0), (2.0, 2.0), (4, "unknown_category"), (-1, "unknown_category"), (1.5, "unknown_category"), (1e39, "not_finite")],
)
def test_a_category_is_a_whole_number_that_the_model_knows_and_is_not_scaled(given, verdict):
    served, wanted = with_categories(4), settings("--input.scale={mean: 1, std: 2}")
    value = json.dumps({"values": [3, given, 5]}).encode()
    decoded = codec_of(wanted, served, "3f2a9c01").decode([Record(value)])
    found = decoded.rejected[0][1].error if decoded.rejected else decoded.batch.x[0].tolist()
    assert found == (verdict if isinstance(verdict, str) else [1.0, verdict, 2.0])
    answer = Reference(served, wanted, "3f2a9c01", run=echo).feed(InputRecord(3, 7, b"pump-7", value, RECORD_MS))
    assert answer == found if isinstance(found, str) else answer["prediction"] == found


def test_features_by_input_are_those_of_the_model_in_its_order():
    served = echo_model(F)
    inputs = [SimpleNamespace(name="readings", first=0, last=2), SimpleNamespace(name="machine", first=2, last=3)]
    served.inputs = SimpleNamespace(categories=(None,) * F, each=inputs)
    fits = settings("--input.features={readings: [a, b.c], machine: [age]}")
    assert fits.input.features == ("a", "b.c", "age")
    assert fits.deciding() == settings("--input.features=[a, b.c, age]").deciding()
    shapes_of(served, fits)
    for wrong in ("{machine: [a], readings: [b, c]}", "{readings: [a], machine: [b, c]}", "{left: [a, b], right: [c]}"):
        with pytest.raises(ConfigurationError, match=r"readings: \[2 names\], machine: \[1 name\]"):
            shapes_of(served, settings(f"--input.features={wrong}"))


SEVERAL = (Output("life %b", 0, 1), Output('a "class"', 1, 3))


def test_several_outputs_are_an_object_by_name_each_in_its_own_units():
    given = settings("--output.scale={'life %b': {min: 0, max: 500}}")
    assert published([0.5, 3, 4], given, named_outputs=SEVERAL)["prediction"] == {"life %b": [250.0], 'a "class"': [3.0, 4.0]}


def test_an_output_a_step_is_a_list_of_lists_beside_one_of_the_whole_record():
    served = echo_model(F)
    served.named_outputs = (Output("each", 0, 2, per_step=True), Output("whole", 2, 3))
    codec = codec_of(settings(), served, "3f2a9c01")
    batch = codec.decode([Record(b'{"values":[[1,2,3],[4,5,6]]}')]).batch
    (out,) = codec.encode(batch, applied_to([1, 2, 3, 4, 5, 6], steps=2))
    assert as_published(out)["prediction"] == {"each": [[1.0, 2.0], [4.0, 5.0]], "whole": [6.0]}
    (one,) = codec.encode(codec.decode([Record(b'{"values":[1,2,3]}')]).batch, applied_to([1, 2, 3]))
    assert as_published(one)["prediction"] == {"each": [1.0, 2.0], "whole": [3.0]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output.scale={mean: 0, std: 1}"], r"does not say which output it is for, and the model has 2 .*output.scale: {life: {mean"),
        (["--output.scale={death: {mean: 0, std: 1}}"], "output.scale names death, which is no output.*life, class"),
        (["--output.scale={class: {mean: [0, 1, 2], std: 1}}"], "output.scale is for 3, and the model has 2 numbers in its output class"),
        (["--output.residual=true"], r"does not say which output .*output.residual: {life: true}"),
        (["--output.residual={death: true}"], "output.residual names death"),
        (["--output.residual={class: true}"], "output.residual is for 3 features, and the model gives 2 outputs"),
    ],
)
def test_settings_of_outputs_that_the_model_does_not_have_are_refused(options, says):
    served = echo_model(F)
    served.named_outputs = (Output("life", 0, 1), Output("class", 1, 3))
    with pytest.raises(ConfigurationError, match=says):
        shapes_of(served, settings(*options))


def test_a_residual_is_of_the_output_that_is_named():
    served = echo_model(F)
    served.named_outputs = (Output("life", 0, 1), Output("next", 1, 3))
    shapes = shapes_of(served, settings("--output.residual={next: [2, 0]}"))
    assert (shapes.forecasts, shapes.residual) == ((1, 2), (2, 0))
    assert shapes_of(served, settings("--output.residual={next: false}")).residual == ()


HEADS = (Output("c", 0, 1), Output("life", 1, 2), Output("a", 2, 3))


@pytest.mark.parametrize(
    ("outputs", "residual", "forecasts", "features"),
    [
        (HEADS, "[a, c]", (2, 0), (0, 2)),
        (HEADS, "[a]", (2,), (0,)),
        (HEADS, "[c, life, a]", (0, 1, 2), (0, 1, 2)),
        (HEADS, "{life: [b], c: [0]}", (1, 0), (1, 0)),
        (HEADS, "{each: [a, c]}", (2, 0), (0, 2)),
        (HEADS, "{each: {life: [2]}}", (1,), (2,)),
        ((Output("y", 0, 3),), "each", (0, 1, 2), (0, 1, 2)),
        ((Output("y", 0, 2),), "{each: [c, 0]}", (0, 1), (2, 0)),
    ],
)
def test_several_outputs_may_forecast_features_each_its_own(outputs, residual, forecasts, features):
    served = echo_model(F)
    served.named_outputs, served.outputs = outputs, outputs[-1].last
    shapes = shapes_of(served, settings(f"--output.residual={residual}", "--input.features=a,b,c"))
    assert (shapes.forecasts, shapes.residual, shapes.residual_each) == (forecasts, features, "each" in residual)
    reference = oracle_scores.Scores(served, settings(f"--output.residual={residual}", "--input.features=a,b,c"))
    assert reference.forecasts == list(zip(forecasts, features, strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output.residual=[a, death]"], "output.residual names death, which is no output.*c, life, a"),
        (["--output.residual=[a, life]"], "output.residual is for 3 features, and the model gives 2 outputs"),
        (["--output.residual={a: [1], c: [b]}"], "names a feature twice"),
        (["--output.residual=each"], r"does not say which output .*output.residual: {c: true}"),
        (["--output.reconstruction=true"], r"does not say which output .*output.reconstruction: c"),
        (["--output.reconstruction=death"], "output.reconstruction names death, which is no output.*c, life, a"),
        (["--output.reconstruction=life"], "a prediction is 1 number.*Expected: 3, one for each feature"),
    ],
)
def test_scores_that_several_outputs_cannot_have_are_refused(options, says):
    served = echo_model(F)
    served.named_outputs = HEADS
    with pytest.raises(ConfigurationError, match=says):
        shapes_of(served, settings("--input.features=a,b,c", *options))


@pytest.mark.parametrize(("rows", "first"), [(None, 1), (4, 1)])
def test_a_reconstruction_is_of_the_window_or_of_the_last_reading(rows, first):
    served = echo_model(F)
    served.window = 4
    served.named_outputs = (Output("life", 0, 1), Output("again", 1, 1 + F * (rows or 1), rows=rows))
    assert shapes_of(served, settings("--output.reconstruction=again")).reconstruction == (first, rows or 1)
    served.window = 5
    if rows is not None:
        with pytest.raises(ConfigurationError, match=r"a prediction is 4 steps of 3 numbers.*for each of the window's 5 steps"):
            shapes_of(served, settings("--output.reconstruction=again"))


def test_named_numbers_are_fields_of_their_own_each_in_its_own_units():
    fields = ("--output.fields=[life, warm, hot]", "--output.scale={'life %b': {min: 0, max: 500}}")
    found = published([0.5, 3, 4], settings(*fields), named_outputs=SEVERAL)
    assert {name: found[name] for name in found if "pre" in name} == {"predicted_life": 250.0, "predicted_warm": 3.0, "predicted_hot": 4.0}
    by_output = settings("""--output.fields={'a "class"': [warm, hot], 'life %b': [life]}""")
    assert published([0.5, 3, 4], by_output, named_outputs=SEVERAL)["predicted_life"] == 0.5


def test_flat_fields_follow_the_time_and_the_score_and_are_null_while_a_window_fills():
    served = echo_model(F)
    served.named_outputs = (Output("y", 0, 3, per_step=True),)
    by = codec_of(settings("--output.fields=[a, b, c]", "--output.residual={each: [2, 0, 1]}"), served, "m")
    batch = by.decode([Record(b'{"values":[[1,2,3],[4,5,6]]}'), Record(b'{"values":[7,8,9]}')]).batch
    applied = applied_to([1, 2, 3, 4, 5, 6, 7, 8, 9])
    applied.y, applied.last, applied.steps = applied.y.reshape(3, F), np.array([1, 2]), np.array([2, 3])
    nothing = np.zeros(2, np.bool_)
    applied.residual, applied.residuals = np.array([np.nan, 1], np.float32), np.array([[np.nan] * 3, [0.5, 1, 1.5]], np.float32)
    applied.warming, applied.late, applied.finite = nothing, nothing, ~nothing
    applied.filling = np.array([True, False])
    first, second = by.encode(batch, applied)
    assert b',"predicted_a":null,"predicted_b":null,"predicted_c":null,"steps":2' in first
    assert b'"model":"m","residual":null,"residual_a":null,"residual_b":null,"residual_c":null}' in first
    assert b',"predicted_a":7.0,"predicted_b":8.0,"predicted_c":9.0,"steps":3' in second
    assert b'"model":"m","residual":1.0,"residual_a":0.5,"residual_b":1.0,"residual_c":1.5}' in second
    applied.filling = nothing
    assert b',"predicted_a":4.0,"predicted_b":5.0,"predicted_c":6.0,"steps":2' in by.encode(batch, applied)[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("[a, b]", "output.fields is for 2, and the model has 3 outputs"),
        ("{life: [a], death: [b]}", "output.fields names death, which is no output.*life, class"),
        ("{life: [a]}", "output.fields is for 0, and the model has 2 numbers in its output class"),
    ],
)
def test_names_that_do_not_fit_the_outputs_are_refused(fields, says):
    served = echo_model(F)
    served.named_outputs = (Output("life", 0, 1), Output("class", 1, 3))
    with pytest.raises(ConfigurationError, match=says):
        shapes_of(served, settings(f"--output.fields={fields}"))


def test_a_list_of_steps_has_no_names():
    served = echo_model(F)
    served.named_outputs = (Output("y", 0, F, rows=1),)
    with pytest.raises(ConfigurationError, match=r"output.fields is set, and a prediction is a list of 1 steps"):
        shapes_of(served, settings("--output.fields=[a, b, c]"))


def test_the_largest_output_has_room_for_the_names_of_fields():
    plain, named = (settings("--output.residual=each", *more) for more in ([], ["--output.fields=[a, b, c]"]))
    sizes = [record_bytes_of(given, echo_model(F), shapes_of(echo_model(F), given)).output for given in (plain, named)]
    longest = sum(len(f'"predicted_{name}":,"residual_{name}":,') for name in "abc")
    assert sizes[1] >= sizes[0] + longest


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
    served.named_outputs = (Output("y", 0, F, rows=1),)
    with pytest.raises(ConfigurationError, match="a prediction is a list of 1 steps"):
        shapes_of(served, settings("--output.residual=true"))


def test_a_residual_may_be_of_some_features_by_name_or_number():
    served = echo_model(F)
    served.outputs, served.named_outputs = 2, (Output("y", 0, 2),)
    shapes = shapes_of(served, settings("--output.residual=[c, 0]", "--input.features=a,b,c"))
    assert shapes.residual == (2, 0)
    assert shapes.row_width == shapes.width + 2
