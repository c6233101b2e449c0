"""The ladder: the same bits in every rung, ragged tiles, and the mask of finite steps."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiers import few

from processor.errors import ModelRefused
from processor.model import rungs
from processor.model import tiles as tiles_module
from processor.model.load import ServableModel, load
from processor.model.rungs import LADDER, REFERENCE, RungShape
from processor.model.tiles import Tiles, reference_rung

L = keras.layers
F = 4


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def info(self, event: str, **values: Any) -> None:
        self.events.append({"event": event, **values})

    warning = info

    def compiled(self) -> dict[str, Any]:
        """What was kept; on a busy machine lines about its progress come before it."""
        return next(event for event in self.events if event["event"] == "tiles compiled")


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)


def served(tmp_path: Path, *layers: Any, steps: int | None = None, **options: Any) -> ServableModel:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((steps, F)), *layers]).save(path)
    return load(path, **options)


def one_at_a_time(model: ServableModel, sequences: list[np.ndarray]) -> list[tuple[bytes, bytes]]:
    """The reference: each sequence alone, one reading a call; the bytes of its outputs and of its last state."""
    run, shape = reference_rung(model), REFERENCE
    found = []
    for sequence in sequences:
        state = np.zeros((shape.rows, model.width), np.float32)
        counts = np.zeros(shape.rows, np.int32)
        counts[0] = 1
        ys = b""
        for reading in sequence:
            x = np.zeros((shape.steps_max, shape.rows, F), np.float32)
            x[0, 0] = reading
            y, state, _ = run(x, counts, 1, state)
            ys += y[0, 0].tobytes()
        found.append((ys, state[0].tobytes()))
    return found


def ragged(tiles: Tiles, model: ServableModel, rung: int, sequences: list[np.ndarray]) -> list[tuple[bytes, bytes]]:
    """All sequences in one call, spread over the tile's rows, its other rows full of other readings."""
    shape, rng = tiles.shapes[rung], np.random.default_rng(rung)
    rows = rng.permutation(shape.rows)[: len(sequences)]
    x = rng.normal(size=(shape.steps_max, shape.rows, F)).astype(np.float32)
    state = rng.normal(size=(shape.rows, model.width)).astype(np.float32)
    counts = rng.integers(0, 9, shape.rows).astype(np.int32)
    for row, sequence in zip(rows, sequences, strict=True):
        x[: len(sequence), row], state[row], counts[row] = sequence, 0, len(sequence)
    y, state, finite = tiles.run(rung, x, counts, int(counts.max()), state)
    assert finite.all()
    return [(y[: len(s), row].tobytes(), state[row].tobytes()) for row, s in zip(rows, sequences, strict=True)]


# The rows that the largest rung must hold, the layers, and the steps that the file fixes.
LADDERS: dict[str, tuple[int, Any, int | None]] = {
    "lstm, the whole ladder": (4096, lambda: [L.LSTM(16), L.Dense(2)], None),
    "stacked": (128, lambda: [L.GRU(33, return_sequences=True), L.LSTM(9), L.Dense(3, activation="softmax")], None),
    "cells": (64, lambda: [L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.GRUCell(6)])), L.BatchNormalization()], None),
    "windowed": (64, lambda: [L.Bidirectional(L.LSTM(5)), L.Dense(1)], 6),
    "convolution": (128, lambda: [L.Conv1D(8, 3, activation="relu"), L.Flatten(), L.Dense(2)], 6),
    "convolution and lstm": (128, lambda: [L.Conv1D(16, 3), L.MaxPooling1D(2), L.LSTM(16), L.Dense(1)], 10),
    "autoencoder": (128, lambda: [L.LSTM(16), L.RepeatVector(6), L.GRU(8, return_sequences=True), L.Dense(F)], 6),
    "pooled": (64, lambda: [L.Conv1D(8, 2, groups=2), L.SeparableConv1D(8, 2), L.GlobalAveragePooling1D()], 6),
    "no state": (64, lambda: [L.Dense(4), L.Dense(2)], None),
}


