"""A CSV file as people have it: its encoding, its separator, its header, and its rows with the lines they stand in.

Responsible for everything up to a row's cells as text. Not responsible for what the cells mean: rows.py makes readings of
them. The file is read once, from front to back, and never held: it may be larger than the memory, or a pipe.

What is `auto` is decided from the first rows and then holds for the whole file, so that no later row is read in another way
without a word.
"""

import codecs
import contextlib
import csv
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from processor.errors import ConfigurationError

if TYPE_CHECKING:
    from _csv import Reader

SAMPLE_BYTES = 1 << 20
SAMPLE_LINES = 1000
# What is never there by chance goes first: commas are, as decimal commas, and spaces between date and time.
SEPARATORS = {"tab": "\t", "semicolon": ";", "pipe": "|", "comma": ",", "space": " "}
BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
FITS_MIN = 0.5
STDIN = Path("-")
COUNTED_MIN = 3  # rows: fewer count by chance
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Form:
    """How the file is written. separator: auto, a name of SEPARATORS or a character."""

    separator: str = "auto"
    encoding: str = "auto"
    header: bool = True


class Row(NamedTuple):
    """line, line_last: the physical lines it begins and ends in, from 1. cells: as they stand in the file."""

    line: int
    line_last: int
    cells: list[str]


class CsvFile:
    """An open CSV, a context manager. Raises ConfigurationError for what is no CSV with names in its first row.

    columns    the names, in file order, without blanks around them
    nameless   the places of columns without a name, called column_1 and so on: mostly an index that counts the rows
    sample     the first rows, up to 1,000
    separator  the character
    described  how the file is read, for people
    """

    def __init__(self, path: Path, form: Form = Form()) -> None:
        self.path = path if path != STDIN else Path("standard input")
        self._raw = _open(path)
        try:
            self._begin(form)
        except BaseException:
            self._raw.close()
            raise

    def _begin(self, form: Form) -> None:
        # A pipe gives a little at first; a file gives all of it.
        start = self._raw.peek(SAMPLE_BYTES)[:SAMPLE_BYTES]
        self._encoding = _encoding(self.path, start) if form.encoding == "auto" else form.encoding
        # A byte that is none of the encoding comes through and is told with its line, after all rows before it.
        errors = "surrogateescape" if self._encoding.startswith("utf-8") else "strict"
        self._text = io.TextIOWrapper(self._raw, self._encoding, errors, newline="")
        self._lines = self._checked(self._text)
        self._line = 0  # read so far
        self.nameless: set[int] = set()
        separator = form.separator
        first = next(self._lines, None)
        while first is not None and (skipped := _skipped(first)):
            if skipped != "comment" and separator == "auto":
                separator = skipped
            first = next(self._lines, None)
        if first is None:
            raise ConfigurationError(f"{self.path} has no rows", expected="a row of names, and rows below it", do="look at the file")
        self._before = self._line - 1
        head = list(self._head(first))
        complete = len(head) < SAMPLE_LINES and sum(map(len, head)) < SAMPLE_BYTES
        self.separator = _separator(head, complete, form.header) if separator == "auto" else SEPARATORS.get(separator, separator)
        rows = _parse(head, self.separator, complete)
        if not any(map(_width, rows)):
            raise ConfigurationError(
                f"{self.path} holds nothing that reads as a row, from line {self._before + 1} on",
                expected="rows of cells below 128 kB, and quotes that are closed",
                do="look at that line",
            )
        self.columns = self._names(rows, form.header)
        self._header = form.header
        self._head_lines = head
        self.sample = [trimmed for cells in rows[form.header :] if (trimmed := self._trimmed(cells)) is not None]
        self._check_sample()
        encoding = {"utf-8-sig": "UTF-8", "utf-8": "UTF-8"}.get(self._encoding, self._encoding)
        name = next((name for name, character in SEPARATORS.items() if character == self.separator), repr(self.separator))
        between = f"separator {name}" if len(self.columns) > 1 else "one column"
        self.described = f"{encoding}, {between}"

    def _head(self, first: str) -> Iterator[str]:
        size = 0
        for line in itertools.chain([first], itertools.islice(self._lines, SAMPLE_LINES - 1)):
            yield line
            size += len(line)
            if size >= SAMPLE_BYTES:
                return

    def _checked(self, lines: Iterator[str]) -> Iterator[str]:
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    return
                if not line.isascii():
                    line.encode()
            except UnicodeError:
                raise ConfigurationError(
                    f"{self.path}, line {self._line + 1}, is not {self._encoding}",
                    expected="one encoding in the whole file",
                    do="name it with --encoding, for instance latin-1, which takes any byte",
                ) from None
            self._line += 1
            yield line

    # -- the header -------------------------------------------------------------------------------------------------------

    def _names(self, rows: Sequence[list[str]], header: bool) -> list[str]:
        if not header:
            count = Counter(_width(cells) for cells in rows if _width(cells)).most_common(1)[0][0]
            return [str(i) for i in range(1, count + 1)]
        names = [cell.strip() for cell in rows[0][: _width(rows[0])]]
        if all(_NUMBER.fullmatch(name) for name in names if name):
            raise ConfigurationError(
                f"the first row of {self.path}, line {self._before + 1}, holds numbers: {', '.join(names)[:60]}",
                expected="the names of the columns",
                do="put them there, or give --no-header, which names the columns 1, 2, 3",
            )
        self.nameless = {i for i, name in enumerate(names) if not name}
        return [name or f"column_{i}" for i, name in enumerate(names, 1)]

    def _check_sample(self) -> None:
        if not self.sample:
            raise ConfigurationError(f"{self.path} has no rows below its names", expected="readings", do="look at the file")
        widths = Counter(map(len, self.sample))
        width, count = widths.most_common(1)[0]
        if width == len(self.columns) + 1 and counts_rows([cells[0] for cells in self.sample if len(cells) == width]):
            raise ConfigurationError(
                f"each row of {self.path} begins with its own number, for which there is no name in line {self._before + 1}",
                expected="a name for each cell",
                do=f"put one in front of {self.columns[0]}, such as row, or write the file without row numbers (R: row.names = FALSE)",
            )
        if width != len(self.columns) and count > FITS_MIN * len(self.sample):
            raise ConfigurationError(
                f"the names in line {self._before + 1} of {self.path} are {len(self.columns)}, and most rows below have {width} cells",
                expected="a name for each cell",
                do="remove lines above the names, or name the separator with --separator",
            )

    # -- the rows ---------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """All rows below the names, blank ones and comments left out. Can be gone through once."""
        reader = _reader(itertools.chain(self._head_lines, self._lines), self.separator)
        names_to_come = self._header
        while True:
            line = self._before + reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ConfigurationError(
                    f"{self.path}, line {line}: {error}",
                    expected="quotes that are closed, and cells below 128 kB",
                    do="look at the quotes in that line",
                ) from None
            if cells is None:
                return
            if names_to_come:
                names_to_come = False
            elif (trimmed := self._trimmed(cells)) is not None:
                yield Row(line, self._before + reader.line_num, trimmed)

    def _trimmed(self, cells: list[str]) -> list[str] | None:
        """Without separators at the end; None for a row that is blank or a comment."""
        while len(cells) > len(self.columns) and not cells[-1].strip():
            cells.pop()
        if not any(cells) or not any(cell.strip() for cell in cells):
            return None
        # A sensor may be called #1: what has a cell for each column is a row.
        if cells[0].startswith("#") and len(cells) != len(self.columns):
            return None
        return cells

    # -- the file ---------------------------------------------------------------------------------------------------------

    @property
    def bytes_read(self) -> int:
        """How far the file is read, for a progress bar; 0 for a pipe."""
        return self._raw.tell() if self._raw.seekable() else 0

    @property
    def bytes_total(self) -> int | None:
        """None for a pipe."""
        return os.fstat(self._raw.fileno()).st_size if self._raw.seekable() else None

    def is_same_as(self, path: Path) -> bool:
        try:
            return path.samefile(self.path)
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._raw.close()


