"""processor.csv_io.progress_bar: a bar on a terminal, a plain line now and then elsewhere, nothing on standard output."""

import sys

import pytest

from processor.csv_io.progress_bar import LINE_EVERY_S, Shown
from processor.words import counted


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("lines", "said"), [(True, ["sent 600 readings, 100 a second"]), (False, [])])
def test_without_a_terminal_a_line_comes_now_and_then(lines, said, capsys):
    clock = Clock()
    with Shown("sent", 100, bar=True, lines=lines, now_s=clock) as shown:
        shown.tell("line 3 is left out")
        shown.at(10, 5)
        clock.now = LINE_EVERY_S + 1
        shown.at(50, 600)
        shown.at(60, 700)
    found = capsys.readouterr()
    assert found.err.splitlines() == ["line 3 is left out", *said]
    assert found.out == ""


def test_on_a_terminal_there_is_a_bar_and_lines_stay_above_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    with Shown("sent", 100, bar=True, lines=True, now_s=clock) as shown:
        clock.now = 2.0
        shown.at(50, 600)
        shown.tell("line [3] is left out")
    found = capsys.readouterr()
    assert "sent 600 readings, 300 a second" in found.err
    assert "line [3] is left out" in found.err
    assert found.out == ""


def test_one_is_not_several():
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
