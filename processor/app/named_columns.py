"""Which of the model's numbers the settings speak of: names and scales of its features, scales of its outputs.

Everything here is judged before a record is read: what does not fit is refused with what would. Must not read a record or step a model.
"""

from collections.abc import Mapping, Sequence
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
            raise unnamed("output.scale", outputs, f"a scale for each output that needs one: output.scale: {{{names}}}")
        given = {} if given is None else {outputs[0].name: given}
    check_names("output.scale", list(given), outputs)
    for output in outputs:
        of = "outputs" if len(outputs) == 1 else f"numbers in its output {output.name}"
        _check_scale("output.scale", given.get(output.name), output.width, of)
    return [given.get(output.name) for output in outputs]


def fields_of(model: "ServableModel", settings: Settings) -> tuple[str, ...]:
    """The names of a prediction's numbers, in their order; empty: they have none. Raises ConfigurationError."""
    given, outputs = settings.output.fields, model.named_outputs
    if given is None:
        return ()
    rows = next((output.rows for output in outputs if output.rows is not None), None)
    if rows is not None:
        raise of_many_steps("output.fields is set", rows, otherwise="output.fields to null")
    if not isinstance(given, Mapping):
        if len(given) != model.outputs:
            raise _unequal("output.fields", len(given), model.outputs, "outputs")
        return given
    check_names("output.fields", list(given), outputs)
    for output in outputs:
        found = len(given.get(output.name, ()))
        if found != output.width:
            raise _unequal("output.fields", found, output.width, f"numbers in its output {output.name}")
    return tuple(name for output in outputs for name in given[output.name])


def _check_scale(key: str, scale: Scale | None, expected: int, of: str) -> None:
    if scale is not None and len(scale.offset) not in (1, expected):
        raise _unequal(key, len(scale.offset), expected, of, or_one=", or one number for all")


def check_names(key: str, names: list[str], outputs: Sequence[Output]) -> None:
    """Raises ConfigurationError for a name that no output of the model has."""
    known = [output.name for output in outputs]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            f"{key} names {', '.join(unknown)}, which is no output of the model",
            expected=f"its {'outputs' if len(known) > 1 else 'output'} {', '.join(known)}",
            do=f"correct {key}",
            see=SEE,
        )


def of_many_steps(what: str, rows: int, *, purpose: str = "", otherwise: str = "") -> ConfigurationError:
    """The error of a setting that takes predictions of one step. purpose: what for. otherwise: what else to set than model.output."""
    return ConfigurationError(
        f"{what}, and a prediction is a list of {rows} steps (model.output: all)",
        expected=f"a prediction of one step{purpose}",
        do=f"set model.output to last{f', or {otherwise}' if otherwise else ''}",
        see=SEE,
    )


def unnamed(key: str, outputs: Sequence[Output], do: str) -> ConfigurationError:
    """The error of a setting that leaves open which of several outputs it is for."""
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
