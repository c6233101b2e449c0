"""Dead letters: the bytes of a record that could not be used, unchanged, with headers that say why and where it came from.

Too many of them are no bad data but a bad deployment, which must not drain a topic: BadShare says when that is. Refusals says
in the log what was refused.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from processor.codec.columns import Message
from processor.codec.encode import shown
from processor.errors import DeadLetterLimit
from processor.records import Out, Rejected

_log = structlog.get_logger(__name__)

# What a broker adds to a record's key, value and headers, generously: lengths, batch header, producer fields.
OVERHEAD_BYTES = 512
WINDOW_RECORDS = 10_000
RECORDS_MIN = 100
TELL_EVERY_S = 60.0
KEY_SHOWN = 80


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


class Refusals:
    """Says in the log what becomes a dead letter: the first record of each reason, then at most one line a minute for each.

    A record that is read again after an abort counts again.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._told_s: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def tell(self, keys: Sequence[bytes | None], rejected: Sequence[Rejected]) -> None:
        """keys: of these records."""
        for key, reason in zip(keys, rejected, strict=True):
            error, now_s = reason.error, self._now_s()
            self._since[error] += 1
            if error in self._told_s and now_s - self._told_s[error] < TELL_EVERY_S:
                continue
            self._told_s[error] = now_s
            _log.warning(
                "a record cannot be used, writing it to the dead-letter topic",
                error=error,
                partition=reason.partition,
                offset=reason.offset,
                key=None if key is None else shown(key)[:KEY_SHOWN],
                detail=reason.detail,
                since_the_last_line=self._since.pop(error),
            )


def example(key: bytes | None, reason: Rejected) -> str:
    """Which record it is and what is wrong with it, in a line."""
    sensor = "no key" if key is None else f"key {shown(key)[:KEY_SHOWN]}"
    return f"partition {reason.partition}, offset {reason.offset}, {sensor}: {reason.detail}"


class BadShare:
    """The share of bad records among the last 10,000 seen, or all if fewer. What is undone is forgotten: it is seen again."""

    def __init__(self, max_ratio: float, topic: str) -> None:
        self._max_ratio, self._topic = max_ratio, topic
        self._recent = np.zeros(0, np.bool_)
        self._committed = self._recent
        self._errors: Counter[str] = Counter()
        self._latest: dict[str, str] = {}

    def add(self, messages: Sequence[Message], bad: list[tuple[int, Rejected]]) -> None:
        """A batch, of which these (index, reason) are bad. Raises DeadLetterLimit past the limit, with the latest of each reason."""
        batch = np.zeros(len(messages), np.bool_)
        batch[[i for i, _ in bad]] = True
        self._errors.update(reason.error for _, reason in bad)
        self._latest.update((reason.error, example(messages[i].key(), reason)) for i, reason in bad)
        self._recent = np.concatenate([self._recent, batch])[-WINDOW_RECORDS:]
        if len(self._recent) >= RECORDS_MIN and self._recent.mean() > self._max_ratio:
            examples = [f"\n  - {error} ({count} times), the latest: {self._latest[error]}" for error, count in self._errors.most_common()]
            raise DeadLetterLimit(
                f"{int(self._recent.sum())} of the last {len(self._recent)} records are bad:{''.join(examples)}\n",
                expected=f"at most {self._max_ratio:.0%} (dead_letter.max_ratio)",
                do="fix the sender, the model or the settings: these records are not committed, come again, and are not in "
                f"{self._topic}; to have them all as dead letters there, start with dead_letter.max_ratio: 1",
            )

    def commit(self) -> None:
        self._committed = self._recent

    def abort(self) -> None:
        self._recent = self._committed
