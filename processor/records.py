"""The data that rooms exchange: batches of decoded records, their results, and rejected records.

Columns, not objects: a batch is a few arrays and lists of equal length, because everything after the codec processes a whole batch at
once. Contains only data; the codec owns bytes, the engine owns states.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ERRORS = (
    "no_key",
    "bad_encoding",
    "bad_schema",
    "unknown_schema",
    "wrong_feature_count",
    "not_finite",
    "unknown_category",
    "non_finite_state",
    "bad_timestamp",
    "too_large",
    "late",
    "missing",
)

# The rules of the settings that reset a sensor, besides the record's own header.
RULES = ("after_gap", "after_steps", "expired")
NO_GAP = -1

# What becomes of an alarm, and why one is cleared that did not end by itself.
RAISED, CLEARED, REPEATED = "raised", "cleared", "repeated"
RESET = "reset"
ALARM, SILENT = "alarm", "silent"
ALARM_FEATURES_MAX = 3  # that an alarm is put down to


class Claim(NamedTuple):
    """A sensor's timestamp that partition time has not followed, because it is further ahead than the expiry.

    key       the sensor
    ms        the time of its latest record
    since_ms  its time when another sensor last reported, or when the claim began
    """

    key: bytes
    ms: int
    since_ms: int

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key.hex(), "ms": self.ms, "since_ms": self.since_ms}

    @classmethod
    def from_json(cls, found: Any) -> "Claim | None":
        """Raises ValueError, TypeError or KeyError for anything that to_json() did not create. None stays None."""
        if found is None:
            return None
        times = found["ms"], found["since_ms"]
        if not all(type(time) is int and abs(time) < 2**63 for time in times):
            raise ValueError(f"the claim's times are {times}")
        return cls(bytes.fromhex(found["key"]), *times)


class Jump(NamedTuple):
    """A record at which partition time jumped from one time to another (Unix ms), or only its sensor's time did (claimed).

    other: the sensor that was already ahead, if time jumped because two sensors agree.
    """

    partition: int
    offset: int
    key: bytes
    from_ms: int
    to_ms: int
    claimed: bool
    other: bytes | None = None


class AlarmEvent(NamedTuple):
    """What became of a sensor's alarm with a record.

    record     its index in the batch
    state      raised, cleared or repeated
    raised_at  the offset of the record that raised it, and since_ms that record's event time
    score      what was judged, and the threshold that it was compared with; None if the sensor was reset
    features   those that contributed most to the score, by index, and how much each
    level      alarm; or silent: the sensor has had no reading for too long. Then raised_at is the offset of its last record, and
               since_ms the partition time as of it
    sensor     its name, if it is not the record's
    """

    record: int
    state: str
    raised_at: int
    since_ms: int
    score: float | None = None
    threshold: float | None = None
    reason: str | None = None
    features: tuple[tuple[int, float], ...] = ()
    level: str = ALARM
    sensor: bytes | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One of a model's outputs: the numbers first to last of a prediction, without last.

    per_step: there is one for each step of a record. rows: it is a list of this many steps of a window; None: a list of numbers.
    """

    name: str
    first: int
    last: int
    per_step: bool = False
    rows: int | None = None

    @property
    def width(self) -> int:
        """The numbers per row."""
        return (self.last - self.first) // (self.rows or 1)


@dataclass(slots=True)
class Batch:
    """n decoded records, by partition in offset order. A record without readings (a null value) only resets its sensor.

    partition, key, offset    the sensor and the position of each record, n each
    event_ms, record_ms       the event's time and the Kafka record's timestamp, Unix milliseconds, int64 [n]
    steps                     readings per record, int64 [n]; 0 for a null record
    reset_before, reset_after bool [n]
    x                         all readings in record order, float32 [steps.sum(), F]
    time_ms                   partition time as of each record, int64 [n]; empty until rules.keep_time(). The record's own time counts
                              in it only where it moved it
    since_gap_ms              in a partition whose earlier readings were lost, how far its time has come since, int64 [n]; NO_GAP in others;
                              empty where no partition is such
    jumps                     where partition time jumped further than sensors are remembered, or a sensor's time did alone
    began_ms                  partition time before the first record, by partition; empty until rules.keep_time()
    missing                   bool [steps.sum(), F]: which numbers of x were not measured; None: all were
    """

    partition: list[int]
    key: list[bytes]
    offset: NDArray[np.int64]
    event_ms: NDArray[np.int64]
    record_ms: NDArray[np.int64]
    steps: NDArray[np.int64]
    reset_before: NDArray[np.bool_]
    reset_after: NDArray[np.bool_]
    x: NDArray[np.float32]
    time_ms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    since_gap_ms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    jumps: list[Jump] = field(default_factory=list)
    began_ms: dict[int, int] = field(default_factory=dict)
    missing: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.key)


