"""What the rooms hand each other: batches of decoded records, what became of them, and rejected records.

Columns, not objects: a batch is a few arrays and lists of one length, because everything after the codec is done for the
whole batch at once. Holds data only; bytes are the codec's, states the engine's.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ERRORS = (
    "no_key",
    "bad_encoding",
    "bad_schema",
    "wrong_feature_count",
    "not_finite",
    "non_finite_state",
    "bad_timestamp",
    "too_large",
    "late",
    "missing",
)

# What makes a sensor begin anew beside the record's own word: a setting, by the sensor's latest record.
RULES = ("after_gap", "after_steps", "expired")
NO_GAP = -1


class Claim(NamedTuple):
    """A sensor's time that partition time has not followed: it lies further ahead than sensors are remembered.

    key       the sensor
    ms        its latest record's time
    since_ms  its time when another sensor was last heard, or when the claim began
    """

    key: bytes
    ms: int
    since_ms: int

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key.hex(), "ms": self.ms, "since_ms": self.since_ms}

    @classmethod
    def from_json(cls, found: Any) -> "Claim | None":
        """Raises ValueError, TypeError or KeyError for what to_json() did not make. None stays None."""
        if found is None:
            return None
        times = found["ms"], found["since_ms"]
        if not all(type(time) is int and abs(time) < 2**63 for time in times):
            raise ValueError(f"the claim's times are {times}")
        return cls(bytes.fromhex(found["key"]), *times)


class Jump(NamedTuple):
    """A record with which partition time jumped from one time to another (Unix ms), or with which only its sensor's did (claimed).

    other: the sensor that was there before, where time jumped because two agree.
    """

    partition: int
    offset: int
    key: bytes
    from_ms: int
    to_ms: int
    claimed: bool
    other: bytes | None = None


@dataclass(slots=True)
class Batch:
    """n decoded records, by partition in offset order. A record without readings (a null value) only resets its sensor.

    partition, key, offset    whose and where, n each
    event_ms, record_ms       the event's own time and the Kafka record's, Unix milliseconds, int64 [n]
    steps                     readings a record, int64 [n]; 0 for a null record
    reset_before, reset_after bool [n]
    x                         all readings in record order, float32 [steps.sum(), F]
    time_ms                   partition time as of each record, int64 [n]; empty until rules.keep_time(). The record's own time counts
                              in it only where it moved it
    since_gap_ms              in a partition whose earlier readings were lost, how far its time has come since, int64 [n]; NO_GAP in others;
                              empty where no partition is such
    jumps                     where partition time jumped further than sensors are remembered, or a sensor's time did alone
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
    missing: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.key)


@dataclass(slots=True)
class Applied:
    """What became of a batch, in its order.

    y         one prediction a reading, float32 [readings, O]
    last      index in y of each record's last reading, int64 [n] (meaningless for a null record)
    steps     readings of the sensor since its last reset, this record's included, int64 [n]
    residual  float32 [n], NaN where there is none
    warming   bool [n]: the state does not reach back far enough yet
    filling   bool [n]: a window is not full, there is no prediction
    finite    bool [n]: False where the record turned the state or the output NaN or infinite, and was left out
    late      bool [n]: the record lies before the sensor's latest one, and was left out
    reset_by  int8 [n]: 0, or 1 + the index in RULES of what made the sensor begin anew with this record
    missing   bool [n]: a value is missing, its sensor has none to hold, and the record was left out; None: of no record
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

    def published(self, batch: Batch) -> NDArray[np.bool_]:
        """bool [n]: the records that have an output."""
        published: NDArray[np.bool_] = self.finite & ~self.late & (batch.steps > 0)
        return published if self.missing is None else published & ~self.missing


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be applied: one of ERRORS, and a sentence for whoever mends the sender."""

    partition: int
    offset: int
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Out:
    """One record to publish. Headers only where there are some; timestamp in Unix milliseconds."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    record_ms: int
    headers: list[tuple[str, bytes]] | None = None