@pytest.mark.parametrize("name", few(LADDERS, "stacked", "no state", long=("windowed", "convolution and lstm")))
def test_bits_do_not_depend_on_rung_row_neighbours_or_calls(tmp_path: Path, name: str) -> None:
    rows_max, layers, steps = LADDERS[name]
    model = served(tmp_path, *layers(), steps=steps)
    tiles = Tiles(model, rows_max=rows_max, log=Log())
    assert REFERENCE.rows in [shape.rows for shape in tiles.shapes]
    rng = np.random.default_rng(5)
    sequences = [rng.normal(size=(length, F)).astype(np.float32) for length in (1, 2, 3, 5, 7, 8)]
    expected = one_at_a_time(model, sequences)
    for rung in range(len(tiles.shapes)):
        assert ragged(tiles, model, rung, sequences) == expected, tiles.shapes[rung]


def test_only_rungs_that_can_be_filled_and_the_reference_are_compiled(tmp_path: Path) -> None:
    log = Log()
    tiles = Tiles(served(tmp_path, L.LSTM(4)), rows_max=50, log=log)
    logged = log.compiled()
    assert sorted(logged["rows_kept"] + logged["rows_dropped"]) == [8, 64, REFERENCE.rows]
    assert [shape.rows for shape in tiles.shapes] == logged["rows_kept"]
    assert all(shape in LADDER for shape in tiles.shapes)


def test_rungs_compiled_beside_are_taken_up_when_asked_and_are_the_same(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(4))
    expected = Tiles(model, rows_max=64, log=Log()).shapes
    tiles = Tiles(model, rows_max=64, log=Log(), beside=True)
    assert tiles.shapes == (REFERENCE,)
    tiles._thread.join(300)
    assert tiles.shapes == (REFERENCE,), "nothing changes until the loop asks"
    tiles.adopt()
    assert tiles.shapes == expected
    sequence = np.random.default_rng(5).normal(size=(3, F)).astype(np.float32)
    for rung in range(len(expected)):
        assert ragged(tiles, model, rung, [sequence]) == one_at_a_time(model, [sequence])
    tiles.close()


def test_what_is_compiled_beside_ends_with_the_rung_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, compile_one, begun = Log(), tiles_module._compile, []

    def compiled(model: ServableModel, shape: RungShape) -> Any:
        begun.append(shape)
        if len(begun) == 2:
            tiles._closing.set()
        return compile_one(model, shape)

    tiles = Tiles.__new__(Tiles)
    monkeypatch.setattr(tiles_module, "_compile", compiled)
    tiles.__init__(served(tmp_path, L.LSTM(4)), log=log, beside=True)  # type: ignore[misc]
    tiles._thread.join(300)
    tiles.close()
    assert len(begun) == 2


def test_a_rung_that_cannot_be_compiled_beside_leaves_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, compile_one = Log(), tiles_module._compile

    def compiled(model: ServableModel, shape: RungShape) -> Any:
        if shape != REFERENCE:
            raise ModelRefused("no memory", expected="memory", do="add some")
        return compile_one(model, shape)

    monkeypatch.setattr(tiles_module, "_compile", compiled)
    tiles = Tiles(served(tmp_path, L.LSTM(4)), rows_max=8, log=log, beside=True)
    tiles._thread.join(300)
    tiles.adopt()
    assert tiles.shapes == (REFERENCE,)
    assert [event["reason"] for event in log.events if "reason" in event] == ["no memory"]


def test_a_model_of_large_rows_gets_no_rungs_that_would_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(tmp_path, L.Bidirectional(L.LSTM(8)), steps=5)
    assert model.row_numbers >= 5 * F
    monkeypatch.setattr(rungs, "TILE_BYTES_MAX", 200 * 4 * model.row_numbers)
    log = Log()
    Tiles(model, log=log)
    assert sorted(log.compiled()["rows_kept"] + log.compiled()["rows_dropped"]) == [8, 64, 128, REFERENCE.rows]


def test_a_row_without_readings_keeps_its_state(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(4))
    run, shape = reference_rung(model), REFERENCE
    state = np.random.default_rng(0).normal(size=(shape.rows, model.width)).astype(np.float32)
    counts = np.zeros(shape.rows, np.int32)
    counts[1] = 2
    _, after, finite = run(np.ones((shape.steps_max, shape.rows, F), np.float32), counts, 2, state)
    assert np.flatnonzero((after != state).any(axis=1)).tolist() == [1]
    assert finite.all()


def overflowing() -> list[Any]:
    """A state that grows tenfold a step and falls to 0 at a reading below it; its output is a sigmoid, so always finite."""
    cell = L.SimpleRNN(1, activation="relu", kernel_initializer="ones", recurrent_initializer=keras.initializers.Constant(1e30))
    return [cell, L.Dense(1, activation="sigmoid")]


