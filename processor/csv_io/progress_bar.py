"""How far a command has come with a file: a bar on a terminal, a plain line now and then elsewhere.

Responsible for words and layout on standard error, where results never are. Lines told meanwhile stay above the bar.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from processor.words import counted

LINE_EVERY_S = 5.0
SHOW_EVERY_S = 0.1


class Shown:
    """A context manager. `lines`: whether a plain line is written now and then where there is no terminal."""

    def __init__(self, what: str, bytes_total: int | None, *, bar: bool, lines: bool, now_s: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._what, self._now_s, self._lines = what, now_s, lines
        self._begun_s = self._shown_s = now_s()
        self._progress: Progress | None = None
        if bar and sys.stderr.isatty():
            columns = [TextColumn("{task.fields[words]}"), BarColumn(), TimeRemainingColumn()]
            self._progress = Progress(*columns, console=self._console, auto_refresh=False, transient=True)
            self._task = self._progress.add_task(what, total=bytes_total, words=what)

    def at(self, bytes_read: int, readings: int) -> None:
        """Called as often as one likes."""
        now_s = self._now_s()
        if now_s - self._shown_s < (SHOW_EVERY_S if self._progress else LINE_EVERY_S):
            return
        self._shown_s = now_s
        words = f"{self._what} {counted(readings, 'reading')}, {readings / (now_s - self._begun_s):,.0f} a second"
        if self._progress is not None:
            self._progress.update(self._task, completed=bytes_read, words=words, refresh=True)
        elif self._lines:
            self.tell(words)

    def tell(self, text: str) -> None:
        self._console.print(text)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
