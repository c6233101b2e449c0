"""Records behind a schema registry, on a real Kafka and a real registry: evolving schemas, kill -9, and a registry that dies.

The reference oracle judges every answer.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Service, Topics, answers_due, assert_same, keras, save_model, served
from waiting import wait_for
from written import avro, framed, reading, register

from processor.codec.schemas.protobuf_schema import compiled, message_class
from processor.testbed.embedded_registry import EmbeddedRegistry

L = keras.layers
PARTITIONS, SENSORS, FEATURES = 3, 12, 3


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


class Avro:
    """Two versions of a schema, of which the second has a field more before the others, and floats."""

    options = ("--input.format=avro",)
    kind, indexes = "AVRO", b""

    def __init__(self) -> None:
        self.first = reading(time={"type": "long", "logicalType": "timestamp-micros"})
        self.second = reading(items=["null", "float"])
        self.second["fields"].insert(0, {"name": "site", "type": ["null", "string"], "default": None})

    def schemas(self) -> list[str]:
        return [json.dumps(self.first), json.dumps(self.second)]

    def value(self, version: int, time_ms: int, numbers: list[float]) -> bytes:
        if version == 0:
            plain = reading(time="long")
            return avro(plain, {"timestamp": time_ms * 1000 + 7, "values": numbers})
        site = "north" if time_ms % 2 else None
        plain = {**self.second, "fields": [self.second["fields"][0], {"name": "timestamp", "type": "long"}, self.second["fields"][2]]}
        return avro(plain, {"site": site, "timestamp": time_ms, "values": numbers})


class Protobuf:
    """Two versions of a message, of which the second has its numbers in fields of other numbers."""

    options = ("--input.format=protobuf",)
    kind, indexes = "PROTOBUF", b"\0"
    _first = 'syntax = "proto3"; message Reading { int64 timestamp = 1; repeated double values = 2; }'
    _second = 'syntax = "proto3"; message Reading { string site = 1; repeated float values = 5; int64 timestamp = 2; }'

    def __init__(self) -> None:
        self._classes = [message_class(compiled(text, ()), "Reading") for text in self.schemas()]

    def schemas(self) -> list[str]:
        return [self._first, self._second]

    def value(self, version: int, time_ms: int, numbers: list[float]) -> bytes:
        return self._classes[version](timestamp=time_ms, values=numbers).SerializeToString()


class JsonSchema:
    options = ("--input.format=json_schema",)
    kind, indexes = "JSON", b""

    def schemas(self) -> list[str]:
        fields = {"timestamp": {"type": "integer"}, "values": {"type": "array", "items": {"type": "number"}}}
        return [json.dumps({"type": "object", "properties": fields, "title": title}) for title in ("First", "Second")]

    def value(self, version: int, time_ms: int, numbers: list[float]) -> bytes:
        return json.dumps({"values": numbers, "timestamp": time_ms} | ({"site": "north"} if version else {})).encode()


class Records:
    """A seeded stream, one in fifteen spoilt."""

    def __init__(self, form: Any) -> None:
        self._form, self._rng = form, np.random.default_rng(5)
        self.now_ms = int(time.time() * 1000) - 60_000

    def take(self, count: int, version: int, schema_id: int) -> list[Any]:
        return [self._one(version, schema_id) for _ in range(count)]

    def _framed(self, schema_id: int, payload: bytes) -> bytes:
        return framed(schema_id, self._form.indexes + payload)

    def _one(self, version: int, schema_id: int) -> Any:
        sensor = int(self._rng.integers(SENSORS))
        self.now_ms += 3
        value = self._framed(schema_id, self._form.value(version, self.now_ms, self._rng.normal(size=FEATURES).round(3).tolist()))
        spoilt: list[Callable[[], bytes]] = [
            lambda: value[:-2],
            lambda: value[5:],
            lambda: value + b"\0",
            lambda: b'{"values": [1, 2, 3]}',
            lambda: self._framed(schema_id, self._form.value(version, self.now_ms, [1.0])),
        ]
        if self._rng.random() < 1 / 15:
            value = spoilt[int(self._rng.integers(len(spoilt)))]()
        return sensor % PARTITIONS, b"pump-%d" % sensor, value, self.now_ms, ()


@pytest.mark.long
@pytest.mark.failure("schema registry away")
@pytest.mark.parametrize("store", ["topic", "directory"])
def test_schemas_evolve_while_the_registry_dies_and_the_service_is_killed(
    kafka: Any, registry: EmbeddedRegistry, unique: Any, tmp_path: Path, store: str
) -> None:
    registry.start()
    form = Avro()
    topics, records, sent = Topics(kafka.bootstrap, unique("schemas"), PARTITIONS), Records(form), list[Any]()
    ids = [register(registry.url, f"{topics.input}-value", text, form.kind) for text in form.schemas()]
    fast = ("--schema_registry.max.retries=0", "--schema_registry.timeout=2")
    options = (*form.options, f"--schema_registry.url={registry.url}", *fast, f"--checkpoint.store={store}", "--dead_letter.max_ratio=1")
    service = Service(topics, save_model(tmp_path / "model.keras", L.GRU(8), L.Dense(2)), tmp_path, *options)

    def feed(count: int, version: int) -> None:
        sent.extend(found := records.take(count, version, ids[version]))
        topics.produce(found)

    with service:
        service.wait_ready()
        feed(150, 0)
        service.wait_answered(answers_due(sent))
        registry.kill()
        feed(150, 0)
        service.kill()
    with service:  # the first schema is beside the checkpoints; the second is not known to anybody here
        service.wait_answered(answers_due(sent))
        feed(50, 1)

        def waits() -> bool:
            status, told = service.get("/readyz") or (0, "")
            return status == 503 and f"waiting for schema {ids[1]}" in told

        wait_for(waits, "the service says what it waits for", 90.0)
        assert service.get("/healthz")[0] == 200
        assert service.metric("schema_registry_waiting") == 1
        registry.launch()
        service.wait_answered(answers_due(sent), 180.0)
        feed(100, 0)
        feed(100, 1)
        service.wait_answered(answers_due(sent))
        registry.kill()
        service.kill()
    with service:
        feed(50, 1)
        service.wait_answered(answers_due(sent))
        assert service.stop() == 0
    registry.stop()
    texts = {str(schema_id): text for schema_id, text in zip(ids, form.schemas(), strict=True)}
    _, reference = served(service, topics, schemas=texts)
    want = reference.expect(topics.inputs())
    assert_same(topics.answers(), want)
    assert sum(isinstance(answer, dict) for answer in want.values()) > 500
    assert {"bad_encoding", "wrong_feature_count"} <= {answer for answer in want.values() if isinstance(answer, str)}


@pytest.mark.parametrize("made", [pytest.param(Protobuf, marks=pytest.mark.long), JsonSchema])
def test_each_format_is_answered_once_and_bit_for_bit_through_a_kill(
    kafka: Any, registry: EmbeddedRegistry, unique: Any, tmp_path: Path, made: Any
) -> None:
    registry.start()
    form = made()
    topics, records = Topics(kafka.bootstrap, unique("schemas"), PARTITIONS), Records(form)
    ids = [register(registry.url, f"{topics.input}-value", text, form.kind) for text in form.schemas()]
    options = (*form.options, f"--schema_registry.url={registry.url}", "--checkpoint.store=topic", "--dead_letter.max_ratio=1")
    service = Service(topics, save_model(tmp_path / "model.keras", L.GRU(8), L.Dense(2)), tmp_path, *options)
    sent = [record for version in (0, 1, 0, 1) for record in records.take(100, version, ids[version])]
    with service:
        service.wait_ready()
        topics.produce(sent[:200])
        wait_for(lambda: service.metric("readings_total") > 100, "some readings", 90.0)
        service.kill()
    topics.produce(sent[200:])
    with service:
        service.wait_answered(answers_due(sent))
        assert service.stop() == 0
    texts = {str(schema_id): text for schema_id, text in zip(ids, form.schemas(), strict=True)}
    _, reference = served(service, topics, schemas=texts)
    want = reference.expect(topics.inputs())
    assert_same(topics.answers(), want)
    assert sum(isinstance(answer, dict) for answer in want.values()) > 300
