"""The format json: one object a record, its numbers in `values` or in fields of their own.

Says what a value holds and what is wrong with it; keys, headers, times and scales are decode's.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from processor.codec.decode import RejectError

# How deep a decoder gets depends on the calls around it: this limit does not, and lies well below.
DEPTH_MAX = 100
# Any integer that is shorter is a double.
DIGITS_MAX = 300
_NUMBERS = (int, float)  # and no bool, which is an int to isinstance

Timestamp = int | float | str | None


class _Single(msgspec.Struct, gc=False):
    values: list[float]
    timestamp: Timestamp = None


class _Several(msgspec.Struct, gc=False):
    values: list[list[float]]
    timestamp: Timestamp = None


class JsonFormat:
    """
    features          F of the model
    record_steps_max  readings that one record may hold
    names             the fields that are the features, dots descend; None: `values` holds a list of numbers, or a list of such lists
    """

    def __init__(self, *, features: int, record_steps_max: int, names: Sequence[str] | None = None) -> None:
        self.features, self.steps_max = features, record_steps_max
        self.named = _Named(names) if names else None
        # The one that fitted last is tried first: a topic's records are of one shape.
        self.decoders: list[Any] = [msgspec.json.Decoder(_Single), msgspec.json.Decoder(_Several)]

    def numbers(self) -> "_Numbers":
        return _Numbers(self)


class _Numbers:
    """The numbers of one batch of JSON records."""

    def __init__(self, made_by: JsonFormat) -> None:
        self._format, self._named = made_by, made_by.named
        self._features, self._steps_max = made_by.features, made_by.steps_max
        self._taken: list[float] = []

    def array(self) -> NDArray[np.float64]:
        return np.array(self._taken, np.float64).reshape(-1, self._features)

    def parse(self, value: bytes) -> tuple[Any, Timestamp]:
        if value.count(b"[") + value.count(b"{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
            raise RejectError("bad_encoding", f"the value nests deeper than {DEPTH_MAX} levels")
        try:
            if not value.isascii():
                value.decode()  # the decoder does not look into fields that it passes over
        except UnicodeDecodeError as error:
            raise RejectError("bad_encoding", f"the value is not UTF-8: {error}") from None
        if self._named is not None:
            return self._named.parse(value)
        decoders = self._format.decoders
        for decoder in decoders:
            try:
                reading = decoder.decode(value)
            except msgspec.DecodeError:
                continue
            if reading.values:
                if decoder is not decoders[0]:
                    decoders.reverse()
                return reading.values, reading.timestamp
        return self._parse_slowly(value)

    def take(self, parsed: Any) -> int:
        if not parsed or not isinstance(parsed[0], list):
            self._check_count(parsed)
            self._taken.extend(parsed)
            return 1
        if len(parsed) > self._steps_max:
            raise RejectError("too_large", f"found {len(parsed)} steps; expected at most {self._steps_max} (input.record_steps_max)")
        for step in parsed:
            self._check_count(step)
        for step in parsed:
            self._taken.extend(step)
        return len(parsed)

    def _check_count(self, values: Sequence[float]) -> None:
        if len(values) != self._features:
            raise RejectError("wrong_feature_count", f"found {len(values)} values in a reading; the model takes {self._features}")

    def _parse_slowly(self, value: bytes) -> tuple[Any, Timestamp]:
        found = _loaded(value)
        values = found.get("values") if isinstance(found, dict) else None
        expected = f'expected {{"timestamp": ms, "values": [{self._features} numbers]}}'
        if not isinstance(values, list):
            raise RejectError("bad_schema", f"there is no list `values`; {expected}")
        several = bool(values) and isinstance(values[0], list)
        for step in values if several else [values]:
            if not isinstance(step, list) or not all(type(number) in _NUMBERS for number in step):
                raise RejectError("bad_schema", f"`values` holds something else than numbers; {expected}")
        _check_finite([number for step in (values if several else [values]) for number in step])
        return values, _checked_timestamp(found)


class _Named:
    """Features in fields of their own, in the model's order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._paths = [name.split(".") for name in names]
        tree: dict[str, Any] = {}
        for path in self._paths:
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = None
        self._attributes: list[str] = []
        struct = self._struct(tree, "", [("timestamp", "timestamp", Timestamp, None)])
        self._decoder = msgspec.json.Decoder(struct)
        order = dict(zip(self._leaves(tree), self._attributes, strict=True))
        wanted = [order[name] for name in names]
        # attrgetter gives a tuple for several names, and the value itself for one
        get: Any = attrgetter(*wanted)
        self._get: Callable[[Any], tuple[float, ...]] = get if len(wanted) > 1 else lambda found: (get(found),)

    def _struct(self, tree: dict[str, Any], prefix: str, fields: list[tuple[Any, ...]]) -> type[msgspec.Struct]:
        """A struct whose attributes have names that Python takes, whatever the fields are called."""
        made: list[tuple[Any, ...]] = []
        rename: dict[str, str] = {}
        for i, (name, below) in enumerate(tree.items()):
            attribute = f"f{i}"
            rename[attribute] = name
            if below is None:
                self._attributes.append(f"{prefix}{attribute}")
                made.append((attribute, float))
            else:
                made.append((attribute, self._struct(below, f"{prefix}{attribute}.", [])))
        for attribute, name, kind, default in fields:
            rename[attribute] = name
            made.append((attribute, kind, default))
        return msgspec.defstruct("Fields", made, rename=rename, gc=False)

    def _leaves(self, tree: dict[str, Any], prefix: str = "") -> list[str]:
        leaves = list[str]()
        for name, below in tree.items():
            leaves += [f"{prefix}{name}"] if below is None else self._leaves(below, f"{prefix}{name}.")
        return leaves

    def parse(self, value: bytes) -> tuple[tuple[float, ...], Timestamp]:
        try:
            found: Any = self._decoder.decode(value)
        except msgspec.DecodeError:
            return self._parse_slowly(value)
        return self._get(found), found.timestamp

    def _parse_slowly(self, value: bytes) -> tuple[tuple[float, ...], Timestamp]:
        found = _loaded(value)
        numbers = []
        for path in self._paths:
            at = found
            for part in path:
                at = at.get(part) if isinstance(at, dict) else None
            if type(at) not in _NUMBERS:
                what = "is missing or null" if at is None else "is no number"
                raise RejectError("bad_schema", f"the field {'.'.join(path)} {what}; expected a number in each field of input.features")
            numbers.append(at)
        _check_finite(numbers)
        return tuple(numbers), _checked_timestamp(found)


