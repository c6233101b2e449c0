"""What the settings decide of a record by its sensor's earlier ones: whether it is late, and whether the sensor begins anew.

A function of the record and of what the sensor's row says, which is itself a function of the log: so a replay decides as the
first run did, however the log was cut into batches. Knows nothing of states and steps nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.records import RULES, Batch
from processor.slots.rows import Indices, Rows

AFTER_GAP, AFTER_STEPS = (1 + i for i in range(len(RULES)))


@dataclass(frozen=True, slots=True)
class Rules:
    """
    gap_ms      a record that is more than this later than the sensor's latest one begins a sequence; None: never
    steps       the record after so many steps begins a sequence; None: never
    late        a record before the sensor's latest one is left out
    """

    gap_ms: int | None = None
    steps: int | None = None
    late: bool = False

    def __bool__(self) -> bool:
        return self.late or self.gap_ms is not None or self.steps is not None

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
        ends = [*first[1:].tolist(), len(record)]
        known, total, latest_ms = exists.tolist(), rows.steps.tolist(), rows.event_ms.tolist()
        for start, end, goes_on, so_far, latest in zip(first.tolist(), ends, known, total, latest_ms, strict=True):
            for i in range(start, end):
                if not steps[i]:
                    goes_on = False
                    continue
                if goes_on and not before[i]:
                    if self.late and event_ms[i] < latest:
                        late[i] = True
                        continue
                    if self.gap_ms is not None and event_ms[i] - latest > self.gap_ms:
                        reset_by[i] = AFTER_GAP
                    elif self.steps is not None and so_far >= self.steps:
                        reset_by[i] = AFTER_STEPS
                if before[i] or reset_by[i] or not goes_on:
                    so_far, latest = 0, event_ms[i]
                so_far, latest, goes_on = so_far + steps[i], max(latest, event_ms[i]), not after[i]
        return late, reset_by