def test_a_state_that_overflows_is_marked_at_its_step_though_outputs_are_finite(tmp_path: Path) -> None:
    model = served(tmp_path, *overflowing())
    run, shape = reference_rung(model), REFERENCE
    x = np.zeros((shape.steps_max, shape.rows, F), np.float32)
    x[0, 2] = 1e9  # row 2: 4e9, 4e39 = infinity
    counts = np.full(shape.rows, 4, np.int32)
    counts[2] = 3
    y, state, finite = run(x, counts, 4, np.zeros((shape.rows, 1), np.float32))
    assert finite[:, 2].tolist()[:4] == [True, False, False, True]
    assert finite[:, :2].all()
    assert finite[:, 3:].all()
    assert np.isfinite(y).all()
    assert np.isinf(state[2]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_is_marked_even_when_the_next_one_is_finite_again(tmp_path: Path, bad: float) -> None:
    model = served(tmp_path, L.Dense(2))
    run, shape = reference_rung(model), REFERENCE
    x = np.ones((shape.steps_max, shape.rows, F), np.float32)
    x[1, 5, 0] = bad
    _, _, finite = run(x, np.full(shape.rows, 3, np.int32), 3, np.zeros((shape.rows, 0), np.float32))
    assert np.argwhere(~finite).tolist() == [[1, 5]]


def test_a_state_that_turns_finite_again_stays_marked(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(2), L.Dense(1), steps=2)
    run, shape = reference_rung(model), REFERENCE
    x = np.ones((shape.steps_max, shape.rows, F), np.float32)
    x[1, 3, 0] = np.inf
    _, state, finite = run(x, np.full(shape.rows, 5, np.int32), 5, np.zeros((shape.rows, model.width), np.float32))
    assert finite[:6, 3].tolist() == [True, False, False, True, True, True]
    assert np.isfinite(state).all()


def test_the_results_outlive_the_next_call(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(4))
    run, shape = reference_rung(model), REFERENCE
    x, state = np.ones((shape.steps_max, shape.rows, F), np.float32), np.zeros((shape.rows, model.width), np.float32)
    counts = np.full(shape.rows, 2, np.int32)
    first = run(x, counts, 2, state)
    kept = [array.copy() for array in first]
    x += 1
    run(x, counts, 2, first[1])
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_buffers_of_a_rung_give_the_same_bits_without_a_copy(tmp_path: Path) -> None:
    model = served(tmp_path, L.GRU(4))
    tiles = Tiles(model, rows_max=8, log=Log())
    x, counts, state = tiles.buffers(0)
    assert not any(buffer.any() for buffer in (x, counts, state))
    x[:], state[:], counts[:] = np.random.default_rng(0).normal(size=x.shape), 0.5, 3
    expected = tiles.run(0, x.copy(), counts.copy(), 3, state.copy())
    for found, wanted in zip(tiles.run(0, x, counts, 3, state), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (state == 0.5).all()


def test_a_model_whose_bits_depend_on_the_row_is_refused(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(4))
    object.__setattr__(model, "step", lambda x, states: (tf.cast(tf.range(x.shape[0]), tf.float32)[:, None] + tf.zeros((1, 4)), states))
    with pytest.raises(ModelRefused, match="a row other bits than its neighbour"):
        Tiles(model, rows_max=8, log=Log())


def test_a_model_that_mixes_sensors_is_refused(tmp_path: Path) -> None:
    x = keras.Input((5, F))
    y = L.LSTM(4)(x)
    keras.Model(x, y - keras.ops.mean(y, axis=0, keepdims=True)).save(tmp_path / "model.keras")
    with pytest.raises(ModelRefused, match="a row other bits than its neighbour"):
        Tiles(load(tmp_path / "model.keras"), rows_max=8, log=Log())


def test_a_model_that_xla_cannot_compile_is_refused(tmp_path: Path) -> None:
    model = served(tmp_path, L.LSTM(4))

    def broken(x: Any, states: Any) -> Any:
        raise ValueError("no kernel for this\nand more")

    object.__setattr__(model, "step", broken)
    with pytest.raises(ModelRefused, match=r"cannot compile the model.*no kernel for this"):
        Tiles(model, rows_max=8, log=Log())
