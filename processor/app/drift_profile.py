"""The profile of training data: for each feature and output, quantile bins and the share of the training data in each.

Owns the file, which people may read and edit, and judges whether it fits the model. Numbers are in their own units, so that a profile
outlives a change of scales.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.app.sensor_form import SensorForm, Units
from processor.errors import ConfigurationError
from processor.loop.drift_counts import Bins, DriftCounts
from processor.metrics import Metrics

FORMAT = 1
BINS_MAX = 50
SHARES_OFF_MAX = 0.01  # of a sum that was rounded, or edited

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """edges: between bins, rising; a value belongs to the first bin whose edge is not below it. shares: one more, of the training data."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: Floats, bins: int) -> "Column":
        """values: float32 [n], n > 0; NaN is left out."""
        values = values[~np.isnan(values)]
        if not len(values):
            return cls((), (1.0,))
        edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="lower"))
        if edges[0] == values.min():
            # Below the least value lies nothing, which is what drift may change: a bin of its own.
            edges = np.concatenate([[np.nextafter(edges[0], np.float32(-np.inf))], edges])
        counts = Bins([0], [edges.tolist()]).count(values[:, None])[0]
        return cls(tuple(float(str(edge)) for edge in edges), tuple(round(count / len(values), 6) for count in counts.tolist()))


@dataclass(frozen=True, slots=True)
class Profile:
    """readings: how many it was made of. features, outputs: by name."""

    readings: int
    features: Mapping[str, Column]
    outputs: Mapping[str, Column]

    def to_json(self) -> str:
        """A line for each column, for those who read it."""
        columns = [
            ",\n".join(
                f'    {json.dumps(name)}: {{"edges": {json.dumps(column.edges)}, "shares": {json.dumps(column.shares)}}}'
                for name, column in part.items()
            )
            for part in (self.features, self.outputs)
        ]
        bodies = [f"{{\n{body}\n  }}" if body else "{}" for body in columns]
        return f'{{\n  "profile": {FORMAT},\n  "readings": {self.readings},\n  "features": {bodies[0]},\n  "outputs": {bodies[1]}\n}}\n'

    @classmethod
    def read(cls, path: Path) -> "Profile":
        """Raises ConfigurationError."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise _unusable(path, f"it cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise _unusable(path, "it is not JSON") from error
        if not isinstance(found, dict) or found.get("profile") != FORMAT:
            raise _unusable(path, f"it is not a profile of format {FORMAT}")
        readings = found.get("readings")
        if type(readings) is not int or readings < 0:
            raise _unusable(path, f"readings is {readings!r}")
        return cls(readings, *(_columns(path, part, found.get(part)) for part in ("features", "outputs")))


def drift_counts(path: Path, form: SensorForm, metrics: Metrics) -> DriftCounts:
    """Counts by this profile, in the metrics. Raises ConfigurationError."""
    profile = Profile.read(path)
    of_features = _bins(path, "features", profile.features, form.features, form.reading)
    of_outputs = _bins(path, "outputs", profile.outputs, form.outputs, form.answer)
    for name, label, columns in (("feature", "feature", profile.features), ("prediction", "output", profile.outputs)):
        for column, of_column in columns.items():
            for i, share in enumerate(of_column.shares):
                metrics.set(f"{name}_expected_ratio", share, **{label: column, "bin": i})
    return DriftCounts(metrics, list(profile.features), of_features, list(profile.outputs), of_outputs)


def _bins(path: Path, part: str, columns: Mapping[str, Column], names: Sequence[str], units: Units) -> Bins:
    """By the model's numbers: the edges are scaled as the values are."""
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ConfigurationError(
            f"{path} has the {part} {', '.join(unknown)}, which the model does not have",
            expected=f"some of {', '.join(names)}",
            do="make the profile again with these settings and this model: slotstream profile FILE.csv",
            see="settings-and-model-do-not-fit",
        )
    which = [list(names).index(name) for name in columns]
    return Bins(which, [units.scaled(i, column.edges) for i, column in zip(which, columns.values(), strict=True)])


def _columns(path: Path, part: str, found: Any) -> dict[str, Column]:
    if not isinstance(found, dict):
        raise _unusable(path, f"{part} is no object by name")
    return {name: _column(path, f"{part}.{name}", column) for name, column in found.items()}


def _column(path: Path, name: str, found: Any) -> Column:
    lists = [found.get(key) if isinstance(found, dict) else None for key in ("edges", "shares")]
    if not all(isinstance(numbers, list) and all(_finite(number) for number in numbers) for numbers in lists):
        raise _unusable(path, f"{name} has no lists of numbers edges and shares")
    edges, shares = (tuple(map(float, numbers or ())) for numbers in lists)
    if len(shares) != len(edges) + 1 or len(shares) > BINS_MAX + 1:
        raise _unusable(path, f"{name} has {len(edges)} edges and {len(shares)} shares")
    if any(low >= high for low, high in pairwise(edges)):
        raise _unusable(path, f"the edges of {name} do not rise")
    if min(shares) < 0 or abs(sum(shares) - 1) > SHARES_OFF_MAX:
        raise _unusable(path, f"the shares of {name} are no shares of a whole: their sum is {sum(shares):g}")
    return Column(edges, shares)


def _finite(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"drift.profile is {path}, and {why}",
        expected="a file that `slotstream profile` has written, of at most 50 bins a column",
        do="make it again: slotstream profile FILE.csv -o FILE.json; or set drift.profile to null",
        see="settings-and-model-do-not-fit",
    )
