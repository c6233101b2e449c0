"""The format float32 for records that are read whole: a NaN, or a number that stands for none, is a missing value.

Sizes and the number of steps are float32_records' to judge.
"""

import math
import struct
from typing import Any

import numpy as np

from processor.codec.columns import Message
from processor.codec.float32_records import NUMBER_BYTES, Float32Format
from processor.codec.missing import Absent


class WholeFloat32:
    """absent: the numbers that stand for none, None: NaN is a number like any other."""

    def __init__(self, plain: Float32Format, absent: Absent | None) -> None:
        self._plain = plain
        self._absent = None if absent is None else {float(np.float32(number)) for number in absent.numbers}

    def load(self, value: bytes, _message: Message) -> bytes:
        return self._plain.numbers().parse(value)[0]

    def steps(self, found: bytes, asked: int) -> list[list[float]]:
        self._plain.numbers().take(found, asked)
        numbers = struct.unpack(f"<{len(found) // NUMBER_BYTES}f", found)
        if self._absent:
            numbers = tuple(math.nan if number in self._absent else number for number in numbers)
        features = self._plain.features
        return [list(numbers[i : i + features]) for i in range(0, len(numbers), features)]

    def timestamp(self, _found: Any) -> None:
        """The record's own time counts."""
