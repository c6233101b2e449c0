"""The open transaction: published to, then committed or aborted with everybody who keeps something by it.

Owns the delivery and its participants, so that nobody else lists who takes part. Asks whose name it is before it takes a new producer. The
consumer is rewound by the loop: an abort may happen in a callback of the consumer's own call. Must not know what is published.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from processor.checkpoint.writer import CheckpointWriter
from processor.errors import RepeatedAbort, SlotstreamError
from processor.kafka.consumer import MemberFencedError
from processor.kafka.delivery import AbortedError, Delivery, ProducerFencedError
from processor.loop.membership import Membership
from processor.partitions import Partitions
from processor.recorder import Recorder
from processor.records import Out
from processor.settings import TRANSACTION_TIMEOUT_S

_log = structlog.get_logger(__name__)

ABORTS_MAX = 5


class Participant(Protocol):
    """Keeps something that becomes final with a transaction, or is put back as it was at the last commit."""

    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Committer:
    """topic: of the offsets. participants: told of a commit once it is confirmed, and of an abort, in this order.

    rewind_due: something was undone, and the consumer has not gone back yet.
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
        """Everything since the last commit becomes final, or is undone."""
        checkpoints, written_for = self._writer.outs()
        # Whatever is written for a partition goes with its offset, moved or not: without one the group could not refuse it.
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
            self._undo(str(error), None)  # the next consume() says it again, or tells of the loss
        except ProducerFencedError as error:
            self._recover(error)
        else:
            self._aborts = ("", 0)
            for participant in self._participants:
                participant.commit()

    def go_back(self) -> None:
        """Aborts: everything is as at the last commit. The caller has proved that the name is this process's."""
        try:
            self._delivery.abort()
        except ProducerFencedError as fenced:
            self._renew(fenced)
        self._put_back()
        self.rewind_due = True

    def abort_if_young(self) -> None:
        """Aborts at the broker, unless another process may have the name by now. Raises as the delivery."""
        if (self.age_s or 0.0) < TRANSACTION_TIMEOUT_S:
            self._delivery.abort()

    def suspend(self) -> None:
        """Undoes what is not committed, without asking the broker's leave: what it does not take is left to the next producer."""
        with contextlib.suppress(AbortedError, ProducerFencedError, SlotstreamError):
            self.abort_if_young()
        self._put_back()

    def resume(self) -> None:
        """A new producer. The caller has proved that the name is this process's."""
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
        """Goes back to the last commit. The same kind of reason ends the process the fifth time in a row; None, a retriable one, never."""
        if self.age_s is not None:
            # Where records timed out, the abort asks for a higher epoch; and while a successor has a transaction open, the broker (4.3)
            # does not look at how old the one is that asks, and fences the successor.
            self._membership.prove_name("its transaction was not committed")
        self.go_back()
        count = 0 if kind is None else self._aborts[1] + 1 if self._aborts[0] == kind else 1
        self._aborts = (kind or "", count)
        _log.warning("transaction aborted, going back to the last commit", reason=reason, in_a_row=count)
        if count >= ABORTS_MAX:
            raise RepeatedAbort(
                f"{count} transactions in a row were aborted ({reason})",
                expected="a transaction that the broker takes",
                do="mend what the reason names, then start again: nothing was lost",
            )

    def _recover(self, fenced: ProducerFencedError) -> None:
        self._renew(fenced)
        self._undo(str(fenced), str(fenced))

    def _renew(self, fenced: ProducerFencedError) -> None:
        """A new producer, unless another process has the name. A rival that asks for the name at the same time may refuse this one too."""
        for _ in range(ABORTS_MAX):
            self._recorder.fenced()
            self._membership.prove_name(str(fenced))
            told = "the broker timed the transaction out" if fenced.timed_out else "the broker refused the producer"
            _log.warning(f"{told}; going on with a new producer", reason=str(fenced))
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
