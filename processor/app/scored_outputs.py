"""Which of a model's numbers are scored: those that forecast features (output.residual), and those that reconstruct readings.

Everything here is judged before a record is read, as in named_columns. Must not read a record or step a model.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from processor.app.named_columns import check_names, of_many_steps, unnamed
from processor.engine import Reconstructed
from processor.errors import ConfigurationError
from processor.records import Output
from processor.settings import Settings
from processor.words import counted

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SEE = "settings-and-model-do-not-fit"
Listed = bool | tuple[str | int, ...]


def residual_of(model: "ServableModel", settings: Settings) -> dict[int, int]:
    """The numbers of a prediction that forecast features, in their order, each with its feature. Raises ConfigurationError."""
    wanted, outputs = settings.output.forecast, model.named_outputs
    if isinstance(wanted, Mapping):
        check_names("output.residual", list(wanted), outputs)
        found: dict[int, int] = {}
        for name, of in wanted.items():
            found |= _forecast(settings, of, model.features, [next(output for output in outputs if output.name == name)])
    elif not wanted:
        return {}
    elif len(outputs) == 1:
        found = _forecast(settings, wanted, model.features, outputs)
    elif isinstance(wanted, bool):
        raise unnamed(
            "output.residual", outputs, f"the output that forecasts the next reading: output.residual: {{{outputs[0].name}: true}}"
        )
    else:
        check_names("output.residual", [str(name) for name in wanted], outputs)
        found = _by_outputs(settings, model.features, [next(output for output in outputs if output.name == str(name)) for name in wanted])
    if len(set(found.values())) < len(found):
        raise ConfigurationError("output.residual names a feature twice", expected="each once", do="correct output.residual", see=SEE)
    return found


def _by_outputs(settings: Settings, features: int, outputs: Sequence[Output]) -> dict[int, int]:
    """Outputs of one number each that are called like features forecast these; others all features together, one after another."""
    names = settings.input.features or ()
    if all(output.name in names and output.last - output.first == 1 and output.rows is None for output in outputs):
        return {output.first: names.index(output.name) for output in outputs}
    return _forecast(settings, True, features, outputs)


def _forecast(settings: Settings, wanted: Listed, features: int, outputs: Sequence[Output]) -> dict[int, int]:
    """The numbers of outputs with the features that they forecast."""
    rows = next((output.rows for output in outputs if output.rows is not None), None)
    if rows is not None:
        purpose, otherwise = ", to compare the next reading with", "output.residual to false"
        raise of_many_steps("output.residual is set", rows, purpose=purpose, otherwise=otherwise)
    found = tuple(range(features)) if isinstance(wanted, bool) else _numbers(settings.input.features or (), wanted, features)
    numbers = [number for output in outputs for number in range(output.first, output.last)]
    if len(found) != len(numbers):
        raise ConfigurationError(
            f"output.residual is for {len(found)} features, and the model gives {len(numbers)} outputs",
            expected="as many: each output is the forecast of a feature",
            do="list the features that the outputs forecast, in their order (output.residual: [0, 3]), or set it to false",
            see=SEE,
        )
    return dict(zip(numbers, found, strict=True))


def _numbers(names: tuple[str, ...], wanted: tuple[str | int, ...], features: int) -> tuple[int, ...]:
    """The features that are listed by name or number."""
    unknown = [w for w in wanted if (w not in names if isinstance(w, str) else not 0 <= w < features)]
    if unknown:
        known = f"the names {', '.join(names)}, or " if names else ""
        raise ConfigurationError(
            f"output.residual names {', '.join(map(str, unknown))}, which is no feature",
            expected=f"{known}numbers from 0 to {features - 1}",
            do="correct output.residual, or name the features in input.features",
            see=SEE,
        )
    found = tuple(names.index(w) if isinstance(w, str) else w for w in wanted)
    if len(set(found)) < len(found):
        raise ConfigurationError("output.residual names a feature twice", expected="each once", do="correct output.residual", see=SEE)
    return found


def reconstruction_of(model: "ServableModel", settings: Settings) -> Reconstructed | None:
    """The numbers of a prediction that reconstruct readings, None for none. Raises ConfigurationError."""
    wanted, outputs = settings.output.reconstruction, model.named_outputs
    if wanted is False:
        return None
    if isinstance(wanted, str):
        check_names("output.reconstruction", [wanted], outputs)
    elif len(outputs) > 1:
        raise unnamed(
            "output.reconstruction", outputs, f"the output that reconstructs the readings: output.reconstruction: {outputs[0].name}"
        )
    output = outputs[0] if isinstance(wanted, bool) else next(output for output in outputs if output.name == wanted)
    if output.width != model.features or output.rows not in (None, model.window):
        steps = "" if output.rows is None else f"{output.rows} steps of "
        of_window = "" if output.rows is None else f", for each of the window's {model.window} steps"
        raise ConfigurationError(
            f"output.reconstruction is set, and a prediction is {steps}{counted(output.width, 'number')}",
            expected=f"{model.features}, one for each feature{of_window}",
            do="serve an autoencoder, or set output.reconstruction to false",
            see=SEE,
        )
    return Reconstructed(output.first, output.rows or 1)
