"""What a file says of its own readings: which of them are anomalies. A column of it, or a JSON file of time windows as NAB has.

Owns the two forms alone; what follows from them is alarm_report's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from processor.errors import ConfigurationError
from processor.settings.values import reason_of

_NORMAL = {"", "0", "false", "no", "normal", "none", "nan"}


@dataclass(frozen=True, slots=True)
class Windows:
    """Times from..to in Unix milliseconds, both included: an anomaly lies in each."""

    each: Sequence[tuple[int, int]]

    def holds(self, time_ms: int) -> bool:
        return any(begin <= time_ms <= end for begin, end in self.each)


def is_anomaly(cell: str) -> bool:
    """Of a column of labels: any number but 0, and any word but those for normal."""
    text = cell.strip().lower()
    try:
        return float(text) != 0 and text != "nan"
    except ValueError:
        return text not in _NORMAL


def windows_of(path: Path, of: Path) -> Windows:
    """Those of the file `of` in a JSON object of windows by file name, as NAB's combined_windows.json. Raises ConfigurationError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "no JSON"
        raise _unusable(path, f"{reason} in it") from error
    if isinstance(found, Mapping):
        names = [name for name in found if Path(name).name == of.name]
        if len(names) != 1:
            raise _unusable(path, f"{len(names)} entries for {of.name}")
        found = found[names[0]]
    try:
        return Windows([(_ms(begin), _ms(end)) for begin, end in found])
    except (TypeError, ValueError) as error:
        raise _unusable(path, "other things than windows of time") from error


def _ms(text: Any) -> int:
    time = datetime.fromisoformat(text)
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _unusable(path: Path, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"--labels {path}: found {found}",
        expected='a JSON object of windows by file: {"FILE.csv": [["2014-10-30 15:30:00", "2014-11-03 22:30:00"], ...]}',
        do="name such a file, or a column of labels",
    )