def _loaded(value: bytes) -> Any:
    """What the fast decoders refuse: they stop at the first fault, and which one to name must not depend on where that is."""
    try:
        found = json.loads(value.decode(), parse_constant=_no_constant, parse_int=_integer)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no UTF-8
    except (ValueError, RecursionError) as error:
        raise RejectError("bad_encoding", f"the value is not JSON: {error}") from None
    return found


def _integer(digits: str) -> int | float:
    """Exact, as the fast decoders have it: a timestamp's limit is told from its neighbours. What no double holds is infinite."""
    return int(digits) if len(digits) <= DIGITS_MAX else float(digits)


def _check_finite(numbers: Sequence[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise RejectError("not_finite", "a value is past what a double holds; expected finite numbers")


def _checked_timestamp(found: dict[str, Any]) -> Timestamp:
    timestamp: Timestamp = found.get("timestamp")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float | str | None):
        raise RejectError("bad_timestamp", "`timestamp` is neither a number nor text; expected Unix milliseconds or ISO 8601")
    return timestamp


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def _depth(value: bytes) -> int:
    """How deep brackets nest, those in strings aside."""
    text = np.frombuffer(_STRING.sub(b"", value), np.uint8)
    opened = ((text == ord("[")) | (text == ord("{"))).astype(np.int64)
    closed = ((text == ord("]")) | (text == ord("}"))).astype(np.int64)
    return int(np.cumsum(opened - closed).max(initial=0))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
