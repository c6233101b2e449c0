"""The form of the records that a verification feeds, drawn from its seed: settings under `input` and `output` that the user leaves alone.

A seed has the same settings at every run. What the user says, in a file or on the command line, is never changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from processor.settings import ENV_PREFIX

STREAM, STREAM_OUTPUT = 5, 6  # of the seed: other numbers are drawn from it for other things
HALF = 0.5


def drawn(seed: int, config: Path | None, words: Sequence[str], environ: Mapping[str, str], *, forecasts: bool = False) -> list[str]:
    """Options for the command line, none about a section that the user says anything about.

    forecasts: whether the model gives a number for each feature, so that outputs may have scores.
    """
    if config is not None:
        return []
    given = {section: _given(section, words, environ) for section in ("input", "output")}
    options = [] if given["input"] else _input(np.random.default_rng((seed, STREAM)))
    return options if given["output"] or not forecasts else options + _scores(np.random.default_rng((seed, STREAM_OUTPUT)))


def _given(section: str, words: Sequence[str], environ: Mapping[str, str]) -> bool:
    named = f"{ENV_PREFIX}{section.upper()}"
    return any(word.startswith(f"--{section}.") for word in words) or any(name.startswith(named) for name in environ)


def _scores(rng: np.random.Generator) -> list[str]:
    residual = ("true", "each", "{each: [3, 0, 1, 2]}", "false")[int(rng.integers(4))]
    fields = ["--output.fields=[a, B_2, c, d4]"] if rng.random() < HALF else []
    carry = ("[]", "[note, header:sequence]", "[quality, at, header:*]")[int(rng.integers(3))]
    again = ["--output.reconstruction=true"] if rng.random() < HALF else []
    return [f"--output.residual={residual}", f"--output.carry={carry}", *fields, *again]


def _input(rng: np.random.Generator) -> list[str]:
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
