"""`slotstream try`: a model on the readings of a CSV, without a broker.

Responsible for putting the service's own codec and engine between the file's rows and a table of predictions, so that what
stands in the table is what the service would publish. Not responsible for any number in it, nor for what is a dead letter.

All sensors are in one partition, and a row's line is its offset. A record's own time is the reading's, so that old files and
future ones are taken alike; without a column for it every reading has the same.
"""

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from processor.app.fit import codec_of, fingerprint_of, load_model, rules_of, shapes_of, slots_of
from processor.app.forms import may_miss, missing_policies
from processor.app.named_columns import fields_of
from processor.codec.flat_fields import predicted
from processor.codec.plain_message import CREATE_TIME, NO_TIME, PlainMessage
from processor.codec.record_form import key_header
from processor.csv_io.alarm_report import AlarmReport, report_of
from processor.csv_io.csv_file import CsvFile, Form
from processor.csv_io.csv_rows import Reading, Readings, Wanted, value_as, with_missing
from processor.csv_io.labels import Windows
from processor.csv_io.plot import Plot
from processor.csv_io.progress_bar import Shown
from processor.engine import Engine
from processor.errors import ConfigurationError, SlotstreamError
from processor.pipeline import Pipeline
from processor.records import Output
from processor.rules import Clock
from processor.settings import Settings
from processor.words import counted

if TYPE_CHECKING:
    from processor.model.load import ServableModel

BATCH_READINGS = 4096
# Any number gives the same bits; these compile in two seconds, and keep up with a file.
TILE_ROWS = 256
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Tried:
    """What became of the rows: their number, how many have a prediction, and of the others how many of each error."""

    readings: int = 0
    predictions: int = 0
    warming_up: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    sensors: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        said = f"{counted(self.readings, 'reading')} of {counted(len(self.sensors), 'sensor')}, {counted(self.predictions, 'prediction')}"
        if self.warming_up:
            said += f", {self.warming_up:,} while warming up"
        if self.errors:
            reasons = ", ".join(f"{error} {count:,}" for error, count in self.errors.most_common())
            said += f", {counted(self.errors.total(), 'error')} ({reasons})"
        return said


def try_model(
    settings: Settings,
    path: Path,
    form: Form,
    wanted: Wanted,
    out: TextIO,
    *,
    output: Path | None,
    plot: Path | None,
    labels: Windows | None = None,
    alarms_a_day: float | None = None,
) -> Tried:
    """Writes a table of predictions to `out`, or to the file `output`. Raises ConfigurationError, ModelRefused, SlotstreamError.

    labels: when there were anomalies. alarms_a_day: for which a threshold is to be proposed.
    """
    with ExitStack() as stack:
        file = stack.enter_context(CsvFile(path, form))
        for option, target in (("--output", output), ("--plot", plot)):
            if target is not None and file.is_same_as(target):
                raise ConfigurationError(f"{option} {target} is the file that is read", expected="another one", do="give it another name")
        picture = Plot(plot) if plot is not None else None
        readings = Readings(file, with_missing(wanted, settings.input.missing_values), settings.input.features)
        # The bar and the rows do not share a terminal: whoever sees the rows sees how far they are.
        show = stack.enter_context(Shown("tried", file.bytes_total, bar=output is not None or not out.isatty(), lines=False))
        show.tell(readings.described)
        # What a model takes stands in its file, and reading that takes TensorFlow: seconds.
        model = load_model(settings)
        show.tell(f"{settings.model.path}: {model.why}")
        readings.expect(model.features, f"{settings.model.path} has")
        readings.expect_numbers()
        readings.may_miss([policy != "dead_letter" for policy in missing_policies(settings, len(readings.names))])
        if output is not None:
            out = stack.enter_context(_created(output))  # last: what was there is lost
        report = report_of(settings.alarm.raise_, settings.alarm.clear)
        trial = Trial(settings, model, readings.names, out, picture, report, labels)
        for batch in _batches(readings):
            trial.apply(batch)
            show.at(file.bytes_read, trial.tried.readings)
        if picture is not None:
            show.tell(f"{plot} is drawn" if picture.draw() else "there is nothing to draw")
        for line in report.lines(alarms_a_day) if report is not None else ():
            show.tell(line)
        show.tell(str(trial.tried))
        return trial.tried


