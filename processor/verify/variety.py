"""What a verification serves, drawn from its seed: settings on records and on alarms that the user leaves alone.

A seed has the same settings at every run. What the user says, in a file or on the command line, is never changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from processor.settings import ENV_PREFIX

STREAM, STREAM_OUTPUT, STREAM_ALARMS = 5, 6, 7  # of the seed: other numbers are drawn from it for other things
HALF = 0.5


def drawn(seed: int, config: Path | None, words: Sequence[str], environ: Mapping[str, str], *, forecasts: bool = False) -> list[str]:
    """Options for the command line, none about a section that the user says anything about.

    forecasts: whether the model gives a number for each of its 4 features, so that outputs may have scores, and alarms.
    """
    if config is not None:
        return []
    given = {section: _given(section, words, environ) for section in ("input", "output", "alarm", "state")}
    options = [] if given["input"] else _input(np.random.default_rng((seed, STREAM)))
    if forecasts and not given["output"]:
        options += _scores(np.random.default_rng((seed, STREAM_OUTPUT)))
    if forecasts and not given["alarm"]:
        rng = np.random.default_rng((seed, STREAM_ALARMS))
        options += _alarms(rng, residual=any(word.startswith("--output.residual") and not word.endswith("=false") for word in options))
        if not given["state"] and rng.random() < HALF:  # silence and expiry exclude each other
            options.append(f"--alarm.silent={int(rng.integers(1, 90))}s")
    return options


def _given(section: str, words: Sequence[str], environ: Mapping[str, str]) -> bool:
    named = f"{ENV_PREFIX}{section.upper()}"
    return any(word.startswith(f"--{section}.") for word in words) or any(name.startswith(named) for name in environ)


def _scores(rng: np.random.Generator) -> list[str]:
    residual = ("true", "each", "{each: [3, 0, 1, 2]}", "false")[int(rng.integers(4))]
    fields = ["--output.fields=[a, B_2, c, d4]"] if rng.random() < HALF else []
    carry = ("[]", "[note, header:sequence]", "[quality, at, header:*]")[int(rng.integers(3))]
    again = ["--output.reconstruction=true"] if rng.random() < HALF else []
    return [f"--output.residual={residual}", f"--output.carry={carry}", *fields, *again]


def _alarms(rng: np.random.Generator, *, residual: bool) -> list[str]:
    """Thresholds that scores often pass, whatever the numbers are: most are learnt, and one is where numbers around 0 are half the time."""
    if rng.random() < HALF:
        return []
    side, other = (("above", "below"), ("below", "above"))[int(rng.integers(2))]
    quantile = 0.8 if side == "above" else 0.2
    threshold = ("0.1", "{mad: 1, warmup: 20}", f"{{quantile: {quantile}, warmup: 20}}")[int(rng.integers(3))]
    score = f"prediction[{int(rng.integers(4))}]"
    options = [f"--alarm.score={'residual' if residual and rng.random() < HALF else score}"]
    options.append(f"--alarm.raise={{{side}: {threshold}, for: {int(rng.integers(1, 3))}}}")
    if rng.random() < HALF:
        options.append(f"--alarm.mean_of={int(rng.integers(2, 6))}")
    if rng.random() < HALF:
        deviations = threshold.startswith("{mad")
        options.append(f"--alarm.clear={{{f'{other}: {{mad: 0.5}}, ' if deviations else ''}for: {int(rng.integers(1, 4))}}}")
    if rng.random() < HALF:
        options.append(f"--alarm.repeat={int(rng.integers(50, 500))}ms")
    if rng.random() < HALF:
        options.append('--alarm.thresholds={"pump-1?": 0.05, "pump-2": {raise: 0, clear: 0}}')
    return options


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
