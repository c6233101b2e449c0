"""What a verification says: the plan, a line for each thing that happens, a table at the end, and the last line for programs.

Responsible for words and layout on standard output. Not for what happened.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from processor.tools.verify.judge import DifferentError


@dataclass
class Score:
    """Of one kind of fault: how often it was survived, and the longest time without any answer."""

    survived: int = 0
    stall_s: float = 0.0


@dataclass
class Totals:
    """Of a whole run. lost, duplicated, different: 0, or 1 for the first difference."""

    seed: int
    records: int = 0
    predictions: int = 0
    dead_letters: int = 0
    kills: int = 0
    longest_stall_s: float = 0.0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def faults(self) -> int:
        return sum(score.survived for score in self.scores.values())

    def survived(self, fault: str, stall_s: float) -> None:
        score = self.scores.setdefault(fault, Score())
        score.survived += 1
        score.stall_s = max(score.stall_s, stall_s)
        self.longest_stall_s = max(self.longest_stall_s, stall_s)

    def differs(self, kind: str) -> None:
        setattr(self, kind, 1)

    def __str__(self) -> str:
        return (
            f"verify: seed={self.seed} records={self.records} predictions={self.predictions} dead_letters={self.dead_letters} "
            f"faults={self.faults} lost={self.lost} duplicated={self.duplicated} different={self.different} "
            f"longest_stall_s={self.longest_stall_s:.1f}"
        )


class Report:
    """Lines with the seconds since it was made. console: without markup, since what is told is not written for it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun_s

    def line(self, text: str) -> None:
        self._console.print(f"{self.elapsed_s:6.0f} s  {text}", highlight=False, soft_wrap=True, markup=False)

    def plan(self, lines: Mapping[str, str]) -> None:
        width = max(map(len, lines)) + 2
        for name, text in lines.items():
            self._console.print(f"{name:{width}}{text}", highlight=False, soft_wrap=True, markup=False)

    def table(self, totals: Totals, whats: Mapping[str, str], skipped: Mapping[str, str]) -> None:
        table = Table("fault", "what was broken", "times survived", "longest stall")
        for name, what in whats.items():
            score = totals.scores.get(name)
            if score is not None:
                table.add_row(name, what, str(score.survived), f"{score.stall_s:.1f} s")
            elif name in skipped:
                table.add_row(name, what, "skipped", skipped[name])
        self._console.print(table)

    def last(self, totals: Totals) -> None:
        """The one line that programs read."""
        self._console.print(str(totals), highlight=False, soft_wrap=True, markup=False)

    def difference(self, found: DifferentError) -> None:
        lines = {
            "found": found.kind,
            "sensor": found.sensor,
            "partition": str(found.partition),
            "offset": str(found.offset),
            "expected": found.expected,
            "got": found.got,
        }
        self.plan(lines)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
