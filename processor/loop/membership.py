"""This process's place in the group: the consumer from its first join to its leave, and the question whose the name is.

Owns the group's consumer and replaces it when its place is lost. Must not touch partitions, positions or transactions: what follows
from a lost place is decided by loop.rebalance, the consumer's listener.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

import structlog

from processor.errors import Fenced
from processor.kafka.consumer import Committed, GroupConsumer, Listener, MemberFencedError
from processor.kafka.group import Holder
from processor.loop.orphans import Orphans

_log = structlog.get_logger(__name__)

ASK_AGAIN_S = 0.2  # a coordinator that starts up answers soon
CONFIRM_S = 1.0  # between two looks at a holder of another mark
PATIENCE_S = 15.0  # for a group that is between two rebalances and does not show marks
POLL_S = 0.1
TELL_S = 10.0  # between two lines about a coordinator that does not answer


class Name:
    """Whose the group.instance.id is: this process's, another one's, or nobody's.

    A member id answers that badly: the client changes it by itself, and the coordinator knows the new one before the client does. So each
    process joins with a mark of its own. Only a holder with another mark, seen twice, is another process. While the group does not show
    marks for long, the name is taken for ours: if it is not, joining again takes it over, and the other process finds our mark.

    ask(member_id): the holder; raises TimeoutError while the coordinator does not answer.
    mark: this process's, or None where the user's client.rack stands in its place: then no holder shows whose it is, and one that is not
    this client must stay for confirm_s, longer than the session of a member that is gone.
    """

    def __init__(
        self,
        name: str,
        mark: str | None,
        ask: Callable[[str | None], Holder | None],
        beat: Callable[[], None],
        *,
        confirm_s: float = CONFIRM_S,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name, self._mark, self._ask, self._beat = name, mark, ask, beat
        self._confirm_s, self._now_s, self._sleep = confirm_s, now_s, sleep

    def prove(self, member_id: Callable[[], str | None], reason: str) -> None:
        """Returns if the name is ours or free. Asks until the group answers, with a beat before each question.

        member_id: the id that this process's client has now. Raises Fenced.
        """
        begun_s = told_s = self._now_s()
        other_since_s: float | None = None
        while True:
            self._beat()
            try:
                holder = self._ask(member_id())
            except TimeoutError as error:
                other_since_s = None  # a new coordinator begins every session anew
                if self._now_s() - told_s > TELL_S:
                    told_s = self._now_s()
                    _log.warning("waiting for the group to say who holds this instance's name", name=self._name, error=str(error))
                self._sleep(ASK_AGAIN_S)
                continue
            if holder is None or holder.member_id == member_id() or (holder.mark == self._mark is not None):
                return
            now_s = self._now_s()
            if holder.mark is None:
                other_since_s = None
                if now_s - begun_s > PATIENCE_S:
                    _log.warning("the group does not show who holds the name; going on", name=self._name, reason=reason)
                    return
            elif other_since_s is None:
                other_since_s = now_s
            elif now_s - other_since_s >= self._confirm_s:
                raise Fenced(
                    f"another process runs as {self._name} ({reason}; the group shows {holder.mark or 'no mark'}, ours is {self._mark})",
                    expected="one process a name",
                    do="nothing, if this one was replaced; else give each process its own `instance`",
                )
            self._sleep(ASK_AGAIN_S)


class Membership:
    """The consumer that is this process's member of the group. All methods but committed() are the loop's thread's."""

    reader: GroupConsumer  # of this moment: join_again() replaces it

    def __init__(
        self,
        start_reader: Callable[[Listener], GroupConsumer],
        name: Name,
        orphans: Orphans,
        beat: Callable[[], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_reader, self._name, self._orphans, self._beat, self._now_s = start_reader, name, orphans, beat, now_s

    def join(self, listener: Listener) -> None:
        """For the first time. The listener is that of every later reader too."""
        self._listener = listener
        self.reader = self._joining()

    @property
    def joined(self) -> bool:
        """The group has answered with an assignment, be it empty."""
        return self.reader.joined

    def prove_name(self, reason: str) -> None:
        """Raises Fenced if another process holds this one's name."""
        self._name.prove(lambda: self.reader.member_id, reason)

    def committed(self, partitions: Sequence[int], timeout_s: float) -> list[Committed | None]:
        """As GroupConsumer.committed, by the reader of this moment. For any thread."""
        return self.reader.committed(partitions, timeout_s)

    def orphans(self) -> set[int]:
        """Partitions that the group gives to nobody, and would not before a member comes or goes; empty but rarely."""
        return self._orphans.found() if self.joined else set()

    def moved(self) -> None:
        """The group has dealt out its partitions."""
        self._orphans.moved()

    def lost(self) -> None:
        """The group went on without this member, and its client joins again by itself."""
        self._orphans.joined()

    def leave(self, timeout_s: float) -> None:
        """Gives every partition back, in the listener's revoked()."""
        self.reader.leave()
        until_s = self._now_s() + timeout_s
        with contextlib.suppress(MemberFencedError):  # a member without a place in the group need not leave it
            while not self.reader.left and self._now_s() < until_s:
                self._beat()
                self.reader.consume(1, POLL_S)

    def join_again(self) -> None:
        """As a new member, by a new client: the old one is at its end, or has left."""
        self.reader.close()
        self.reader = self._joining()

    def close(self) -> None:
        self.reader.close()

    def _joining(self) -> GroupConsumer:
        self._orphans.joined()
        return self._start_reader(self._listener)