def counts_rows(cells: Sequence[str]) -> bool:
    """Whether a column's first cells are whole numbers, each one more than the one before."""
    texts = [cell.strip() for cell in cells]
    if len(texts) < COUNTED_MIN or not all(re.fullmatch(r"[0-9]{1,15}", text) for text in texts):
        return False
    return all(int(after) == int(before) + 1 for before, after in itertools.pairwise(texts))


def _open(path: Path) -> io.BufferedReader:
    try:
        return io.BufferedReader(io.FileIO(0, closefd=False) if path == STDIN else io.FileIO(path), SAMPLE_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror})", expected="a CSV file", do="correct the name, or the file's permissions"
        ) from error


def _encoding(path: Path, start: bytes) -> str:
    for mark, encoding in BOMS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start or start.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise ConfigurationError(
            f"{path} is not text",
            expected="a CSV file",
            do="export a workbook as CSV; read a compressed file with `zcat FILE | slotstream ... -`; "
            "name UTF-16 without its mark with --encoding utf-16-le",
        )
    with contextlib.suppress(UnicodeError):
        codecs.getincrementaldecoder("utf-8")().decode(start)  # whose end may be cut in a character
        return "utf-8"
    return "latin-1"


def _skipped(line: str) -> str:
    """'comment' for a line above the names that is none of the table, a separator for Excel's `sep=;`, else ''."""
    named = re.fullmatch(r"\"?sep=(.)\"?\s*", line, re.IGNORECASE)
    if named:
        return named[1]
    return "comment" if not line.strip() or line.startswith("#") else ""


# The separator.


def _reader(lines: Iterable[str], separator: str) -> "Reader":
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _parse(head: Sequence[str], separator: str, complete: bool) -> list[list[str]]:
    """The rows of the first lines; the last one may be cut in a quoted cell, and is left out if so."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # told with its line when it is read
        rows.extend(cells for cells in _reader(head, separator) if cells)
    return rows if complete or len(rows) < 2 else rows[:-1]


def _separator(head: Sequence[str], complete: bool, header: bool) -> str:
    """The one that gives the rows as many cells as there are names; of several, the first in SEPARATORS."""
    fits = {character: _fit(_parse(head, character, complete), header) for character in SEPARATORS.values()}
    best = max(fits, key=lambda character: fits[character])
    return best if fits[best] >= FITS_MIN else ","


def _fit(rows: Sequence[list[str]], header: bool) -> float:
    """The share of rows that have a cell for each name; 0 where there is one name only."""
    widths = [_width(cells) for cells in rows]
    if not widths:
        return 0.0
    names = widths[0] if header else Counter(widths).most_common(1)[0][0]
    below = [(len(cells), width) for cells, width in zip(rows[header:], widths[header:], strict=True) if width]
    if names < 2:
        return 0.0
    # Empty cells at the end may be cells, or separators that are too many.
    return sum(width <= names <= cells for cells, width in below) / len(below) if below else 1.0


def _width(cells: Sequence[str]) -> int:
    """Cells up to the last that holds something."""
    return next((i for i in range(len(cells), 0, -1) if cells[i - 1].strip()), 0)
