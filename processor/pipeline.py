"""Messages in, outputs and dead letters out: decode, partition time, apply, encode, rejected records.

The only place that knows the order of these steps; the loop, the replay, `try` and `plan` use it. For given engine states and partition
times, the result depends only on the messages. Must not touch topics, transactions or positions.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from processor.codec.carry import Carrier
from processor.codec.columns import Message
from processor.codec.decode import Decoded
from processor.engine import Engine
from processor.partitions import Partition, Position
from processor.records import Applied, Batch, Headers, Rejected
from processor.rules import Clock, Jumps, keep_time

LEFT_OUT = {
    "non_finite_state": "the record turns the sensor's state or prediction NaN or infinite; it was left out",
    "missing": "a value is missing, and the sensor has no earlier one since its last reset, or only one older than input.hold_max",
    "late": "the record's timestamp lies before the sensor's latest one (late: dead_letter); it was left out",
}

Timed = Callable[[str], AbstractContextManager[object]]


class Codec(NamedTuple):
    """decode: every message becomes part of the batch or is rejected. encode: one output for each record, None if there is none.

    carrier: adds to outputs what they take from their records; None: nothing.
    alarms: what became of alarms, each with the index of its record and the sensor; None: there are none.
    """

    decode: Callable[[Sequence[Message]], Decoded]
    encode: Callable[[Batch, Applied], list[bytes | None]]
    carrier: Carrier | None = None
    alarms: Callable[[Batch, Applied], list[tuple[int, bytes, bytes]]] | None = None


@dataclass(frozen=True, slots=True)
class Processed:
    """The results of one batch.

    values    one output for each record of the batch, None if there is none
    rejected  (message index, reason) of each record that must become a dead letter, in message order
    clocks    the clock of each partition after the batch
    headers   of each output; None: none has any
    alarms    (batch index, sensor, what became of its alarm), in batch order
    """

    decoded: Decoded
    applied: Applied
    values: list[bytes | None]
    rejected: list[tuple[int, Rejected]]
    clocks: dict[int, Clock]
    headers: list[Headers | None] | None = None
    alarms: list[tuple[int, bytes, bytes]] = field(default_factory=list)

    @property
    def batch(self) -> Batch:
        return self.decoded.batch


class Pipeline:
    """timed(stage): a context manager around each of the stages decode, apply and encode. jumps: logs where partition time jumps."""

    def __init__(
        self,
        codec: Codec,
        engine: Engine,
        expire_ms: int | None = None,
        *,
        timed: Timed = lambda _: nullcontext(),
        jumps: Jumps | None = None,
    ) -> None:
        self._codec, self._engine, self._expire_ms, self._timed, self._jumps = codec, engine, expire_ms, timed, jumps

    def process(self, messages: Sequence[Message], clocks: Mapping[int, Clock]) -> Processed:
        """Advances the engine by these messages. clocks: of their partitions, before the first of them."""
        with self._timed("decode"):
            decoded = self._codec.decode(messages)
        batch = decoded.batch
        after = keep_time(batch, clocks, self._expire_ms)
        if self._jumps is not None:
            self._jumps.tell(batch.jumps, self._forgotten_at)
        with self._timed("apply"):
            applied = self._engine.apply(batch)
        with self._timed("encode"):
            values = self._codec.encode(batch, applied)
            alarms = [] if self._codec.alarms is None else self._codec.alarms(batch, applied)
            carrier = self._codec.carrier
            headers = None if carrier is None else carrier.add(messages, decoded.source, values)
        return Processed(decoded, applied, values, _with_left_out(decoded, applied), after, headers, alarms)

    def replay(self, messages: Sequence[Message], clocks: Mapping[int, Clock]) -> tuple[int, dict[int, Clock]]:
        """Like process(), for messages that were committed before: no outputs. Returns the number of readings, and the new clocks."""
        decoded = self._codec.decode(messages)
        after = keep_time(decoded.batch, clocks, self._expire_ms)
        self._engine.apply(decoded.batch, replay=True)
        return len(decoded.batch.x), after

    def _forgotten_at(self, partition: int, time_ms: int) -> int:
        """The number of sensors that expire when partition time reaches this value."""
        return self._engine.older(partition, time_ms - (self._expire_ms or 0))


def _with_left_out(decoded: Decoded, applied: Applied) -> list[tuple[int, Rejected]]:
    """The records that the codec or the engine rejected, by message."""
    rejected = list(decoded.rejected)
    for error, left_out in (("non_finite_state", ~applied.finite), ("late", applied.late), ("missing", applied.missing)):
        if left_out is None:
            continue
        for i in np.flatnonzero(left_out).tolist():
            reason = Rejected(decoded.batch.partition[i], int(decoded.batch.offset[i]), error, LEFT_OUT[error])
            rejected.append((decoded.source[i], reason))
    return sorted(rejected, key=lambda pair: pair[0])


def clock_of(partition: Partition, at: Position) -> Clock:
    """The partition's clock at this position."""
    gap = partition.beginning is not None and partition.beginning.gap
    return Clock(at.time_ms, at.first_ms, gap=gap, claim=at.claim)


def positions_after(
    messages: Sequence[Message], partitions: Mapping[int, Partition], clocks: Mapping[int, Clock]
) -> list[tuple[Partition, Position]]:
    """The position of each partition after these messages. clocks: of partitions with a record that could be decoded."""
    last = {message.partition(): message.offset() for message in messages}
    found = []
    for number, offset in last.items():
        partition, clock = partitions[number], clocks.get(number)
        passed = partition.applied.passed(offset + 1)
        found.append((partition, passed if clock is None else Position(offset + 1, clock.time_ms, clock.first_ms, clock.claim)))
    return found
