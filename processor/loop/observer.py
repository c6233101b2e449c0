"""What sees the readings pass and changes nothing of what is published: the interface between the loop and those who watch."""

from typing import Protocol

from processor.loop.committer import Participant
from processor.records import Applied, Batch


class Observer(Participant, Protocol):
    """A participant of the transaction, so that it forgets what is rolled back. The loop's thread calls all methods."""

    def applied(self, batch: Batch, applied: Applied) -> None:
        """The open transaction has one more batch. Its arrays may be kept, and must not be changed."""

    def drop(self, partition: int) -> None:
        """This instance no longer owns the partition."""
