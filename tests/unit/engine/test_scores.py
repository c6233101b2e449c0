"""What predictions are compared with: each feature's own residual, and the readings of a whole window, however a stream is cut."""

import numpy as np
import pytest
from stepper import Rung

from processor.engine import Engine, Reconstructed, Shapes
from processor.records import Applied, Batch

F, WINDOW = 2, 3


class Mirror:
    """A window of 3 readings. Its output is the window backwards, and half of its newest reading."""

    shapes = (Rung(8, 4),)

    def buffers(self, rung):
        shape = self.shapes[rung]
        x = np.zeros((shape.steps_max, shape.rows, F), np.float32)
        return x, np.zeros(shape.rows, np.int32), np.zeros((shape.rows, WINDOW * F), np.float32)

    def run(self, _rung, x, counts, steps, state):
        state, y = state.copy(), np.zeros((*x.shape[:2], WINDOW * F + F), np.float32)
        for t in range(steps):
            new = np.concatenate([state[:, F:], x[t]], axis=1)
            y[t] = np.concatenate([new[:, ::-1], x[t] / 2], axis=1)
            state[counts > t] = new[counts > t]
        return y, state, np.ones(x.shape[:2], np.bool_)


def shapes(**scored) -> Shapes:
    return Shapes(features=F, outputs=WINDOW * F + F, width=WINDOW * F, window=WINDOW, **scored)


def batch_of(values: list[list[list[float]]], first: int) -> Batch:
    n, no = len(values), np.zeros(len(values), np.bool_)
    return Batch(
        partition=[0] * n,
        key=[b"a"] * n,
        offset=np.arange(first, first + n),
        event_ms=np.arange(first, first + n),
        record_ms=np.arange(first, first + n),
        steps=np.array([len(steps) for steps in values]),
        reset_before=no,
        reset_after=no,
        x=np.array([row for steps in values for row in steps], np.float32),
    )


READINGS = np.random.default_rng(4).normal(size=(12, F)).round(2).astype(np.float32)
RECORDS = [READINGS[:1], READINGS[1:4], READINGS[4:5], READINGS[5:7], *(READINGS[i : i + 1] for i in range(7, 12))]


def applied(engine: Engine, cuts: list[int]) -> list[Applied]:
    found = []
    for first, last in zip([0, *cuts], [*cuts, len(RECORDS)], strict=True):
        found.append(engine.apply(batch_of([record.tolist() for record in RECORDS[first:last]], first)))
        engine.commit()
    return found


@pytest.mark.parametrize("cuts", [[], [1], [2, 3, 4], list(range(1, 9))])
def test_a_window_is_compared_with_its_own_readings_however_the_stream_is_cut(cuts):
    found = applied(Engine(Mirror(), shapes(reconstruction=Reconstructed(0, WINDOW)), slots=2), cuts)
    got = np.concatenate([of.reconstruction for of in found])
    expected = []
    for last in np.cumsum([len(record) for record in RECORDS]).tolist():
        window = READINGS[max(0, last - WINDOW) : last].astype(np.float64).reshape(-1)
        off = np.float32(sum(abs(a - b) for a, b in zip(window[::-1], window, strict=True)) / (WINDOW * F))
        expected.append(off if last >= WINDOW else np.float32(np.nan))
    assert np.array(expected).tobytes() == got.tobytes()
    assert all(of.residuals is None and np.isnan(of.residual).all() for of in found)


def test_a_prediction_of_one_step_is_compared_with_its_own_reading():
    (found,) = applied(Engine(Mirror(), shapes(reconstruction=Reconstructed(WINDOW * F, 1)), slots=2), [])
    assert found.reconstruction[-1] == np.float32(np.abs(READINGS[-1] / 2).astype(np.float64).sum() / 2)


@pytest.mark.parametrize("cuts", [[], [2, 3, 4, 7]])
def test_each_feature_has_its_own_residual_and_the_mean_is_of_them(cuts):
    scored = {"residual": (1, 0), "forecasts": (WINDOW * F, WINDOW * F + 1), "residual_each": True}
    found = applied(Engine(Mirror(), shapes(**scored), slots=2), cuts)
    residuals, residual = (np.concatenate([getattr(of, name) for of in found]) for name in ("residuals", "residual"))
    ends = np.cumsum([len(record) for record in RECORDS]).tolist()
    expected = np.array([np.abs(READINGS[end - 1, ::-1] - READINGS[end - 2] / 2) for end in ends[1:]])
    assert np.isnan(residuals).all(axis=1).tolist() == [end <= WINDOW for end in ends]
    assert np.allclose(residuals[1:], expected)
    assert np.allclose(residual[1:], expected.mean(axis=1))
