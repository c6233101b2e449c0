"""Decoding of records whose settings go beyond the plain form: each is read whole, one after another.

Beside decode, which reads plain records fast, and with its order of faults. What of a record makes the key, the time and the numbers is
decided here; what a value looks like is the format's (whole_json, whole_float32).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from processor.codec import event_time
from processor.codec.columns import Columns, Message
from processor.codec.decode import UNIT, Decoded, Decoder, Format, check_key
from processor.codec.key_source import KeySource
from processor.codec.missing import Holes
from processor.codec.reject import RejectError
from processor.records import Rejected
from processor.settings import Scale


class WholeFormat(Protocol):
    """How a value is read: load() first, then the others in this order. Each raises RejectError."""

    def load(self, value: bytes, message: Message, /) -> Any: ...
    def steps(self, found: Any, asked: int, /) -> list[list[float]]: ...
    def timestamp(self, found: Any, /) -> int | float | str | None: ...


class WholeDecoder(Decoder):
    """
    plain      what decides of numbers that are plainly of another type (Decoder)
    whole      how a value is read
    features   F of the model
    steps_max  readings that one record may hold
    unit       of timestamps that are numbers, one of event_time.UNITS; None: milliseconds
    holes      what stands for missing numbers; None: none may be missing
    key        which sensor a record is of
    others     as of Decoder
    """

    def __init__(
        self,
        plain: Format,
        whole: WholeFormat,
        *,
        features: int,
        steps_max: int,
        unit: str | None = None,
        holes: Holes | None = None,
        key: KeySource,
        scale: Scale | None = None,
        ahead_max_s: float,
        each_record: bool,
        categories: Sequence[int | None] = (),
    ) -> None:
        super().__init__(plain, scale=scale, ahead_max_s=ahead_max_s, each_record=each_record, categories=categories)
        self._whole, self._features, self._steps_max, self._holes = whole, features, steps_max, holes
        self._key = key
        self._unit = unit or UNIT.decode()
        self._units = {UNIT, self._unit.encode()}

    def decode(self, messages: Sequence[Message]) -> Decoded:
        columns, numbers, rejected = Columns(), self._new_numbers(), list[tuple[int, Rejected]]()
        for i, message in enumerate(messages):
            try:
                self._decode_whole(i, message, columns, numbers)
            except RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        decoded = self._finish(columns, numbers.array(), rejected)
        decoded.batch.missing = numbers.missing_of(decoded.source, decoded.batch.steps)
        return decoded

    def _decode_whole(self, i: int, message: Message, columns: Columns, numbers: "_Numbers") -> None:
        value, (kind, record_ms) = message.value(), message.timestamp()
        found = self._whole.load(value, message) if self._key.in_value and value is not None else None
        key = self._key.key(message, found)
        check_key(key)
        before, after, _, _ = self._no_header
        event_ms, steps = record_ms, list[list[float]]()
        if value is not None:
            before, after, asked, unit = self._marks(message.headers() or [])
            if not self._key.in_value:
                found = self._whole.load(value, message)
            steps = self._whole.steps(found, asked)
            event_ms = event_time.event_ms(
                self._whole.timestamp(found),
                record_ms if kind else None,
                ahead_max_ms=self._ahead_ms,
                unit_given=unit is not None,
                unit=unit or self._unit,
            )
            self._check_size(steps)
            filled, missing = self._holes.filled(steps) if self._holes else ([n for step in steps for n in step], None)
            numbers.take(i, filled, missing)
        columns.add(i, message, key, event_ms=event_ms, record_ms=record_ms, steps=len(steps), before=before, after=after)

    def _new_numbers(self) -> "_Numbers":
        return _Numbers(self._features)

    def _marks(self, headers: list[tuple[str, bytes | None]]) -> tuple[bool, bool, int, str | None]:
        """Reset before, reset after, steps, and the unit that the sender names. It may be that of the settings."""
        if not headers:
            before, after, steps, _ = self._no_header
            return before, after, steps, None
        before, after, steps, _ = self._header([header for header in headers if header[0] != "timestamp_unit"])
        unit = None
        for name, given in headers:
            if name == "timestamp_unit":
                if given not in self._units:
                    expected = " or ".join(sorted(text.decode() for text in self._units))
                    raise RejectError("bad_schema", f"header timestamp_unit is {(given or b'')[:40]!r}; expected {expected}")
                unit = given.decode()
        return before, after, steps, unit

    def _check_size(self, steps: Sequence[Sequence[float]]) -> None:
        if len(steps) > self._steps_max:
            raise RejectError("too_large", f"found {len(steps)} steps; expected at most {self._steps_max} (input.record_steps_max)")
        for step in steps:
            if len(step) != self._features:
                raise RejectError("wrong_feature_count", f"found {len(step)} values in a reading; the model takes {self._features}")


class _Numbers:
    """The numbers of a batch, float64 whatever the format."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._taken: list[float] = []
        self._missing: dict[int, list[bool]] = {}  # by message

    def take(self, message: int, numbers: Sequence[float], missing: list[bool] | None) -> None:
        self._taken.extend(numbers)
        if missing is not None:
            self._missing[message] = missing

    def missing_of(self, messages: Sequence[int], steps: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which numbers of these messages were missing, bool [readings, F]; None: none. steps: of each."""
        if not self._missing:
            return None
        missing = [self._missing.get(i) or [False] * (n * self._features) for i, n in zip(messages, steps.tolist(), strict=True)]
        return np.array([hole for record in missing for hole in record], np.bool_).reshape(-1, self._features)

    def array(self) -> NDArray[np.float64]:
        return np.array(self._taken, np.float64).reshape(-1, self._features)
