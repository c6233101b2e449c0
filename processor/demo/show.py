"""How the demo looks: a live view on a terminal, one plain line now and then elsewhere.

Responsible for words and layout. Not for what is shown: it is handed a View.
"""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from processor.demo.plant import Fault
from processor.demo.watch import Alarms, Recent

LINE_EVERY_S = 2.0
SENSORS_SHOWN = 8
FAULTS_SHOWN = 8
BAR_WIDTH, BAR_THRESHOLD = 24, 8  # a full bar is three thresholds


@dataclass(frozen=True)
class View:
    """One moment of the demo. `slots_used` and `checkpoint_age_s` are None while the service does not answer."""

    state: str
    elapsed_s: float
    restarts: int
    url: str
    recent: Recent
    slots_used: float | None
    checkpoint_age_s: float | None
    alarms: Alarms


class Screen:
    """Shows Views. `tell` writes a line that stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._line_at_s = float("-inf")
        self._told: set[tuple[Fault, bool]] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, view: View) -> None:
        if self._live is not None:
            self._live.update(_page(view), refresh=True)
        elif time.monotonic() - self._line_at_s >= LINE_EVERY_S:
            self._line_at_s = time.monotonic()
            self.tell(_line(view))
            self._tell_faults(view.alarms)

    def last(self, view: View) -> None:
        """Shows `view` whatever was shown a moment ago: nothing comes after it."""
        self._line_at_s = float("-inf")
        self.show(view)
        if self._live is None:
            self.tell(_faults_found(view.alarms))

    def _tell_faults(self, alarms: Alarms) -> None:
        for fault in alarms.begun():
            found = fault in alarms.found_tick
            if (fault, found) not in self._told:
                self._told.add((fault, found))
                self.tell(f"        fault: {fault.name} {fault.kind}, {_verdict(fault, alarms)}")


def _line(view: View) -> str:
    nothing_yet = view.recent.readings_per_s == 0 and view.slots_used in (None, 0)
    return "  ".join([f"{view.elapsed_s:5.0f} s", f"{view.state}", *(() if nothing_yet else _figures(view))])


def _figures(view: View) -> list[str]:
    recent = view.recent
    return [
        f"{recent.readings_per_s:,.0f} readings/s",
        f"{recent.predictions_per_s:,.0f} predictions/s",
        f"end to end p50 {_number(recent.p50_ms, ' ms')}, p99 {_number(recent.p99_ms, ' ms')}",
        f"slots used {_number(view.slots_used)}",
        f"checkpoint {_number(view.checkpoint_age_s, ' s old')}",
        f"restarts {view.restarts}",
    ]


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.0f}{unit}"


def _page(view: View) -> Group:
    style = "bold green" if view.state.endswith("ready") else "bold yellow"
    head = Text.assemble((f"{view.elapsed_s:5.0f} s  ", "bold"), (view.state, style), f"   {view.url}")
    return Group(head, Text("  ".join(_figures(view))), *_sensors(view.alarms), *_faults(view.alarms))


def _sensors(alarms: Alarms) -> tuple[Text, Table]:
    level = alarms.threshold
    table = Table(box=None, pad_edge=False)
    for name in ("sensor", "score", "", "truth"):
        table.add_column(name)
    for sensor, mean in alarms.highest(SENSORS_SHOWN):
        fault = alarms.open_fault(sensor)
        style = "red" if mean > level else "dim"
        table.add_row(sensor, f"{mean:.2f}", Text(_bar(mean / level), style), "healthy" if fault is None else fault.kind)
    return Text(f"\nlargest scores (the service raises an alarm above {level:.2f})"), table


def _bar(ratio: float) -> str:
    """A bar of `ratio` thresholds, with a line where the threshold is."""
    bar = ("█" * min(BAR_WIDTH, round(ratio * BAR_THRESHOLD))).ljust(BAR_WIDTH)
    return bar if ratio > 1 else f"{bar[:BAR_THRESHOLD]}│{bar[BAR_THRESHOLD + 1 :]}"


def _faults(alarms: Alarms) -> tuple[Text, Table]:
    begun = alarms.begun()
    table = Table(box=None, pad_edge=False)
    for name in ("sensor", "fault", "what became of it"):
        table.add_column(name)
    for fault in reversed(begun[-FAULTS_SHOWN:]):
        style = "green" if fault in alarms.found_tick else "yellow"
        table.add_row(fault.name, fault.kind, Text(_verdict(fault, alarms), style))
    return Text(f"\n{_faults_found(alarms)}"), table


def _faults_found(alarms: Alarms) -> str:
    begun = alarms.begun()
    found = sum(fault in alarms.found_tick for fault in begun)
    right = f"alarms: {alarms.raised}, right: {alarms.right}"
    return f"faults injected: {len(begun)}, found: {found}; {right} (a reading is a minute of the plant)"


def _verdict(fault: Fault, alarms: Alarms) -> str:
    found = alarms.found_tick.get(fault)
    if found is not None:
        return f"found after {found - fault.start_tick} minutes of the plant"
    if alarms.tick >= fault.end_tick:
        return "over, never found"
    return f"since {alarms.tick - fault.start_tick} minutes of the plant, not found yet"
