"""Which numbers of a record are missing, and what stands for them: what settings say of holes, applied to one record.

A held value needs the sensor's earlier readings, and is the engine's; all else is decided here, from the record alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from processor.codec.paths import ABSENT, FieldPath
from processor.codec.reject import RejectError

Policy = float | Literal["dead_letter", "hold"]
Bad = Sequence[bool] | None  # the features whose quality is bad; None: of none


@dataclass(frozen=True, slots=True)
class Absent:
    """What is no measurement beside null, an absent field and NaN: these numbers, and these texts in a number's place."""

    numbers: Collection[float] = ()
    texts: Collection[str] = ()


class Holes:
    """
    names     of the features, or their numbers
    policies  one a feature; a number stands for the missing one, in the feature's own unit
    neutral   one a feature: a number for the place of a held value until the engine writes it, harmless when it is scaled
    """

    def __init__(self, names: Sequence[str], policies: Sequence[Policy], neutral: Sequence[float]) -> None:
        self._names, self._policies = names, policies
        self._fill = [n if isinstance(p, str) else p for p, n in zip(policies, neutral, strict=True)]

    def filled(self, steps: Sequence[Sequence[float]]) -> tuple[list[float], list[bool] | None]:
        """All numbers of a record's steps, NaN replaced, and where they were; None: nowhere. Raises RejectError (missing)."""
        numbers = [number for step in steps for number in step]
        missing = [number != number for number in numbers]
        if not any(missing):
            return numbers, None
        features = len(self._names)
        for i, hole in enumerate(missing):
            if hole:
                feature = i % features
                if self._policies[feature] == "dead_letter":
                    raise RejectError("missing", f"{self._names[feature]} is missing; expected a number (input.missing)")
                numbers[i] = self._fill[feature]
        return numbers, missing


class Qualities:
    """Reads a record's quality: one of the reading, or one a feature by name or in order, or at a path of each feature.

    field: the path of the quality, or by feature's name the path of its own. good: what a good one is; so is none at all.
    """

    def __init__(self, field: str | Mapping[str, str], good: Sequence[Any], names: Sequence[str]) -> None:
        self._names = names
        self._one = FieldPath(field) if isinstance(field, str) else None
        self._each = {} if isinstance(field, str) else {name: FieldPath(path) for name, path in field.items()}
        self._good = {_comparable(value) for value in good}

    def bad(self, found: Any) -> Bad:
        """Of which features the quality is bad. Raises RejectError (bad_schema) for a list that is not one a feature."""
        if self._one is None:
            return self._marked([self._each[name].find(found) if name in self._each else None for name in self._names])
        quality = self._one.find(found)
        if isinstance(quality, dict):
            return self._marked([quality.get(name) for name in self._names])
        if not isinstance(quality, list):
            return self._marked([quality] * len(self._names))
        if len(quality) != len(self._names):
            told = f"`{self._one.name}` holds {len(quality)} qualities; expected one, or one for each of {len(self._names)} features"
            raise RejectError("bad_schema", told)
        return self._marked(quality)

    def _marked(self, qualities: Sequence[Any]) -> Bad:
        bad = [not (quality is None or quality is ABSENT or _comparable(quality) in self._good) for quality in qualities]
        return bad if any(bad) else None


def _comparable(value: Any) -> tuple[str, Any]:
    """True is no 1; what is neither text, number nor truth equals nothing that may be good."""
    if isinstance(value, bool):
        return "truth", value
    if isinstance(value, int | float):
        return "number", value
    return ("text", value) if isinstance(value, str) else ("other", None)
