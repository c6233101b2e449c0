"""Decoding of records whose settings go beyond the plain form: each is read whole, one after another.

Beside decode, which reads plain records fast, and with its order of faults. What of a record makes the key, the time and the numbers is
decided here; what a value looks like is the format's (whole_json, whole_float32).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from processor.codec import event_time
from processor.codec.columns import KEY_BYTES_MAX, Columns, Message
from processor.codec.decode import UNIT, Decoded, Decoder, Format
from processor.codec.reject import RejectError
from processor.records import Rejected
from processor.settings import Scale


class WholeFormat(Protocol):
    """How a value is read: load() first, then the others in this order. Each raises RejectError."""

    def load(self, value: bytes, /) -> Any: ...
    def steps(self, found: Any, /) -> list[list[float]]: ...
    def timestamp(self, found: Any, /) -> int | float | str | None: ...


class WholeDecoder(Decoder):
    """
    plain      what decides of numbers that are plainly of another type (Decoder)
    whole      how a value is read
    features   F of the model
    steps_max  readings that one record may hold
    unit       of timestamps that are numbers, one of event_time.UNITS; None: milliseconds
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
        scale: Scale | None = None,
        ahead_max_s: float,
        each_record: bool,
        categories: Sequence[int | None] = (),
    ) -> None:
        super().__init__(plain, scale=scale, ahead_max_s=ahead_max_s, each_record=each_record, categories=categories)
        self._whole, self._features, self._steps_max = whole, features, steps_max
        self._unit = unit or UNIT.decode()
        self._units = {UNIT, self._unit.encode()}

    def decode(self, messages: Sequence[Message]) -> Decoded:
        columns, numbers, rejected = Columns(), _Numbers(self._features), list[tuple[int, Rejected]]()
        for i, message in enumerate(messages):
            try:
                self._decode_whole(i, message, columns, numbers)
            except RejectError as error:
                rejected.append((i, Rejected(message.partition(), message.offset(), error.error, error.detail)))
        return self._finish(columns, numbers, rejected)

    def _decode_whole(self, i: int, message: Message, columns: Columns, numbers: "_Numbers") -> None:
        key, value, (kind, record_ms) = message.key(), message.value(), message.timestamp()
        if key is None:
            raise RejectError("no_key", "the record has no key; expected the sensor's name")
        if len(key) > KEY_BYTES_MAX:
            raise RejectError("too_large", f"the key has {len(key)} bytes; expected at most {KEY_BYTES_MAX}")
        before, after, _, _ = self._no_header
        event_ms, steps = record_ms, list[list[float]]()
        if value is not None:
            before, after, _, unit = self._marks(message.headers() or [])
            found = self._whole.load(value)
            steps = self._whole.steps(found)
            event_ms = event_time.event_ms(
                self._whole.timestamp(found),
                record_ms if kind else None,
                ahead_max_ms=self._ahead_ms,
                unit_given=unit is not None,
                unit=unit or self._unit,
            )
            self._check_size(steps)
            numbers.take(steps)
        columns.source.append(i)
        columns.partition.append(message.partition())
        columns.key.append(key)
        columns.offset.append(message.offset())
        columns.event_ms.append(event_ms)
        columns.record_ms.append(record_ms)
        columns.steps.append(len(steps))
        columns.before.append(before)
        columns.after.append(after)

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

    def take(self, steps: Sequence[Sequence[float]]) -> None:
        for step in steps:
            self._taken.extend(step)

    def array(self) -> NDArray[np.float64]:
        return np.array(self._taken, np.float64).reshape(-1, self._features)
