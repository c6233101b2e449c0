"""Dead letters: the bytes of a record that could not be used, unchanged, with headers that say why and where it came from.

Too many of them are no bad data but a bad deployment, which must not drain a topic: BadShare says when that is.
"""

from collections import Counter

import numpy as np

from processor.codec.decode import Message
from processor.errors import DeadLetterLimit
from processor.records import Out, Rejected

# What a broker adds to a record's key, value and headers, generously: lengths, batch header, producer fields.
OVERHEAD_BYTES = 512
WINDOW_RECORDS = 10_000
RECORDS_MIN = 100


def dead_letter(message: Message, rejected: Rejected, *, source_topic: str, topic: str, partition: int | None, bytes_max: int) -> Out:
    """bytes_max: what the topic takes. A record past it keeps its key and headers; the value goes, and `truncated` says so."""
    headers = [(name, value if value is not None else b"") for name, value in message.headers() or []]
    headers += [
        ("error", rejected.error.encode()),
        ("error_detail", rejected.detail.encode(errors="replace")),
        ("source_topic", source_topic.encode()),
        ("source_partition", str(rejected.partition).encode()),
        ("source_offset", str(rejected.offset).encode()),
    ]
    key, value = message.key(), message.value()
    if _size(key, value, headers) > bytes_max:
        headers.append(("truncated", str(len(value or b"")).encode()))
        value = None
    while _size(key, value, headers) > bytes_max and len(headers) > 6:
        del headers[0]  # the record's own headers are what is left to give up; ours stay
    if _size(key, value, headers) > bytes_max:
        key = (key or b"")[: max(0, bytes_max - _size(None, None, headers))]
    return Out(topic, partition, key, value, message.timestamp()[1], headers)


def _size(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> int:
    return OVERHEAD_BYTES + len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(text) + 10 for name, text in headers)


class BadShare:
    """The share of bad records among the last 10,000 seen, or all if fewer. What is undone is forgotten: it is seen again."""

    def __init__(self, max_ratio: float, topic: str) -> None:
        self._max_ratio, self._topic = max_ratio, topic
        self._recent = np.zeros(0, np.bool_)
        self._committed = self._recent
        self._errors: Counter[str] = Counter()

    def add(self, records: int, bad: list[tuple[int, str]]) -> None:
        """A batch of this many records, of which these (index, error) are bad. Raises DeadLetterLimit past the limit."""
        batch = np.zeros(records, np.bool_)
        batch[[i for i, _ in bad]] = True
        self._errors.update(error for _, error in bad)
        self._recent = np.concatenate([self._recent, batch])[-WINDOW_RECORDS:]
        if len(self._recent) >= RECORDS_MIN and self._recent.mean() > self._max_ratio:
            worst, count = self._errors.most_common(1)[0]
            raise DeadLetterLimit(
                f"{int(self._recent.sum())} of the last {len(self._recent)} records are bad (most often {worst}, {count} times)",
                expected=f"at most {self._max_ratio:.0%} (dead_letter.max_ratio)",
                do="mend the sender, the model or the settings: these records are not committed and come again; "
                f"to have them all as dead letters in {self._topic}, start with dead_letter.max_ratio: 1",
            )

    def commit(self) -> None:
        self._committed = self._recent

    def abort(self) -> None:
        self._recent = self._committed
