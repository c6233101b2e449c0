"""What the values of settings may be that describe outputs: which scores they have, and the names of their fields.

As values.py, which has those of every other kind: no key, no source, no default.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from processor.settings.values import Allowed, FaultError, listed, path_parts, truth

# The features that outputs forecast: all, none, a list of features or of outputs, or such a list for each output.
Forecast = bool | tuple[str | int, ...] | dict[str, bool | tuple[str | int, ...]]
EACH = "each"


def residual_setting() -> Allowed:
    """A Forecast; or `each`, or {each: Forecast}, which writes one residual for each feature too."""

    def parse(value: Any) -> Any:
        found = listed(value)
        if found == EACH:
            return EACH
        if isinstance(found, Mapping) and set(found) == {EACH}:
            of = _forecast(found[EACH])
            return {EACH: of} if not isinstance(of, bool) else EACH if of else False
        return _forecast(found)

    words = (
        "true, false, or a list of features by name (input.features) or number (0 is the first); for a model with several outputs a list "
        "of outputs, {OUTPUT: true} or {OUTPUT: [features], ...}; each, or {each: one of these}"
    )
    return Allowed(words, parse)


def _forecast(value: Any) -> Forecast:
    found = listed(value)
    if not isinstance(found, Mapping):
        return _listed_or_flag(found)
    if not found or not all(isinstance(name, str) for name in found):
        raise ValueError
    of_outputs = {name: of for name, of in ((name, _listed_or_flag(of)) for name, of in found.items()) if of}
    if len(of_outputs) > 1 and any(of is True for of in of_outputs.values()):
        raise FaultError("of several outputs that forecast features, list the features of each")
    return of_outputs or False


def forecast_of(residual: Any) -> Forecast:
    """What a residual_setting() says of features and outputs."""
    each = residual == EACH or (isinstance(residual, dict) and list(residual) == [EACH])
    found: Forecast = residual if not each else True if residual == EACH else residual[EACH]
    return found


def _listed_or_flag(value: Any) -> bool | tuple[str | int, ...]:
    found = listed(value)
    if not isinstance(found, list):
        return truth(found)
    if not found or len({str(item) for item in found}) < len(found) or not all(isinstance(item, str | int) for item in found):
        raise ValueError
    return tuple(int(item) if isinstance(item, str) and item.isdecimal() else item for item in found)


FieldNames = tuple[str, ...] | dict[str, tuple[str, ...]]
_FIELD = re.compile(r"[A-Za-z0-9_]{1,100}")


def field_names() -> Allowed:
    """Names of a prediction's numbers, in one list or by output."""

    def parse(value: Any) -> FieldNames:
        found = listed(value)
        if isinstance(found, Mapping):
            if not found or not all(isinstance(name, str) for name in found):
                raise ValueError
            by_output = {name: names(of) for name, of in found.items()}
            _refuse_twice([name for of in by_output.values() for name in of])
            return by_output
        given = names(found)
        _refuse_twice(given)
        return given

    def names(value: Any) -> tuple[str, ...]:
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not found or not all(isinstance(name, str) and _FIELD.fullmatch(name) for name in found):
            raise ValueError
        return tuple(found)

    return Allowed(
        "a list of different names of letters, digits and underscores, one for each number of a prediction; for a model with several "
        "outputs also {OUTPUT: [names], ...}",
        parse,
    )


# The fields that outputs may have by themselves, and how others of theirs begin.
_OWN = {
    *("sensor", "timestamp", "prediction", "steps", "partition", "offset", "model"),
    *("residual", "residuals", "reconstruction", "score", "alarm"),
}
_OWN |= {"warming_up", "past_window", "held", "alarm", "carried"}
_OWN_PREFIXES = ("predicted_", "residual_")
HEADER = "header:"


def carried() -> Allowed:
    """Paths of fields, and header:NAME or header:*."""

    def parse(value: Any) -> tuple[str, ...]:
        found = listed(value)
        found = [found] if isinstance(found, str) and found else found
        if not isinstance(found, list) or not all(isinstance(name, str) and name != HEADER for name in found):
            raise ValueError
        fields = [path_parts(name)[-1] for name in found if not name.startswith(HEADER)]
        if own := [name for name in fields if name in _OWN or name.startswith(_OWN_PREFIXES)]:
            raise FaultError(f"outputs have a field {own[0]} of their own")
        if len({name.lower() for name in fields}) < len(fields) or len(set(found)) < len(found):
            raise FaultError("a name is there twice: a field is carried by the last part of its path")
        return tuple(found)

    return Allowed("a list of fields (batch, meta.site) and headers (header:traceparent, header:* for all)", parse)


def _refuse_twice(names: Sequence[str]) -> None:
    """Databases fold the case of names."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name or names.count(name) > 1:
            raise FaultError(f"{other} and {name} are one name" if other != name else f"{name} is there twice")


def reconstruction_setting() -> Allowed:
    """True, False, or the name of one of a model's outputs."""

    def parse(value: Any) -> bool | str:
        found = listed(value)
        if isinstance(found, str) and found.strip() and found.lower() not in ("true", "false"):
            return found
        return truth(found)

    return Allowed("true, false, or for a model with several outputs the name of one", parse)
