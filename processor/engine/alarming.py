"""The engine's side of alarms: hands a part's records to the decider, and notes what it decides.

What is remembered of a sensor lies in its state row, as held values do, so it is checkpointed, undone, moved and replayed with it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from processor.alarms.decide import Decided, Sequences
from processor.engine.grouping import Group
from processor.records import Applied, Batch
from processor.slots.rows import Indices

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Score(Protocol):
    def of(self, applied: Applied, record: Indices, /) -> Floats: ...
    def largest(self, applied: Applied, record: int, /) -> tuple[tuple[int, float], ...]: ...


class Alarms(Protocol):
    """alarms.Decider, as the engine sees it. numbers: float32 numbers of a row."""

    @property
    def score(self) -> Score: ...
    @property
    def numbers(self) -> int: ...
    def lasting(self, stored: Floats, /) -> Bools: ...
    def decide(self, keys: Sequence[bytes], stored: Floats, of: Sequences, score: Floats, /) -> Decided: ...


def alarms_of(
    alarms: Alarms,
    batch: Batch,
    of: Group,
    stored: Floats,
    first: Indices,
    of_group: Indices,
    goes_on: Bools,
    after: Bools,
    warming: Bools,
    applied: Applied,
) -> Floats:
    """Decides the alarms of a part, and writes them to `applied`. Returns what is remembered after each sequence, float32 [S, numbers].

    stored: the alarms' part of each sensor's row. first, of_group, goes_on: of the sequences. warming: records whose score does not count.
    """
    record = of.record
    score = np.where(warming, np.float32(np.nan), alarms.score.of(applied, record))
    keys = [batch.key[i] for i in record[of.first].tolist()]
    decided = alarms.decide(keys, stored, Sequences(first, of_group, goes_on, after, batch.event_ms[record], batch.offset[record]), score)
    if applied.score is not None and applied.alarm is not None:
        applied.score[record], applied.alarm[record] = decided.score, decided.active
    if applied.events:  # a sensor that is stepped a second time may have had others the first time
        for i in record.tolist():
            applied.events.pop(i, None)
    for event in decided.events:
        at = int(record[event.record])
        features = () if event.score is None else alarms.score.largest(applied, at)
        applied.events.setdefault(at, []).append(event._replace(record=at, features=features))
    return decided.memory
