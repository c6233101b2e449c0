"""What carrying a state past the steps that a model was trained on does to its predictions, measured on the model itself.

Responsible for the figures and for the sentence that a user decides by. Not responsible for the decision: model.mode is the user's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.model.backend import keras, tf
from processor.model.step import leaf_layers
from processor.model.windows import windowed, without_batch

if TYPE_CHECKING:
    from processor.model.load import ServableModel

Float32 = NDArray[np.float32]
SENSORS = 32
TRIAL_STEPS = 8
WINDOWS = 4  # how many windows long the made-up sequences are
STEPS_MAX = 400  # past the window: of a long one only so much is looked at
PLACES = 16  # where in a sequence the two are compared
SLOWNESS = 0.95  # how much of a made-up reading is the one before it
SMALL_PERCENT, LARGE_PERCENT = 2.0, 10.0


@dataclass(frozen=True)
class PastWindow:
    """Carried predictions against those of the last `window` readings alone.

    steps: how many readings the sequences had. deviation_percent: root mean square of the difference, in percent of the standard deviation
    of the outputs; infinite where the carried state left float32.
    """

    window: int
    steps: int
    deviation_percent: float

    @property
    def text(self) -> str:
        readings = "1 reading" if self.window == 1 else f"{self.window} readings"
        return (
            f"the model was trained on {readings} at a time, and model.mode carried goes on past them: {self._finding(readings)}; "
            f"reset.after_steps: {self.window} begins each sensor anew every {readings}, so that no state is older than in training; "
            f"model.mode: windowed gives what the model gives on the last {readings}, at about {self.window} times the work"
        )

    def _finding(self, readings: str) -> str:
        percent = self.deviation_percent
        if percent == float("inf"):
            return f"on {self.steps} made-up readings its predictions grow without bound"
        figure = f"{percent:.2g} %" if percent < 100 else f"{percent:,.0f} %"
        judged = "which is little" if percent < SMALL_PERCENT else "which may matter" if percent < LARGE_PERCENT else "which is much"
        off = f"{figure} of their own deviation off those of the last {readings} alone"
        return f"on {self.steps} made-up readings its predictions are {off}, {judged}"


def trial(model: "ServableModel") -> str:
    """What a model gives for readings of zeros and for random ones: whether its outputs are numbers. Takes a second or so.

    A windowed model is given full windows, any other one a few steps.
    """
    steps = model.window if model.mode == "windowed" and model.window else TRIAL_STEPS
    rng = np.random.default_rng(0)
    kinds = {"zeros": np.zeros((steps, 1, model.features)), "random numbers": rng.normal(size=(steps, SENSORS, model.features))}
    what = "windows" if model.mode == "windowed" else f"sequences of {steps}"
    bad = {kind: _not_finite(model, model.inputs.plausible(x)) for kind, x in kinds.items()}
    if not any(bad.values()):
        return f"{what} of zeros and of random numbers give finite outputs"
    found = [f"{count} of {kinds[kind].shape[1]} {what} of {kind} give NaN or infinity" for kind, count in bad.items() if count]
    return f"{'; '.join(found)}: such a reading becomes a dead letter (non_finite_state)"


def _not_finite(model: "ServableModel", x: Float32) -> int:
    """How many rows of x, [steps, rows, F], end in an output that is no number."""
    step, rows = tf.function(model.step, autograph=False), x.shape[1]
    if model.mode == "windowed":
        first = np.zeros((1, rows, model.features), np.float32)  # which the step shifts out
        states = [tf.constant(np.concatenate([first, x[:-1]]).transpose(1, 0, 2).reshape(rows, -1))]
        x = x[-1:]
    else:
        states = [tf.zeros((rows, width)) for width in model.widths]
    good = np.ones(rows, np.bool_)
    for reading in x:
        y, states = step(tf.constant(reading[:, None]), states)
        good &= np.isfinite(np.asarray(y)).all(axis=1)
        if model.mode != "windowed":
            good &= np.all([np.isfinite(np.asarray(state)).all(axis=1) for state in states], axis=0) if states else True
    return int(rows - good.sum())


def past_window(model: "ServableModel") -> PastWindow | None:
    """Measures a carried model whose file fixes the steps without being stateful; None for any other. Takes a second or so."""
    window = model.trained_window
    if window is None:
        return None
    steps = window + max(PLACES, min((WINDOWS - 1) * window, STEPS_MAX))
    x = _readings(model, steps)
    places = np.unique(np.linspace(window, steps - 1, PLACES).astype(int))
    kept = _carried(model, x)[places]
    alone = _alone(model, window, x, places)
    return PastWindow(window, steps, _deviation_percent(kept, alone))


def _readings(model: "ServableModel", steps: int) -> Float32:
    """float32 [steps, SENSORS, F], slow as measurements are, and of the scale that the model's first normalisation expects."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(steps, SENSORS, model.features))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for t in range(1, steps):
        x[t] = SLOWNESS * x[t - 1] + np.sqrt(1 - SLOWNESS**2) * noise[t]
    mean, deviation = _scale(model)
    scaled: Float32 = model.inputs.plausible(mean + deviation * x)
    return scaled


def _scale(model: "ServableModel") -> tuple[Any, Any]:
    """Mean and deviation of the inputs, [F] each or single numbers, as far as the file tells."""
    layers = leaf_layers(model.keras_model)
    first = next((layer for layer in layers if layer.weights or isinstance(layer, keras.layers.Normalization)), None)
    mean = getattr(first, "moving_mean", getattr(first, "mean", None))
    variance = getattr(first, "moving_variance", getattr(first, "variance", None))
    if mean is None or variance is None or np.size(mean) != model.features or np.size(variance) != model.features:
        return 0.0, 1.0
    return np.reshape(mean, -1), np.sqrt(np.reshape(variance, -1))


def _carried(model: "ServableModel", x: Float32) -> Float32:
    """float32 [steps, SENSORS, O]"""
    step = tf.function(model.step, autograph=False)
    states, ys = [tf.zeros((SENSORS, width)) for width in model.widths], []
    for reading in x:
        y, states = step(tf.constant(reading[:, None]), states)
        ys.append(y.numpy())
    return np.stack(ys)


def _alone(model: "ServableModel", window: int, x: Float32, places: NDArray[np.int64]) -> Float32:
    """float32 [places, SENSORS, O]: after the reading at each place, the prediction of the `window` readings up to it."""
    step = windowed(without_batch(model.keras_model, stateful=False), model.inputs, window).step
    before = np.stack([x[at - window : at] for at in places])  # one older reading in front, which the step shifts out
    rows = before.transpose(0, 2, 1, 3).reshape(len(places) * SENSORS, -1)
    y, _ = step(tf.constant(x[places].reshape(len(rows), 1, -1)), [tf.constant(rows)])
    return np.asarray(y, np.float32).reshape(len(places), SENSORS, -1)


def _deviation_percent(kept: Float32, alone: Float32) -> float:
    with np.errstate(all="ignore"):
        spread = float(alone.astype(np.float64).std(axis=(0, 1)).mean())
        off = float(np.sqrt(np.mean((kept.astype(np.float64) - alone) ** 2)))
    if not np.isfinite([off, spread]).all():
        return float("inf")
    return 0.0 if off == 0.0 else float("inf") if spread == 0.0 else 100 * off / spread
