"""`slotstream profile`: the bins of the training data in a CSV, for the metrics of drift.

Reads rows and steps the model as `try` does. Owns the sample that the bins are made of; what a profile is, is app.drift_profile's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from processor.app.drift_profile import Column, Profile
from processor.app.fit import codec_of, fingerprint_of, load_model, rules_of, shapes_of, slots_of
from processor.app.forms import missing_policies
from processor.app.sensor_form import sensor_form
from processor.csv_io.csv_file import CsvFile, Form
from processor.csv_io.csv_rows import Reading, Readings, Wanted, value_as, with_missing
from processor.csv_io.progress_bar import Shown
from processor.csv_io.try_model import TILE_ROWS, batches, message_of
from processor.engine import Engine
from processor.errors import SlotstreamError
from processor.loop.drift_counts import counted_predictions, counted_readings
from processor.pipeline import Pipeline
from processor.rules import Clock
from processor.settings import Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SAMPLE_MAX = 200_000  # rows: a quantile of so many is off by less than a tenth of a percent of them
SEED = 1

Floats = NDArray[np.float32]


class Sample:
    """Rows of float32, of which at most SAMPLE_MAX are kept, each with the same chance. The same rows give the same sample."""

    def __init__(self, rows_max: int = SAMPLE_MAX) -> None:
        self._rows_max, self._below, self._random = rows_max, 1.0, np.random.default_rng(SEED)
        self._parts: list[tuple[Floats, NDArray[np.float64]]] = []
        self._kept = self.rows = 0

    def add(self, numbers: Floats) -> None:
        self.rows += len(numbers)
        draw = self._random.random(len(numbers))
        self._keep(numbers, draw)
        while self._kept > self._rows_max:
            self._below /= 2
            parts, self._parts, self._kept = self._parts, [], 0
            for part, drawn in parts:
                self._keep(part, drawn)

    def _keep(self, numbers: Floats, draw: NDArray[np.float64]) -> None:
        kept = draw < self._below
        self._parts.append((numbers[kept], draw[kept]))
        self._kept += int(kept.sum())

    def columns(self, width: int) -> Floats:
        """float32 [n, width]."""
        return np.concatenate([np.zeros((0, width), np.float32), *(part for part, _ in self._parts)])


def profile_csv(settings: Settings, path: Path, form: Form, wanted: Wanted, target: Path, *, bins: int) -> str:
    """Writes the profile and returns what became of the rows. Raises ConfigurationError, ModelRefused and SlotstreamError."""
    with CsvFile(path, form) as file:
        readings = Readings(file, with_missing(wanted, settings.input.missing_values), settings.input.features)
        with Shown("profiled", file.bytes_total, bar=True, lines=False) as show:
            show.tell(readings.described)
            model = load_model(settings)
            readings.expect(model.features, f"{settings.model.path} has")
            readings.expect_numbers()
            readings.may_miss([policy != "dead_letter" for policy in missing_policies(settings, len(readings.names))])
            profiling = _Profiling(settings, model)
            for batch in batches(readings):
                profiling.take(batch)
                show.at(file.bytes_read, profiling.read)
    profile = profiling.profile(bins)
    if not profile.readings:
        raise SlotstreamError(
            f"{path} has no reading that the model can use",
            expected="rows of the training data",
            do=f"see why, row by row: slotstream try {settings.model.path} {path}",
        )
    try:
        target.write_text(profile.to_json(), encoding="utf-8")
    except OSError as error:
        found = f"{target} cannot be written ({error.strerror})"
        raise SlotstreamError(found, expected="a place for the profile", do="give -o another") from error
    left_out = profiling.read - profiling.used
    said = f"{target}: {profile.readings:,} readings, {len(profile.features)} features, {len(profile.outputs)} outputs"
    return said + (f"; {left_out:,} rows were left out, see slotstream try" if left_out else "")


class _Profiling:
    def __init__(self, settings: Settings, model: "ServableModel") -> None:
        from processor.model.tiles import Tiles

        shapes = shapes_of(model, settings)
        slots = slots_of(settings, shapes)
        rules = rules_of(settings)
        self._form = sensor_form(settings, model, shapes)
        self._value, self._key = value_as(settings.input), settings.input.key
        self._engine = Engine(Tiles(model, rows_max=min(slots, TILE_ROWS)), shapes, rules, slots=slots)
        self._pipeline = Pipeline(codec_of(settings, model, fingerprint_of(settings, model)), self._engine, rules.expire_ms)
        self._clocks = {0: Clock()}
        self._readings, self._predictions = Sample(), Sample()
        self.read = self.used = 0

    def take(self, readings: Sequence[Reading]) -> None:
        done = self._pipeline.process([message_of(reading, self._value(reading), self._key) for reading in readings], self._clocks)
        self._engine.commit()
        self._clocks |= done.clocks
        self._readings.add(counted_readings(done.batch, done.applied))
        self._predictions.add(counted_predictions(done.batch, done.applied))
        self.read += len(readings)
        self.used += int(done.applied.published(done.batch).sum())

    def profile(self, bins: int) -> Profile:
        form = self._form
        features = form.reading.own(self._readings.columns(len(form.features)))
        outputs = form.answer.own(self._predictions.columns(len(form.outputs)))
        return Profile(
            self._readings.rows,
            {name: Column.of(features[:, i], bins) for i, name in enumerate(form.features)},
            {name: Column.of(outputs[:, i], bins) for i, name in enumerate(form.outputs) if i in form.countable},
        )
