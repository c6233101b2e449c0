"""What the numbers of a sensor mean: names and units of its readings and predictions, and the layers of its state row.

Follows from settings and model, once. Must not touch a live object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.app.forms import names_of
from processor.app.named_columns import fields_of, scales_of
from processor.engine import Shapes
from processor.records import Output
from processor.settings import Scale, Settings
from processor.units import own_units

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SATURATED = 0.99

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerPart:
    """Numbers begin to end of a row, not including end: one state of a layer, or the window. bounded: they stay between -1 and 1."""

    layer: str
    type: str
    state: str
    begin: int
    end: int
    bounded: bool


class Units:
    """Scaled numbers back to their own units, column by column. scales: of each run of columns, and how many they are."""

    def __init__(self, scales: list[tuple[Scale | None, int]]) -> None:
        self._offset = np.array(list(chain.from_iterable(_wide(scale and scale.offset, 0.0, width) for scale, width in scales)))
        self._divisor = np.array(list(chain.from_iterable(_wide(scale and scale.divisor, 1.0, width) for scale, width in scales)))
        self._plain = all(scale is None for scale, _ in scales)

    def scaled(self, column: int, numbers: Sequence[float]) -> list[float]:
        """Numbers of one column in its own unit, as the model has them."""
        offset, divisor = float(self._offset[column]), float(self._divisor[column])
        return [(number - offset) / divisor for number in numbers]

    def own(self, numbers: Floats) -> Floats:
        """float32 [n, columns] -> [n, columns]. A number past float32 is its greatest."""
        return numbers if self._plain else own_units(numbers, self._divisor, self._offset)


@dataclass(frozen=True, slots=True)
class SensorForm:
    """
    features, outputs  a name for each number of a reading and of a prediction
    reading, answer    their units
    forecasts          (feature, output): the output is the forecast of the feature in the next reading
    countable          outputs that are one step's, and not one of many steps of a window
    parts              of a state row
    window             steps, None if the state is carried
    """

    features: tuple[str, ...]
    outputs: tuple[str, ...]
    reading: Units
    answer: Units
    forecasts: tuple[tuple[int, int], ...]
    countable: frozenset[int]
    parts: tuple[LayerPart, ...]
    window: int | None


def sensor_form(settings: Settings, model: "ServableModel", shapes: Shapes) -> SensorForm:
    named = model.named_outputs
    forecasts = tuple(zip(shapes.residual, shapes.forecasts, strict=True))
    features = tuple(map(str, names_of(settings, shapes.features)))
    scale = settings.input.scale
    categories = model.inputs.categories or (None,) * shapes.features
    of_features = [(None if count or scale is None else scale.column(i), 1) for i, count in enumerate(categories)]
    return SensorForm(
        features=features,
        outputs=fields_of(model, settings) or _names(named, features, {output: feature for feature, output in forecasts}),
        reading=Units(of_features),
        answer=Units(
            [
                (_repeated(given, output), output.last - output.first)
                for output, given in zip(named, scales_of(model, settings), strict=True)
            ]
        ),
        forecasts=forecasts,
        countable=frozenset(i for output in named if output.rows is None for i in range(output.first, output.last)),
        parts=_parts(model, shapes),
        window=shapes.window,
    )


def _parts(model: "ServableModel", shapes: Shapes) -> tuple[LayerPart, ...]:
    if shapes.window is not None:
        return (LayerPart("the model's window", "Window", "readings", 0, shapes.width, False),)
    from processor.model.layout import parts

    return tuple(LayerPart(part.layer, part.type, part.state, part.begin, part.end, part.bounded) for part in parts(model))


def _names(outputs: Sequence[Output], features: Sequence[str], forecasts: Mapping[int, int]) -> tuple[str, ...]:
    """A name for each number of a prediction. forecasts: numbers that forecast a feature."""
    return tuple(name for output in outputs for name in _names_of(output, features, forecasts))


def _names_of(output: Output, features: Sequence[str], forecasts: Mapping[int, int]) -> list[str]:
    numbers = range(output.first, output.last)
    if all(number in forecasts for number in numbers):
        return [f"{output.name} {features[forecasts[number]]}" for number in numbers]
    if len(numbers) == 1:
        return [output.name]
    if output.rows is None:
        return [f"{output.name} {i}" for i in range(len(numbers))]
    return [f"{output.name} step {i // output.width} {i % output.width}" for i in range(len(numbers))]


def _repeated(scale: Scale | None, output: Output) -> Scale | None:
    """The scale of an output's columns, for each of its rows."""
    if scale is None or len(scale.offset) == 1:
        return scale
    rows = output.rows or 1
    return Scale(scale.offset * rows, scale.divisor * rows)


def _wide(numbers: Any, plain: float, width: int) -> tuple[float, ...]:
    numbers = numbers or (plain,)
    return tuple(numbers) * width if len(numbers) == 1 else tuple(numbers)
