"""What `slotstream plan` measures here: the model compiled, and batches of its readings through codec and engine.

In this process, without a broker, in a few seconds: decode, apply and encode as the loop calls them, on as many sensors as an
instance will have (up to SENSORS_MAX), seated and parked in the same proportion. What is measured is the least of several tries
and, of wall and CPU time, the lesser: other work on the machine makes both only longer.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from processor.app.fit import TILE_ROWS_MAX, codec_of, fingerprint_of, load_model, rules_of, shapes_of
from processor.app.schema_fit import without_schema
from processor.codec.plain_message import PlainMessage
from processor.codec.record_form import features_of, in_unit, merged, put
from processor.engine import Engine, Shapes
from processor.errors import ConfigurationError
from processor.pipeline import Codec, Pipeline
from processor.rules import Clock
from processor.settings import Settings
from processor.sizing.plan_parts import Measured, Stepped, Wanted
from processor.slots.rows import Rows

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SIZES = (16, 64, 256, 1024, 4096)
SENSORS_MAX = 100_000
TRIES_S = 0.4  # for each size of batch
TRIES_MIN, TRIES_MAX = 3, 200
NOW_MS = 1_700_000_000_000


def measure(settings: Settings, wanted: Wanted) -> Measured:
    """Raises ModelRefused, ConfigurationError."""
    if wanted.steps > 1 and settings.input.features is not None:
        raise ConfigurationError(
            f"{wanted.steps} readings a record, and features in fields of their own (input.features)",
            expected="one reading a record there",
            do="leave --steps out, or set input.features to null",
        )
    model = load_model(settings)
    from processor.model.tiles import Tiles

    shapes = shapes_of(model, settings)
    tiles = Tiles(model, rows_max=min(settings.batch.readings_max, TILE_ROWS_MAX), log=structlog.get_logger(__name__))
    start_s = time.process_time()  # all that a start takes of the processor, from the first import on
    base_bytes = resident_bytes()
    sensors = max(1, min(SENSORS_MAX, wanted.sensors // (wanted.instances or 1)))
    engine = Engine(tiles, shapes, rules_of(settings), slots=_slots(settings, sensors))
    codec = codec_of(without_schema(settings), model, fingerprint_of(settings, model))
    feed = _Feed(settings, model, wanted, sensors)
    _fill(engine, shapes, feed.keys)
    sizes = [size for size in SIZES if size <= settings.batch.readings_max * wanted.steps] or [1]
    found, output_bytes = list[Stepped](), 0
    for size in sizes:
        stepped, output_bytes = _steps(codec, engine, feed, max(1, size // wanted.steps))
        found.append(stepped)
    return Measured(
        mode=model.mode,
        features=shapes.features,
        outputs=shapes.outputs,
        row_numbers=shapes.row_width,
        base_bytes=base_bytes,
        start_s=start_s,
        batches=tuple(found),
        copy_row_s=_copy_row_s(engine),
        value_bytes=len(feed.values[0]),
        output_bytes=output_bytes,
        busy=os.getloadavg()[0] > (os.cpu_count() or 1),
    )


def resident_bytes() -> int:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Feed:
    """Readings of sensors drawn at random, in the settings' own format."""

    def __init__(self, settings: Settings, model: "ServableModel", wanted: Wanted, sensors: int) -> None:
        self._rng = np.random.default_rng(1)
        self.keys = [str(i).zfill(wanted.key_bytes).encode()[-max(wanted.key_bytes, len(str(sensors))) :] for i in range(sensors)]
        readings = self._rng.normal(size=(64, wanted.steps, model.features)).astype(np.float32)
        self.values = [_encoded(settings, each) for each in readings]
        self.steps, self._offset = wanted.steps, 0

    def messages(self, count: int) -> list[PlainMessage]:
        chosen = self._rng.integers(0, len(self.keys), count).tolist()
        self._offset += count
        first = self._offset - count
        values = itertools.cycle(self.values)
        return [PlainMessage(self.keys[key], next(values), at=first + i, time_ms=NOW_MS) for i, key in enumerate(chosen)]


def _encoded(settings: Settings, readings: Any) -> bytes:
    if settings.input.format == "float32":
        return bytes(readings.astype("<f4").tobytes())
    numbers = [[round(float(number), 4) for number in reading] for reading in readings]
    record: dict[str, Any] = {}
    if settings.input.timestamp is not None:
        put(record, settings.input.timestamp, in_unit(NOW_MS, settings.input.timestamp_unit))
    return json.dumps(merged(record, features_of(settings.input.features, numbers))).encode()


def _slots(settings: Settings, sensors: int) -> int:
    """None is parked unless the settings say so."""
    return sensors if settings.slots == "auto" else min(sensors, int(settings.slots))


def _fill(engine: Engine, shapes: Shapes, keys: list[bytes]) -> None:
    rows = Rows.zeros(len(keys), shapes.row_width)
    rows.applied[:], rows.steps[:], rows.event_ms[:] = -1, 1, NOW_MS
    engine.load(0, keys, rows)


def _steps(codec: Codec, engine: Engine, feed: _Feed, records: int) -> tuple[Stepped, int]:
    """The fastest of several batches, stage by stage; and the bytes of an output."""
    best: dict[str, tuple[float, float]] = {}
    pipeline = Pipeline(codec, engine, timed=lambda stage: _timed(best, stage))
    until_s, tries, output_bytes = time.perf_counter() + TRIES_S, 0, 0
    while tries < TRIES_MIN or (time.perf_counter() < until_s and tries < TRIES_MAX):
        tries += 1
        messages = feed.messages(records)
        values = pipeline.process(messages, {0: Clock()}).values
        engine.commit()
        output_bytes = max(len(value or b"") for value in values)
    seconds = {stage: min(wall, cpu) if cpu > 0 else wall for stage, (wall, cpu) in best.items()}
    cpu_s = sum(cpu for _, cpu in best.values())
    return Stepped(
        records * feed.steps, seconds["decode"], seconds["apply"], seconds["encode"], max(cpu_s, sum(seconds.values()))
    ), output_bytes


@contextmanager
def _timed(best: dict[str, tuple[float, float]], stage: str) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    before = best.get(stage, (wall_s, cpu_s))
    best[stage] = (min(before[0], wall_s), min(before[1], cpu_s))


def _copy_row_s(engine: Engine) -> float:
    """As a checkpoint takes a partition's rows."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(3):
        with _timed(best, "copy"):
            keys, _, _ = engine.copy(0)
    wall, cpu = best["copy"]
    return (min(wall, cpu) if cpu > 0 else wall) / len(keys)
