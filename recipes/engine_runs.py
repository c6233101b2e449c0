"""Remaining useful life: an engine's runs are sequences of their own, and three ways to say where one begins.

    python -m recipes.engine_runs [--bootstrap HOST:PORT]
"""

import sys
from itertools import chain, zip_longest
from pathlib import Path

import keras
import numpy as np

from recipes.running import Outcome, Record, Service, difference, main, say

FEATURES, RUNS = 4, 3
# Two engines for each way: the header sequence, a null record between runs, a pause that reset.after_gap sees.
ENGINES = [f"{way}-{number}" for way in ("header", "null", "gap") for number in (1, 2)]
CYCLE_MS, PAUSE_MS, BEGIN_MS = 3_600_000, 24 * 3_600_000, 1_700_000_000_000


def measured_runs() -> dict[str, list[np.ndarray]]:
    """Each engine's runs to failure, [cycles, features]: measurements that wear changes more and more."""
    rng = np.random.default_rng(4)
    runs: dict[str, list[np.ndarray]] = {}
    for engine in ENGINES:
        for cycles in rng.integers(15, 40, RUNS):
            wear = np.linspace(0, 1, cycles)[:, None] ** 2 * rng.uniform(0.5, 2, FEATURES)
            runs.setdefault(engine, []).append((wear + rng.normal(0, 0.1, wear.shape)).astype(np.float32))
    return runs


# The code that people have: each run alone.


def life_model() -> keras.Model:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    return keras.Sequential([keras.Input((None, FEATURES)), layers.LSTM(24, return_sequences=True), layers.Dense(1, activation="softplus")])


def run_by_run(model: keras.Model, runs: list[np.ndarray]) -> np.ndarray:
    """One engine's predictions, [cycles, 1]."""
    return np.concatenate([model.predict(run[None], verbose=0)[0] for run in runs])


def without_resets(model: keras.Model, runs: list[np.ndarray]) -> np.ndarray:
    """What a state that nobody resets would give: a repaired engine that remembers its failure."""
    return model.predict(np.concatenate(runs)[None], verbose=0)[0]


# With slotstream. Each way to say it is enough by itself.


def records_of(engine: str, runs: list[np.ndarray]) -> list[Record]:
    way, records, now_ms = engine.partition("-")[0], list[Record](), BEGIN_MS
    for run in runs:
        if way == "null" and records:
            records.append(Record(engine, None))
        for cycle, reading in enumerate(run):
            records.append(Record(engine, reading, now_ms, "start" if way == "header" and cycle == 0 else None))
            now_ms += CYCLE_MS
        now_ms += PAUSE_MS if way == "gap" else 0
    return records


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("Remaining useful life: the runs of six engines")
    model, runs = life_model(), measured_runs()
    expected = {engine: run_by_run(model, runs[engine]) for engine in ENGINES}
    mixed = max(difference(without_resets(model, runs[engine]), expected[engine]) for engine in ENGINES)
    say(f"  Keras: without resets the predictions would be off by up to {mixed:.2g}")

    by_engine = [records_of(engine, runs[engine]) for engine in ENGINES]
    records = [record for record in chain.from_iterable(zip_longest(*by_engine)) if record is not None]  # the engines speak in turn
    readings = sum(record.values is not None for record in records)
    with Service(bootstrap, folder, model, {"reset": {"after_gap": "6h"}}) as service:
        service.feed(records)
        outputs = service.outputs(readings)

    outcomes = []
    for way in ("header", "null", "gap"):
        engines = [engine for engine in ENGINES if engine.startswith(way)]
        found = {engine: [output for output in outputs if output["sensor"] == engine] for engine in engines}
        largest = max(difference([output["prediction"] for output in found[engine]], expected[engine]) for engine in engines)
        begun = sum(output["steps"] == 1 for output in chain.from_iterable(found.values()))
        say(f"  {way}: {begun} runs begun, of {RUNS * len(engines)}")
        fed = sum(len(run) for engine in engines for run in runs[engine])
        outcomes.append(Outcome(f"slotstream, {way}", fed, sum(map(len, found.values())), largest))
        say(str(outcomes[-1]))
    return outcomes


if __name__ == "__main__":
    sys.exit(main([run]))