@dataclass(slots=True)
class Applied:
    """The results of a batch, in its order.

    y         one prediction per reading, float32 [readings, O]
    last      index in y of each record's last reading, int64 [n] (meaningless for a null record)
    steps     readings of the sensor since its last reset, including this record's, int64 [n]
    residual  float32 [n], NaN if there is none
    residuals       one for each feature that is forecast, float32 [n, R], NaN where there is none; None: not kept
    reconstruction  float32 [n], NaN if there is none; None: nothing is reconstructed
    warming   bool [n]: the state does not reach back far enough yet
    filling   bool [n]: a window is not full, there is no prediction
    finite    bool [n]: False if the record turned the state or the output NaN or infinite, and was rejected
    late      bool [n]: the record is older than the sensor's latest one, and was rejected
    reset_by  int8 [n]: 0, or 1 + the index in RULES of the rule that reset the sensor before this record
    missing   bool [n]: a value is missing, the sensor has none to hold, and the record was rejected; None: in no record
    score     float32 [n]: what was judged for alarms, NaN if nothing was; None without alarms
    alarm     bool [n]: the sensor has an alarm as of the record; None without alarms
    events    what became of alarms, by record
    silences  of sensors that were silent before a record of theirs, by that record; crossings: of those that still are
    """

    y: NDArray[np.float32]
    last: NDArray[np.int64]
    steps: NDArray[np.int64]
    residual: NDArray[np.float32]
    warming: NDArray[np.bool_]
    filling: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    late: NDArray[np.bool_]
    reset_by: NDArray[np.int8]
    missing: NDArray[np.bool_] | None = None
    residuals: NDArray[np.float32] | None = None
    reconstruction: NDArray[np.float32] | None = None
    score: NDArray[np.float32] | None = None
    alarm: NDArray[np.bool_] | None = None
    events: dict[int, list[AlarmEvent]] = field(default_factory=dict)
    silences: dict[int, list[AlarmEvent]] = field(default_factory=dict)
    crossings: list[AlarmEvent] = field(default_factory=list)

    def published(self, batch: Batch) -> NDArray[np.bool_]:
        """bool [n]: the records that have an output."""
        published: NDArray[np.bool_] = self.finite & ~self.late & (batch.steps > 0)
        return published if self.missing is None else published & ~self.missing

    def alarm_events(self) -> list[AlarmEvent]:
        """In the order of the records; what only a rejected record would have caused never happened.

        With a record, its own sensor comes first, and then those that became silent, in the order of their last records.
        """
        if not (self.events or self.silences or self.crossings):
            return []
        rejected = ~self.finite | self.late if self.missing is None else ~self.finite | self.late | self.missing
        own = [event for record, events in self.events.items() if not rejected[record] for event in events]
        silent = [event for record, events in self.silences.items() if not rejected[record] for event in events]
        back = [event for event in silent if event.state == CLEARED]
        gone = sorted((event for event in [*silent, *self.crossings] if event.state == RAISED), key=lambda event: event.raised_at)
        return sorted([*back, *own, *gone], key=lambda event: event.record)  # which keeps their order within a record


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be applied: one of ERRORS, and a sentence that helps to fix the sender."""

    partition: int
    offset: int
    error: str
    detail: str


Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Out:
    """One record to publish. Headers are optional; timestamp in Unix milliseconds."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    record_ms: int
    headers: Sequence[tuple[str, bytes | None]] | None = None


@dataclass(frozen=True, slots=True)
class Outs:
    """Many records to publish in one topic, by columns: nothing where the value is None.

    partition: None, where the client chooses it by the key. headers: None, where no record has any.
    """

    topic: str
    partition: list[int] | None
    key: list[bytes]
    value: list[bytes | None]
    record_ms: list[int]
    headers: list[Headers | None] | None = None

    def __iter__(self) -> Iterator[Out]:
        partitions = repeat(None, len(self.key)) if self.partition is None else self.partition
        headers = repeat(None, len(self.key)) if self.headers is None else self.headers
        rows = zip(partitions, self.key, self.value, self.record_ms, headers, strict=True)
        return (Out(self.topic, *row) for row in rows if row[2] is not None)
