"""The format avro: what fastavro writes is read as it was meant, whatever the schema; anything else has one clear verdict."""

import datetime
import decimal
import json
from typing import Any

import pytest
from judge import RECORD_MS, Judge, Record, echo_model, verdict
from written import Source, avro, framed, reading

from processor.app.fit import codec_of
from processor.errors import ConfigurationError
from processor.settings import load_settings

PUMP = {
    "type": "record",
    "name": "Pump",
    "namespace": "plant.v1",
    "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["ON", "OFF"]}},
        {"name": "temperature", "type": ["null", "double"], "default": None},
        {
            "name": "motor",
            "type": {
                "type": "record",
                "name": "Motor",
                "fields": [
                    {"name": "current", "type": "float"},
                    {"name": "cost", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
                    {"name": "starts", "type": "int"},
                ],
            },
        },
        {"name": "spare", "type": ["null", "Motor"]},
        {"name": "tags", "type": {"type": "map", "values": "double"}},
        {"name": "log", "type": {"type": "array", "items": "string"}},
        {"name": "mac", "type": {"type": "fixed", "name": "Mac", "size": 6}},
        {"name": "ok", "type": "boolean"},
    ],
}
MOTOR = {"current": 3.5, "cost": decimal.Decimal("12.25"), "starts": -7}
AT = datetime.datetime.fromtimestamp(RECORD_MS / 1000, datetime.UTC)
A_PUMP = {
    "at": AT,
    "state": "OFF",
    "temperature": 71.5,
    "motor": MOTOR,
    "spare": MOTOR,
    "tags": {"x": 1.0, "flow.rate": 9.5},
    "log": ["a", "ü"],
    "mac": b"123456",
    "ok": True,
}


def loaded(tmp_path: Any, schema: Any, *options: str) -> Any:
    path = tmp_path / "schema.avsc"
    path.write_text(json.dumps(schema))
    return load_settings(None, ["--input.format=avro", f"--input.schema={path}", *options], {})


def both(settings: Any, value: bytes, features: int = 3) -> Any:
    """The codec's verdict, which is the oracle's."""
    found = verdict(Record(value), codec_of(settings, echo_model(features), "m"))
    assert Judge(settings, features).verdict(value) == found
    return found


def test_features_lie_in_records_unions_maps_and_decimals(tmp_path: Any) -> None:
    names = "[temperature, motor.current, motor.cost, motor.starts, spare.starts, tags.x, 'tags.\"flow.rate\"']"
    settings = loaded(tmp_path, PUMP, f"--input.features={names}", "--input.timestamp=at")
    expected = [71.5, 3.5, 12.25, -7.0, -7.0, 1.0, 9.5]
    assert both(settings, avro(PUMP, A_PUMP), 7) == ([1], [RECORD_MS], [expected])


@pytest.mark.parametrize(
    ("logical", "number", "ms"),
    [
        ("timestamp-millis", RECORD_MS, RECORD_MS),
        ("timestamp-micros", RECORD_MS * 1000 + 999, RECORD_MS),
        ("timestamp-nanos", RECORD_MS * 1_000_000 - 1, RECORD_MS - 1),
        ("local-timestamp-micros", RECORD_MS * 1000, RECORD_MS),
        (None, RECORD_MS, RECORD_MS),
    ],
)
def test_the_logical_type_names_the_unit_of_a_time(tmp_path: Any, logical: str | None, number: int, ms: int) -> None:
    schema = reading(time={"type": "long", "logicalType": logical} if logical else "long")
    plain = reading(time="long")
    assert both(loaded(tmp_path, schema), avro(plain, {"timestamp": number, "values": [1, 2, 3]})) == ([1], [ms], [[1, 2, 3]])


def test_a_unit_of_the_settings_comes_before_the_logical_type(tmp_path: Any) -> None:
    value = avro(reading(time="long"), {"timestamp": RECORD_MS // 1000, "values": [1, 2, 3]})
    assert both(loaded(tmp_path, reading(), "--input.timestamp_unit=s"), value)[1] == [RECORD_MS // 1000 * 1000]


def test_values_may_be_several_steps_and_hold_nulls(tmp_path: Any) -> None:
    schema = reading(items={"type": "array", "items": ["null", "double"]})
    value = avro(schema, {"timestamp": AT, "values": [[1, None], [None, 4]]})
    assert both(loaded(tmp_path, schema), value, 2) == "bad_schema"
    held = loaded(tmp_path, schema, "--input.missing=0.5")
    assert both(held, value, 2) == ([2], [RECORD_MS], [[1, 0.5], [0.5, 4]])


def test_nan_is_a_missing_value_and_otherwise_no_finite_number(tmp_path: Any) -> None:
    value = avro(reading(), {"timestamp": AT, "values": [1, float("nan"), 3]})
    assert both(loaded(tmp_path, reading()), value) == "not_finite"
    assert both(loaded(tmp_path, reading(), "--input.missing=7"), value)[2] == [[1, 7, 3]]


@pytest.mark.parametrize("change", [lambda v: v + b"\0", lambda v: v[:-1], lambda v: b"", lambda v: b"\xff" * 40, lambda v: v[:4]])
def test_bytes_of_another_schema_are_no_record(tmp_path: Any, change: Any) -> None:
    value = avro(reading(), {"timestamp": AT, "values": [1, 2, 3]})
    assert both(loaded(tmp_path, reading()), change(value)) == "bad_encoding"


def test_a_schema_within_itself_is_followed_only_so_far(tmp_path: Any) -> None:
    node = {"type": "record", "name": "Node", "fields": [{"name": "x", "type": "double"}, {"name": "next", "type": ["null", "Node"]}]}
    settings = loaded(tmp_path, node, "--input.features=[x]", "--input.timestamp=null")
    assert both(settings, (b"\0" * 8 + b"\x02") * 3 + b"\0" * 9, 1) == ([1], [RECORD_MS], [[0.0]])
    assert both(settings, (b"\0" * 8 + b"\x02") * 100_000 + b"\0" * 9, 1) == "bad_encoding"


def test_an_array_of_nothing_does_not_go_on_for_ever(tmp_path: Any) -> None:
    schema = reading(items="null")
    value = avro(reading(), {"timestamp": AT, "values": []})[:-1] + b"\xfe\xff\xff\xff\xff\xff\xff\x7f\0"
    assert both(loaded(tmp_path, schema), value) == "bad_encoding"


def test_the_error_names_the_numeric_fields_where_there_are_no_values(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        codec_of(loaded(tmp_path, PUMP), echo_model(3), "m")
    assert "temperature, motor.current, motor.cost, motor.starts" in str(refused.value)
    assert "set input.features" in str(refused.value)
    with pytest.raises(ConfigurationError, match="no number in any of the fields pressure"):
        codec_of(loaded(tmp_path, PUMP, "--input.features=[pressure]"), echo_model(1), "m")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ('{"type": "record", "name": "R"}', "has no list of fields"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "Missing"}]}', "refers to Missing"),
        ('{"type": "enum"}', "without a name"),
        ("[" * 5000, "Avro schema"),
    ],
)
def test_a_file_that_is_no_schema_is_refused_with_its_fault(tmp_path: Any, text: str, told: str) -> None:
    path = tmp_path / "schema.avsc"
    path.write_text(text)
    settings = load_settings(None, ["--input.format=avro", f"--input.schema={path}"], {})
    with pytest.raises(ConfigurationError, match=told):
        codec_of(settings, echo_model(3), "m")


