"""The format float32: a record's value is its numbers alone, little-endian, the features of one step after another.

Says what a value holds and what is wrong with it. The time is the record's own, since the value has none.
"""

import numpy as np
from numpy.typing import NDArray

from processor.codec.decode import RejectError

NUMBER_BYTES = 4


class Float32Format:
    """
    features          F of the model
    record_steps_max  readings that one record may hold
    """

    def __init__(self, *, features: int, record_steps_max: int) -> None:
        self.features, self.steps_max = features, record_steps_max

    def numbers(self) -> "_Numbers":
        return _Numbers(self)


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

    def take(self, parsed: bytes) -> int:
        numbers = len(parsed) // NUMBER_BYTES
        steps, rest = -(-numbers // self._features), numbers % self._features
        if steps > self._steps_max:
            raise RejectError("too_large", f"found {steps} steps; expected at most {self._steps_max} (input.record_steps_max)")
        if rest:
            raise RejectError("wrong_feature_count", f"found {numbers} numbers; the model takes {self._features} a step")
        self._taken.append(parsed)
        return steps
