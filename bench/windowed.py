"""The windowed rung against a bare batched call of the same model on as many windows: what the window's keeping costs.

Bare is the fastest plain way to use the model: one call of it, compiled by XLA, on a tensor of whole windows. A rung's call also
shifts the windows, watches for numbers that are not finite, and takes and gives NumPy arrays. No Kafka.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

STEPS, UNITS = 30, 64
ROWS = (64, 512, 2048)
CALLS = 40
WANTED = 0.80


def measure(features: int) -> None:
    from processor.model.backend import keras, tf
    from processor.model.load import load
    from processor.model.tiles import Tiles

    keras.utils.set_random_seed(1)
    layers = [keras.Input((STEPS, features)), keras.layers.LSTM(UNITS), keras.layers.Dense(1)]
    with tempfile.TemporaryDirectory() as folder:
        keras.Sequential(layers).save(Path(folder) / "model.keras")
        model = load(Path(folder) / "model.keras")
    begun_s = time.perf_counter()
    tiles = Tiles(model)
    print(f"windowed, {STEPS} steps of LSTM({UNITS}): {len(tiles.shapes)} rungs ready after {time.perf_counter() - begun_s:.1f} s")
    print(f"{'rows':18}{'rung, ms':>12}{'bare, ms':>12}{'ratio':>8}{'wanted':>8}")
    bare = tf.function(model.keras_model, jit_compile=True)
    for rows in ROWS:
        rung = next(i for i, shape in enumerate(tiles.shapes) if shape.rows == rows)
        x, counts, state = tiles.buffers(rung)
        windows = np.random.default_rng(0).normal(size=(rows, STEPS, features)).astype(np.float32)
        x[0], counts[:], state[:] = windows[:, -1], 1, windows.reshape(rows, -1)
        tensor = tf.constant(windows)
        pairs = _alternately(lambda t=tensor: bare(t).numpy(), lambda r=rung, a=(x, counts, 1, state): tiles.run(r, *a))
        ratio = statistics.median(one / other for one, other in pairs)
        bare_s, rung_s = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{rows:<18,}{rung_s * 1000:12.2f}{bare_s * 1000:12.2f}{ratio:8.2f}{WANTED:8.2f}")


def _alternately(one: Callable[[], object], other: Callable[[], object]) -> list[tuple[float, float]]:
    """Seconds of each call, in pairs; the first pair, which compiles, is left out."""
    pairs = []
    for _ in range(CALLS + 1):
        times = []
        for call in (one, other):
            begun_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun_s)
        pairs.append((times[0], times[1]))
    return pairs[1:]
