"""Whether what was published is what had to be: each output topic's partition beside the sequence that the oracle expects.

Responsible for the comparison, field for field and bit for bit, and for saying what the first difference is. Reads no topic: who does
hands over the records, each partition's in the order of its offsets.

Within a partition answers come in the order of the records that they answer, predictions among themselves and dead letters among
themselves, because both come from one owner's transactions, one after another. So two sequences are compared, and what is missing
in the middle is known to be lost at once.
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from processor.verify.oracle import as_published
from processor.verify.oracle_alarms import alarm_as_published
from processor.verify.oracle_records import InputRecord

Kind = Literal["prediction", "dead letter", "alarm"]
Counted = Literal["prediction", "filling", "dead letter", "alarm"]
Expect = Callable[[InputRecord], dict[str, Any] | str | None]
Headers = Sequence[tuple[str, bytes | None]]

OWN_HEADERS = ("error", "error_detail", "source_topic", "source_partition", "source_offset")


@dataclass(frozen=True, slots=True)
class Answer:
    """offset: of the record that is answered. said: all that is compared, as JSON, every number the float32 that it stands for.

    filling: it is expected to hold no prediction, since the sensor's window is not full.
    """

    offset: int
    said: str
    filling: bool = False


class DifferentError(Exception):
    """The first difference. kind: lost, duplicated or different."""

    def __init__(self, kind: str, partition: int, offset: int, *, sensor: str, expected: str, got: str) -> None:
        super().__init__(f"{kind}: sensor {sensor}, partition {partition}, offset {offset}")
        self.kind, self.partition, self.offset = kind, partition, offset
        self.sensor, self.expected, self.got = sensor, expected, got


@dataclass(slots=True)
class _Stream:
    """Answers of one kind in one partition. What is expected stays, since every phase is compared with it."""

    wanted: list[Answer] = field(default_factory=list)
    compared: int = 0
    got: deque[Answer] = field(default_factory=deque)


class Judge:
    """expect: what the oracle says to a record, called once for each. key_of: whose record it is. headers_of: of its output.

    alarms: what the oracle then expects of alarms, in order, each with its sensor. Knows no time and no thread.
    """

    def __init__(
        self,
        expect: Expect,
        key_of: Callable[[InputRecord], bytes | None] = lambda record: record.key,
        headers_of: Callable[[InputRecord], Headers] = lambda _: (),
        alarms: Callable[[], list[tuple[bytes, dict[str, Any]]]] = list,
    ) -> None:
        self._expect, self._key_of, self._headers_of, self._alarms = expect, key_of, headers_of, alarms
        self._streams: defaultdict[tuple[Kind, int], _Stream] = defaultdict(_Stream)
        self._unjudged: deque[InputRecord] = deque()
        self.next_offset: defaultdict[int, int] = defaultdict(int)  # of the input, by partition
        self.records = 0
        self.compared: dict[Counted, int] = {"prediction": 0, "filling": 0, "dead letter": 0, "alarm": 0}

    @property
    def open(self) -> int:
        """Records that the oracle has not seen yet, and answers that have no counterpart yet."""
        streams = list(self._streams.values())
        return len(self._unjudged) + sum(len(stream.wanted) - stream.compared + len(stream.got) for stream in streams)

    def record(self, record: InputRecord) -> None:
        """The next record of an input partition."""
        self.next_offset[record.partition] = record.offset + 1
        self.records += 1
        self._unjudged.append(record)

    def answer(self, kind: Kind, partition: int, answer: Answer) -> None:
        """The next record of an output partition. Raises DifferentError."""
        stream = self._streams[kind, partition]
        stream.got.append(answer)
        self._compare(kind, partition, stream)

    def work(self, enough: Callable[[], bool]) -> None:
        """Asks the oracle about records until it knows all, or has done enough. Raises DifferentError."""
        while self._unjudged and not enough():
            record = self._unjudged.popleft()
            said = self._expect(record)
            for key, alarm in self._alarms():
                told = _said(key, record.record_ms, alarm=alarm)
                self._streams["alarm", record.partition].wanted.append(Answer(record.offset, told))
                self._compare("alarm", record.partition, self._streams["alarm", record.partition])
            if said is None:
                continue
            kind: Kind = "dead letter" if isinstance(said, str) else "prediction"
            stream = self._streams[kind, record.partition]
            filling = not isinstance(said, str) and any(of is None for name, of in said.items() if name.startswith("predict"))
            stream.wanted.append(Answer(record.offset, self._expected(record, said), filling))
            self._compare(kind, record.partition, stream)

    def finish(self) -> None:
        """Nothing more comes of this phase: whatever has no counterpart is a difference. The next one compares from the beginning."""
        self.work(lambda: False)
        for (_, partition), stream in self._streams.items():
            if stream.got:
                raise _twice(partition, stream.got[0])
            if stream.compared < len(stream.wanted):
                raise _lost(partition, stream.wanted[stream.compared], "nothing")
            stream.compared = 0

    def first_missing(self) -> tuple[int, str] | None:
        """(partition, what is expected there) of a record that waits for its answer."""
        for (_, partition), stream in self._streams.items():
            if stream.compared < len(stream.wanted):
                return partition, stream.wanted[stream.compared].said
        return None

    def _expected(self, record: InputRecord, said: dict[str, Any] | str) -> str:
        if isinstance(said, str):
            return _said(record.key, record.record_ms, dead_letter={"error": said, **_unchanged(record.value, record.headers)})
        return _said(self._key_of(record), record.record_ms, prediction=said, **_carried(self._headers_of(record)))

    def _compare(self, kind: Kind, partition: int, stream: _Stream) -> None:
        while stream.got and stream.compared < len(stream.wanted):
            got, wanted = stream.got.popleft(), stream.wanted[stream.compared]
            if got.offset > wanted.offset:
                raise _lost(partition, wanted, f"the answer to offset {got.offset} came next")
            if got.offset < wanted.offset:
                raise _twice(partition, got)
            if got.said != wanted.said:
                raise DifferentError("different", partition, wanted.offset, sensor=_sensor(wanted.said), expected=wanted.said, got=got.said)
            stream.compared += 1
            self.compared["filling" if wanted.filling else kind] += 1


def _lost(partition: int, wanted: Answer, got: str) -> DifferentError:
    return DifferentError("lost", partition, wanted.offset, sensor=_sensor(wanted.said), expected=wanted.said, got=got)


def _twice(partition: int, got: Answer) -> DifferentError:
    expected = "no answer of this kind, or none after the first"
    return DifferentError("duplicated", partition, got.offset, sensor=_sensor(got.said), expected=expected, got=got.said)


# What is compared.


def prediction(key: bytes | None, value: bytes | None, record_ms: int, headers: Headers = ()) -> tuple[int, Answer]:
    """The partition of the record that an output says it answers, and the answer. Raises ValueError if it does not say."""
    try:
        output = as_published(value or b"")
        return output["partition"], Answer(output["offset"], _said(key, record_ms, prediction=output, **_carried(headers)))
    except (KeyError, TypeError) as error:
        raise ValueError(f"an output that names no record: {value!r}") from error


def alarm(key: bytes | None, value: bytes | None, record_ms: int, _headers: Headers = ()) -> tuple[int, Answer]:
    """The same of what is published of an alarm."""
    try:
        told = alarm_as_published(value or b"")
        return told["partition"], Answer(told["offset"], _said(key, record_ms, alarm=told))
    except (KeyError, TypeError) as error:
        raise ValueError(f"an alarm that names no record: {value!r}") from error


def dead_letter(key: bytes | None, value: bytes | None, record_ms: int, headers: Headers) -> tuple[int, Answer]:
    """The same of a dead letter. Its own headers come after those of the record."""
    own = dict(headers[-len(OWN_HEADERS) :])
    if tuple(own) != OWN_HEADERS:
        raise ValueError(f"a dead letter with the headers {headers!r}")
    partition, offset = (int(own[name] or b"") for name in ("source_partition", "source_offset"))
    letter = {"error": (own["error"] or b"").decode(), **_unchanged(value, headers[: -len(OWN_HEADERS)])}
    return partition, Answer(offset, _said(key, record_ms, dead_letter=letter))


def _carried(headers: Headers) -> dict[str, Any]:
    return {"headers": {str(i): [name, (text or b"").hex()] for i, (name, text) in enumerate(headers)}} if headers else {}


def _said(key: bytes | None, record_ms: int, **what: dict[str, Any]) -> str:
    return json.dumps({"key": None if key is None else key.hex(), "record_ms": record_ms, **what}, sort_keys=True)


def _unchanged(value: bytes | None, headers: Headers) -> dict[str, Any]:
    """What a dead letter keeps of its record. A digest: bad records may be large."""
    digest = None if value is None else hashlib.sha256(value).hexdigest()[:16]
    return {"value": digest, "headers": [[name, (text or b"").hex()] for name, text in headers]}


def _sensor(said: str) -> str:
    key = json.loads(said)["key"]
    return "without a key" if key is None else repr(bytes.fromhex(key))[2:-1]
