"""The interface for delivering outputs to the broker, and Kafka's three classes of errors.

    retriable   the same call may be repeated. An implementation retries it until its outcome is known, and raises nothing
    abortable   AbortedError: everything since the last commit is rolled back and repeated
    fatal       ProducerFencedError: the producer is unusable; renew() creates a new one, if this process still holds the name

While an implementation retries, it asks whether its client is stuck (ClientStuckError).

Any other exception of an implementation is a SlotstreamError that ends the process. This module does not depend on the Kafka client. Only
the group can tell whether another process caused a fatal error (loop.membership).
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from processor.records import Out

Offset = tuple[int, int, str]  # partition, offset, metadata


class AbortedError(Exception):
    """The transaction cannot be committed: everything since the last commit must be rolled back and repeated.

    kind       the error's name, which is stable; its text may contain varying numbers
    retriable  it passes by itself, or the consumer's next heartbeat reports that the group no longer accepts this member
    """

    def __init__(self, reason: str, *, kind: str, retriable: bool) -> None:
        super().__init__(reason)
        self.kind, self.retriable = kind, retriable


class ProducerFencedError(Exception):
    """The producer is unusable: another one has its transactional.id, its transaction has timed out, or it has failed.

    Creating a new producer with the name has the same effect as a restart.
    timed_out: the transaction was older than its timeout, so the broker may have ended it.
    """

    def __init__(self, reason: str, *, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class ClientStuckError(Exception):
    """A client does not find a broker, although one answers other clients: only new clients help.

    After an outage, a librdkafka 2.16 client can keep a handle of a broker that it has discarded, which counts as a connection in
    progress: the client then never connects again, and reports no error.
    """


# Whether a client that has waited for this many seconds should have found a broker.
Stuck = Callable[[float], bool]


class Member(Protocol):
    """This process's membership: kafka.consumer. Both methods raise MemberFencedError if its partitions belong to another member."""

    def group_metadata(self) -> Any: ...
    def commit(self, topic: str, positions: list[Offset]) -> None: ...


class Delivery(Protocol):
    """Delivers outputs and offsets atomically; or, without transactions, never commits offsets before their outputs.

    Implementations: kafka.transaction, kafka.at_least_once. Both pass tests/unit/kafka/test_delivery.py.
    """

    @property
    def age_s(self) -> float | None:
        """Seconds since the first record was published after the last commit or abort; None if none was."""

    def publish(self, outs: Iterable[Out]) -> None:
        """Raises AbortedError or ProducerFencedError, at the latest in the following commit."""

    def commit(self, topic: str, positions: list[Offset], member: Member) -> None:
        """Makes published records final, with the offset of each partition that they belong to. Raises the errors of publish().

        The group cannot refuse a commit without offsets.
        """

    def abort(self) -> None:
        """Discards uncommitted records; does nothing if there are none. Raises ProducerFencedError."""

    def renew(self) -> None:
        """Creates a new producer with the same name; the old one's open transaction never becomes final. Raises ProducerFencedError."""

    def close(self) -> None:
        """Closes without waiting for uncommitted records. Does not raise broker errors."""
