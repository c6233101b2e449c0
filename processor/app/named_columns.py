"""Which of the model's numbers the settings speak of: names and scales of its features, scales and residuals of its outputs.

Everything here is judged before a record is read: what does not fit is refused with what would. Must not read a record or step a model.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from processor.errors import ConfigurationError
from processor.records import Output
from processor.settings import Features, Scale, Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SEE = "settings-and-model-do-not-fit"


def check_features(model: "ServableModel", settings: Settings) -> None:
    """Raises ConfigurationError unless names and scales are one for each of the model's features."""
    features, given = settings.input.features, settings.input.scale
    if features is not None and len(features) != model.features:
        raise _unequal("input.features", len(features), model.features, "features")
    _check_inputs(model, features)
    _check_scale("input.scale", given, model.features, "features")


def _check_inputs(model: "ServableModel", features: Features | None) -> None:
    """Features that are named by input are those of the model's inputs, in its order."""
    inputs = {given.name: given.last - given.first for given in model.inputs.each if given.last > given.first}
    if features is None or not features.by_input or list(features.by_input.items()) == list(inputs.items()):
        return
    found = ", ".join(f"{name}: {count}" for name, count in features.by_input.items())
    order = ", ".join(f"{name}: [{count} {'name' if count == 1 else 'names'}]" for name, count in inputs.items())
    raise ConfigurationError(
        f"input.features names features of the inputs {found}",
        expected=f"those of the model, in its order: {order}",
        do=f"correct input.features: {{{order}}}",
        see=SEE,
    )


def scales_of(model: "ServableModel", settings: Settings) -> list[Scale | None]:
    """The scale of each output, in their order. Raises ConfigurationError."""
    given, outputs = settings.output.scale, model.named_outputs
    if not isinstance(given, Mapping):
        if given is not None and len(outputs) > 1:
            names = ", ".join(f"{output.name}: {{mean: ..., std: ...}}" for output in outputs)
            raise _unnamed("output.scale", outputs, f"a scale for each output that needs one: output.scale: {{{names}}}")
        given = {} if given is None else {outputs[0].name: given}
    _check_names("output.scale", list(given), outputs)
    for output in outputs:
        of = "outputs" if len(outputs) == 1 else f"numbers in its output {output.name}"
        _check_scale("output.scale", given.get(output.name), output.width, of)
    return [given.get(output.name) for output in outputs]


def residual_of(model: "ServableModel", settings: Settings) -> tuple[int, tuple[int, ...]]:
    """The first number of the output that forecasts features, and the features, in its order; none: (0, ()). Raises ConfigurationError."""
    wanted, outputs = settings.output.residual, model.named_outputs
    if isinstance(wanted, Mapping):
        ((name, wanted),) = wanted.items()
        _check_names("output.residual", [name], outputs)
        output = next(output for output in outputs if output.name == name)
    else:
        output = outputs[0]
        if wanted and len(outputs) > 1:
            raise _unnamed(
                "output.residual", outputs, f"the output that forecasts the next reading: output.residual: {{{output.name}: true}}"
            )
    return (output.first, _forecast(settings, wanted, model.features, output)) if wanted else (0, ())


def _forecast(settings: Settings, wanted: bool | tuple[str | int, ...], features: int, output: Output) -> tuple[int, ...]:
    """The features that an output forecasts."""
    if output.rows is not None:
        raise ConfigurationError(
            f"output.residual is set, and a prediction is a list of {output.rows} steps (model.output: all)",
            expected="a prediction of one step, to compare the next reading with",
            do="set model.output to last, or output.residual to false",
            see=SEE,
        )
    found = tuple(range(features)) if isinstance(wanted, bool) else _numbers(settings.input.features or (), wanted, features)
    numbers = output.last - output.first
    if len(found) != numbers:
        raise ConfigurationError(
            f"output.residual is for {len(found)} features, and the model gives {numbers} outputs",
            expected="as many: each output is the forecast of a feature",
            do="list the features that the outputs forecast, in their order (output.residual: [0, 3]), or set it to false",
            see=SEE,
        )
    return found


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


def _check_scale(key: str, scale: Scale | None, expected: int, of: str) -> None:
    if scale is not None and len(scale.offset) not in (1, expected):
        raise _unequal(key, len(scale.offset), expected, of, or_one=", or one number for all")


def _check_names(key: str, names: list[str], outputs: tuple[Output, ...]) -> None:
    known = [output.name for output in outputs]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            f"{key} names {', '.join(unknown)}, which is no output of the model",
            expected=f"its {'outputs' if len(known) > 1 else 'output'} {', '.join(known)}",
            do=f"correct {key}",
            see=SEE,
        )


def _unnamed(key: str, outputs: tuple[Output, ...], do: str) -> ConfigurationError:
    names = ", ".join(output.name for output in outputs)
    return ConfigurationError(
        f"{key} does not say which output it is for, and the model has {len(outputs)} ({names})",
        expected="outputs by name",
        do=f"name {do}",
        see=SEE,
    )


def _unequal(key: str, found: int, expected: int, of: str, or_one: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"{key} is for {found}, and the model has {expected} {of}",
        expected=f"one for each of the model's {of}{or_one}",
        do=f"correct {key}, or model.path",
        see=SEE,
    )
