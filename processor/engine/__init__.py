"""Readings in, predictions out, with a state for each sensor. The rest of the package is the engine's own."""

from processor.engine.engine import Engine, Stats
from processor.engine.stepping import Shapes, Stepper

__all__ = ["Engine", "Shapes", "Stats", "Stepper"]
