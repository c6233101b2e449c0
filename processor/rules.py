"""What the settings decide of a record by earlier ones: whether it is late, whether its sensor has expired or begins anew.

A function of the record, of what the sensor's row says, and of partition time, which are themselves functions of the log: so
a replay decides as the first run did, however the log was cut into batches. Knows nothing of states and steps nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.records import RULES, Batch
from processor.slots.rows import Indices, Rows

AFTER_GAP, AFTER_STEPS, EXPIRED = (1 + i for i in range(len(RULES)))
NEVER = int(np.iinfo(np.int64).min)  # partition time before the first reading


@dataclass(frozen=True, slots=True)
class Rules:
    """
    gap_ms      a record that is more than this later than the sensor's latest one begins a sequence; None: never
    steps       the record after so many steps begins a sequence; None: never
    late        a record before the sensor's latest one is left out
    expire_ms   a sensor whose latest record lies more than this before partition time begins anew; None: never
    """

    gap_ms: int | None = None
    steps: int | None = None
    late: bool = False
    expire_ms: int | None = None

    def __bool__(self) -> bool:
        return self.late or any(limit is not None for limit in (self.gap_ms, self.steps, self.expire_ms))

    def judge(
        self, batch: Batch, record: Indices, first: Indices, exists: NDArray[np.bool_], rows: Rows
    ) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        """Which of these records are late, bool [n], and which begin a sequence by a rule, int8 [n] (as Applied.reset_by).

        record: indices in the batch, sensor by sensor, in offset order within each. first: where each sensor's begin in it.
        exists, rows: whether each sensor has a row before the first of them, and which.
        """
        late, reset_by = np.zeros(len(record), np.bool_), np.zeros(len(record), np.int8)
        # One after another: each verdict hangs on the one before it.
        steps, event_ms = batch.steps[record].tolist(), batch.event_ms[record].tolist()
        before, after = batch.reset_before[record].tolist(), batch.reset_after[record].tolist()
        time_ms = batch.time_ms[record].tolist() if self.expire_ms is not None else event_ms
        ends = [*first[1:].tolist(), len(record)]
        known, total, latest_ms = exists.tolist(), rows.steps.tolist(), rows.event_ms.tolist()
        for start, end, goes_on, so_far, latest in zip(first.tolist(), ends, known, total, latest_ms, strict=True):
            for i in range(start, end):
                if not steps[i]:
                    goes_on = False
                    continue
                if goes_on and not before[i]:
                    # What has expired is as if it had never been: there is nothing to be late for.
                    expired = self.expire_ms is not None and time_ms[i] - latest > self.expire_ms
                    if self.late and event_ms[i] < latest and not expired:
                        late[i] = True
                        continue
                    if expired:
                        reset_by[i] = EXPIRED
                    elif self.gap_ms is not None and event_ms[i] - latest > self.gap_ms:
                        reset_by[i] = AFTER_GAP
                    elif self.steps is not None and so_far >= self.steps:
                        reset_by[i] = AFTER_STEPS
                if before[i] or reset_by[i] or not goes_on:
                    so_far, latest = 0, event_ms[i]
                so_far, latest, goes_on = so_far + steps[i], max(latest, event_ms[i]), not after[i]
        return late, reset_by


def keep_time(batch: Batch, so_far: Mapping[int, int | None]) -> dict[int, int]:
    """Enters partition time as of each record into the batch; returns where it stands then, for partitions that had a reading.

    It rises by every record with readings, whatever becomes of it later. so_far: where it stood before, None before the first.
    """
    time_ms = np.where(batch.steps > 0, batch.event_ms, NEVER)
    numbers, stands = np.array(batch.partition, np.int64), dict[int, int]()
    for number in np.unique(numbers).tolist():
        at, before_ms = np.flatnonzero(numbers == number), so_far[number]
        time_ms[at] = np.maximum(np.maximum.accumulate(time_ms[at]), NEVER if before_ms is None else before_ms)
        if (last_ms := int(time_ms[at[-1]])) != NEVER:
            stands[number] = last_ms
    batch.time_ms = time_ms
    return stands
