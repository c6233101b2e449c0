"""The way of outputs to the broker, as the loop sees it, and what its errors mean in Kafka's three words.

    retriable   the same call may be made again. An implementation does that itself until the call is decided; nothing is raised
    abortable   AbortedError: everything since the last commit is undone and done again
    fatal       ProducerFencedError: the producer is at its end; renew() makes a new one, if the name is still this process's

Whatever else an implementation raises is a SlotstreamError that ends the process. Nothing here knows the Kafka client; whether another
process caused a fatal error only the group can say (loop.membership).
"""

from collections.abc import Iterable
from typing import Any, Protocol

from processor.records import Out

Offset = tuple[int, int, str]  # partition, offset, metadata


class AbortedError(Exception):
    """The transaction cannot be committed: everything since the last commit is to be undone and done again.

    kind       the error's name, the same each time; its words name milliseconds too
    retriable  time mends it, or the consumer hears with its next heartbeat that the group no longer accepts this member
    """

    def __init__(self, reason: str, *, kind: str, retriable: bool) -> None:
        super().__init__(reason)
        self.kind, self.retriable = kind, retriable


class ProducerFencedError(Exception):
    """The producer is at its end: the broker has another one of this transactional.id, timed out its transaction, or broke with it.

    A new producer of the name does what a restart would do.
    timed_out: the transaction was older than its timeout, so the broker may have ended it.
    """

    def __init__(self, reason: str, *, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Member(Protocol):
    """This process's place in the group: kafka.consumer. Both raise MemberFencedError where its partitions are another member's."""

    def group_metadata(self) -> Any: ...
    def commit(self, topic: str, positions: list[Offset]) -> None: ...


class Delivery(Protocol):
    """Outputs and offsets, final together or not at all; or, without transactions, offsets never before their outputs.

    Implementations: kafka.transaction, kafka.at_least_once. All of them pass tests/unit/kafka/test_delivery.py.
    """

    @property
    def age_s(self) -> float | None:
        """Seconds since something was first published after the last commit or abort; None if nothing was."""

    def publish(self, outs: Iterable[Out]) -> None:
        """Raises AbortedError, ProducerFencedError; at latest in the commit that follows."""

    def commit(self, topic: str, positions: list[Offset], member: Member) -> None:
        """Makes what was published final, with the offset of each partition that it was published for. Raises as publish().

        What is committed without an offset the group cannot refuse.
        """

    def abort(self) -> None:
        """Gives up what is not committed; does nothing where nothing is. Raises ProducerFencedError."""

    def renew(self) -> None:
        """A new producer of the same name; whatever the old one left open does not become final. Raises ProducerFencedError."""

    def close(self) -> None:
        """Waits for nothing that is not committed. Raises nothing that the broker says."""
