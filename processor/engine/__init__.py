"""Readings in, predictions out, with a state for each sensor. The other modules of this package are private to the engine."""

from processor.engine.engine import Engine, Stats
from processor.engine.shapes import Reconstructed, Shapes
from processor.engine.stepping import Stepper

__all__ = ["Engine", "Reconstructed", "Shapes", "Stats", "Stepper"]
