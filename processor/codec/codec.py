"""The two ways between bytes and numbers, as the loop uses them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from processor.codec.decode import Decoded, Message
from processor.records import Applied, Batch


class Codec(NamedTuple):
    """decode: every message ends in the batch or among the rejected. encode: one output a record, None where there is none."""

    decode: Callable[[Sequence[Message]], Decoded]
    encode: Callable[[Batch, Applied], list[bytes | None]]
