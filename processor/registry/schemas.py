"""The schemas of records by id, for the loop's codec: from what is kept beside the checkpoints, else from the registry.

Owns the answer to each (partition, id), which never changes once it was given: a schema, or that there was none. So a replay decides
as the first run did, whatever the registry says by then. Requests run on threads of their own: while one is under way, or fails, the
codec gets SchemaPendingError and the loop goes on turning.
"""

import threading
from dataclasses import dataclass
from typing import Protocol

import structlog

from processor.errors import SlotstreamError, UnknownSchemaStop
from processor.metrics import Metrics
from processor.registry.client import RegistryDownError, UnknownSchemaError
from processor.written_schema import SchemaPendingError, WrittenSchema

_log = structlog.get_logger(__name__)

WAIT_S = 0.5  # how long the loop's turn waits for an answer before it goes on
AGAIN_S = 1.0  # between two failed requests, beside the client's own back-off
TELL_EVERY = 30  # failures


class Registry(Protocol):
    """Of registry.client.RegistryClient."""

    @property
    def url(self) -> str: ...
    def schema(self, schema_id: str, /) -> WrittenSchema: ...


class SchemaStore(Protocol):
    """Keeps answers beside the checkpoints: registry.schema_folder, registry.schema_records."""

    def kept(self, partition: int, schema_id: str, /) -> "Answer | None": ...
    def keep(self, partition: int, schema_id: str, answer: "Answer", /) -> None:
        """Before any output of a record that needed it is final. Called whenever the answer is given to a partition."""


@dataclass(frozen=True, slots=True)
class Answer:
    """schema None: the registry knows no such id."""

    schema: WrittenSchema | None


class Schemas:
    """The loop's thread asks; a thread of this class fetches.

    fail     an unknown id ends the service (on_unknown_schema)
    again_s  between two failed requests
    """

    def __init__(self, registry: Registry, store: SchemaStore, metrics: Metrics, *, fail: bool, again_s: float = AGAIN_S) -> None:
        self._registry, self._store, self._metrics, self._fail, self._again_s = registry, store, metrics, fail, again_s
        self._given: dict[tuple[int, str], Answer] = {}
        self._known: dict[str, WrittenSchema] = {}  # an id's schema is the same for all partitions
        self._fetches: dict[str, _Fetch] = {}

    def schema(self, partition: int, schema_id: str) -> WrittenSchema | None:
        """As SchemaSource says. Raises SchemaPendingError, and SlotstreamError for an unknown id that is to end the service."""
        answer = self._given.get((partition, schema_id))
        if answer is None:
            answer = self._store.kept(partition, schema_id) or self._asked(schema_id)
            if answer.schema is not None:
                self._known[schema_id] = answer.schema
            elif self._fail:
                raise _unknown(schema_id, self._registry.url)
            self._given[partition, schema_id] = answer
        self._store.keep(partition, schema_id, answer)
        return answer.schema

    @property
    def trouble(self) -> str | None:
        """Why records wait; None while none does."""
        for fetch in list(self._fetches.values()):
            if fetch.reason is not None:
                return f"waiting for schema {fetch.schema_id}: the schema registry {self._registry.url} does not give it ({fetch.reason})"
        return None

    def drop(self, partition: int) -> None:
        """Another instance may own the partition now: what it was told is read again from where it is kept."""
        for key in [key for key in self._given if key[0] == partition]:
            del self._given[key]

    def close(self) -> None:
        for fetch in self._fetches.values():
            fetch.cancel()

    def _asked(self, schema_id: str) -> Answer:
        if schema_id in self._known:
            return Answer(self._known[schema_id])
        fetch = self._fetches.get(schema_id)
        if fetch is None:
            fetch = self._fetches[schema_id] = _Fetch(self._registry, schema_id, self._metrics, self._again_s)
        answer = fetch.wait(WAIT_S)
        if answer is None:
            raise SchemaPendingError(schema_id)
        del self._fetches[schema_id]
        self._metrics.set("schema_registry_waiting", float(any(fetch.reason for fetch in self._fetches.values())))
        return answer


class _Fetch:
    """Asks for one schema until there is an answer."""

    def __init__(self, registry: Registry, schema_id: str, metrics: Metrics, again_s: float) -> None:
        self.schema_id = schema_id
        self.reason: str | None = None  # of the last failure
        self._registry, self._metrics, self._again_s = registry, metrics, again_s
        self._answer: Answer | None = None
        self._failed: SlotstreamError | None = None
        self._done, self._cancelled = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name=f"schema-{schema_id}", daemon=True).start()

    def wait(self, seconds: float) -> Answer | None:
        """The answer, None if there is none yet. Raises SlotstreamError if no request can be made at all."""
        self._done.wait(seconds)
        if self._failed is not None:
            raise self._failed
        return self._answer

    def cancel(self) -> None:
        self._cancelled.set()

    def _run(self) -> None:
        failures = 0
        while not self._cancelled.is_set():
            try:
                self._answer = Answer(self._registry.schema(self.schema_id))
                self._count("found")
            except UnknownSchemaError:
                self._answer = Answer(None)
                self._count("unknown")
            except RegistryDownError as error:
                self.reason = str(error)
                self._count("failed")
                self._metrics.set("schema_registry_waiting", 1)
                if failures % TELL_EVERY == 0:
                    _log.warning("waiting for the schema registry", schema=self.schema_id, url=self._registry.url, reason=self.reason)
                failures += 1
                self._cancelled.wait(self._again_s)
                continue
            except SlotstreamError as error:
                self._failed = error
            if failures:
                _log.info("the schema registry answers again", schema=self.schema_id, failures=failures)
            self._done.set()
            return

    def _count(self, result: str) -> None:
        self._metrics.add("schema_registry_requests_total", result=result)


def _unknown(schema_id: str, url: str) -> SlotstreamError:
    return UnknownSchemaStop(
        f"a record names schema {schema_id}, which the schema registry {url} does not know",
        expected="the id of a registered schema (on_unknown_schema: fail)",
        do="register the schema again or correct schema_registry.url, and start again; with on_unknown_schema: dead_letter such records "
        "become dead letters",
    )
