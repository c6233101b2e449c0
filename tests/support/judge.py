"""What a codec makes of one record beside what the reference oracle makes of it, no model in either."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from processor.codec.plain_message import PlainMessage
from processor.pipeline import Codec
from processor.records import ERRORS, Output
from processor.settings import Settings
from processor.verify import oracle
from processor.verify.oracle_records import InputRecord

RECORD_MS = 1_700_000_000_000
GOOD = b'{"values":[1,2]}'


@dataclass
class Record:
    """A record as confluent_kafka hands it over. kind 0: without a timestamp; 1: the sender's."""

    v: bytes | None = GOOD
    k: bytes | None = b"pump-7"
    h: list[tuple[str, bytes | None]] | None = None
    o: int = 7
    p: int = 3
    record_ms: int = RECORD_MS
    kind: int = 1

    def key(self):
        return self.k

    def value(self):
        return self.v

    def headers(self):
        return self.h

    def partition(self):
        return self.p

    def offset(self):
        return self.o

    def timestamp(self):
        return self.kind, self.record_ms


def message_of(record: InputRecord) -> PlainMessage:
    """The reference oracle's record, for a codec."""
    return PlainMessage(record.key, record.value, number=record.partition, at=record.offset, time_ms=record.record_ms, told=record.headers)


def verdict(record: Record, by: Codec) -> Any:
    """The error of a record alone in its batch, or its steps, time and numbers."""
    decoded = by.decode([record])
    if decoded.rejected:
        ((index, rejected),) = decoded.rejected
        assert (index, len(decoded.batch), len(decoded.batch.x)) == (0, 0, 0)
        assert (rejected.partition, rejected.offset) == (record.p, record.o)
        assert rejected.error in ERRORS
        assert rejected.detail
        return rejected.error
    assert decoded.source == [0]
    return decoded.batch.steps.tolist(), decoded.batch.event_ms.tolist(), decoded.batch.x.tolist()


def echo_model(features: int) -> Any:
    """A model that says back what it is given."""
    return SimpleNamespace(
        features=features,
        inputs=SimpleNamespace(each=(), categories=()),
        outputs=features,
        named_outputs=(Output("y", 0, features, per_step=True),),
        width=1,
        mode="carried",
        window=None,
        trained_window=None,
    )


def echo(x, _counts, _steps, state) -> Any:
    return x.copy(), state, None


class Judge:
    """The reference oracle over a model that says back what it is given: all but the step is the oracle's own."""

    def __init__(self, settings: Settings, features: int, schemas: Any = None) -> None:
        self._reference = oracle.Reference(echo_model(features), settings, "3f2a9c01", run=echo, schemas=schemas)

    def verdict(self, value: bytes, headers: Any = ()) -> Any:
        answer = self._reference.feed(InputRecord(3, 7, b"pump-7", value, RECORD_MS, headers))
        if isinstance(answer, str):
            return answer
        steps = answer["prediction"] if isinstance(answer["prediction"][0], list) else [answer["prediction"]]
        return [len(steps)], [answer["timestamp"]], steps

    def answer(self, record: Record) -> Any:
        """Of a record that begins a sequence: (error,), or its steps, time and the bytes of its float32 numbers."""
        self._reference._sensors.clear()
        answer = self._reference.feed(InputRecord(record.p, record.o, record.k, record.v, record.record_ms, tuple(record.h or ())))
        if answer is None:
            return 0, record.record_ms, b""
        if isinstance(answer, str):
            return (answer,)
        steps = answer["prediction"] if isinstance(answer["prediction"][0], list) else [answer["prediction"]]
        return len(steps), answer["timestamp"], np.array(steps, np.float32).tobytes()
