"""The format json: one object a record, its numbers in `values` or in fields of their own.

Says what a value holds and what is wrong with it; keys, headers, times and scales are decode's.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from processor.codec.json_lines import JsonLines, Matrix
from processor.codec.reject import RejectError
from processor.codec.together import Read
from processor.settings import field_path

# How deep a decoder gets depends on the calls around it: this limit does not, and lies well below.
DEPTH_MAX = 100
# Any integer that is shorter is a double.
DIGITS_MAX = 300
FIELDS_SHOWN = 5
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
    names             the fields that are the features (settings.field_path); None: `values` holds a list of numbers, or a list of
                      such lists
    """

    steps_in_header = False

    def __init__(self, *, features: int, record_steps_max: int, names: Sequence[str] | None = None) -> None:
        self.features, self.steps_max = features, record_steps_max
        self.named = _Named(names) if names else None
        # The one that fitted last is tried first: a topic's records are of one shape.
        self.decoders: list[Any] = [msgspec.json.Decoder(_Single), msgspec.json.Decoder(_Several)]
        # F numbers as a tuple of their own kind: half the time of a list, and counted by the parser.
        flat = msgspec.defstruct("Flat", [("values", tuple[(float,) * features]), ("timestamp", Timestamp, None)], gc=False)  # type: ignore[misc]
        self._lines, self._matrix = JsonLines(msgspec.json.Decoder(flat), braces=1, brackets=1), Matrix(features)

    def together(self, values: Sequence[bytes | None], _messages: Any = ()) -> Read | None:
        if self.named is not None:
            return self.named.together(values)
        found = self._lines.read(values)
        if found is None:
            return None
        return self._matrix.of([record.values for record in found]), [record.timestamp for record in found]

    def numbers(self) -> "_Numbers":
        return _Numbers(self)

    def foreign(self, _x: NDArray[Any]) -> None:
        """A number that is written out is of no other type."""


class _Numbers:
    """The numbers of one batch of JSON records."""

    def __init__(self, made_by: JsonFormat) -> None:
        self._format, self._named = made_by, made_by.named
        self._features, self._steps_max = made_by.features, made_by.steps_max
        self._taken: list[float] = []

    def array(self) -> NDArray[np.float64]:
        return np.array(self._taken, np.float64).reshape(-1, self._features)

    def parse(self, value: bytes) -> tuple[Any, Timestamp]:
        if value.count(b"[") + value.count(b"{") > DEPTH_MAX and nesting(value) > DEPTH_MAX:
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

    def take(self, parsed: Any, _steps: int) -> int:
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
        found = loaded(value)
        values = found.get("values") if isinstance(found, dict) else None
        expected = f'expected {{"timestamp": ms, "values": [{self._features} numbers]}}, or fields that input.features names'
        if not isinstance(values, list):
            raise RejectError("bad_schema", f"there is no list `values`{fields_of(found)}; {expected}")
        several = bool(values) and isinstance(values[0], list)
        for step in values if several else [values]:
            if not isinstance(step, list) or not all(type(number) in _NUMBERS for number in step):
                raise RejectError("bad_schema", f"`values` holds something else than numbers; {expected}")
        _check_finite([number for step in (values if several else [values]) for number in step])
        return values, checked_timestamp(found.get("timestamp"))


class _Named:
    """Features in fields of their own, in the model's order.

    A name with dots is a key as it stands if the record has that key, whatever it holds; else its dots descend. So each record
    is read in one of two ways, each by a decoder that takes all names in this way; what is of both ways is read slowly.
    """

    def __init__(self, names: Sequence[str]) -> None:
        paths = [field_path(name) for name in names]
        literal = [path if '"' in name else (name,) for name, path in zip(names, paths, strict=True)]
        self._fields, self._matrix = list(zip(names, literal, paths, strict=True)), Matrix(len(names))
        dotted = [key for key, path in zip(literal, paths, strict=True) if key != path]
        # The one that fitted last is tried first: a topic's records are of one shape.
        self._decoders = [_FieldsDecoder(paths, absent=[key for (key,) in dotted])]
        if dotted:
            self._decoders.append(_FieldsDecoder(literal, absent=[]))

    def parse(self, value: bytes) -> tuple[tuple[float, ...], Timestamp]:
        for decoder in self._decoders:
            found = decoder.decode(value)
            if found is not None:
                if decoder is not self._decoders[0]:
                    self._decoders.reverse()
                return found
        return self._parse_slowly(value)

    def together(self, values: Sequence[bytes | None]) -> Read | None:
        """By the decoder that fitted last."""
        found = self._decoders[0].together(values)
        if found is None:
            return None
        numbers, timestamps = found
        return self._matrix.of(numbers), timestamps

    def _parse_slowly(self, value: bytes) -> tuple[tuple[float, ...], Timestamp]:
        found = loaded(value)
        numbers = []
        for name, literal, path in self._fields:
            at, way = found, literal if isinstance(found, dict) and literal[0] in found else path
            for part in way:
                at = at.get(part) if isinstance(at, dict) else None
            if type(at) not in _NUMBERS:
                raise RejectError("bad_schema", no_number(name, way, at, found))
            numbers.append(at)
        _check_finite(numbers)
        return tuple(numbers), checked_timestamp(found.get("timestamp"))


