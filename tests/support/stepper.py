"""The step of a model in NumPy: what the engine needs of `model.tiles`, without TensorFlow."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rung:
    rows: int
    steps_max: int


class Decay:
    """One feature, one output: s' = s / 2 + x, y = s', in float32. Readings in another order give another state."""

    shapes = (Rung(2, 4), Rung(8, 4))

    def buffers(self, rung):
        rows, steps_max = self.shapes[rung].rows, self.shapes[rung].steps_max
        return np.zeros((steps_max, rows, 1), np.float32), np.zeros(rows, np.int32), np.zeros((rows, 1), np.float32)

    def run(self, rung, x, counts, steps, state):
        state, y, finite = state.copy(), np.zeros_like(x), np.ones(x.shape[:2], np.bool_)
        for t in range(steps):
            active = counts > t
            with np.errstate(all="ignore"):
                new = stepped(state, x[t])
            y[t], finite[t] = new, ~active | np.isfinite(new).all(1)
            state[active] = new[active]
        return y, state, finite


def stepped(state, x):
    return state * np.float32(0.5) + x
