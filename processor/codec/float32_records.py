"""The format float32: a record's value is its numbers alone, little-endian, the features of one step after another.

Says what a value holds and what is wrong with it. The time is the record's own, since the value has none.

A record is one step, or as many as its header `steps` says: the bytes alone cannot tell two steps from one of float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.codec.reject import RejectError
from processor.codec.together import Read

NUMBER_BYTES = 4
# What no sensor measures: below float32's normal numbers, or beyond this.
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = 1e30


class Float32Format:
    """
    features          F of the model
    record_steps_max  readings that one record may hold
    """

    steps_in_header = True

    def __init__(self, *, features: int, record_steps_max: int) -> None:
        self.features, self.steps_max = features, record_steps_max

    def numbers(self) -> "_Numbers":
        return _Numbers(self)

    def together(self, values: Sequence[bytes | None], _messages: Any = ()) -> Read | None:
        size = NUMBER_BYTES * self.features
        if any(value is None or len(value) != size for value in values):
            return None
        x = np.frombuffer(b"".join(values), "<f4").reshape(-1, self.features)  # type: ignore[arg-type]
        return x, [None] * len(values)

    def foreign(self, x: NDArray[Any]) -> NDArray[np.bool_] | None:
        size = np.abs(x)
        foreign: NDArray[np.bool_] = ((size < SMALLEST) & (x != 0)) | ((size > LARGEST) & np.isfinite(x))
        return foreign if foreign.any() else None


class _Numbers:
    """The numbers of one batch of float32 records."""

    def __init__(self, made_by: Float32Format) -> None:
        self._features, self._steps_max = made_by.features, made_by.steps_max
        self._taken: list[bytes] = []

    def array(self) -> NDArray[np.float32]:
        return np.frombuffer(b"".join(self._taken), "<f4").reshape(-1, self._features)

    def parse(self, value: bytes) -> tuple[bytes, None]:
        if not value or len(value) % NUMBER_BYTES:
            expected = f"expected 4 bytes a number, {self._features} numbers a step"
            raise RejectError("bad_encoding", f"the value has {len(value)} bytes; {expected}")
        return value, None

    def take(self, parsed: bytes, steps: int) -> int:
        if steps > self._steps_max:
            raise RejectError("too_large", f"header steps is {steps}; expected at most {self._steps_max} (input.record_steps_max)")
        numbers, expected = len(parsed) // NUMBER_BYTES, steps * self._features
        if numbers != expected:
            raise RejectError("wrong_feature_count", self._not_so_many(numbers, expected, steps))
        self._taken.append(parsed)
        return steps

    def _not_so_many(self, numbers: int, expected: int, steps: int) -> str:
        told = f"found {numbers} numbers; expected {expected}, {self._features} a step and {steps} {'step' if steps == 1 else 'steps'}"
        if numbers == 2 * expected:
            told += f". They may be {expected} float64: send float32"
        if steps == 1 and numbers % self._features == 0:
            told += f". If they are {numbers // self._features} steps, say so in the header steps"
        return told
