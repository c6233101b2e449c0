"""What the values of settings may be that describe outputs: which scores they have.

As values.py, which has those of every other kind: no key, no source, no default.
"""

from collections.abc import Mapping
from typing import Any

from processor.settings.values import Allowed, FaultError, listed, truth

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


def reconstruction_setting() -> Allowed:
    """True, False, or the name of one of a model's outputs."""

    def parse(value: Any) -> bool | str:
        found = listed(value)
        if isinstance(found, str) and found.strip() and found.lower() not in ("true", "false"):
            return found
        return truth(found)

    return Allowed("true, false, or for a model with several outputs the name of one", parse)
