"""What a verification says: the plan, a line for each thing that happens, a table at the end, and the last line for programs.

Responsible for words and layout on standard output. Not for what happened.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from processor.errors import SlotstreamError
from processor.verify.judge import DifferentError


@dataclass
class Score:
    """Of one kind of fault: how often it was survived, all that it broke, and the longest time without any answer."""

    survived: int = 0
    stall_s: float = 0.0
    harm: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Phase:
    """Of one phase: answers that had their counterpart, instances killed, and processes started.

    filling: answers without a prediction, since the sensor's window was not full. alarms: records of what became of alarms.
    """

    predictions: int
    filling: int
    dead_letters: int
    kills: int
    starts: int
    alarms: int = 0


@dataclass
class Totals:
    """Of a whole run. lost, duplicated, different: 0, or 1 for the first difference."""

    seed: int
    records: int = 0
    longest_stall_s: float = 0.0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    scores: dict[str, Score] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)  # by its store

    @property
    def predictions(self) -> int:
        return sum(phase.predictions for phase in self.phases.values())

    @property
    def dead_letters(self) -> int:
        return sum(phase.dead_letters for phase in self.phases.values())

    @property
    def kills(self) -> int:
        return sum(phase.kills for phase in self.phases.values())

    @property
    def starts(self) -> int:
        return sum(phase.starts for phase in self.phases.values())

    @property
    def faults(self) -> int:
        return sum(score.survived for score in self.scores.values())

    def survived(self, fault: str, stall_s: float, harm: Mapping[str, int]) -> None:
        score = self.scores.setdefault(fault, Score())
        score.survived += 1
        score.harm.update(harm)
        score.stall_s = max(score.stall_s, stall_s)
        self.longest_stall_s = max(self.longest_stall_s, stall_s)

    def differs(self, kind: str) -> None:
        setattr(self, kind, 1)

    def __str__(self) -> str:
        return (
            f"verify: seed={self.seed} records={self.records} predictions={self.predictions} dead_letters={self.dead_letters} "
            f"faults={self.faults} lost={self.lost} duplicated={self.duplicated} different={self.different} "
            f"longest_stall_s={self.longest_stall_s:.1f} kills={self.kills} starts={self.starts}"
        ) + "".join(
            f" {store}_predictions={phase.predictions} {store}_dead_letters={phase.dead_letters}" for store, phase in self.phases.items()
        )

    def must_prove(self, store: str) -> None:
        """Raises SlotstreamError where no prediction was compared in the phase, or nothing has been broken so far."""
        if not self.phases[store].predictions:
            raise SlotstreamError(
                f"no prediction was compared with checkpoints in the {store}, of {self.records} records",
                expected="predictions in every phase: without them nothing is proved",
                do="look at the dead letters: a model whose outputs are not finite, a low --rate or a short time make no predictions",
            )
        if not self.faults:
            raise SlotstreamError("nothing was broken", expected="a fault at least", do="give it more time, or name other --faults")


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
        faults = Table("fault", "what was broken", "harm done", "times survived", "longest stall")
        for name, what in whats.items():
            score = totals.scores.get(name)
            if score is not None:
                faults.add_row(name, what, told(score.harm), str(score.survived), f"{score.stall_s:.1f} s")
            elif name in skipped:
                faults.add_row(name, what, "none", "skipped", skipped[name])
        compared = ("predictions compared", "windows not full", "dead letters compared", "alarms compared")
        phases = Table("checkpoints in", *compared, "instances killed", "processes started")
        for store, phase in totals.phases.items():
            phases.add_row(f"the {store}", *map(str, _numbers(phase)))
        self._console.print(faults)
        self._console.print(phases)

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


def told(harm: Mapping[str, int]) -> str:
    return listed([f"{count} {what}" for what, count in harm.items()])


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _numbers(phase: Phase) -> tuple[int, ...]:
    return phase.predictions, phase.filling, phase.dead_letters, phase.alarms, phase.kills, phase.starts
