"""Finds the records that turned a sensor's state NaN or infinite, by stepping those sensors again, one record at a time."""

import numpy as np

from processor.engine.grouping import Group
from processor.engine.stepping import Outcome, Stepping
from processor.records import Applied, Batch
from processor.slots.rows import Indices
from processor.slots.table import ABSENT


def isolate(stepping: Stepping, batch: Batch, of: Group, broken: Indices, applied: Applied, outcome: Outcome, at: Indices) -> None:
    """Steps the broken sensors again, one record of each per round, and rejects the records that break them.

    A rejected record has no effect: its reset does not apply, and later records are judged as if it had not been sent. So `of` includes
    the late records. There are as many rounds as the sensor with the most records has. at: the sensors' places in the outcome.
    """
    last = np.append(of.first[1:], len(of.record))
    rows, exists = of.stored.take(broken), of.location[broken] != ABSENT
    rounds = int((last[broken] - of.first[broken]).max())
    for turn in range(rounds):
        here = np.flatnonzero(of.first[broken] + turn < last[broken])
        record = of.record[of.first[broken[here]] + turn]
        single = Group(
            record=record,
            first=np.arange(len(here)),
            group=np.arange(len(here)),
            sensors=[],
            location=np.where(exists[here], 0, ABSENT),
            generation=np.zeros(len(here), np.int64),
            stored=rows.take(here),
        )
        single, left = stepping.judged(batch, single, applied)
        here, record = here[left], record[left]
        if not len(here):
            continue
        stepped, bad = stepping.step(batch, single, applied)
        applied.finite[record] = True
        applied.finite[record[bad]] = False
        applied.reset_by[record[bad]] = 0
        good = np.setdiff1d(np.arange(len(here)), bad)
        rows.put(here[good], stepped.rows.take(good))
        exists[here[good]] = stepped.keep[good]
    outcome.rows.put(at, rows)
    outcome.keep[at] = exists
