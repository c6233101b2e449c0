"""Keeps schemas as records of the checkpoint topic, in the partition of the records that need them.

    key 0x02 + id    the schema as JSON, or an empty value for an id that the registry did not know

They are written in the transaction of the first outputs that needed them, and so are final together with these. A restore of the partition
reads them with its rows. Restores call learn() on their threads; all else is the loop's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from processor.records import Out
from processor.registry.schemas import Answer
from processor.written_schema import WrittenSchema

KEY = b"\2"


class _Used(NamedTuple):
    partition: int
    schema_id: str


class SchemaRecords:
    """topic: the name of the checkpoint topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._answers: dict[_Used, Answer] = {}  # read from the topic, or given
        self._final: set[_Used] = set()  # in the topic
        self._sent: set[_Used] = set()  # in the open transaction
        self._due: dict[_Used, Answer] = {}

    def learn(self, partition: int, values: dict[bytes, bytes | None]) -> None:
        """By key of the topic's partition. What cannot be read is asked of the registry again."""
        for key, value in values.items():
            if value is None or not key.startswith(KEY):
                continue
            try:
                answer = Answer(WrittenSchema.from_json(value) if value else None)
                used = _Used(partition, key[len(KEY) :].decode())
            except ValueError:
                continue
            self._answers[used] = answer
            self._final.add(used)

    def kept(self, partition: int, schema_id: str) -> Answer | None:
        return self._answers.get(_Used(partition, schema_id))

    def keep(self, partition: int, schema_id: str, answer: Answer) -> None:
        used = _Used(partition, schema_id)
        if used not in self._final and used not in self._sent:
            self._due[used] = answer

    def outs(self) -> Iterator[Out]:
        """The records for the open transaction."""
        due, self._due = self._due, {}
        for used, answer in due.items():
            self._sent.add(used)
            value = b"" if answer.schema is None else answer.schema.to_json().encode()
            yield Out(self._topic, used.partition, KEY + used.schema_id.encode(), value, record_ms=0)

    def commit(self) -> None:
        self._final |= self._sent
        self._sent.clear()

    def abort(self) -> None:
        """The same records are decoded again, and need them again."""
        self._sent.clear()
        self._due.clear()

    def lost(self) -> None:
        """The topic was replaced by an empty one of its name."""
        self._final.clear()
