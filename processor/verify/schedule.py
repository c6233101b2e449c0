"""Which fault comes when: each kind once, then any of them for as long as there is time. The seed decides.

Responsible for the order of names alone. What is possible, and when time is over, others know.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np


def deal(seed: int, possible: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What each phase must have at least, in order: every kind in one of the phases where it is possible, evenly."""
    rng = np.random.default_rng((seed, 1))
    dealt: dict[str, list[str]] = {phase: [] for phase in possible}
    kinds = list(dict.fromkeys(kind for kinds in possible.values() for kind in kinds))
    shuffled = [kinds[i] for i in rng.permutation(len(kinds)).tolist()]
    # Those with one place first, so that the others make up the balance.
    for kind in sorted(shuffled, key=lambda kind: sum(kind in kinds for kinds in possible.values())):
        phase = min((phase for phase, kinds in possible.items() if kind in kinds), key=lambda phase: len(dealt[phase]))
        dealt[phase].append(kind)
    return {phase: [must[i] for i in rng.permutation(len(must)).tolist()] for phase, must in dealt.items()}


def endless(seed: int, phase: int, must: Sequence[str], possible: Sequence[str]) -> Iterator[str]:
    """A phase's faults: those that it must have, then the possible ones at random."""
    rng = np.random.default_rng((seed, 2, phase))
    yield from must
    while possible:
        yield possible[int(rng.integers(len(possible)))]


def kill_is_due(wanted: int, so_far: int, share: float) -> bool:
    """Whether the next fault is to be a kill, so that all of them are done evenly. share: of the time that is over, 0 to 1."""
    return so_far < wanted * min(1.0, share)