def _created(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise SlotstreamError(
            f"{path} cannot be written ({error.strerror})", expected="a place for the predictions", do="give --output another"
        ) from error


def _batches(readings: Readings) -> Iterator[list[Reading]]:
    left = iter(readings)
    while batch := list(itertools.islice(left, BATCH_READINGS)):
        yield batch


def _message(reading: Reading, value: bytes, named: str | None) -> PlainMessage:
    """A reading as the consumer would hand it over. named: input.key."""
    kind, time_ms = (NO_TIME, -1) if isinstance(reading.timestamp, str) else (CREATE_TIME, reading.timestamp or 0)
    if reading.sensor is None:
        return PlainMessage(None, value, at=reading.line, time_ms=time_ms, kind=kind)
    key = reading.sensor.encode()
    return PlainMessage(key, value, at=reading.line, time_ms=time_ms, kind=kind, told=key_header(named, key))


@dataclass(slots=True)
class _Answer:
    """What a reading is answered with: an output's fields, or an error and what is wrong."""

    output: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    detail: str = ""


class Trial:
    """A model, its engine and the table. names: of the columns that are the features. report: of alarms; None: there are none."""

    def __init__(
        self,
        settings: Settings,
        model: "ServableModel",
        names: Sequence[str],
        out: TextIO,
        plot: Plot | None,
        report: AlarmReport | None = None,
        labels: Windows | None = None,
    ) -> None:
        from processor.model.tiles import Tiles

        shapes = shapes_of(model, settings)
        slots = slots_of(settings, shapes)
        self.tried = Tried()
        self._value, self._key = value_as(settings.input), settings.input.key
        rules = rules_of(settings)
        self._engine = Engine(Tiles(model, rows_max=min(slots, TILE_ROWS)), shapes, rules, slots=slots)
        self._pipeline = Pipeline(codec_of(settings, model, fingerprint_of(settings, model)), self._engine, rules.expire_ms)
        self._clocks = {0: Clock()}  # every reading is of partition 0
        # The features that the outputs forecast: those of output.residual, and all of them where the outputs are as many.
        outputs = model.named_outputs
        one_a_feature = len(outputs) == 1 and model.outputs == len(names) and outputs[0].rows is None
        self._forecasts = shapes.residual if len(outputs) == 1 else ()
        self._forecasts = self._forecasts or (tuple(range(len(names))) if one_a_feature else ())
        self._outputs = list(fields_of(model, settings)) or [names[i] for i in self._forecasts] or _columns(outputs)
        self._fields = fields_of(model, settings)
        self._scores = _Scores(settings, [names[i] for i in shapes.residual], [self._fields[i] for i in shapes.forecasts if self._fields])
        self._may_miss = may_miss(settings)
        self._plot, self._report, self._labels = plot, report, labels
        if plot is not None:
            title = f"{settings.model.path.name}, {model.mode}"
            plot.begin([names[i] for i in self._forecasts], model.outputs, title, self._scores.drawn)
        self._out = out
        self._table = csv.writer(out, lineterminator="\n")
        self._table.writerow(self._header())

    def _header(self) -> list[str]:
        predictions = [f"prediction_{name}" for name in self._outputs]
        held = ["held"] if self._may_miss else []
        return ["line", "sensor", "timestamp", *predictions, *self._scores.columns, *held, "warming_up", "error", "error_detail"]

    def apply(self, readings: Sequence[Reading]) -> None:
        """Advances the model by these readings, and writes a row for each."""
        for reading, answer in zip(readings, self._answers(readings), strict=True):
            self._count(reading, answer)
            self._write(reading, answer)
            if answer.output and reading.sensor is not None:
                self._show(reading.sensor, reading, answer)
        self._out.flush()

    def _show(self, sensor: str, reading: Reading, answer: _Answer) -> None:
        """Adds a reading to picture and report."""
        output = answer.output
        time, alarm = reading.timestamp if isinstance(reading.timestamp, int) else None, bool(output.get("alarm"))
        if self._plot is not None:
            measured, prediction = [reading.values[i] for i in self._forecasts], self._numbers(answer) or None
            self._plot.add(sensor, time, measured, prediction, output.get(self._scores.drawn), alarm=alarm)
        if self._report is not None:
            label = self._labels.holds(time) if self._labels is not None and time is not None else reading.label
            self._report.add(sensor, time, reading.line, output.get("score"), alarm, label)

    def _answers(self, readings: Sequence[Reading]) -> list[_Answer]:
        """As the service would: a prediction or a dead letter for each."""
        messages = [_message(reading, self._value(reading), self._key) for reading in readings]
        done = self._pipeline.process(messages, self._clocks)
        self._engine.commit()
        self._clocks |= done.clocks
        answers = [_Answer() for _ in readings]
        for i, value in zip(done.decoded.source, done.values, strict=True):
            if value is not None:
                answers[i].output = orjson.loads(value)
        for i, rejected in done.rejected:
            answers[i] = _Answer(error=rejected.error, detail=readings[i].problem or rejected.detail)
        return answers

    def _count(self, reading: Reading, answer: _Answer) -> None:
        self.tried.readings += 1
        if reading.sensor is not None:
            self.tried.sensors.add(reading.sensor)
        if answer.error:
            self.tried.errors[answer.error] += 1
        self.tried.predictions += bool(self._numbers(answer))
        self.tried.warming_up += answer.output.get("warming_up", False)

    def _numbers(self, answer: _Answer) -> list[Any]:
        """Of the prediction, none where there is none."""
        return (predicted(answer.output, self._fields) or []) if self._fields else _flat(answer.output.get("prediction"))

    def _write(self, reading: Reading, answer: _Answer) -> None:
        numbers = self._numbers(answer) or [""] * len(self._outputs)
        warming = "" if answer.error else "true" if answer.output.get("warming_up") else "false"
        held = [" ".join(map(str, answer.output.get("held", [])))] if self._may_miss else []
        said = [*held, warming, answer.error, answer.detail]
        self._table.writerow([reading.line, reading.sensor, _iso(reading.timestamp), *numbers, *self._scores.of(answer.output), *said])


class _Scores:
    """The columns of residuals and reconstructions. drawn: the score that a picture shows.

    features: those that are forecast. fields: the names of the numbers that forecast them, if they have some.
    """

    def __init__(self, settings: Settings, features: Sequence[str], fields: Sequence[str]) -> None:
        output = settings.output
        self._of = [name for name, wanted in (("residual", output.residual), ("reconstruction", output.reconstruction)) if wanted]
        self._fields = fields
        self._alarms = ["score", "alarm"] if settings.alarm.raise_ is not None else []
        self._each = [f"residual_{name}" for name in fields or features] if output.residual_each else []
        self.columns = [*self._of, *self._each, *self._alarms]
        self.drawn = "score" if self._alarms else self._of[0] if self._of else ""

    def of(self, output: Mapping[str, Any]) -> list[Any]:
        """What an output says, a number for each column."""
        each = [output.get(name) for name in self._each] if self._fields else output.get("residuals")
        alarms = [_written(output.get(name)) for name in self._alarms]
        return [*(output.get(name) for name in self._of), *(each or [None] * len(self._each)), *alarms]


def _written(value: float | bool | None) -> float | str | None:
    return str(value).lower() if isinstance(value, bool) else value


def _columns(outputs: Sequence[Output]) -> list[str]:
    """Names for the numbers of a prediction: of several outputs each under its own."""
    columns = list[str]()
    for output in outputs:
        numbers = [str(i) for i in range(1, output.last - output.first + 1)]
        of = output.name if len(outputs) > 1 else ""
        columns += [of] if of and len(numbers) == 1 else [f"{of}_{number}" if of else number for number in numbers]
    return columns


def _flat(prediction: Any) -> list[Any]:
    """A prediction of several outputs or steps in one row, one after another."""
    if isinstance(prediction, dict):
        return [number for part in prediction.values() for number in _flat(part)]
    if isinstance(prediction, list):
        return [number for part in prediction for number in (part if isinstance(part, list) else [part])]
    return []


def _iso(timestamp: int | str | None) -> str:
    if not isinstance(timestamp, int):
        return ""
    try:
        return (EPOCH + timedelta(milliseconds=timestamp)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(timestamp)
