"""The open transaction: publishes to it, then commits or aborts it together with its participants.

Owns the delivery and the list of participants. Checks that this process holds the name before it creates a new producer. The loop rewinds
the consumer, because an abort may happen inside a callback of the consumer's own call. Must not know what is published.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from processor.checkpoint.writer import CheckpointWriter
from processor.errors import RepeatedAbort, SlotstreamError
from processor.kafka.consumer import MemberFencedError
from processor.kafka.delivery import AbortedError, ClientStuckError, Delivery, ProducerFencedError
from processor.loop.membership import Membership
from processor.partitions import Partitions
from processor.recorder import Recorder
from processor.records import Out
from processor.settings import TRANSACTION_TIMEOUT_S

_log = structlog.get_logger(__name__)

ABORTS_MAX = 5


class Participant(Protocol):
    """Holds state that becomes final when a transaction commits, or returns to the last commit when it aborts."""

    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Committer:
    """topic: that of the offsets. participants: notified of a confirmed commit and of an abort, in this order.

    rewind_due: work was rolled back, and the consumer has not been rewound yet.
    """

    def __init__(
        self,
        delivery: Delivery,
        membership: Membership,
        topic: str,
        *,
        partitions: Partitions,
        writer: CheckpointWriter,
        participants: Sequence[Participant],
        recorder: Recorder,
    ) -> None:
        self._delivery, self._membership, self._topic = delivery, membership, topic
        self._partitions, self._writer, self._recorder = partitions, writer, recorder
        self._participants = [*participants, writer, partitions, recorder]
        self._aborts: tuple[str, int] = ("", 0)
        self.rewind_due = False

    @property
    def age_s(self) -> float | None:
        """Seconds since the transaction began; None if none is open."""
        return self._delivery.age_s

    def due(self, interval_s: float) -> bool:
        if self.age_s is not None:
            return self.age_s >= interval_s
        return self._writer.pending or any(p.moved for p in self._partitions.values())

    def publish(self, *parts: Iterable[Out]) -> None:
        try:
            with self._recorder.timed("publish"):
                for outs in parts:
                    self._delivery.publish(outs)
        except AbortedError as error:
            self._undo(str(error), None if error.retriable else error.kind)
        except ProducerFencedError as error:
            self._recover(error)

    def commit(self) -> None:
        """Makes everything since the last commit final, or rolls it back."""
        checkpoints, written_for = self._writer.outs()
        # Checkpoint records of a partition are sent with its offset, even if it has not moved: without an offset the group could not
        # refuse them.
        offsets = self._partitions.offsets(written_for)
        if not offsets and self.age_s is None:
            return
        try:
            with self._recorder.timed("commit"):
                if checkpoints:
                    self._delivery.publish(checkpoints)
                self._delivery.commit(self._topic, offsets, self._membership.reader)
        except AbortedError as error:
            self._undo(str(error), None if error.retriable else error.kind)
        except MemberFencedError as error:
            self._undo(str(error), None)  # the next consume() raises it again, or reports the loss
        except ProducerFencedError as error:
            self._recover(error)
        else:
            self._aborts = ("", 0)
            self._membership.accepted()
            for participant in self._participants:
                participant.commit()

    def go_back(self) -> None:
        """Aborts and returns everything to the last commit. The caller must have proved that this process holds the name."""
        try:
            self._delivery.abort()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self._put_back()
        self.rewind_due = True

    def abort_if_young(self) -> None:
        """Aborts at the broker, unless another process may hold the name by now. Raises the delivery's errors."""
        if (self.age_s or 0.0) < TRANSACTION_TIMEOUT_S:
            self._delivery.abort()

    def suspend(self) -> None:
        """Rolls back uncommitted work even if the broker refuses the abort: the next producer then aborts the transaction."""
        with contextlib.suppress(AbortedError, ClientStuckError, ProducerFencedError, SlotstreamError):
            self.abort_if_young()
        self._put_back()

    def resume(self) -> None:
        """Creates a new producer. The caller must have proved that this process holds the name."""
        try:
            self._delivery.renew()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self.rewind_due = False

    def close(self) -> None:
        self._delivery.close()

    def _put_back(self) -> None:
        for participant in self._participants:
            participant.abort()

    def _undo(self, reason: str, kind: str | None) -> None:
        """Goes back to the last commit. The fifth consecutive abort of the same kind ends the process; kind None (retriable) never does."""
        if self.age_s is not None:
            # If records have timed out, the abort requests a higher epoch. While a successor has an open transaction, the broker (4.3)
            # does not check whether the requesting epoch is stale, and fences the successor.
            self._membership.prove_name("its transaction was not committed")
        self.go_back()
        count = 0 if kind is None else self._aborts[1] + 1 if self._aborts[0] == kind else 1
        self._aborts = (kind or "", count)
        _log.warning("transaction aborted, returning to the last commit", reason=reason, in_a_row=count)
        if kind is None:
            self._membership.refused(reason)
        if count >= ABORTS_MAX:
            raise RepeatedAbort(
                f"{count} transactions in a row were aborted ({reason})",
                expected="a transaction that the broker takes",
                do="fix what the reason names, then start again: nothing was lost",
            )

    def _recover(self, fenced: ProducerFencedError) -> None:
        self._renew(fenced)
        self._undo(str(fenced), str(fenced))

    def _renew(self, fenced: ProducerFencedError) -> None:
        """Creates a new producer, unless another process holds the name. A rival starting at the same time may get this one refused too."""
        for _ in range(ABORTS_MAX):
            self._recorder.fenced()
            self._membership.prove_name(str(fenced))
            told = "the broker timed the transaction out" if fenced.timed_out else "the broker refused the producer"
            _log.warning(f"{told}; continuing with a new producer", reason=str(fenced))
            try:
                self._delivery.renew()
            except ProducerFencedError as again:
                fenced = again
            else:
                return
        raise RepeatedAbort(
            f"{ABORTS_MAX} producers in a row were refused ({fenced})",
            expected="a producer that the broker takes",
            do="look at the broker's log for the same time, then start again: nothing was lost",
        )
