"""Dead letters: the bytes of a record that could not be used, unchanged, with headers that say why and where it came from."""

from processor.codec.json_records import Message
from processor.records import Out, Rejected

# What a broker adds to a record's key, value and headers, generously: lengths, batch header, producer fields.
OVERHEAD_BYTES = 512


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
    return OVERHEAD_BYTES + len(key or b"") + len(value or b"") + sum(len(name) + len(text) + 10 for name, text in headers)