# With a registry's frame.

REGISTRY = ["--input.format=avro", "--schema_registry.url=http://127.0.0.1:1"]


def by_registry(value: bytes | None, schemas: dict[str, Any], headers: Any = (), *options: str) -> Any:
    settings = load_settings(None, [*REGISTRY, *options], {})
    codec = codec_of(settings, echo_model(3), "m", Source(schemas))
    decoded = codec.decode([Record(value, h=list(headers))])
    return [rejected for _, rejected in decoded.rejected] or decoded.batch.x.tolist()


def test_each_record_is_read_by_the_schema_that_it_names() -> None:
    wider = reading(name="Wider")
    wider["fields"].insert(0, {"name": "site", "type": "string"})
    schemas = {"1": reading(), "258": wider}
    assert by_registry(framed(1, avro(reading(), {"timestamp": AT, "values": [1, 2, 3]})), schemas) == [[1, 2, 3]]
    value = framed(258, avro(wider, {"site": "north", "timestamp": AT, "values": [4, 5, 6]}))
    assert by_registry(value, schemas) == [[4, 5, 6]]


@pytest.mark.parametrize(
    ("header", "schema_id"),
    [(b"\0\0\0\1\2", "258"), (b"\1" + bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f")],
)
def test_a_header_may_name_the_schema(header: bytes, schema_id: str) -> None:
    payload = avro(reading(), {"timestamp": AT, "values": [1, 2, 3]})
    assert by_registry(payload, {schema_id: reading()}, [("__value_schema_id", header)]) == [[1, 2, 3]]
    (bad,) = by_registry(payload, {}, [("__value_schema_id", header[:4])])
    assert (bad.error, "expected byte 0 and an id" in bad.detail) == ("bad_encoding", True)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b'{"values": [1]}', "JSON without a frame: set input.format: json"),
        (b"Obj\x01rest", "an Avro file"),
        (b"\xc3\x01rest..", "single-object"),
        (b"\x03\x00" + b"x" * 16, "AWS Glue"),
        (b"\0" * 8 + b"\1payload", "Apicurio's 8-byte ids"),
        (b"", "empty"),
        (b"\0\0\0", "too few for a frame"),
        (b"\x30\x31\x32\x33\x34\x35", "no registry's frame"),
    ],
)
def test_what_is_no_frame_is_named_as_what_it_is(value: bytes, told: str) -> None:
    (bad,) = by_registry(value, {})
    assert bad.error == "bad_encoding"
    assert told in bad.detail


def test_an_unknown_schema_and_one_of_another_format_are_dead_letters() -> None:
    (bad,) = by_registry(framed(9, b"x"), {"9": None})
    assert (bad.error, "does not know schema 9" in bad.detail) == ("unknown_schema", True)
    (bad,) = by_registry(framed(9, b"x"), {"9": {"type": "record"}})
    assert (bad.error, "schema 9 cannot be used" in bad.detail) == ("bad_schema", True)


def test_a_record_without_values_names_the_numeric_fields_of_its_schema() -> None:
    (bad,) = by_registry(framed(1, avro(PUMP, A_PUMP)), {"1": PUMP})
    assert bad.error == "bad_schema"
    assert "its schema's numeric fields: temperature, motor.current" in bad.detail


def test_a_record_is_a_batch_s_dead_letter_and_its_neighbours_are_none() -> None:
    settings = load_settings(None, REGISTRY, {})
    good = framed(1, avro(reading(), {"timestamp": AT, "values": [1, 2, 3]}))
    decoded = codec_of(settings, echo_model(3), "m", Source({"1": reading(), "2": None})).decode(
        [Record(good), Record(framed(2, b"")), Record(None), Record(good)]
    )
    assert (decoded.source, [i for i, _ in decoded.rejected]) == ([0, 2, 3], [1])
