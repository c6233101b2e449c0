"""The format protobuf: what Google's library writes is read as it was meant, whatever the schema; anything else has one clear verdict."""

import random
import struct
from typing import Any

import pytest
from google.protobuf import json_format
from judge import RECORD_MS, Judge, Record, echo_model, verdict
from written import framed

from processor.app.fit import codec_of
from processor.codec.schemas.protobuf_schema import compiled, message_class
from processor.errors import ConfigurationError
from processor.settings import load_settings
from processor.written_schema import WrittenSchema

PUMP = """
syntax = "proto3";
package plant.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "units.proto";
message Motor {
  float current = 1;
  sint32 starts = 2;
}
message Pump {
  google.protobuf.Timestamp at = 1;
  optional double temperature = 2;
  Motor motor = 3;
  map<string, double> tags = 4;
  google.protobuf.DoubleValue pressure = 5;
  oneof level { uint64 litres = 6; float share = 7; }
  Unit unit = 8;
  repeated fixed32 log = 9;
  bytes mac = 10;
}
"""
UNITS = 'syntax = "proto3"; package plant.v1; enum Unit { BAR = 0; PASCAL = 1; }'
READING = 'syntax = "proto3"; message Reading { int64 timestamp = 1; repeated double values = 2; message Inner { int64 timestamp = 1; } }'
STEPS = 'syntax = "proto3"; message Step { repeated float numbers = 1; } message Reading { int64 timestamp = 1; repeated Step values = 2; }'


def written(text: str, name: str, record: dict[str, Any], *imports: tuple[str, str]) -> bytes:
    made: bytes = json_format.ParseDict(record, message_class(compiled(text, imports), name)()).SerializeToString()
    return made


def loaded(tmp_path: Any, text: str, *options: str) -> Any:
    (tmp_path / "units.proto").write_text(UNITS)
    (tmp_path / "schema.proto").write_text(text)
    return load_settings(None, ["--input.format=protobuf", f"--input.schema={tmp_path}/schema.proto", *options], {})


def both(settings: Any, value: bytes, features: int = 3) -> Any:
    """The codec's verdict, which is the oracle's."""
    found = verdict(Record(value), codec_of(settings, echo_model(features), "m"))
    assert Judge(settings, features).verdict(value) == found
    return found


NAMES = "--input.features=[temperature, motor.current, motor.starts, tags.x, pressure, litres]"
A_PUMP = {"at": "2023-11-14T22:13:20.123999999Z", "temperature": 71.5, "motor": {"current": 3.5, "starts": -7}, "tags": {"x": 1}}


def test_features_lie_in_messages_maps_wrappers_and_oneofs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(tmp_path, PUMP.replace('import "units.proto";', "").replace("Unit unit = 8;", ""), NAMES, "--input.timestamp=at")
    text = PUMP.replace('import "units.proto";', "").replace("Unit unit = 8;", "")
    value = written(text, "plant.v1.Pump", {**A_PUMP, "pressure": 2.5, "litres": 2**53})
    assert both(settings, value, 6) == ([1], [RECORD_MS + 123], [[71.5, 3.5, -7, 1, 2.5, 2.0**53]])
    absent = written(text, "plant.v1.Pump", {**A_PUMP, "share": 0.5})
    assert both(settings, absent, 6) == "bad_schema"
    held = loaded(tmp_path, text, NAMES, "--input.timestamp=at", "--input.missing=9")
    assert both(held, absent, 6)[2] == [[71.5, 3.5, -7, 1, 9, 9]]


def test_files_beside_the_schema_are_imported(tmp_path: Any) -> None:
    settings = loaded(tmp_path, PUMP, NAMES.replace(", litres", ""), "--input.timestamp=at", "--input.quality={field: unit, good: [BAR]}")
    value = written(PUMP, "plant.v1.Pump", {**A_PUMP, "pressure": 2.5}, ("units.proto", UNITS))
    found = verdict(Record(value), codec_of(settings, echo_model(5), "m"))
    assert found == ([1], [RECORD_MS + 123], [[71.5, 3.5, -7, 1, 2.5]])


def test_values_are_one_step_or_several(tmp_path: Any) -> None:
    one = written(READING, "Reading", {"timestamp": RECORD_MS, "values": [1, 2, 3]})
    assert both(loaded(tmp_path, READING), one) == ([1], [RECORD_MS], [[1, 2, 3]])
    several = written(STEPS, "Reading", {"timestamp": RECORD_MS, "values": [{"numbers": [1, 2, 3]}, {"numbers": [4, 5, 6]}]})
    assert both(loaded(tmp_path, STEPS), several) == ([2], [RECORD_MS], [[1, 2, 3], [4, 5, 6]])


