"""Readings in, predictions out, with a state for each sensor. The other modules of this package are private to the engine."""

from processor.engine.engine import Engine, Stats
from processor.engine.stepping import Shapes, Stepper

__all__ = ["Engine", "Shapes", "Stats", "Stepper"]
