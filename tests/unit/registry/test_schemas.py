"""Schemas by id: asked for once, kept beside the checkpoints, the same answer for ever, and a registry that is away is waited for."""

import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from processor.errors import UnknownSchemaStop
from processor.metrics import Metrics
from processor.registry.client import RegistryDownError, UnknownSchemaError
from processor.registry.schema_folder import SchemaFolder
from processor.registry.schema_records import SchemaRecords
from processor.registry.schemas import Answer, Schemas
from processor.written_schema import SchemaPendingError, WrittenSchema

AVRO = WrittenSchema("AVRO", '"long"', (("plant.State", '{"type": "enum"}'),))


class FakeRegistry:
    url = "http://registry"

    def __init__(self, **schemas: WrittenSchema) -> None:
        self.schemas, self.asked, self.down = schemas, list[str](), False

    def schema(self, schema_id: str) -> WrittenSchema:
        self.asked.append(schema_id)
        if self.down:
            raise RegistryDownError("nobody there")
        if schema_id not in self.schemas:
            raise UnknownSchemaError(schema_id)
        return self.schemas[schema_id]


def new(registry: FakeRegistry, store: Any, metrics: Metrics | None = None, *, fail: bool = False) -> Schemas:
    return Schemas(registry, store, metrics or Metrics(), fail=fail, again_s=0.01)


@pytest.fixture(params=["folder", "topic"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Gives the store as each start of a process would find it."""
    log: dict[int, dict[bytes, bytes | None]] = {}
    before: list[SchemaRecords] = []

    def begin() -> Any:
        if request.param == "folder":
            return SchemaFolder(tmp_path)
        if before:
            for out in before[-1].outs():
                log.setdefault(out.partition or 0, {})[out.key or b""] = out.value
        before.append(store := SchemaRecords("checkpoints"))
        for partition, values in log.items():
            store.learn(partition, values)
        return store

    return begin


def test_a_schema_is_asked_for_once_and_kept_for_the_next_start(stores: Any) -> None:
    registry = FakeRegistry(**{"7": AVRO})
    schemas = new(registry, stores())
    assert [schemas.schema(partition, "7") for partition in (0, 1, 0)] == [AVRO] * 3
    registry.down = True
    again = new(registry, stores())
    assert [again.schema(partition, "7") for partition in (0, 1)] == [AVRO] * 2
    assert registry.asked == ["7"]


@pytest.mark.failure("a schema id that the registry does not know")
def test_an_id_that_was_unknown_to_a_partition_stays_so(stores: Any) -> None:
    registry = FakeRegistry()
    schemas = new(registry, stores())
    assert schemas.schema(0, "7") is None
    registry.schemas["7"] = AVRO
    assert schemas.schema(0, "7") is None
    again = new(registry, stores())
    assert again.schema(0, "7") is None
    assert again.schema(1, "7") == AVRO  # another partition never met it


@pytest.mark.failure("a schema id that the registry does not know")
def test_an_unknown_id_ends_the_service_by_default(stores: Any) -> None:
    registry = FakeRegistry()
    schemas = new(registry, stores(), fail=True)
    with pytest.raises(UnknownSchemaStop, match="names schema 7, which the schema registry http://registry does not know"):
        schemas.schema(0, "7")
    registry.schemas["7"] = AVRO
    assert new(registry, stores(), fail=True).schema(0, "7") == AVRO


def test_a_registry_that_is_away_is_waited_for_and_says_so(stores: Any) -> None:
    registry, metrics = FakeRegistry(**{"7": AVRO}), Metrics()
    registry.down = True
    schemas = new(registry, stores(), metrics)
    with pytest.raises(SchemaPendingError):
        schemas.schema(0, "7")
    assert schemas.trouble == "waiting for schema 7: the schema registry http://registry does not give it (nobody there)"
    assert "slotstream_schema_registry_waiting 1.0" in metrics.render().decode()
    registry.down = False

    def answered() -> Any:
        try:
            return schemas.schema(0, "7")
        except SchemaPendingError:
            return None

    assert wait_for(answered, "the schema") == AVRO
    assert schemas.trouble is None
    assert "slotstream_schema_registry_waiting 0.0" in metrics.render().decode()


def test_a_slow_registry_holds_up_no_turn(stores: Any) -> None:
    registry, gate = FakeRegistry(**{"7": AVRO}), threading.Event()
    answer = registry.schema
    registry.schema = lambda schema_id: (gate.wait(), answer(schema_id))[1]  # type: ignore[method-assign]
    schemas = new(registry, stores())
    for _ in range(2):
        with pytest.raises(SchemaPendingError):
            schemas.schema(0, "7")
    gate.set()
    assert wait_for(lambda: schemas.schema(0, "7"), "the schema") == AVRO
    assert registry.asked == ["7"]


def test_a_damaged_file_is_asked_for_again(tmp_path: Path) -> None:
    registry = FakeRegistry(**{"7": AVRO})
    new(registry, SchemaFolder(tmp_path)).schema(0, "7")
    (tmp_path / "schemas/7.json").write_bytes(b'{"kind": "AVRO"')
    assert new(registry, SchemaFolder(tmp_path)).schema(0, "7") == AVRO
    assert registry.asked == ["7", "7"]
    assert SchemaFolder(tmp_path).kept(0, "7") == Answer(AVRO)


def test_a_schema_is_written_again_with_the_records_of_an_aborted_transaction() -> None:
    records = SchemaRecords("checkpoints")
    records.keep(3, "7", Answer(AVRO))
    assert [(out.partition, out.key) for out in records.outs()] == [(3, b"\x027")]
    records.keep(3, "7", Answer(AVRO))
    assert list(records.outs()) == []
    records.abort()
    records.keep(3, "7", Answer(AVRO))
    assert len(list(records.outs())) == 1
    records.commit()
    records.keep(3, "7", Answer(AVRO))
    assert list(records.outs()) == []
    records.lost()
    records.keep(3, "7", Answer(AVRO))
    assert len(list(records.outs())) == 1
