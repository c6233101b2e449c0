"""The fast way of a batch: plain records are read many at a time, into columns.

Names no fault and decides nothing of its own. What is not plainly in order is None, and decode reads those records one by one: both
ways give the same batch, bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from processor.codec import event_time
from processor.codec.columns import KEY_BYTES_MAX, Columns, Header, Message
from processor.codec.reject import RejectError

RECORDS_MAX = 512  # at a time: one that is not plain has so many read one by one

Timestamps = Sequence[int | float | str | None] | NDArray[np.int64]
Read = tuple[NDArray[Any], Timestamps]


class PlainFormat(Protocol):
    def together(self, values: Sequence[bytes | None], messages: Sequence[Message], /) -> Read | None:
        """The numbers of records of one step each, float64 or float32 [n, F], and their timestamps. values: of the messages."""


class Together:
    """
    header        what the headers of a record say of it; raises RejectError
    no_header     the same of a record that has none
    ahead_max_ms  how far a timestamp may lie ahead of its record's own
    """

    def __init__(
        self,
        format: PlainFormat,  # noqa: A002
        header: Callable[[list[tuple[str, bytes | None]]], Header],
        no_header: Header,
        *,
        ahead_max_ms: int,
    ) -> None:
        self._format, self._header, self._no_header, self._ahead_ms = format, header, no_header, ahead_max_ms

    def read(self, messages: Sequence[Message], first: int) -> tuple[Columns, NDArray[Any]] | None:
        """Columns of these records, the first of which is the batch's `first`, and their numbers [n, F]."""
        keys = [message.key() for message in messages]
        if None in keys or max(map(len, keys)) > KEY_BYTES_MAX:  # type: ignore[arg-type]
            return None
        read = self._format.together([message.value() for message in messages], messages)
        if read is None:
            return None
        x, timestamps = read
        headers = self._headers(messages)
        if headers is None:
            return None
        before, after, unit_given = headers
        kinds, times = zip(*[message.timestamp() for message in messages], strict=True)
        record_ms = np.array(times, np.int64)
        event_ms = event_time.plain(timestamps, record_ms, ahead_max_ms=self._ahead_ms, unit_given=unit_given)
        if event_ms is None or not all(kinds):
            return None
        n = len(keys)
        columns = Columns(
            source=list(range(first, first + n)),
            partition=[message.partition() for message in messages],
            key=keys,  # type: ignore[arg-type]
            offset=[message.offset() for message in messages],
            event_ms=event_ms,
            record_ms=record_ms,
            steps=np.ones(n, np.int64),
            before=before,
            after=after,
        )
        return columns, x

    def _headers(self, messages: Sequence[Message]) -> tuple[Any, Any, NDArray[np.bool_] | None] | None:
        """Reset before, reset after, and whether the sender names the unit, None for nobody."""
        n, headers = len(messages), [message.headers() for message in messages]
        if not any(headers):
            each_record = self._no_header[0]
            return np.full(n, each_record), np.full(n, each_record), None
        try:
            before, after, steps, unit_given = zip(*[self._header(h) if h else self._no_header for h in headers], strict=True)
        except RejectError:
            return None
        if steps.count(1) != n:
            return None
        return before, after, np.array(unit_given, np.bool_) if any(unit_given) else None
