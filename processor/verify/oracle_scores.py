"""What the reference oracle says of how far predictions are off, and of the fields that they are in.

Written once more from the contract, one reading at a time: imports nothing of the engine.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.settings import Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel

FLOAT32_MAX = float(np.finfo(np.float32).max)
SCORES = ("residual", "residuals", "reconstruction")
FLAT = ("predicted_", "residual_")
Floats = NDArray[np.float32]


class Scores:
    def __init__(self, model: "ServableModel", settings: Settings) -> None:
        self._model, self._settings = model, settings
        found = {output.name: output for output in model.named_outputs}
        wanted = settings.output.reconstruction
        self._reconstructs = None if wanted is False else model.named_outputs[0] if wanted is True else found[str(wanted)]
        self.forecasts = self._pairs() if settings.output.residual else []

    def last(self, readings: Sequence[Floats]) -> tuple[Floats, ...]:
        """Those that the next prediction may be compared with."""
        if self._reconstructs is None:
            return ()
        return tuple(readings[-(self._reconstructs.rows or 1) :])

    def of(self, x: Floats, previous: Floats | None, y: Floats | None, recent: Sequence[Floats]) -> dict[str, Any]:
        """The scores of a reading. previous, y: the prediction before it and its own; None: there is none, its window is not full."""
        scores = dict[str, Any]()
        output = self._settings.output
        if output.residual:
            each = None if previous is None else [abs(float(x[feature]) - float(previous[i])) for i, feature in self.forecasts]
            scores["residual"] = None if each is None else _float32(sum(each) / len(each))
            if output.residual == "each" or (isinstance(output.residual, dict) and list(output.residual) == ["each"]):
                scores["residuals"] = None if each is None else [_float32(off) for off in each]
        if self._reconstructs is not None:
            given = None if y is None else y[self._reconstructs.first : self._reconstructs.last]
            scores["reconstruction"] = None if given is None else _mean_off(given, np.concatenate(recent))
        return scores

    def parts(self, x: Floats, previous: Floats | None) -> list[tuple[Any, float]]:
        """What each feature adds to a residual, by its name or number; nothing where there is none, or alarms are not of residuals."""
        if previous is None or self._settings.alarm.score != "residual":
            return []
        names = self._settings.input.features or range(self._model.features)
        return [(names[feature], _float32(abs(float(x[feature]) - float(previous[i])))) for i, feature in self.forecasts]

    def _pairs(self) -> list[tuple[int, int]]:
        """The numbers of a prediction that forecast features, each with its feature."""
        outputs, names = self._model.named_outputs, self._settings.input.features or ()
        wanted: Any = self._settings.output.residual
        wanted = True if wanted == "each" else wanted.get("each", wanted) if isinstance(wanted, dict) else wanted
        if isinstance(wanted, tuple) and len(outputs) > 1:
            listed = [output for name in wanted for output in outputs if output.name == str(name)]
            by_name = all(output.name in names and output.last - output.first == 1 for output in listed)
            numbers = [number for output in listed for number in range(output.first, output.last)]
            features = [names.index(output.name) for output in listed] if by_name else range(self._model.features)
            return list(zip(numbers, features, strict=True))
        by_output = wanted if isinstance(wanted, dict) else {outputs[0].name: wanted}
        pairs = list[tuple[int, int]]()
        for name, of in by_output.items():
            first = next(output.first for output in outputs if output.name == name)
            found = range(self._model.features) if of is True else [names.index(f) if isinstance(f, str) else f for f in of]
            pairs += [(first + i, feature) for i, feature in enumerate(found)]
        return pairs


class Fields:
    """output.fields: numbers that have names of their own in place of lists."""

    def __init__(self, model: "ServableModel", settings: Settings) -> None:
        given = settings.output.fields
        by_output = given if isinstance(given, dict) else {}
        self.names = [name for output in model.named_outputs for name in by_output.get(output.name, ())] or list(given or ())
        self._forecasts = Scores(model, settings).forecasts

    def flatten(self, out: dict[str, Any], numbers: Sequence[Sequence[float]]) -> None:
        """Changes an output. numbers: of its last step, of each of the model's outputs."""
        if not self.names:
            return
        there = out.pop("prediction") is not None
        each = [number for of in numbers for number in of]
        out |= {f"predicted_{name}": number if there else None for name, number in zip(self.names, each, strict=True)}
        if "residuals" in out:
            residuals = out.pop("residuals") or [None] * len(self._forecasts)
            out |= {f"residual_{self.names[i]}": off for (i, _), off in zip(self._forecasts, residuals, strict=True)}


def _mean_off(given: Floats, seen: Floats) -> float:
    total = 0.0
    for a, b in zip(given, seen, strict=True):
        total += abs(float(a) - float(b))
    return _float32(total / len(given))


def _float32(number: float) -> float:
    return math.nan if math.isnan(number) else float(np.float32(min(number, FLOAT32_MAX)))
