"""The form of the records that a verification feeds, drawn from its seed: settings under `input` and `output` that the user leaves alone.

A seed has the same settings at every run. What the user says, in a file or on the command line, is never changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from processor.settings import ENV_PREFIX

ENV_INPUT = f"{ENV_PREFIX}INPUT"
STREAM = 5  # of the seed: other numbers are drawn from it for other things
HALF = 0.5


def drawn(seed: int, config: Path | None, words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Options for the command line, none where the user says anything about the input."""
    if config is not None or any(word.startswith("--input.") for word in words) or any(name.startswith(ENV_INPUT) for name in environ):
        return []
    rng = np.random.default_rng((seed, STREAM))
    options: list[str] = []
    if rng.random() < HALF:
        options += _time(rng)
    if rng.random() < HALF:
        options += _holes(rng)
    if rng.random() < HALF:
        options.append(("--input.key=value:meta.sensor", "--input.key=header:sensor")[int(rng.integers(2))])
    return options


def _holes(rng: np.random.Generator) -> list[str]:
    policy = ("hold", "{0: hold, 1: -0.5}", "0.25")[int(rng.integers(3))]
    options = [f"--input.missing={policy}", "--input.missing_values=[-200, N/A]"]
    if rng.random() < HALF:
        options.append(f"--input.hold_max={int(rng.integers(100, 1000))}ms")
    if rng.random() < HALF:
        options.append("--input.quality={field: quality, good: [GOOD, 192]}")
    return options


def _time(rng: np.random.Generator) -> list[str]:
    where = ("at", "meta.at", '"meta.at"', "null")[int(rng.integers(4))]
    unit = ("s", "ms", "us", "ns")[int(rng.integers(4))]
    return [f"--input.timestamp={where}", f"--input.timestamp_unit={unit}"]
