"""Trains the demo's model: a small recurrent forecaster of the simulated plant, and measures what it is good for.

    python scripts/train_demo_model.py          (about 2 minutes on two cores; the same bytes again on the same machine)

Writes processor/demo/demo.keras and processor/demo/demo_model.json. The model sees healthy machines only and learns to predict
the next reading of all four features. Its residual (mean absolute difference of a reading and the prediction before it) then stands
out where a machine behaves as no healthy one does.

What the figures in demo_model.json mean, all on seeds that training never saw:

- `forecast_mae`: mean absolute error of the prediction on healthy machines, after the warm-up; `persistence_mae`: of saying that the
  next reading is like this one.
- A sensor is *flagged* at a tick when the mean of its last `mean_of` residuals exceeds `threshold`; not before `warmup_steps`.
- `threshold` is `margin` times the largest such mean of the healthy threshold seed.
- An *alarm* is an unbroken stretch of flagged ticks of one sensor, breaks of up to `mean_of` ticks allowed. It is right if a fault of
  that sensor was active in it or at most `mean_of` ticks before it. `precision` = right alarms / alarms.
- A fault is *found* if its sensor is flagged while it is active. `recall` = found / faults that had at least `judged_after` ticks.
- `delay_ticks`: from a found fault's beginning to its first flag, the median.
"""

import json
import re
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processor.demo.plant import FEATURES, Fault, FaultPlan, Plant
from processor.model.backend import keras, tf

DEMO = Path(__file__).resolve().parents[1] / "processor" / "demo"
UNITS = 40
WINDOW_TICKS = 192
EPOCHS = 12
TRAIN_SEEDS = (101, 102, 103)
THRESHOLD_SEED = 201
TEST_SEEDS = (301, 302, 303)
TEST_SENSORS, TEST_TICKS = 500, 1440
WARMUP_STEPS = 16
MEAN_OF = 8
MARGIN = 1.1
JUDGED_AFTER_TICKS = 60

Readings = NDArray[np.float32]  # [ticks, sensors, 4]
Residuals = NDArray[np.float32]  # [ticks, sensors]


def readings(seed: int, sensors: int, ticks: int, *, faulty: bool) -> Readings:
    plant = Plant(seed, sensors, faulty=faulty)
    return np.stack([plant.tick()[1] for _ in range(ticks)])


def build() -> keras.Model:
    inputs = keras.Input((None, len(FEATURES)), name="readings")
    hidden = keras.layers.LSTM(UNITS, return_sequences=True, name="memory")(inputs)
    # The change since the last reading is easier to learn than the reading, and a dense layer sees what came in as well.
    joined = keras.layers.Concatenate(name="joined")([inputs, hidden])
    outputs = keras.layers.Dense(len(FEATURES), name="forecast")(joined)
    return keras.Model(inputs, outputs, name="plant")


