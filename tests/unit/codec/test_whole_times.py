"""The time of a reading at a path of its own and in a unit of its own; the reference oracle agrees on all of it."""

import json
from typing import Any

import pytest
from judge import RECORD_MS, Judge, Record, echo_model, verdict

from processor.app.fit import codec_of
from processor.errors import ConfigurationError
from processor.settings import Settings, load_settings

SECONDS = ("--input.timestamp=meta.at", "--input.timestamp_unit=s")


def settings(*options: str) -> Settings:
    return load_settings(None, ["--input.record_steps_max=4", *options], {})


def both(found: Any, *options: str, headers: Any = ()) -> Any:
    """What the codec makes of a record, which the oracle must say too."""
    value = found if isinstance(found, bytes) else json.dumps(found).encode()
    given = settings(*options)
    said = verdict(Record(value, h=list(headers)), codec_of(given, echo_model(1), "3f2a9c01"))
    assert Judge(given, 1).verdict(value, headers) == said
    return said


def time_of(timestamp: Any, *options: str, headers: Any = ()) -> Any:
    said = both({"values": [1.5], "meta": {"at": timestamp}}, *options, headers=headers)
    return said if isinstance(said, str) else said[1][0]


def detail(value: bytes, *options: str) -> str:
    ((_, rejected),) = codec_of(settings(*options), echo_model(1), "m").decode([Record(value)]).rejected
    return rejected.detail


@pytest.mark.parametrize(
    ("unit", "number", "ms"),
    [
        ("s", 1_700_000_000, 1_700_000_000_000),
        ("s", 1_700_000_000.123, 1_700_000_000_123),  # as it is written, not as the double below it
        ("s", 1_700_000_000.9999, 1_700_000_000_999),
        ("s", "1700000000.5", 1_700_000_000_500),
        ("ms", 1_700_000_000_000.9, 1_700_000_000_000),
        ("us", 1_700_000_000_000_999, 1_700_000_000_000),
        ("ns", 1_700_000_000_123_456_789, 1_700_000_000_123),
        ("ns", "1700000000123456789", 1_700_000_000_123),
        ("auto", 1_700_000_000_000, 1_700_000_000_000),
        ("s", "2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("ns", "2023-11-14T22:13:20.5Z", 1_700_000_000_500),
    ],
)
def test_a_time_is_read_at_its_path_and_in_its_unit_rounded_down(unit: str, number: Any, ms: int) -> None:
    assert time_of(number, "--input.timestamp=meta.at", f"--input.timestamp_unit={unit}") == ms


@pytest.mark.parametrize("number", [1_700_000_000_000, -1_700_000_000, 1e300, 10**400, True, [], {}, "yesterday", 2**53])
def test_a_time_that_does_not_fit_its_unit_is_no_time(number: Any) -> None:
    assert time_of(number, *SECONDS) == "bad_timestamp"


def test_a_dead_letter_says_which_unit_would_fit() -> None:
    value = b'{"values":[1],"meta":{"at":1700000000000}}'
    expected = "which as Unix time in ms fits the record's own, and not in s; expected Unix time in s or ISO 8601 (input.timestamp_unit)"
    assert expected in detail(value, *SECONDS)


def test_a_record_without_the_field_has_its_own_time() -> None:
    for record in ({"values": [1]}, {"values": [1], "meta": None}, {"values": [1], "meta": {"at": None}}, {"values": [1], "meta": 7}):
        assert both(record, *SECONDS)[1] == [RECORD_MS]
    # The field `timestamp` is one of others then.
    assert both({"values": [1], "timestamp": "no time"}, *SECONDS)[1] == [RECORD_MS]


def test_a_key_that_is_written_with_dots_wins() -> None:
    record = {"values": [1], "meta.at": 1_700_000_001, "meta": {"at": 1_700_000_002}}
    assert both(record, *SECONDS)[1] == [1_700_000_001_000]
    assert both(record, '--input.timestamp="meta".at', "--input.timestamp_unit=s")[1] == [1_700_000_002_000]


def test_with_null_the_records_own_time_counts_whatever_its_value_says() -> None:
    assert both({"values": [1], "timestamp": "no time"}, "--input.timestamp=null")[1] == [RECORD_MS]
    assert both({"values": [1], "timestamp": RECORD_MS - 5}, "--input.timestamp=null")[1] == [RECORD_MS]


def test_a_sender_may_name_its_unit_which_is_the_settings_or_ms() -> None:
    old_s = 946_684_800  # 2000-01-01
    assert time_of(old_s, *SECONDS) == "bad_timestamp"
    assert time_of(old_s, *SECONDS, headers=[("timestamp_unit", b"s")]) == old_s * 1000
    assert time_of(old_s * 1000, *SECONDS, headers=[("timestamp_unit", b"ms")]) == old_s * 1000
    assert time_of(old_s, *SECONDS, headers=[("timestamp_unit", b"ns")]) == "bad_schema"
    assert time_of(old_s, *SECONDS, headers=[("timestamp_unit", None)]) == "bad_schema"
    assert both({"values": [1]}, headers=[("timestamp_unit", b"s")]) == "bad_schema"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[",
        b"\xff",
        b'{"values":[1e400]}',
        b'{"values":[NaN]}',
        b'{"values":[1,"x"]}',
        b'{"values":"x"}',
        b"7",
        b'{"values":[]}',
        b'{"values":[1,2]}',
        b'{"values":[[1],[2],[3],[4],[5]]}',
        b'{"values":[[1],2]}',
        b'{"values":[' + b"9" * 400 + b"]}",
        b'{"values":[1],"x":"\\ud800"}',
        b"[" * 200 + b"]" * 200,
        b'{"values":[1e39]}',
        b'{"values":[true]}',
        b'{"values":[[1],[2]],"timestamp":1700000000000}',
    ],
)
def test_what_is_wrong_beside_the_time_is_told_as_of_plain_records(value: bytes) -> None:
    assert both(value, "--input.timestamp=null") == both(value)


def test_features_with_names_are_found_as_in_plain_records() -> None:
    given = "--input.features=[motor.current]"
    for record in ({"motor": {"current": 2}}, {"motor.current": 2}, {"motor": {"current": None}}, {"motor": 3}, {}, {"motor.current": "x"}):
        assert both(record, given, *SECONDS) == both(record, given)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--input.format=float32", "--input.timestamp=at"], "input.format: json with it"),
        (["--input.features=[at.a, b]", "--input.timestamp=at"], "a field of its own for the time"),
        (["--input.features=[a, b]", "--input.timestamp=b"], "a field of its own for the time"),
        (["--input.timestamp=a..b"], "a field's name"),
        (["--input.timestamp_unit=min"], "auto, s, ms, us or ns"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        settings(*options)


def test_only_what_is_not_the_default_is_in_the_fingerprint() -> None:
    plain = settings()
    assert settings("--input.timestamp=timestamp", "--input.timestamp_unit=auto").deciding() == plain.deciding()
    changed = settings(*SECONDS).deciding()
    assert changed == {**plain.deciding(), "input.timestamp": "meta.at", "input.timestamp_unit": "s"}
    assert settings("--input.timestamp=null").deciding()["input.timestamp"] is None