def test_mutated_bytes_have_the_oracle_s_verdict(tmp_path: Any) -> None:
    settings, rng = loaded(tmp_path, READING), random.Random(3)
    codec, judge = codec_of(settings, echo_model(3), "m"), Judge(settings, 3)
    good = written(READING, "Reading", {"timestamp": RECORD_MS, "values": [1, 2, 3]})
    for _ in range(3000):
        value = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            value[rng.randrange(len(value))] = rng.randrange(256)
        if rng.random() < 0.3:
            del value[rng.randrange(len(value)) :]
        found = Record(bytes(value))
        assert _bits(verdict(found, codec)) == _bits(judge.verdict(bytes(value))), bytes(value)


def _bits(found: Any) -> Any:
    return found if isinstance(found, str) else (*found[:2], [struct.pack(f"<{len(step)}f", *step) for step in found[2]])


@pytest.mark.parametrize(
    ("text", "told"),
    [("message {", "protoc refuses the schema"), ('syntax = "proto3";', "has no message"), ('import "x.proto";', "protoc refuses")],
)
def test_a_file_that_is_no_schema_is_refused_with_its_fault(tmp_path: Any, text: str, told: str, capfd: Any) -> None:
    with pytest.raises(ConfigurationError, match=told):
        codec_of(loaded(tmp_path, text), echo_model(3), "m")
    # Kafka clients of other tests in this process may still write of brokers that are gone.
    assert [line for line in capfd.readouterr().err.splitlines() if "rdkafka#" not in line] == []


class Source:
    def __init__(self, kind: str, text: str) -> None:
        self._schema = WrittenSchema(kind, text)

    def schema(self, _partition: int, _id: str) -> Any:
        return self._schema


@pytest.mark.parametrize(
    ("indexes", "record"), [(b"\0", [1, 2, 3]), (b"\2\0", [1, 2, 3]), (b"\4\0\0", "bad_schema"), (b"\2\4", "bad_schema")]
)
def test_the_frame_says_which_message_it_is(indexes: bytes, record: Any) -> None:
    settings = load_settings(None, ["--input.format=protobuf", "--schema_registry.url=http://127.0.0.1:1"], {})
    value = framed(7, indexes + written(READING, "Reading", {"timestamp": RECORD_MS, "values": [1, 2, 3]}))
    found = verdict(Record(value), codec_of(settings, echo_model(3), "m", Source("PROTOBUF", READING)))
    assert found == (record if isinstance(record, str) else ([1], [RECORD_MS], [record]))
    assert Judge(settings, 3, {"7": READING}).verdict(value) == found


# JSON Schema.

FIELDS = '{"timestamp": {"type": "integer"}, "flow": {"type": ["number", "null"]}, "site": {"type": "string"}}'
SCHEMA = f'{{"type": "object", "properties": {FIELDS}}}'


def test_json_of_a_schema_is_json_behind_a_frame(tmp_path: Any) -> None:
    options = ["--input.format=json_schema", "--input.features=[flow]"]
    settings = load_settings(None, [*options, "--schema_registry.url=http://127.0.0.1:1"], {})
    value = b'{"timestamp": %d, "flow": 2.5}' % RECORD_MS
    codec, judge = codec_of(settings, echo_model(1), "m", Source("JSON", SCHEMA)), Judge(settings, 1, {"7": SCHEMA})
    for record, expected in [
        (framed(7, value), ([1], [RECORD_MS], [[2.5]])),
        (value, "bad_encoding"),
        (framed(7, b"x"), "bad_encoding"),
        (framed(7, b'{"flow": null}'), "bad_schema"),
    ]:
        assert verdict(Record(record), codec) == expected
        assert judge.verdict(record) == expected
    (tmp_path / "schema.json").write_text(SCHEMA)
    alone = load_settings(None, [*options, f"--input.schema={tmp_path}/schema.json"], {})
    assert both(alone, value, 1) == ([1], [RECORD_MS], [[2.5]])
    with pytest.raises(ConfigurationError, match="numeric fields: timestamp, flow"):
        codec_of(load_settings(None, [options[0], f"--input.schema={tmp_path}/schema.json"], {}), echo_model(1), "m")