def train(model: keras.Model) -> None:
    windows = np.concatenate([as_windows(readings(seed, 300, WINDOW_TICKS * 6 + 1, faulty=False)) for seed in TRAIN_SEEDS])
    rate = keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * (len(windows) // 64))
    model.compile(keras.optimizers.Adam(rate), loss="mae")
    model.fit(windows[:, :-1], windows[:, 1:], batch_size=64, epochs=EPOCHS, shuffle=True, verbose=2)


def as_windows(healthy: Readings) -> Readings:
    """[windows, WINDOW_TICKS + 1, 4]: every sensor's readings cut into pieces that share their last and first reading."""
    starts = range(0, len(healthy) - WINDOW_TICKS, WINDOW_TICKS)
    return np.concatenate([healthy[start : start + WINDOW_TICKS + 1].transpose(1, 0, 2) for start in starts])


def residuals(model: keras.Model, seen: Readings) -> Residuals:
    """[ticks, sensors]; the first tick has no prediction before it and is not a number."""
    forecast = model.predict(seen.transpose(1, 0, 2), batch_size=128, verbose=0).transpose(1, 0, 2)
    difference = np.full(seen.shape[:2], np.nan, np.float32)
    difference[1:] = np.abs(seen[1:] - forecast[:-1]).mean(axis=2)
    return difference


def means(residual: Residuals) -> Residuals:
    """The mean of the last MEAN_OF residuals, 0 during the warm-up."""
    total = np.cumsum(np.nan_to_num(residual), axis=0, dtype=np.float64)
    mean = np.zeros_like(residual)
    mean[MEAN_OF:] = (total[MEAN_OF:] - total[:-MEAN_OF]) / MEAN_OF
    mean[:WARMUP_STEPS] = 0
    return mean


def alarms(flagged: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches (first, last tick) of one sensor's flagged ticks."""
    stretches: list[tuple[int, int]] = []
    for tick in np.flatnonzero(flagged).tolist():
        if stretches and tick - stretches[-1][1] <= MEAN_OF + 1:
            stretches[-1] = (stretches[-1][0], tick)
        else:
            stretches.append((tick, tick))
    return stretches


def judge(flagged: NDArray[np.bool_], faults: list[Fault]) -> dict[str, list[float]]:
    """Per alarm whether it is right; per judged fault the delay in ticks, infinite if it was not found, under its kind."""
    result: dict[str, list[float]] = {"alarms": []}
    for sensor in range(flagged.shape[1]):
        own = [fault for fault in faults if fault.sensor == sensor]
        for first, last in alarms(flagged[:, sensor]):
            result["alarms"].append(float(any(f.start_tick <= last and first < f.end_tick + MEAN_OF for f in own)))
        for fault in own:
            ticks = np.flatnonzero(flagged[fault.start_tick : fault.end_tick, sensor])
            if len(flagged) - fault.start_tick >= JUDGED_AFTER_TICKS:
                result.setdefault(fault.kind, []).append(float(ticks[0]) if len(ticks) else np.inf)
    return result


def measure(model: keras.Model) -> dict[str, object]:
    threshold = MARGIN * float(means(residuals(model, readings(THRESHOLD_SEED, TEST_SENSORS, TEST_TICKS, faulty=False))).max())
    forecast, persistence = [], []
    judged: dict[str, list[float]] = {}
    for seed in TEST_SEEDS:
        healthy = readings(seed, TEST_SENSORS, TEST_TICKS, faulty=False)
        forecast.append(float(residuals(model, healthy)[WARMUP_STEPS:].mean()))
        persistence.append(float(np.abs(np.diff(healthy[WARMUP_STEPS - 1 :], axis=0)).mean()))
        flagged = means(residuals(model, readings(seed, TEST_SENSORS, TEST_TICKS, faulty=True))) > threshold
        for name, values in judge(flagged, FaultPlan(seed, TEST_SENSORS).until(TEST_TICKS - 1)).items():
            judged.setdefault(name, []).extend(values)
    right = judged.pop("alarms")
    delays = np.array([delay for values in judged.values() for delay in values])
    return {
        "threshold": round(threshold, 4),
        "mean_of": MEAN_OF,
        "margin": MARGIN,
        "warmup_steps": WARMUP_STEPS,
        "judged_after": JUDGED_AFTER_TICKS,
        "test": {"seeds": TEST_SEEDS, "sensors": TEST_SENSORS, "ticks": TEST_TICKS},
        "forecast_mae": round(float(np.mean(forecast)), 4),
        "persistence_mae": round(float(np.mean(persistence)), 4),
        "alarms": len(right),
        "precision": round(float(np.mean(right)), 4),
        "faults": len(delays),
        "recall": round(float(np.isfinite(delays).mean()), 4),
        "delay_ticks": float(np.median(delays[np.isfinite(delays)])),
        "recall_by_kind": {kind: round(float(np.isfinite(values).mean()), 4) for kind, values in sorted(judged.items())},
    }


def save(model: keras.Model, path: Path) -> None:
    """Only what serving needs, and the same bytes for the same weights: no optimizer, no dates, no addresses of objects."""
    bare = build()
    bare.set_weights(model.get_weights())
    bare.save(path)
    make_reproducible(path)


def make_reproducible(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in sorted(archive.namelist())}
    parts["metadata.json"] = json.dumps(json.loads(parts["metadata.json"]) | {"date_saved": "1980-01-01@00:00:00"}).encode()
    numbers: dict[bytes, bytes] = {}
    parts["config.json"] = re.sub(
        rb'(?<="shared_object_id": )\d+', lambda found: numbers.setdefault(found[0], b"%d" % len(numbers)), parts["config.json"]
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def main() -> None:
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    began = time.monotonic()
    model = build()
    train(model)
    figures = measure(model)
    save(model, DEMO / "demo.keras")
    (DEMO / "demo_model.json").write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(f"{time.monotonic() - began:.0f} s, {(DEMO / 'demo.keras').stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
