"""A record as the Kafka client hands it over, made from values: for what runs without a broker (`try`, `plan`, tests)."""

from collections.abc import Sequence
from dataclasses import dataclass

NO_TIME, CREATE_TIME = 0, 1  # the client's own numbers


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """codec.decode.Message over these values. time_ms: the record's timestamp, Unix milliseconds; kind: NO_TIME or CREATE_TIME."""

    name: bytes | None
    encoded: bytes | None
    number: int = 0
    at: int = 0
    time_ms: int = 0
    kind: int = CREATE_TIME
    told: Sequence[tuple[str, bytes | None]] = ()

    def key(self) -> bytes | None:
        return self.name

    def value(self) -> bytes | None:
        return self.encoded

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return list(self.told) or None

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return self.kind, self.time_ms