class _FieldsDecoder:
    """Reads the numbers below these paths, if each is there and none of the keys `absent`."""

    def __init__(self, paths: Sequence[tuple[str, ...]], *, absent: Sequence[str]) -> None:
        tree: dict[str, Any] = {}
        for path in paths:
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = None
        self._attributes: dict[tuple[str, ...], str] = {}
        others = [(f"absent{i}", key, Any, msgspec.UNSET) for i, key in enumerate(absent)]
        struct = self._struct(tree, (), "", [("timestamp", "timestamp", Timestamp, None), *others])
        self._decoder = msgspec.json.Decoder(struct)
        self._lines = JsonLines(self._decoder, braces=1 + len({path[:i] for path in paths for i in range(1, len(path))}), brackets=0)
        self._absent = [attribute for attribute, *_ in others]
        wanted = [self._attributes[path] for path in paths]
        # attrgetter gives a tuple for several names, and the value itself for one
        get: Any = attrgetter(*wanted)
        self._get: Callable[[Any], tuple[float, ...]] = get if len(wanted) > 1 else lambda found: (get(found),)

    def together(self, values: Sequence[bytes | None]) -> tuple[Iterable[tuple[float, ...]], list[Timestamp]] | None:
        found = self._lines.read(values)
        if found is None or any(getattr(record, name) is not msgspec.UNSET for name in self._absent for record in found):
            return None
        return map(self._get, found), [record.timestamp for record in found]

    def _struct(
        self, tree: dict[str, Any], path: tuple[str, ...], prefix: str, fields: list[tuple[Any, ...]]
    ) -> type[msgspec.Struct]:
        """A struct whose attributes have names that Python takes, whatever the fields are called."""
        made: list[tuple[Any, ...]] = []
        rename: dict[str, str] = {}
        for i, (name, below) in enumerate(tree.items()):
            attribute = f"f{i}"
            rename[attribute] = name
            if below is None:
                self._attributes[*path, name] = f"{prefix}{attribute}"
                made.append((attribute, float))
            else:
                made.append((attribute, self._struct(below, (*path, name), f"{prefix}{attribute}.", [])))
        for attribute, name, kind, default in fields:
            rename[attribute] = name
            made.append((attribute, kind, default))
        return msgspec.defstruct("Fields", made, rename=rename, gc=False)

    def decode(self, value: bytes) -> tuple[tuple[float, ...], Timestamp] | None:
        """None for whatever is to be read otherwise."""
        try:
            found: Any = self._decoder.decode(value)
        except msgspec.DecodeError:
            return None
        for attribute in self._absent:
            if getattr(found, attribute) is not msgspec.UNSET:
                return None
        return self._get(found), found.timestamp


def no_number(name: str, way: Sequence[str], at: object, found: object) -> str:
    """way: the keys that were followed, to `at`."""
    expected = "expected a number in each field of input.features"
    if at is not None:
        return f"the field {name} is no number; {expected}"
    if len(way) == 1:
        return f"the field {name} is missing or null{fields_of(found)}; {expected}"
    within = " in ".join(part[:40] for part in reversed(way))
    what = f"no number {within}" if '"' in name else f"neither a key {name} nor, since dots descend, a number {within}"
    return f"there is {what}{fields_of(found)}; {expected}"


def fields_of(found: object) -> str:
    """What the record has instead, in words; empty for what is no object."""
    if not isinstance(found, dict):
        return ""
    names = ", ".join(str(name)[:30] for name in list(found)[:FIELDS_SHOWN] if name != "timestamp")
    return f" (the record has {names or 'no fields'}{', ...' if len(found) > FIELDS_SHOWN else ''})"


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def loaded(value: bytes, constant: Callable[[str], None] = no_constant) -> Any:
    """What the fast decoders refuse: they stop at the first fault, and which one to name must not depend on where that is.

    constant: what NaN, Infinity and -Infinity are read as, which are no JSON.
    """
    try:
        found = json.loads(value.decode(), parse_constant=constant, parse_int=_integer)
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


def checked_timestamp(found: Any, name: str = "timestamp") -> Timestamp:
    """name: of the field that holds it."""
    if isinstance(found, bool) or not isinstance(found, int | float | str | None):
        raise RejectError("bad_timestamp", f"`{name}` is neither a number nor text; expected Unix time or ISO 8601")
    return found


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def nesting(value: bytes) -> int:
    """How deep brackets nest, those in strings aside."""
    text = np.frombuffer(_STRING.sub(b"", value), np.uint8)
    opened = ((text == ord("[")) | (text == ord("{"))).astype(np.int64)
    closed = ((text == ord("]")) | (text == ord("}"))).astype(np.int64)
    return int(np.cumsum(opened - closed).max(initial=0))
