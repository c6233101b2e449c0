"""The format json: what is a reading, what is a dead letter and why, and predictions as bytes.

The verdicts are compared with those of the reference oracle, which reads records with the standard library alone.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judge import GOOD, RECORD_MS, Judge, Record, verdict

from processor.codec.decode import Decoder
from processor.codec.encode import Encoder, output_bytes_max, shown
from processor.codec.json_records import JsonFormat
from processor.pipeline import Codec
from processor.records import ERRORS, Applied, Batch, Output
from processor.settings import Settings

F = 2
STEPS_MAX = 3
AHEAD_MAX_S = 3600.0
SEVERAL = b'{"values":[[1,2],[3,4]]}'
deterministic = hypothesis_settings(max_examples=300, deadline=None, derandomize=True)


def codec(*, features: int = F, per_step=False, residual=False, ahead_max_s: float = AHEAD_MAX_S, each_record=False) -> Codec:
    decoder = Decoder(JsonFormat(features=features, record_steps_max=STEPS_MAX), ahead_max_s=ahead_max_s, each_record=each_record)
    output = Output("y", 0, 1 << 20, per_step)
    return Codec(decoder.decode, Encoder(model_id="3f2a9c01", outputs=[output], scales=[None], residual=residual).encode)


def used_to_several() -> Codec:
    """A codec whose last record held several steps."""
    made = codec()
    assert not made.decode([Record(SEVERAL)]).rejected
    return made


def of(value: bytes, **record: Any) -> Any:
    return verdict(Record(value, **record), codec())


def ahead(seconds: float) -> bytes:
    return b'{"values":[1,2],"timestamp":%d}' % (RECORD_MS + round(seconds * 1000))


def accepted(*steps: list[float], event_ms: int = RECORD_MS) -> Any:
    return [len(steps)], [event_ms], [list(step) for step in steps]


# -- what a value may be --------------------------------------------------------------------------------

BAD_VALUES = {
    "empty": (b"", "bad_encoding"),
    "cut off": (b'{"values":[1,2]', "bad_encoding"),
    "not JSON": (b"pump", "bad_encoding"),
    "BOM": (b"\xef\xbb\xbf" + GOOD, "bad_encoding"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "bad_encoding"),
    "garbage behind": (GOOD + b" x", "bad_encoding"),
    "NUL behind": (GOOD + b"\0", "bad_encoding"),
    "a second object behind": (GOOD + GOOD, "bad_encoding"),
    "comma too much": (b'{"values":[1,2,]}', "bad_encoding"),
    "leading zero": (b'{"values":[01,2]}', "bad_encoding"),
    "NaN": (b'{"values":[NaN,2]}', "bad_encoding"),
    "Infinity": (b'{"values":[1,-Infinity]}', "bad_encoding"),
    "NaN in an extra": (b'{"values":[1,2],"x":NaN}', "bad_encoding"),
    "NaN as timestamp": (b'{"values":[1,2],"timestamp":NaN}', "bad_encoding"),
    "no UTF-8 in an extra": (b'{"values":[1,2],"x":"\xff"}', "bad_encoding"),
    "no UTF-8 in an extra's name": (b'{"values":[1,2],"\xc3":1}', "bad_encoding"),
    "no UTF-8 in the timestamp": (b'{"values":[1,2],"timestamp":"\xff"}', "bad_encoding"),
    "no UTF-8 among the values": (b'{"values":[1,"\xff"]}', "bad_encoding"),
    "no UTF-8 behind": (GOOD + b"\xff", "bad_encoding"),
    "surrogate in UTF-8": (b'{"values":[1,2],"x":"\xed\xa0\x80"}', "bad_encoding"),
    "lone surrogate in an extra": (b'{"values":[1,2],"x":"\\ud800"}', "bad_encoding"),
    "lone surrogate in the timestamp": (b'{"values":[1,2],"timestamp":"\\udc00"}', "bad_encoding"),
    "unknown escape in an extra": (b'{"values":[1,2],"x":"\\q"}', "bad_encoding"),
    "line feed within a string": (b'{"values":[1,2],"x":"\n"}', "bad_encoding"),
    "100,000 brackets": (b"[" * 100_000, "bad_encoding"),
    "100,000 levels in an extra": (b'{"values":[1,2],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_encoding"),
    "JSON null": (b"null", "bad_schema"),
    "a list": (b"[1,2]", "bad_schema"),
    "no values": (b'{"value":[1,2]}', "bad_schema"),
    "values null": (b'{"values":null}', "bad_schema"),
    "values an object": (b'{"values":{}}', "bad_schema"),
    "a null": (b'{"values":[1,null]}', "bad_schema"),
    "a bool": (b'{"values":[true,2]}', "bad_schema"),
    "a string": (b'{"values":["1",2]}', "bad_schema"),
    "a bool in a later step": (b'{"values":[[1,2],[3,false]]}', "bad_schema"),
    "a null step": (b'{"values":[[1,2],null]}', "bad_schema"),
    "a number after a step": (b'{"values":[[1,2],3]}', "bad_schema"),
    "a step after a number": (b'{"values":[1,[2]]}', "bad_schema"),
    "steps within a step": (b'{"values":[[[1,2]]]}', "bad_schema"),
    "too few numbers": (b'{"values":[1]}', "wrong_feature_count"),
    "too many numbers": (b'{"values":[1,2,3]}', "wrong_feature_count"),
    "no numbers": (b'{"values":[]}', "wrong_feature_count"),
    "a step without numbers": (b'{"values":[[]]}', "wrong_feature_count"),
    "a short step": (b'{"values":[[1,2],[3]]}', "wrong_feature_count"),
    "1e999": (b'{"values":[1e999,2]}', "not_finite"),
    "-1e999 in a later step": (b'{"values":[[1,2],[-1e999,2]]}', "not_finite"),
    "1e999 in the first step": (b'{"values":[[1e999,2]]}', "not_finite"),
    "an integer of 400 digits": (b'{"values":[1,%s]}' % (b"9" * 400), "not_finite"),
    "an integer of 5,000 digits": (b'{"values":[1,%s]}' % (b"9" * 5000), "not_finite"),
    "past float32": (b'{"values":[3.5e38,2]}', "not_finite"),
    "an integer past float32": (b'{"values":[1,%s]}' % (b"9" * 39), "not_finite"),
    "rounds past float32": (b'{"values":[1,-3.4028235677973366e38]}', "not_finite"),
    "a step past float32": (b'{"values":[[1,2],[1e39,2]]}', "not_finite"),
    "more steps than allowed": (b'{"values":[[1,2],[1,2],[1,2],[1,2]]}', "too_large"),
    "timestamp bool": (b'{"values":[1,2],"timestamp":true}', "bad_timestamp"),
    "timestamp list": (b'{"values":[1,2],"timestamp":[]}', "bad_timestamp"),
    "timestamp object before the values": (b'{"timestamp":{},"values":[[1,2]]}', "bad_timestamp"),
    "timestamp 1e999": (b'{"timestamp":1e999,"values":[1,2]}', "bad_timestamp"),
    "timestamp of 25 digits": (b'{"values":[1,2],"timestamp":-%s}' % (b"9" * 25), "bad_timestamp"),
    "timestamp of 5,000 digits": (b'{"values":[1,2],"timestamp":%s}' % (b"9" * 5000), "bad_timestamp"),
    "timestamp past 2^53": (b'{"values":[1,2],"timestamp":-9007199254740993}', "bad_timestamp"),
    "timestamp of no calendar": (b'{"values":[1,2],"timestamp":"2023-02-30"}', "bad_timestamp"),
    "timestamp empty": (b'{"values":[1,2],"timestamp":""}', "bad_timestamp"),
    "timestamp of a year, a month and a day in digits": (b'{"values":[1,2],"timestamp":"20231114"}', "bad_timestamp"),
    "timestamp of digits that are no number": (b'{"values":[1,2],"timestamp":"1700000000000x"}', "bad_timestamp"),
    "timestamp of two signs": (b'{"values":[1,2],"timestamp":"+-1700000000000"}', "bad_timestamp"),
    "timestamp of a point alone": (b'{"values":[1,2],"timestamp":"1700000000000."}', "bad_timestamp"),
    "timestamp of 4,000 digits as text": (b'{"values":[1,2],"timestamp":"%s"}' % (b"9" * 4000), "bad_timestamp"),
    "timestamp of digits of another script": (b'{"values":[1,2],"timestamp":"1\xd9\xa1700000000000"}', "bad_timestamp"),
    "timestamp in s": (b'{"values":[1,2],"timestamp":1700000000}', "bad_timestamp"),
    "timestamp in s as text": (b'{"values":[1,2],"timestamp":"1700000000.25"}', "bad_timestamp"),
    "timestamp in us": (b'{"values":[1,2],"timestamp":1700000000000000}', "bad_timestamp"),
    "timestamp in ns": (b'{"values":[1,2],"timestamp":1700000000000000000}', "bad_timestamp"),
    "timestamp of a clock that began in 1970": (b'{"values":[1,2],"timestamp":"1970-01-01T00:10:00Z"}', "bad_timestamp"),
    "timestamp more than ten years back": (ahead(-10 * 365.25 * 86400 - 0.001), "bad_timestamp"),
}

GOOD_VALUES = {
    "a single step": (GOOD, accepted([1, 2])),
    "a single step as a list of steps": (b'{"values":[[1,2]]}', accepted([1, 2])),
    "several steps": (SEVERAL, accepted([1, 2], [3, 4])),
    "as many steps as allowed": (b'{"values":[[1,2],[1,2],[1,2]]}', accepted([1, 2], [1, 2], [1, 2])),
    "extras": (b'{"x":{"y":[null,"\\u00e9",1e999]},"values":[1,2],"z":"\xc3\xa9"}', accepted([1, 2])),
    "white space": (b' \r\n\t{ "values" : [ 1 , 2 ] } ', accepted([1, 2])),
    "timestamp null": (b'{"values":[1,2],"timestamp":null}', accepted([1, 2])),
    "exponents": (b'{"values":[1.5E+1,-25e-1]}', accepted([15.0, -2.5])),
    "an integer past 64 bits": (b'{"values":[1,%s]}' % (b"1" + b"0" * 30), accepted([1, float(np.float32(1e30))])),
    "the greatest float32": (b'{"values":[3.4028235677973362e38,2]}', accepted([float(np.finfo(np.float32).max), 2])),
    "below the least float32": (b'{"values":[1e-60,1e-400]}', accepted([0, 0])),
    "an escaped field name": (b'{"\\u0076alues":[1,2]}', accepted([1, 2])),
    "fifty levels in an extra": (b'{"values":[1,2],"x":' + b"[" * 50 + b"]" * 50 + b"}", accepted([1, 2])),
    "brackets within a string": (b'{"values":[1,2],"x":"\\"' + b"[" * 2000 + b'\\\\"}', accepted([1, 2])),
}


@pytest.mark.parametrize("made", [codec, used_to_several], ids=["used to single", "used to several"])
@pytest.mark.parametrize(("value", "error"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_has_one_error_whatever_came_before_it(value, error, made):
    assert verdict(Record(value), made()) == error


@pytest.mark.parametrize("made", [codec, used_to_several], ids=["used to single", "used to several"])
@pytest.mark.parametrize(("value", "found"), GOOD_VALUES.values(), ids=GOOD_VALUES)
def test_a_good_value_gives_its_numbers_whatever_came_before_it(value, found, made):
    assert verdict(Record(value), made()) == found


def test_minus_zero_keeps_its_sign():
    x = codec().decode([Record(b'{"values":[-0.0,0.0]}')]).batch.x
    assert np.signbit(x).tolist() == [[True, False]]


def test_records_of_one_and_of_several_steps_may_alternate():
    records = [Record(GOOD if i % 2 else SEVERAL, o=i) for i in range(6)]
    decoded = codec().decode(records)
    assert decoded.batch.steps.tolist() == [2, 1, 2, 1, 2, 1]
    assert decoded.batch.x.tolist() == [[1, 2], [3, 4], [1, 2]] * 3
    assert decoded.batch.offset.tolist() == list(range(6))


def _deeper(frames: int, value: bytes) -> Any:
    return of(value) if not frames else _deeper(frames - 1, value)


@pytest.mark.parametrize("levels", [600, 750, 900, 990])
def test_how_deep_a_value_may_nest_does_not_depend_on_the_calls_around_the_codec(levels):
    value = b'{"values":[1,2],"x":' + b"[" * levels + b"]" * levels + b"}"
    assert _deeper(300, value) == of(value)


# -- which error, if there are several ------------------------------------------------------------------

LONG_KEY = b"k" * 1025
BOTH = {
    "no key, and no JSON": (Record(b"x", k=None), "no_key"),
    "a long key, and no JSON": (Record(b"x", k=LONG_KEY), "too_large"),
    "a long key, and null": (Record(None, k=LONG_KEY), "too_large"),
    "an unknown header, and no JSON": (Record(b"x", h=[("sequence", b"stop")]), "bad_schema"),
    "no JSON, and values no list": (Record(b'{"values":"x",'), "bad_encoding"),
    "no JSON, and 1e999": (Record(b'{"values":[1e999'), "bad_encoding"),
    "no JSON, and 1e999 as timestamp": (Record(b'{"timestamp":1e999'), "bad_encoding"),
    "no JSON, and a bad timestamp before": (Record(b'{"timestamp":true,"values":[NaN]}'), "bad_encoding"),
    "1e999, and NaN": (Record(b'{"values":[1e999,NaN]}'), "bad_encoding"),
    "1e999, and a string": (Record(b'{"values":[1e999,"x"]}'), "bad_schema"),
    "a string, and 1e999": (Record(b'{"values":["x",1e999]}'), "bad_schema"),
    "values no list, and a bad timestamp before": (Record(b'{"timestamp":true,"values":"x"}'), "bad_schema"),
    "values no list, and a bad timestamp": (Record(b'{"values":"x","timestamp":true}'), "bad_schema"),
    "1e999, and a bad timestamp before": (Record(b'{"timestamp":[],"values":[1e999,2]}'), "not_finite"),
    "1e999, and too few numbers": (Record(b'{"values":[1e999]}'), "not_finite"),
    "a bad timestamp, and too many steps": (Record(b'{"timestamp":"x","values":[[1,2],[1,2],[1,2],[1,2]]}'), "bad_timestamp"),
    "a bad timestamp, and too few numbers": (Record(b'{"timestamp":"x","values":[1]}'), "bad_timestamp"),
    "too far ahead, and past float32": (Record(b'{"timestamp":9000000000000000,"values":[1e39,1]}'), "bad_timestamp"),
    "too many steps, and too few numbers": (Record(b'{"values":[[1],[1,2],[1,2],[1,2]]}'), "too_large"),
    "a timestamp past 2^53, and no numbers": (Record(b'{"timestamp":-9007199254740993,"values":[]}'), "bad_timestamp"),
    "a timestamp past 2^53, and values twice": (Record(b'{"values":"x","values":[1,2],"timestamp":-9007199254740993}'), "bad_timestamp"),
    "100 levels under a name that comes twice": (Record(b'{"values":[1,2],"x":%s,"x":1}' % (b"[" * 100 + b"]" * 100)), "bad_encoding"),
    "too few numbers, and past float32": (Record(b'{"values":[1e39]}'), "wrong_feature_count"),
}


@pytest.mark.parametrize("made", [codec, used_to_several], ids=["used to single", "used to several"])
@pytest.mark.parametrize(("record", "error"), BOTH.values(), ids=BOTH)
def test_of_two_errors_the_same_one_is_named_always(record, error, made):
    assert verdict(record, made()) == error


def test_a_name_that_comes_twice_counts_as_it_comes_last():
    assert of(b'{"values":[3,4],"values":[1,2]}') == accepted([1, 2])
    assert of(b'{"values":"x","values":[1,2]}') == accepted([1, 2])
    assert of(b'{"values":[1,2],"values":"x"}') == "bad_schema"


# -- times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestamp", "event_ms"),
    [
        (b"1600000000123", 1_600_000_000_123),
        (b"1600000000123.9", 1_600_000_000_123),
        (b"1.6e12", 1_600_000_000_000),
        (b"0", 0),
        (b"-1", -1),
        (b"-0.5", -1),
        (b"-9007199254740992", -(2**53)),
        (b'"1600000000123"', 1_600_000_000_123),
        (b'"1600000000123.9"', 1_600_000_000_123),
        (b'"+1600000000123"', 1_600_000_000_123),
        (b'"-0.5"', -1),
        (b'"20200913"', 20_200_913),
        (b'"2020-09-13T12:26:40"', 1_600_000_000_000),
        (b'"2020-09-13T12:26:40Z"', 1_600_000_000_000),
        (b'"2020-09-13 12:26:40.5+00:00"', 1_600_000_000_500),
        (b'"2020-09-13T14:26:40.123999+02:00"', 1_600_000_000_123),
        (b'"2020-09-13"', 1_599_955_200_000),
        (b'"1969-12-31T23:59:59.9999"', -1),
        (b'"0001-01-01T00:00:00.000999"', -62_135_596_800_000),
        (b'"0001-01-01T00:00:00+10:00"', -62_135_632_800_000),
    ],
)
def test_a_timestamp_is_unix_milliseconds_or_iso_8601_rounded_down(timestamp, event_ms):
    value = b'{"values":[1,2],"timestamp":%b}' % timestamp
    assert of(value, h=[("timestamp_unit", b"ms")]) == accepted([1, 2], event_ms=event_ms)


def test_a_timestamp_without_a_zone_is_utc_wherever_the_service_runs(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert of(b'{"values":[1,2],"timestamp":"2020-09-13T12:26:40"}') == accepted([1, 2], event_ms=1_600_000_000_000)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_without_a_timestamp_the_records_own_counts():
    assert of(GOOD, record_ms=123) == accepted([1, 2], event_ms=123)


def test_with_no_timestamp_at_all_the_record_is_refused():
    assert of(GOOD, kind=0, record_ms=-1) == "bad_timestamp"


def test_a_timestamp_needs_none_of_the_records_own():
    assert of(ahead(9e6), kind=0, record_ms=-1) == accepted([1, 2], event_ms=RECORD_MS + 9_000_000_000)


def test_a_timestamp_may_lie_ahead_by_exactly_ahead_max():
    assert of(ahead(AHEAD_MAX_S)) == accepted([1, 2], event_ms=RECORD_MS + 3_600_000)


def test_a_timestamp_a_millisecond_further_ahead_is_refused():
    assert of(ahead(AHEAD_MAX_S + 0.001)) == "bad_timestamp"


def test_a_fraction_of_a_millisecond_past_ahead_max_is_not_seen():
    assert of(b'{"values":[1,2],"timestamp":%d.9}' % (RECORD_MS + 3_600_000)) == accepted([1, 2], event_ms=RECORD_MS + 3_600_000)


def test_an_iso_timestamp_too_far_ahead_is_refused():
    assert of(b'{"values":[1,2],"timestamp":"9999-12-31T23:59:59"}') == "bad_timestamp"


def test_a_timestamp_may_lie_back_ten_years():
    assert of(ahead(-10 * 365.25 * 86400)) == accepted([1, 2], event_ms=RECORD_MS - 315_576_000_000)


def test_a_sender_that_names_the_unit_may_send_a_history():
    old = b'{"values":[1,2],"timestamp":"1970-01-01T00:00:00Z"}'
    assert of(old, h=[("timestamp_unit", b"ms")]) == accepted([1, 2], event_ms=0)
    assert of(ahead(3601), h=[("timestamp_unit", b"ms")]) == "bad_timestamp", "ahead it may lie as far as any other"
    assert of(GOOD, h=[("timestamp_unit", b"s")]) == "bad_schema"


@pytest.mark.parametrize(
    ("timestamp", "unit"),
    [(1_700_000_000, "s"), ('"1700000000.5"', "s"), (1_700_000_000_000_000, "us"), (1_700_000_000_000_000_000, "ns")],
)
def test_a_timestamp_of_another_unit_is_told_which(timestamp, unit):
    found = codec().decode([Record(b'{"values":[1,2],"timestamp":%s}' % str(timestamp).encode())]).rejected[0][1]
    assert f"as Unix time in {unit} fits the record's own, and not in ms" in found.detail


def test_a_timestamp_of_no_unit_is_told_how_far_off_it_is():
    found = codec().decode([Record(b'{"values":[1,2],"timestamp":"1796-01-01"}')]).rejected[0][1]
    assert "228 years before the record's own" in found.detail


# -- keys, headers, null values -------------------------------------------------------------------------


def test_an_empty_key_is_a_sensor():
    assert codec().decode([Record(k=b"")]).batch.key == [b""]


def test_a_key_of_1024_bytes_is_taken():
    assert codec().decode([Record(k=b"k" * 1024)]).batch.key == [b"k" * 1024]


def test_a_key_of_1025_bytes_is_too_large():
    assert of(GOOD, k=LONG_KEY) == "too_large"


def test_a_key_is_shown_as_utf8_or_else_as_hex():
    assert [shown("Pumpe-ü".encode()), shown(b"\xff\x00"), shown(b"")] == ["Pumpe-ü", "0xff00", ""]


def resets(headers: list[tuple[str, bytes | None]] | None, **changes: Any) -> tuple[bool, bool]:
    batch = codec(**changes).decode([Record(h=headers)]).batch
    return bool(batch.reset_before[0]), bool(batch.reset_after[0])


@pytest.mark.parametrize(
    ("headers", "before_after"),
    [
        (None, (False, False)),
        ([], (False, False)),
        ([("sequence", b"start")], (True, False)),
        ([("sequence", b"end")], (False, True)),
        ([("sequence", b"single")], (True, True)),
        ([("sequence", b"start"), ("trace", b"x"), ("sequence", b"end")], (True, True)),
        ([("sequence", b"start"), ("sequence", b"start")], (True, False)),
        ([("Sequence", b"start"), ("trace", None), ("sequence-id", b"end")], (False, False)),
    ],
)
def test_the_header_sequence_resets_before_after_or_both(headers, before_after):
    assert resets(headers) == before_after


@pytest.mark.parametrize("text", [b"", None, b"Start", b"start ", b"\xff"])
def test_an_unknown_header_sequence_is_bad_schema_even_beside_a_good_one(text):
    assert of(GOOD, h=[("sequence", b"start"), ("sequence", text)]) == "bad_schema"


def test_with_each_record_every_record_is_a_sequence_of_its_own():
    assert resets(None, each_record=True) == (True, True)
    assert resets([("sequence", b"start")], each_record=True) == (True, True)


def test_a_null_value_is_a_record_without_readings_at_its_own_time():
    decoded = codec().decode([Record(None, record_ms=5)])
    assert (decoded.batch.steps.tolist(), decoded.batch.event_ms.tolist(), decoded.batch.x.shape) == ([0], [5], (0, F))


def test_a_null_value_is_not_asked_for_its_headers():
    assert not codec().decode([Record(None, h=[("sequence", b"unknown")])]).rejected


def test_resets_are_counted_by_what_caused_them():
    headers = [[("sequence", b"start")], [("sequence", b"end")], [("sequence", b"single")], None]
    decoded = codec().decode([Record(h=h) for h in headers] + [Record(None)])
    assert +decoded.resets == {"start": 2, "end": 2, "null": 1}
    assert +codec(each_record=True).decode([Record(h=h) for h in headers]).resets == {"each_record": 4}


@pytest.mark.parametrize("each_record", [False, True])
@pytest.mark.parametrize("value", [b"x", b'{"values":[1]}', b'{"values":[1e39,1]}'])
def test_a_record_that_is_refused_counts_as_no_reset(value, each_record):
    decoded = codec(each_record=each_record).decode([Record(value, h=[("sequence", b"single")])])
    assert +decoded.resets == {}


def test_a_detail_stays_short_whatever_the_sender_wrote():
    long = b"\xff" * 1_000_000
    records = [
        Record(h=[("sequence", long)]),
        Record(k=long),
        Record(b'{"values":[1,2],"timestamp":"%b"}' % (b"x" * 1_000_000)),
        Record(b'{"values":[1,2],"timestamp":%b}' % (b"9" * 4000)),
        Record(b'{"values":["%b"]}' % (b"x" * 1_000_000)),
        Record(long),
    ]
    decoded = codec().decode(records)
    assert len(decoded.rejected) == len(records)
    assert max(len(rejected.detail) for _, rejected in decoded.rejected) < 500


# -- batches --------------------------------------------------------------------------------------------


def test_a_bad_record_leaves_no_trace_in_the_batch():
    bad = [Record(value, o=i) for i, (value, _) in enumerate(BAD_VALUES.values())]
    mixed = [Record(o=1000), *bad, Record(SEVERAL, o=1001), *bad, Record(None, o=1002)]
    decoded = codec().decode(mixed)
    assert decoded.batch.offset.tolist() == [1000, 1001, 1002]
    assert decoded.batch.steps.tolist() == [1, 2, 0]
    assert decoded.batch.x.tolist() == [[1, 2], [1, 2], [3, 4]]
    assert [rejected.error for _, rejected in decoded.rejected] == [error for _, error in BAD_VALUES.values()] * 2


def test_no_messages_are_an_empty_batch():
    decoded = codec().decode([])
    assert (len(decoded.batch), decoded.batch.x.shape, decoded.rejected) == (0, (0, F), [])


token = st.sampled_from(
    rb"""{ } [ ] , : "values" "timestamp" "x" 1 1.5 -0 1e999 1e39 NaN null true "\ud800" "2024-01-01" [1,2] [[1,2],[3,4]]""".split()
) | st.sampled_from([b"9" * 30, b"\xff", b" "])
value = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.lists(token, max_size=14).map(b"".join),
    st.sampled_from([v for v, _ in [*BAD_VALUES.values(), *GOOD_VALUES.values()]]),
)
header = st.tuples(
    st.sampled_from(["sequence", "trace", ""]), st.none() | st.sampled_from([b"start", b"end", b"single"]) | st.binary(max_size=8)
)
record = st.builds(
    Record,
    v=value,
    k=st.none() | st.binary(max_size=4) | st.just(LONG_KEY),
    h=st.none() | st.lists(header, max_size=2),
    record_ms=st.integers(-1, 2**53),
    kind=st.integers(0, 2),
)


@pytest.mark.full
@deterministic
@given(records=st.lists(record, max_size=12), each_record=st.booleans())
def test_whatever_the_bytes_every_record_ends_once_in_order_in_the_batch_or_among_the_refused(records, each_record):
    for i, made in enumerate(records):
        made.o = i
    decoded = codec(each_record=each_record).decode(records)
    refused = [i for i, _ in decoded.rejected]
    assert sorted(decoded.source + refused) == list(range(len(records)))
    assert decoded.source == sorted(decoded.source)
    assert refused == sorted(refused)
    batch = decoded.batch
    assert batch.offset.tolist() == decoded.source
    assert batch.key == [records[i].k for i in decoded.source]
    assert [n == 0 for n in batch.steps.tolist()] == [records[i].v is None for i in decoded.source]
    assert batch.x.shape == (batch.steps.sum(), F)
    assert np.isfinite(batch.x).all()
    assert {rejected.error for _, rejected in decoded.rejected} <= set(ERRORS)


@pytest.mark.full
@deterministic
@given(records=st.lists(record, max_size=8), data=st.data())
def test_a_verdict_is_the_records_alone_whatever_stands_beside_it(records, data):
    alone = [verdict(made, codec()) for made in records]
    order = data.draw(st.permutations(range(len(records))))
    by = codec()
    assert [verdict(records[i], by) for i in order] == [alone[i] for i in order]


# -- the same verdicts as the oracle's ------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Settings(input={"record_steps_max": STEPS_MAX, "ahead_max": "1h"}), F)


@pytest.mark.parametrize("value", [v for v, _ in [*BAD_VALUES.values(), *GOOD_VALUES.values()]], ids=[*BAD_VALUES, *GOOD_VALUES])
def test_the_oracle_says_the_same_of_every_example(judge, value):
    assert judge.verdict(value) == of(value)


number = st.sampled_from([b"1", b"-0", b"2.5", b"1e999", b"1e39", b"9" * 30, b"9" * 400, b"1.", b"NaN", b"null", b"true", b'"x"', b"{}"])
plain = st.sampled_from([b"1", b"-2.5", b"3e5"])


def listed(items: Any, **sizes: int) -> Any:
    return st.lists(items, **sizes).map(lambda found: b"[%b]" % b",".join(found))


step = listed(plain, min_size=2, max_size=2)
values = st.one_of(step, listed(step, max_size=4), listed(number, max_size=3), listed(st.one_of(step, number), max_size=4), number)
timestamp = st.one_of(
    st.sampled_from([b"1600000000000", b'"2020-09-13T12:26:40Z"', b'"2020-09-13T12:26:40.000999"', b'"\\ud83d"', b"[]", b"1700003600001"]),
    number,
)
member = st.one_of(
    values.map(lambda v: b'"values":' + v),
    timestamp.map(lambda t: b'"timestamp":' + t),
    st.one_of(values, timestamp).map(lambda v: b'"x":' + v),
)
written = st.tuples(values, st.lists(member, max_size=2), st.booleans()).map(
    lambda t: b"{%b}" % b",".join([*t[1], b'"values":' + t[0]] if t[2] else [b'"values":' + t[0], *t[1]])
)
slip = st.tuples(st.integers(0, 200), st.integers(0, 1), st.sampled_from([b"", b"[", b"]", b",", b"0", b'"', b"\\", b"\xff", b"e", b"\n"]))


def damaged(text: bytes, slips: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in slips:
        at %= len(text) + 1
        text = text[:at] + put + text[at + cut :]
    return text


@pytest.mark.full
@hypothesis_settings(max_examples=1500, deadline=None, derandomize=True)
@given(value=st.builds(damaged, written, st.lists(slip, max_size=2)))
def test_the_oracle_says_the_same_of_any_json_whole_or_damaged(judge, value):
    assert of(value) == judge.verdict(value)
    assert verdict(Record(value), used_to_several()) == judge.verdict(value)


# -- predictions as bytes -------------------------------------------------------------------------------


def batch_of(steps: list[int], keys: list[bytes] | None = None, event_ms: int = RECORD_MS) -> Batch:
    n = len(steps)
    return Batch(
        partition=[3] * n,
        key=keys or [b"pump-%d" % i for i in range(n)],
        offset=np.arange(88123, 88123 + n),
        event_ms=np.full(n, event_ms),
        record_ms=np.full(n, RECORD_MS),
        steps=np.array(steps, np.int64),
        reset_before=np.zeros(n, bool),
        reset_after=np.zeros(n, bool),
        x=np.zeros((sum(steps), F), np.float32),
    )


def applied_to(batch: Batch, y: Any, **changes: Any) -> Applied:
    n = len(batch)
    defaults = {
        "y": np.array(y, np.float32).reshape(int(batch.steps.sum()), np.size(y) // max(1, int(batch.steps.sum()))),
        "last": np.maximum(np.cumsum(batch.steps) - 1, 0),
        "steps": np.arange(1, n + 1),
        "residual": np.full(n, np.nan, np.float32),
        "warming": np.zeros(n, bool),
        "filling": np.zeros(n, bool),
        "finite": np.ones(n, bool),
        "late": np.zeros(n, bool),
        "reset_by": np.zeros(n, np.int8),
    }
    return Applied(**{**defaults, **changes})


def encoded(steps: list[int], y: Any, *, by: Codec | None = None, keys: list[bytes] | None = None, **changes: Any) -> list[bytes | None]:
    batch = batch_of(steps, keys)
    return (by or codec()).encode(batch, applied_to(batch, y, **changes))


def test_an_output_is_written_as_the_contract_says():
    assert encoded([1], [0.5, -2]) == [
        b'{"sensor":"pump-0","timestamp":1700000000000,"prediction":[0.5,-2.0],"steps":1,"partition":3,"offset":88123,"model":"3f2a9c01"}'
    ]


def test_the_optional_fields_come_last_in_their_order():
    (out,) = encoded([1], [0.5], by=codec(residual=True), residual=np.array([0.1], np.float32), warming=np.array([True]))
    assert out is not None
    assert out.endswith(b'"model":"3f2a9c01","residual":0.1,"warming_up":true}')


def test_residuals_and_a_reconstruction_follow_the_mean_and_are_null_together():
    residuals, reconstruction = np.array([[0.5, 0.25], [np.nan, np.nan]], np.float32), np.array([np.nan, 2], np.float32)
    scored = {"residual": np.array([0.375, np.nan], np.float32), "residuals": residuals, "reconstruction": reconstruction}
    encoder = Encoder(
        model_id="m", outputs=[Output("y", 0, 1)], scales=[None], residual=True, residual_each=True, reconstruction=True, trained_window=1
    )
    batch = batch_of([1, 1])
    first, second = encoder.encode(batch, applied_to(batch, [1, 2], **scored))
    assert first.endswith(b'"residual":0.375,"residuals":[0.5,0.25],"reconstruction":null}')
    assert second.endswith(b'"residual":null,"residuals":null,"reconstruction":2.0,"past_window":true}')
    unasked = Encoder(model_id="m", outputs=[Output("y", 0, 1)], scales=[None], residual=False)
    assert b"re" not in unasked.encode(batch, applied_to(batch, [1, 2], **scored))[0].replace(b"prediction", b"")


def test_a_residual_that_is_not_there_is_null():
    (out,) = encoded([1], [0.5], by=codec(residual=True))
    assert json.loads(out)["residual"] is None


def test_without_residual_the_field_is_absent():
    (out,) = encoded([1], [0.5], residual=np.array([0.1], np.float32))
    assert "residual" not in json.loads(out)


def test_while_a_window_fills_the_prediction_is_null():
    outs = encoded([1, 1], [0.5, 0.25], filling=np.array([True, False]), warming=np.array([True, False]))
    found = [json.loads(out) for out in outs]
    assert [(out["prediction"], out.get("warming_up")) for out in found] == [(None, True), ([0.25], None)]


def test_a_null_record_has_no_output():
    outs = encoded([1, 0, 1], [0.5, 0.25])
    assert outs[1] is None
    assert [json.loads(out)["prediction"] for out in (outs[0], outs[2])] == [[0.5], [0.25]]


def test_null_records_alone_have_no_output():
    assert encoded([0, 0], np.zeros((0, 1))) == [None, None]


def test_a_record_that_was_left_out_has_no_output_and_spoils_no_other():
    outs = encoded([1, 1], [np.nan, 0.25], finite=np.array([False, True]))
    assert outs[0] is None
    assert json.loads(outs[1])["prediction"] == [0.25]


def test_a_record_of_several_steps_gives_the_last_prediction():
    outs = encoded([2, 1, 3], np.arange(6))
    assert [json.loads(out)["prediction"] for out in outs] == [[1], [2], [5]]


def test_with_an_output_a_step_a_record_of_several_steps_gives_them_all():
    outs = encoded([2, 1, 3], np.arange(12), by=codec(per_step=True))
    assert [json.loads(out)["prediction"] for out in outs] == [[[0, 1], [2, 3]], [4, 5], [[6, 7], [8, 9], [10, 11]]]


def test_a_sensors_name_is_escaped():
    keys = ['a"\\\n\0ü'.encode(), b"\xff", b""]
    assert [json.loads(out)["sensor"] for out in encoded([1, 1, 1], [0, 0, 0], keys=keys)] == ['a"\\\n\0ü', "0xff", ""]


def test_an_empty_batch_has_no_outputs():
    assert encoded([], np.zeros((0, 1))) == []


finite_bits = st.integers(0, 2**32 - 1).filter(lambda bits: bits & 0x7F80_0000 != 0x7F80_0000)


@deterministic
@given(bits=st.lists(finite_bits, min_size=3, max_size=3))
def test_numbers_read_back_as_the_same_float32_bit_for_bit(bits):
    y = np.array(bits, np.uint32).view(np.float32)
    (out,) = encoded([1], y[:2], by=codec(residual=True), residual=y[2:])
    found = json.loads(out)
    assert np.array([*found["prediction"], found["residual"]], np.float32).view(np.uint32).tolist() == bits


@pytest.mark.full
def test_many_random_float32_read_back_bit_for_bit():
    bits = np.random.default_rng(5).integers(0, 2**32, 200_000, np.uint32)
    y = bits.view(np.float32)
    y = y[np.isfinite(y)]
    (out,) = encoded([len(y)], y, by=codec(per_step=True))
    again = np.array(json.loads(out)["prediction"], np.float64).astype(np.float32)[:, 0]
    assert (again.view(np.uint32) == y.view(np.uint32)).all()


def longest_numbers(count: int) -> np.ndarray:
    """The float32 that take the most bytes, of many in each of the ranges where decimals are longest."""
    rng = np.random.default_rng(5)
    ranges = [(-45, -37), (-6, -4), (11.9, 13), (37, 38.5)]
    drawn = np.concatenate([-(10.0 ** rng.uniform(low, high, 50_000)) for low, high in ranges]).astype(np.float32)
    shown_as = encoded([len(drawn)], drawn, by=codec(per_step=True))[0]
    assert shown_as is not None
    lengths = [len(text) for text in shown_as.split(b'"prediction":[[')[1].split(b"]]")[0].split(b"],[")]
    return np.resize(drawn[np.argsort(lengths)[-100:]], count)


@pytest.mark.full
@pytest.mark.parametrize(("outputs", "steps"), [(1, 1), (1, 1024), (64, 1), (64, 1024)])
def test_no_output_passes_the_size_that_is_checked_at_start(outputs, steps):
    batch = batch_of([steps], [b"\x01" * 1024], event_ms=-(2**53))
    batch.offset[:], batch.partition = 2**63 - 1, [2**31 - 1]
    applied = applied_to(
        batch,
        longest_numbers(outputs * steps),
        steps=np.array([2**63 - 1]),
        residual=longest_numbers(1),
        warming=np.array([True]),
    )
    (out,) = codec(residual=True, per_step=True).encode(batch, applied)
    assert out is not None
    assert len(out) <= output_bytes_max([Output("y", 0, outputs, per_step=True)], steps)
