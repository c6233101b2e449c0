"""The loop in a Kafka in memory: whatever happens, each record is answered exactly once, in order, with the number that it must have.

`SIMULATION_SEED=7 pytest tests/unit/loop/test_simulation.py` makes the examples of another seed; a failure prints the steps to it.
"""

import os
import random

import pytest
from machine import simulate
from simulation import Parts

SEED = int(os.environ.get("SIMULATION_SEED", "1"))


def test_each_record_is_answered_once_whatever_happens() -> None:
    simulate(Parts(), seed=SEED, examples=25, steps=25)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_each_record_is_answered_once_whatever_happens_at_random() -> None:
    simulate(Parts(), seed=random.randrange(2**32), examples=1000, steps=50)
