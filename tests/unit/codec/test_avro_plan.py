"""Avro records read many at a time are what they are read one by one, whatever the schema and however the bytes are spoilt."""

import json
import random
from typing import Any

import numpy as np
import pytest
from judge import RECORD_MS, Judge, Record, echo_model
from written import Source, avro, framed, reading

from processor.app.fit import codec_of
from processor.codec.schemas.avro_plan import plan_of
from processor.codec.schemas.avro_schema import parsed
from processor.settings import load_settings

TIME = {"name": "timestamp", "type": "long"}
TEXT = {"name": "site", "type": ["null", "string"]}
STATE = {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["ON", "OFF"]}}
MOTOR = {"type": "record", "name": "Motor", "fields": [{"name": "current", "type": "float"}, {"name": "starts", "type": "long"}]}
NAMED = {
    "type": "record",
    "name": "Pump",
    "fields": [
        TEXT,
        {"name": "t", "type": ["null", "double"]},
        {"name": "motor", "type": ["null", MOTOR]},
        {"name": "mac", "type": {"type": "fixed", "name": "Mac", "size": 3}},
        TIME,
        {"name": "on", "type": "boolean"},
        {"name": "raw", "type": "bytes"},
        STATE,
    ],
}
ITEMS = {"name": "values", "type": {"type": "array", "items": "float"}}
VALUES = {"type": "record", "name": "Reading", "fields": [TEXT, TIME, ITEMS, STATE]}
NAMES = "--input.features=[t, motor.current, motor.starts]"


def record_of(schema: Any, rng: random.Random) -> bytes:
    site = rng.choice([None, "north", "ü" if rng.random() < 0.05 else "s"])
    time = RECORD_MS + rng.randrange(1000) if rng.random() < 0.97 else 2**62
    more = {"site": site, "timestamp": time, "state": rng.choice(["ON", "OFF"])}
    number = rng.choice([rng.gauss(0, 100)] * 30 + [float("nan"), float("inf"), 1e39, -0.0])
    if schema is VALUES:
        return avro(schema, {**more, "values": [rng.gauss(0, 1), 2.0, min(number, 1e38)][: 3 if rng.random() < 0.97 else 2]})
    motor = {"current": 2.5, "starts": rng.randrange(-(2**40), 2**40)} if rng.random() < 0.98 else None
    return avro(schema, {**more, "t": number, "motor": motor, "mac": b"abc", "on": rng.random() < 0.5, "raw": rng.randbytes(4)})


def spoilt(value: bytes, rng: random.Random) -> bytes:
    changed = bytearray(value)
    for _ in range(rng.randrange(1, 3)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed)


@pytest.mark.parametrize(("schema", "options"), [(VALUES, []), (NAMED, [NAMES])])
def test_batches_of_any_company_have_the_oracle_s_verdicts(schema: Any, options: list[str]) -> None:
    rng = random.Random(11)
    settings = load_settings(None, ["--input.format=avro", "--schema_registry.url=http://127.0.0.1:1", *options], {})
    other = {**schema, "fields": [{"name": "extra", "type": "int"}, *schema["fields"]]}
    codec = codec_of(settings, echo_model(3), "m", Source({"1": schema, "2": other, "3": None}))
    judge = Judge(settings, 3, {"1": json.dumps(schema), "2": json.dumps(other), "3": None})
    for share in (0.0, 0.002, 0.3):
        values = []
        for _ in range(600):
            value = record_of(schema, rng)
            value = framed(1, value) if rng.random() < 0.7 else framed(2, b"\x0e" + value)
            values.append(spoilt(value, rng) if rng.random() < share else value)
        records = [Record(value, o=i) for i, value in enumerate(values)]
        decoded = codec.decode(records)
        found: dict[int, Any] = {i: rejected.error for i, rejected in decoded.rejected}
        found |= {
            i: ([1], [ms], [x])
            for i, ms, x in zip(decoded.source, decoded.batch.event_ms.tolist(), decoded.batch.x.tolist(), strict=True)
        }
        for i, value in enumerate(values):
            assert repr(found[i]) == repr(judge.verdict(value)), value


def test_plain_records_are_read_by_the_plan_and_not_one_by_one() -> None:
    starts, data = [0], b""
    values = [avro(VALUES, {"site": "a", "timestamp": RECORD_MS, "state": "ON", "values": [i, 1, 2]}) for i in range(50)]
    for value in values:
        data += value
        starts.append(len(data))
    plan = plan_of(parsed(json.dumps(VALUES)), names=None, features=3, timestamp="timestamp", unit="auto")
    assert plan is not None
    padded = np.frombuffer(data + b"\0" * 16, np.uint8)
    read = plan.read(padded, np.array(starts[:-1]), np.array(starts[1:]))
    assert read is not None
    assert read[0].tolist() == [[i, 1, 2] for i in range(50)]


@pytest.mark.parametrize(
    "schema",
    [
        reading(items=["null", "double"]),
        {**VALUES, "fields": [*VALUES["fields"], {"name": "tags", "type": {"type": "map", "values": "int"}}]},
        {**VALUES, "fields": [{"name": "site", "type": "string"}]},
    ],
)
def test_a_schema_without_a_plan_is_none(schema: Any) -> None:
    assert plan_of(parsed(json.dumps(schema)), names=None, features=3, timestamp="timestamp", unit="auto") is None
