"""A place that a model file is read from: what every kind of place can do, and the errors that all of them share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from processor.errors import ConfigurationError, SlotstreamError


@dataclass(frozen=True)
class Pinned:
    """What a location means at one time. version: changes when its content does, None where the place has nothing of the kind; words: the
    same for people. size: bytes, if known."""

    version: str | None
    words: str
    size: int | None


class Place(Protocol):
    shown: str

    def look(self) -> Pinned:
        """What the location means now. Raises SlotstreamError."""

    def read(self, pinned: Pinned) -> Iterator[bytes]:
        """The file that was pinned, in parts. Raises SlotstreamError."""


def missing(shown: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no model at {shown} ({reason})",
        expected="a model file",
        do="correct model.path, or put the model there",
        see="the-model-cannot-be-fetched",
    )


def refused(shown: str, reason: str, how: str) -> ConfigurationError:
    return ConfigurationError(
        f"reading {shown} is not permitted ({reason})", expected="credentials that may read it", do=how, see="the-model-cannot-be-fetched"
    )


def unreachable(shown: str, reason: str) -> SlotstreamError:
    return SlotstreamError(
        f"{shown} cannot be reached ({reason})",
        expected="an answer from where the model lies",
        do="check the host's name, the network and the certificate, then start again",
        see="the-model-cannot-be-fetched",
    )
