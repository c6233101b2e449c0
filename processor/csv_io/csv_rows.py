"""From a CSV's rows to readings, and from a reading to a record's value in the settings' format. `try` and `feed` share both.

Responsible for which column is the sensor, the time and each feature, for what a cell's text means, and for naming what is
wrong with a row. Not responsible for what becomes of such a row: `feed` leaves it out, and `try` lets the codec answer it.
"""

import csv
import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from processor.codec.record_form import features_of, in_unit, key_field, merged, put
from processor.csv_io.csv_file import CsvFile, Row, counts_rows
from processor.csv_io.labels import is_anomaly
from processor.csv_io.timestamps import decide
from processor.errors import ConfigurationError
from processor.settings import field_path

if TYPE_CHECKING:
    from processor.settings.schema import Input

COLUMNS_SHOWN = 12
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?", re.ASCII)
# 1,234 may be 1234; 0,123 and 1,23 may not.
# 1.234,56 and 1,234.56, and with blanks or apostrophes between.
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([.,' \u00a0\u202f])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns are what, as asked for. Either `key`, a column, or `sensor`, the one name for all rows.

    missing: what stands in a cell that holds no number, such as -200. labels: which readings are anomalies.
    """

    key: str | None = None
    sensor: str | None = None
    columns: str | None = None
    timestamp: str | None = None
    timestamp_unit: str = "auto"
    timestamp_format: str | None = None
    decimal: str = "auto"
    missing: tuple[str, ...] = ()
    labels: str | None = None


def with_missing(wanted: Wanted, values: Sequence[float | str]) -> Wanted:
    """The same, with what the settings name as standing for no number (input.missing_values)."""
    texts = [value if isinstance(value, str) else str(int(value)) if value.is_integer() else repr(value) for value in values]
    return replace(wanted, missing=(*wanted.missing, *texts))


@dataclass(slots=True)
class Reading:
    """A row of the file.

    line       the physical line it begins in
    sensor     None where the cell is empty
    timestamp  Unix milliseconds; the text where that could not be read; None without a column for it
    values     a number a feature: None for a cell that holds none, infinite if it says so; none at all where the cells are not
               as many as the names, since then nobody knows which is which
    problem    what is wrong with the row, in words
    label      the row says that it is an anomaly; None without a column for it
    """

    line: int
    sensor: str | None
    timestamp: int | str | None
    values: list[float | None]
    problem: str | None
    label: bool | None = None


class Readings:
    """A file's rows as readings, in file order. Raises ConfigurationError for columns that are not there.

    features   the names that the settings give the model's features (input.features), if any
    names      of the columns taken, in the features' order
    described  how the cells are read, for people
    """

    def __init__(self, file: CsvFile, wanted: Wanted, features: Sequence[str] | None) -> None:
        self.file = file
        self._key = _place(file, wanted.key, "--key") if wanted.key is not None else None
        self._label = _place(file, wanted.labels, "--labels") if wanted.labels is not None else None
        self._sensor = wanted.sensor
        self._time = _places(file, wanted.timestamp, "--timestamp") if wanted.timestamp is not None else []
        self._picked = self._features(wanted.columns, features)
        self.names = [file.columns[i] for i in self._picked]
        self._read, decimal = _decimal(file, self._picked, wanted.decimal)
        self._missing_texts = {text.strip() for text in wanted.missing}
        self._missing = {number for text in self._missing_texts if (number := _with_point(text)) is not None}
        words = [file.described, *([decimal] if decimal else [])]
        if wanted.missing:
            words.append(f"{', '.join(wanted.missing)} is no number")
        if self._time:
            times = (self._time_text(cells) for cells in file.sample if len(cells) == len(file.columns))
            self._parse_time, how = decide(list(times), unit=wanted.timestamp_unit, strptime=wanted.timestamp_format)
            words.append(f"timestamps are {how}")
        self.described = f"{file.path}: {'; '.join(words)}"
        self._chosen_by_name = wanted.columns is not None
        self._holes: Sequence[bool] = [False] * len(self._picked)

    def _features(self, columns: str | None, features: Sequence[str] | None) -> list[int]:
        if columns is not None:
            return _places(self.file, columns, "--columns")
        if features is not None:
            # Quotes keep a name's dots from descending; a column is named without them.
            named = [name if name in self.file.columns else ".".join(field_path(name)) for name in features]
            if all(self.file.columns.count(name) == 1 for name in named):
                return [self.file.columns.index(name) for name in named]
        taken = {self._key, self._label, *self._time, *self.file.nameless}
        return [i for i in range(len(self.file.columns)) if i not in taken]

    def _number(self, text: str) -> float | None:
        """What a cell holds, None for what is none, or stands for none (--missing)."""
        value = self._read(text)
        return None if value in self._missing or text.strip() in self._missing_texts else value

    def expect(self, count: int, of: str) -> None:
        """Raises ConfigurationError unless as many columns are taken as there are features. `of`: whose."""
        if len(self.names) != count:
            raise ConfigurationError(
                f"{of} {count} features, and these columns are taken: {_listed(self.names)} ({len(self.names)})",
                expected="a column for each feature, in the model's order",
                do=f"name them with --columns A,B; the file has {_listed(self.file.columns)}{self._counted()}",
            )

    def _counted(self) -> str:
        """Which of the columns taken only count the rows, in words."""
        cells = {name: [row[i] for row in self.file.sample if i < len(row)] for i, name in zip(self._picked, self.names, strict=True)}
        counted = [name for name, texts in cells.items() if counts_rows(texts)]
        return f"; {_listed(counted)} counts the rows, and is hardly a feature" if counted else ""

    def may_miss(self, holes: Sequence[bool]) -> None:
        """For which features a cell without a number is no fault, since something else stands for it (input.missing)."""
        self._holes = holes

    def expect_numbers(self) -> None:
        """Raises ConfigurationError if a column that nobody asked for by name holds no number at all in the first rows."""
        for i, name in zip(self._picked, self.names, strict=True):
            texts = [cells[i] for cells in self.file.sample if i < len(cells) and cells[i].strip()]
            if not self._chosen_by_name and texts and all(self._number(text) is None for text in texts):
                raise ConfigurationError(
                    f"the column {name} of {self.file.path} holds no numbers: {texts[0].strip()[:40]!r}{_why_none(texts[0])}",
                    expected="a number in each column but those of --key and --timestamp",
                    do=f"name the features with --columns; the file has {_listed(self.file.columns)}",
                )

    def __iter__(self) -> Iterator[Reading]:
        for row in self.file.rows():
            if len(row.cells) == len(self.file.columns):
                yield self._reading(row)
            else:
                yield self._ragged(row)

    def _reading(self, row: Row) -> Reading:
        cells, problem = row.cells, None
        sensor = cells[self._key].strip() if self._key is not None else self._sensor
        values = [self._number(cells[i]) for i in self._picked]
        timestamp: int | str | None = None
        if not all(value is not None and math.isfinite(value) for value in values):
            problem = self._problem(cells, values)
        if self._time:
            text = self._time_text(cells)
            try:
                timestamp = self._parse_time(text)
            except ValueError as error:
                # So that the codec does not read it either, in a way of its own.
                timestamp = f"not read: {text}"
                problem = f"timestamp is {text[:40]!r}: {error}" if text else "timestamp is empty"
        if not sensor:
            sensor, problem = None, f"{self.file.columns[self._key or 0]} is empty: expected a sensor's name"
        label = None if self._label is None else is_anomaly(cells[self._label])
        return Reading(row.line, sensor, timestamp, values, problem, label)

    def _ragged(self, row: Row) -> Reading:
        found = f"found {len(row.cells)} cells, expected {len(self.file.columns)}"
        if row.line_last > row.line:
            found += f"; it goes on to line {row.line_last}: is a quote left open?"
        sensor = self._sensor if self._key is None else row.cells[self._key].strip() if self._key < len(row.cells) else None
        return Reading(row.line, sensor or None, None, [], found)

    def _problem(self, cells: list[str], values: list[float | None]) -> str | None:
        """What is wrong with the first cell that is no number, and none that may be missing."""
        wrong = (j for j, value in enumerate(values) if (value is None and not self._is_hole(cells, j)) or (value and math.isinf(value)))
        if (at := next(wrong, None)) is None:
            return None
        text = cells[self._picked[at]].strip()
        if text and (self._read(text) in self._missing or text in self._missing_texts):
            return f"{self.names[at]} is {text[:40]!r}, which stands for no number (--missing)"
        return f"{self.names[at]} is {text[:40]!r}: expected a number{_why_none(text)}" if text else f"{self.names[at]} is empty"

    def _is_hole(self, cells: list[str], at: int) -> bool:
        """Whether this cell may be without a number, and is: a number that is written in a way of its own is a fault all the same."""
        if not self._holes[at]:
            return False
        text = cells[self._picked[at]].strip()
        return text in self._missing_texts or self._read(text) in self._missing or not any(character.isdigit() for character in text)

    def _time_text(self, cells: list[str]) -> str:
        parts = [cells[i].strip() for i in self._time]
        return " ".join(parts) if all(parts) else ""  # a date without its time is not midnight


# A reading as a record.


def value_of(
    reading: Reading,
    format: str,  # noqa: A002
    features: Sequence[str] | None,
    *,
    timestamp: str | None = "timestamp",
    unit: str = "auto",
    sensor: str | None = None,
) -> bytes:
    """The value of a record with this reading: JSON with a list or with named fields (dots descend), or float32.

    A cell without a number is null, in float32 NaN. timestamp, unit: where the time goes (input.timestamp), None: nowhere, since it is the
    record's own; a float32 record never holds it. sensor: the field for the sensor's name, None: none.
    """
    if format == "float32":
        with np.errstate(over="ignore"):
            return np.array([math.nan if v is None else v for v in reading.values], np.float64).astype("<f4").tobytes()
    record: dict[str, Any] = {}
    if sensor is not None and reading.sensor is not None:
        put(record, sensor, reading.sensor)
    if reading.timestamp is not None and timestamp is not None:
        time = reading.timestamp
        put(record, timestamp, in_unit(time, unit) if isinstance(time, int) else time)
    numbers = [_INFINITE.get(v, v) if v is not None else None for v in reading.values]
    return orjson.dumps(merged(record, features_of(features, [numbers])))


def value_as(source: "Input") -> Callable[[Reading], bytes]:
    """The same, as the settings under `input` want a record."""

    def value(reading: Reading) -> bytes:
        return value_of(
            reading,
            source.format,
            source.features,
            timestamp=source.timestamp,
            unit=source.timestamp_unit,
            sensor=key_field(source.key),
        )

    return value


# What a decoder takes for infinite; as such JSON cannot say it.
_INFINITE: dict[float, Any] = {math.inf: orjson.Fragment(b"1e999"), -math.inf: orjson.Fragment(b"-1e999")}


# Columns.


def _place(file: CsvFile, name: str, option: str) -> int:
    """The column of that name."""
    wanted = name.strip()
    if file.columns.count(wanted) == 1:
        return file.columns.index(wanted)
    if wanted in file.columns:
        raise ConfigurationError(
            f"{option}: {file.path} has {file.columns.count(wanted)} columns {wanted}",
            expected="a name that one column has",
            do="rename one of them in the file",
        )
    near = difflib.get_close_matches(wanted.lower(), [column.lower() for column in file.columns], 1, 0.5)
    nearest = next((f", the nearest is {column}" for column in file.columns if near and column.lower() == near[0]), "")
    raise ConfigurationError(
        f"{option}: {file.path} has no column {wanted}{nearest}",
        expected=f"one of {_listed(file.columns)}",
        do="correct the name, or the separator (--separator) if these are no names",
    )


def _places(file: CsvFile, names: str, option: str) -> list[int]:
    """Several, with commas between; a name that holds one stands in quotes, or alone."""
    if names.strip() in file.columns:
        return [_place(file, names, option)]
    return [_place(file, name, option) for name in next(csv.reader([names], skipinitialspace=True))]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:COLUMNS_SHOWN])
    return f"{shown} and {len(names) - COLUMNS_SHOWN} more" if len(names) > COLUMNS_SHOWN else shown


# Numbers.


def _decimal(file: CsvFile, picked: Sequence[int], wanted: str) -> tuple[Callable[[str], float | None], str]:
    """How numbers are read, and that in words. A comma is a decimal comma in every cell of the file or in none."""
    if wanted == "auto":
        wanted = _decimal_of(file, picked)
    return (_with_comma, "decimal commas") if wanted == "comma" else (_with_point, "")


def _decimal_of(file: CsvFile, picked: Sequence[int]) -> str:
    texts = [cells[i].strip() for cells in file.sample for i in picked if i < len(cells)]
    commas = [text for text in texts if _COMMA.fullmatch(text)]
    if not commas or any(_POINT.fullmatch(text) for text in texts):
        return "point"
    # With semicolons they are decimal commas: those who write them so chose the semicolon for it.
    if file.separator != ";" and all(_THOUSANDS.fullmatch(text) for text in commas):
        raise ConfigurationError(
            f"numbers such as {commas[0]} in {file.path} can be {commas[0].replace(',', '.')} or {commas[0].replace(',', '')}",
            expected="a number in the first rows that tells",
            do="say --decimal comma for the first; take the commas out of the file for the second",
        )
    return "comma"


def _why_none(text: str) -> str:
    """Why what looks like a number is none, in words that go on from the text; empty for what does not look like one."""
    text = text.strip()
    if _GROUPED.fullmatch(text):
        return " (thousands are set apart in it: write 1234.56, or 1234,56 in a file of decimal commas)"
    if re.fullmatch(r"[+-]?[\d.,]+\s*%", text, re.ASCII):
        return " (a percent sign: leave it out)"
    if re.fullmatch(r"[+-]?\d[\d.,]*\s*(?:[^\W\d_]|°).{0,10}", text):
        return " (something stands behind the number: leave it out)"
    return ""


def _with_point(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if value != value or "_" in text else value


def _with_comma(text: str) -> float | None:
    # In such a file 1.234 may be 1234: it is no number here.
    return None if "." in text else _with_point(text.replace(",", "."))
