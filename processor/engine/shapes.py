"""What the engine needs to know about a model: how many numbers it takes, gives and keeps, and which of them are scored."""

from dataclasses import dataclass
from typing import NamedTuple


class Reconstructed(NamedTuple):
    """The numbers of a prediction from `first` on that are `rows` readings: the sensor's last ones, oldest first."""

    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the engine needs to know about a model.

    features, outputs  numbers per reading, numbers per prediction
    width              W, numbers in a state row, not counting the previous prediction and the held values
    window             steps before the first prediction of a windowed model, otherwise None
    residual           features that outputs forecast, in the order of the outputs: the row then also keeps the sensor's
                       previous prediction, to compare it with the next reading; empty: no residuals
    forecasts          the numbers of a prediction that forecast them
    residual_each      whether the difference of each of these features is kept beside their mean
    reconstruction     the numbers of a prediction that reconstruct readings; None: none do
    warmup_steps       predictions before this many steps are flagged
    hold               features whose last value replaces a missing one: the row then also keeps these values
    hold_max_ms        the maximum age of a held value, for which the row also keeps when each was measured; None: no limit
    """

    features: int
    outputs: int
    width: int
    window: int | None = None
    residual: tuple[int, ...] = ()
    forecasts: tuple[int, ...] = ()
    residual_each: bool = False
    reconstruction: Reconstructed | None = None
    warmup_steps: int = 0
    hold: tuple[int, ...] = ()
    hold_max_ms: int | None = None

    @property
    def row_width(self) -> int:
        return int(self.held.stop)

    # The parts of a row, one after another: the states, up to width, and then these.

    @property
    def previous(self) -> slice:
        """The sensor's previous prediction."""
        return slice(self.width, self.width + (self.outputs if self.residual else 0))

    @property
    def held(self) -> slice:
        """Its last value of each feature of `hold`, and behind them their times (holding.packed)."""
        numbers = len(self.hold) * (1 if self.hold_max_ms is None else 3)
        return slice(self.previous.stop, self.previous.stop + numbers)
