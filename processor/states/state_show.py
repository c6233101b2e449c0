"""`slotstream state show`: one sensor's state row as the newest checkpoint has it, layer by layer.

Responsible for cutting the row as the step packed it, and for saying so where it cannot: the layers are known by the model file, and
only if the checkpoint is of that file and of the settings that decide.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.app.fit import fingerprint_of, load_model, shapes_of
from processor.app.sensor_form import SATURATED
from processor.checkpoint.snapshot import Snapshot
from processor.engine import Shapes
from processor.errors import ConfigurationError, SlotstreamError
from processor.settings import Settings, format_duration
from processor.states.display import age_said, as_time, keys_of, printable
from processor.states.newest import checkpoints

if TYPE_CHECKING:
    from processor.model.load import ServableModel

READINGS_SHOWN = 20
FEATURES_SHOWN = 8


def show(settings: Settings, sensor: str, *, partition: int | None, tell: Callable[[str], None]) -> Iterator[str]:
    """Lines about each row that goes by this name. Raises SlotstreamError if there is none."""
    tell(age_said(settings))
    keys, model, shown_any = keys_of(sensor), _Model(settings), False
    for seen in checkpoints(settings, partition):
        for key in keys:
            if key in seen.snapshot.keys:
                yield from ([""] if shown_any else [])
                yield seen.described(time.time())
                yield from _shown(sensor, seen.snapshot, seen.snapshot.keys.index(key), model, settings)
                shown_any = True
    if not shown_any:
        raise no_row(settings, [sensor], partition)


def no_row(settings: Settings, sensors: Sequence[str], partition: int | None) -> SlotstreamError:
    """These sensors are in no checkpoint."""
    where = "any partition" if partition is None else f"partition {partition}"
    interval = format_duration(settings.checkpoint.interval)
    return SlotstreamError(
        f"no checkpoint has a row of {', '.join(map(printable, sensors))} in {where}",
        expected="a sensor's name as `slotstream state list` shows it",
        do=f"correct the name; if its first readings came just now, wait for the next checkpoint ({interval})",
    )


class _Model:
    """The settings' model, loaded when it is first asked for: TensorFlow takes seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: tuple[ServableModel, Shapes] | None = None

    def of(self, snapshot: Snapshot) -> "tuple[ServableModel, Shapes] | str":
        """The model that the rows are of, or why it is not known."""
        try:
            self._loaded = self._loaded or self._load()
        except ConfigurationError as error:
            return error.found
        model, shapes = self._loaded
        fingerprint, width = fingerprint_of(self._settings, model), snapshot.rows.state.shape[1]
        if fingerprint != snapshot.beginning.fingerprint or width != shapes.row_width:
            of = snapshot.beginning.fingerprint[:8]
            return f"the checkpoint is of model {of}, and {model.path} with the settings that decide is {fingerprint[:8]}"
        return model, shapes

    def _load(self) -> "tuple[ServableModel, Shapes]":
        model = load_model(self._settings)
        return model, shapes_of(model, self._settings)


def _shown(sensor: str, snapshot: Snapshot, at: int, model: _Model, settings: Settings) -> Iterator[str]:
    rows = snapshot.rows
    steps, row = int(rows.steps[at]), rows.state[at]
    yield f"sensor      {printable(sensor)}"
    yield f"steps       {steps} since its last reset" + (", and readings before them were lost" if rows.incomplete[at] else "")
    yield f"last event  {as_time(int(rows.event_ms[at]))}"
    yield f"applied     up to offset {int(rows.applied[at])}"
    yield f"row         {len(row)} numbers, {4 * len(row)} bytes"
    known = model.of(snapshot)
    if isinstance(known, str):
        yield f"layers      cannot be named: {known}"
        yield from _table([("all", "", "", *_figures(row), "")])
        return
    served, shapes = known
    if shapes.window is not None:
        yield from _window(row[: shapes.width].reshape(shapes.window, -1), steps, settings.input.features)
    else:
        yield from _layers(served, row)
    if shapes.residual and steps >= (shapes.window or 1):
        yield f"previous prediction, which the next reading is compared with: {_numbers(row[shapes.previous])}"
    if shapes.hold:
        names = settings.input.features or range(shapes.features)
        values = row[shapes.held][: len(shapes.hold)].tolist()
        held = ", ".join(f"{names[feature]} {value:.6g}" for feature, value in zip(shapes.hold, values, strict=True))
        yield f"held values, in the model's scale: {held}"


def _layers(model: "ServableModel", row: NDArray[np.float32]) -> Iterator[str]:
    from processor.model.layout import parts

    lines = []
    for part in parts(model):
        numbers = row[part.begin : part.end]
        saturated = f"{float((np.abs(numbers) > SATURATED).mean()):.0%}" if part.bounded else ""
        lines.append((part.layer, part.type, part.state, *_figures(numbers), saturated))
    yield from _table(lines)


def _figures(numbers: NDArray[np.float32]) -> tuple[str, ...]:
    """Width, min, mean and max."""
    if not len(numbers):
        return "0", "", "", ""
    return str(len(numbers)), *(f"{float(x):.4g}" for x in (numbers.min(), numbers.mean(dtype=np.float64), numbers.max()))


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    heads = ("LAYER", "TYPE", "STATE", "WIDTH", "MIN", "MEAN", "MAX", f"|x| > {SATURATED}")
    widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]
    for cells in (heads, *lines):
        # Names to the left, numbers to the right.
        padded = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        yield "  ".join(padded).rstrip()


def _window(readings: NDArray[np.float32], steps: int, names: Sequence[str] | None) -> Iterator[str]:
    """The readings that the model sees beside the coming one, oldest first, without the zeros where no reading has come yet."""
    window, features = readings.shape
    there = min(steps, window)
    yield f"window      {there} of {window} readings" + ("" if there == window else ": there is no prediction until it is full")
    last = readings[window - there :][-READINGS_SHOWN:]
    if there > len(last):
        yield f"the last {len(last)} of them:"
    heads: list[Any] = list(names or range(features))[:FEATURES_SHOWN]
    more = [f"and {features - FEATURES_SHOWN} more"] if features > FEATURES_SHOWN else []
    yield "  ".join([f"{'READING':>7}", *(f"{head!s:>12}" for head in heads), *more])
    for i, reading in enumerate(last, there - len(last) + 1):
        yield "  ".join([f"{i:7}", *(f"{float(x):12.6g}" for x in reading[:FEATURES_SHOWN])])


def _numbers(row: NDArray[np.float32]) -> str:
    shown = ", ".join(f"{float(x):.6g}" for x in row[:READINGS_SHOWN])
    return f"{shown} and {len(row) - READINGS_SHOWN} more" if len(row) > READINGS_SHOWN else shown
