"""Scalers of scikit-learn as settings: the numbers of a StandardScaler or a MinMaxScaler, no pickle, no scikit-learn.

    python -m recipes.scalers [--bootstrap HOST:PORT]
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import yaml

from recipes.running import Outcome, Service, difference, main, say

STEPS = 60
RNG = np.random.default_rng(6)
# Temperature, pressure, and a valve that never moved while the training data was taken; two targets.
READINGS = np.stack([RNG.normal(71.5, 4.2, STEPS), RNG.normal(101_300, 950, STEPS), np.full(STEPS, 3.0)], axis=1)
TARGETS = RNG.uniform((2.0, -1.0), (6.0, 1.5), (STEPS, 2))


# What a fit of scikit-learn leaves in the object, by its formulas. Yours comes out of the program that trained.


def standard_scaler(x: np.ndarray) -> SimpleNamespace:
    std = x.std(axis=0)
    return SimpleNamespace(with_mean=True, with_std=True, mean_=x.mean(axis=0), scale_=np.where(std > 0, std, 1.0))


def min_max_scaler(x: np.ndarray, feature_range: tuple[float, float] = (0, 1)) -> SimpleNamespace:
    low, high, (a, b) = x.min(axis=0), x.max(axis=0), feature_range
    scale = (b - a) / np.where(high > low, high - low, 1.0)
    return SimpleNamespace(feature_range=feature_range, clip=False, data_min_=low, data_max_=high, scale_=scale, min_=a - low * scale)


# The function to copy into that program.


def as_scale(scaler: Any) -> dict[str, list[float]]:
    """A fitted StandardScaler or MinMaxScaler as the value of input.scale or output.scale."""
    if hasattr(scaler, "data_min_"):
        if getattr(scaler, "clip", False):
            raise ValueError("this scaler clips, which no setting does: clip before the readings are sent, or train without clip=True")
        a, b = scaler.feature_range
        unit = 1 / scaler.scale_  # how much of the measured quantity is 1 for the model; 1 / (b - a) where a column was constant
        constant = ~np.isclose(unit * (b - a), scaler.data_max_ - scaler.data_min_)
        low = scaler.data_min_ - a * unit  # what becomes 0, and below what becomes 1: the data's own ends for a range of (0, 1)
        return {"min": low.tolist(), "max": np.where(constant, low + unit, scaler.data_max_ + (1 - b) * unit).tolist()}
    if not hasattr(scaler, "mean_"):
        raise ValueError(f"this is a {type(scaler).__name__}, expected a fitted StandardScaler or MinMaxScaler")
    columns = scaler.n_features_in_ if scaler.scale_ is None and scaler.mean_ is None else len(np.atleast_1d(scaler.mean_))
    mean = scaler.mean_ if scaler.with_mean else np.zeros(columns)
    return {"mean": np.asarray(mean).tolist(), "std": np.asarray(scaler.scale_ if scaler.with_std else np.ones(columns)).tolist()}


def forecaster() -> keras.Model:
    keras.utils.set_random_seed(6)
    return keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(2)])


def run(bootstrap: str, folder: Path) -> list[Outcome]:
    say("Scalers of scikit-learn")
    x_scaler, y_scaler, model = standard_scaler(READINGS), min_max_scaler(TARGETS, (-1, 1)), forecaster()
    settings = {"input": {"scale": as_scale(x_scaler)}, "output": {"scale": as_scale(y_scaler)}}
    say("\n".join(f"  {line}" for line in yaml.safe_dump(settings, sort_keys=False, width=120, default_flow_style=None).splitlines()))

    scaled = (READINGS - x_scaler.mean_) / x_scaler.scale_  # x_scaler.transform(READINGS)
    expected = (model.predict(scaled[None], verbose=0)[0] - y_scaler.min_) / y_scaler.scale_  # y_scaler.inverse_transform(...)
    with Service(bootstrap, folder, model, settings) as service:
        service.feed(("pump-7", reading) for reading in READINGS)
        found = service.predictions(STEPS)["pump-7"]
    for name, predictions in (("scikit-learn's formulas and Keras", expected), ("slotstream", found)):
        say(f"  {name}: {[round(float(y), 5) for y in predictions[0]]}, ..., {[round(float(y), 5) for y in predictions[-1]]}")
    outcome = Outcome("slotstream, with the scales above", STEPS, len(found), difference(found, expected))
    say(str(outcome))
    return [outcome]


if __name__ == "__main__":
    sys.exit(main([run]))
