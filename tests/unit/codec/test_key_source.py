"""Which sensor a record is of, where its own key does not say it; the reference oracle agrees."""

import json
from typing import Any

import pytest
from judge import RECORD_MS, Judge, Record, echo_model

from processor.app.fit import codec_of
from processor.codec.encode import shown
from processor.codec.key_source import sensor_of
from processor.errors import ConfigurationError
from processor.settings import load_settings
from processor.verify import judge
from processor.verify.oracle import Reference
from processor.verify.oracle_records import InputRecord

VALUE, HEADER = "--input.key=value:meta.id", "--input.key=header:sensor"


def both(value: Any, *options: str, key: bytes | None = b"own", headers: Any = ()) -> Any:
    """The sensor that a record is of, or its error, by the codec and by the oracle; None of a record that only forgets one."""
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    settings = load_settings(None, list(options), {})
    record = Record(raw, k=key, h=list(headers))
    decoded = codec_of(settings, echo_model(1), "m").decode([record])
    said = decoded.rejected[0][1].error if decoded.rejected else decoded.batch.key[0]
    reference: Reference = Judge(settings, 1)._reference
    known = InputRecord(3, 7, key, raw, RECORD_MS, tuple(headers))
    answer = reference.feed(known)
    expected = answer if isinstance(answer, str) else reference.key_of(known)
    assert said == expected
    if not isinstance(said, str):
        assert sensor_of(settings.input.key)(record) == said
        if answer is not None:
            assert answer["sensor"] == shown(said)  # type: ignore[index]
    return said


@pytest.mark.parametrize(("written", "key"), [("pump", b"pump"), ("é", "é".encode()), (7, b"7"), (-12, b"-12"), ("", b"")])
def test_a_field_of_the_value_names_the_sensor_as_text_or_a_whole_number(written: Any, key: bytes) -> None:
    record = {"values": [1], "meta": {"id": written}}
    assert both(record, VALUE) == both(record, VALUE, key=None) == key


@pytest.mark.parametrize("written", [None, 1.5, 7.0, True, [], {}, 10**300, 10**400])
def test_what_is_neither_text_nor_a_whole_number_names_none(written: Any) -> None:
    assert both({"values": [1], "meta": {"id": written}}, VALUE) == "no_key"


def test_a_record_without_the_field_has_no_sensor_whatever_its_own_key() -> None:
    assert both({"values": [1]}, VALUE) == "no_key"
    assert both({"values": [1], "meta": {"id": "x" * 1025}}, VALUE) == "too_large"
    assert both(b"{", VALUE, key=None) == "bad_encoding"
    assert both({"values": ["x"], "meta": {"id": "p"}}, VALUE) == "bad_schema"


def test_a_header_names_the_sensor_the_last_one_of_several_in_any_bytes() -> None:
    assert both({"values": [1]}, HEADER, key=None, headers=[("sensor", b"a"), ("Sensor", b"b")]) == b"a"
    assert both({"values": [1]}, HEADER, headers=[("sensor", b"a"), ("sensor", b"\xff")]) == b"\xff"
    assert both({"values": [1]}, HEADER) == both({"values": [1]}, HEADER, headers=[("sensor", None)]) == "no_key"
    assert both(b"{", HEADER) == "no_key", "the key comes first, as ever"


def test_a_record_without_a_value_names_its_sensor_by_its_own_key_if_not_by_a_header() -> None:
    assert both(None, VALUE) == both(None, HEADER) == b"own"
    assert both(None, HEADER, headers=[("sensor", b"a")]) == b"a"
    assert both(None, VALUE, key=None) == both(None, HEADER, key=None) == "no_key"


def test_a_float32_record_may_name_its_sensor_in_a_header() -> None:
    assert both(b"\0\0\x80\x3f", HEADER, "--input.format=float32", headers=[("sensor", b"a")]) == b"a"
    with pytest.raises(ConfigurationError, match=r"input\.key: found 'value:id', expected input\.format: json"):
        load_settings(None, ["--input.format=float32", "--input.key=value:id"], {})


@pytest.mark.parametrize("text", ["key", "value:", "header:", "value:a..b", "7"])
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"input\.key"):
        load_settings(None, [f"--input.key={text}"], {})


def test_verify_expects_a_prediction_under_the_sensor_and_a_dead_letter_under_the_records_own_key() -> None:
    settings = load_settings(None, [HEADER], {})
    reference: Reference = Judge(settings, 1)._reference
    court = judge.Judge(reference.feed, reference.key_of)
    for offset, headers in enumerate([(("sensor", b"a"),), ()]):
        court.record(InputRecord(0, offset, b"own", b'{"values":[1]}', RECORD_MS, headers))
    court.work(lambda: False)
    said = [json.loads(stream.wanted[0].said)["key"] for stream in court._streams.values()]
    assert said == [b"a".hex(), b"own".hex()]
