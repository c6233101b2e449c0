"""This process's membership in the group: the consumer from join to leave, and the check of which process holds the name.

Owns the group's consumer and replaces it when the membership is lost. Must not touch partitions, positions or transactions:
loop.rebalance, the consumer's listener, decides how to react to a lost membership.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

import structlog

from processor.errors import Fenced
from processor.kafka.consumer import Committed, GroupConsumer, Listener, MemberFencedError
from processor.kafka.delivery import ClientStuckError, Stuck
from processor.kafka.group import Holder
from processor.loop.orphans import Orphans

_log = structlog.get_logger(__name__)

ASK_AGAIN_S = 0.2  # a coordinator that is starting answers soon
CONFIRM_S = 1.0  # between two observations of a holder with another mark
PATIENCE_S = 15.0  # for a rebalancing group, which shows no marks
POLL_S = 0.1
TELL_S = 10.0  # between two log lines about a coordinator that does not answer


class Name:
    """Determines which process holds the group.instance.id: this one, another one, or none.

    The member id does not identify a process: the client changes it by itself, and the coordinator knows the new one before the client
    does. So each process joins with a unique mark. Only a holder that has shown a different mark twice counts as another process. If the
    group shows no marks for PATIENCE_S, this process assumes that it holds the name: if it does not, rejoining takes the name over, and
    the other process finds this one's mark.

    ask(member_id): returns the holder; raises TimeoutError while the coordinator does not answer.
    mark: this process's mark, or None if the user has set client.rack: then no holder can be identified, and an unknown holder must
    remain for confirm_s, which is longer than the session of a member that is gone.
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
        """Returns if the name is free or held by this process. Asks until the group answers, and calls beat before each request.

        member_id: the current id of this process's client. Raises Fenced.
        """
        begun_s = told_s = self._now_s()
        other_since_s: float | None = None
        while True:
            self._beat()
            try:
                holder = self._ask(member_id())
            except TimeoutError as error:
                other_since_s = None  # a new coordinator restarts every session
                if self._now_s() - told_s > TELL_S:
                    told_s = self._now_s()
                    _log.warning("waiting for the group to show which member has this instance's name", name=self._name, error=str(error))
                self._sleep(ASK_AGAIN_S)
                continue
            if holder is None or holder.member_id == member_id() or (holder.mark == self._mark is not None):
                return
            now_s = self._now_s()
            if holder.mark is None:
                other_since_s = None
                if now_s - begun_s > PATIENCE_S:
                    _log.warning("the group does not show which member has the name, continuing", name=self._name, reason=reason)
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
    """The consumer through which this process is a member of the group. Only the loop's thread calls the methods, except committed()."""

    reader: GroupConsumer  # the current one: join_again() replaces it

    def __init__(
        self,
        start_reader: Callable[[Listener], GroupConsumer],
        name: Name,
        orphans: Orphans,
        beat: Callable[[], None],
        stuck: Stuck = lambda _: False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_reader, self._name, self._orphans, self._beat = start_reader, name, orphans, beat
        self._stuck, self._now_s = stuck, now_s
        self._joined_at_s = now_s()
        self._refused_since_s: float | None = None

    def join(self, listener: Listener) -> None:
        """Joins for the first time. Later readers use the same listener."""
        self._listener = listener
        self.reader = self._joining()

    @property
    def joined(self) -> bool:
        """Whether the group has answered with an assignment, even an empty one."""
        return self.reader.joined

    def check_contact(self) -> None:
        """Raises ClientStuckError if the group has not answered this member for so long that its client should have found a broker."""
        if self.joined:
            self._joined_at_s = self._now_s()
        elif self._stuck(waited_s := self._now_s() - self._joined_at_s):
            raise ClientStuckError(f"the group has not answered for {waited_s:.0f} s, and the broker answers other clients")

    def accepted(self) -> None:
        """A commit of this member was accepted."""
        self._refused_since_s = None

    def refused(self, reason: str) -> None:
        """A commit was aborted for a reason that should pass. Raises ClientStuckError if no new attempt has helped for long."""
        if self._refused_since_s is None:
            self._refused_since_s = self._now_s()
        elif self._stuck(waited_s := self._now_s() - self._refused_since_s):
            self._refused_since_s = None
            raise ClientStuckError(f"no commit was accepted for {waited_s:.0f} s ({reason}), and the broker answers other clients")

    def prove_name(self, reason: str) -> None:
        """Raises Fenced if another process holds this one's name."""
        self._name.prove(lambda: self.reader.member_id, reason)

    def committed(self, partitions: Sequence[int], timeout_s: float) -> list[Committed | None]:
        """Calls GroupConsumer.committed of the current reader. Any thread may call it."""
        return self.reader.committed(partitions, timeout_s)

    def orphans(self) -> set[int]:
        """Partitions that have no owner, and would get none until a member joins or leaves; usually empty."""
        return self._orphans.found() if self.joined else set()

    def moved(self) -> None:
        """The group has assigned its partitions."""
        self._orphans.moved()

    def lost(self) -> None:
        """The group continued without this member, and its client rejoins by itself."""
        self._orphans.joined()

    def leave(self, timeout_s: float) -> None:
        """Gives back all partitions, in the listener's revoked()."""
        self.reader.leave()
        until_s = self._now_s() + timeout_s
        with contextlib.suppress(MemberFencedError):  # a displaced member need not leave the group
            while not self.reader.left and self._now_s() < until_s:
                self._beat()
                self.reader.consume(1, POLL_S)

    def join_again(self) -> None:
        """Rejoins as a new member, with a new client: the old one has failed or has left the group."""
        self.reader.close()
        self.reader = self._joining()

    def close(self) -> None:
        self.reader.close()

    def _joining(self) -> GroupConsumer:
        self._orphans.joined()
        self._joined_at_s = self._now_s()
        return self._start_reader(self._listener)
