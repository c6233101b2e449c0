"""A Kafka in memory, on a clock that is turned by hand: input logs, a consumer group, transactions. No threads, no sockets.

What it keeps to is what the loop rests on: outputs and offsets of a transaction are visible together or not at all; a new producer of a
transactional id ends the transaction of the one before; offsets are refused from a member that the group no longer knows, and only
offsets are; a static member that comes back under its name keeps its partitions, and the one before it is fenced.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from processor.codec.plain_message import PlainMessage
from processor.kafka.group import Holder
from processor.records import Out

TRANSACTION_TIMEOUT_S, SESSION_S = 10.0, 30.0


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def now_s(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


@dataclass
class Open:
    begun_s: float
    outs: list[Out] = field(default_factory=list)


@dataclass
class Member:
    id: str
    mark: str
    seen_s: float


class Broker:
    """faults: what the next calls of a kind answer with, such as {"publish": ["abort"]}; away: how many calls are not answered at first."""

    def __init__(self, partitions: int, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.log: list[list[PlainMessage | None]] = [[] for _ in range(partitions)]  # None: a control record
        self.committed: dict[int, tuple[int, str]] = {}
        self.outputs: list[Out] = []  # read committed
        self.members: dict[str, Member] = {}  # by instance
        self.owner: dict[int, str] = {}  # instance; none while nobody has taken a partition
        self.target: dict[int, str] = {}
        self.turned = 0
        self.faults: dict[str, list[str]] = {}
        self.away = 0
        self._epochs: dict[str, int] = {}
        self._open: dict[str, Open] = {}
        self._ids = 0

    # -- the input ----------------------------------------------------------------------------------------------------------

    def feed(
        self, partition: int, key: bytes | None, value: bytes | None, ms: int, headers: list[tuple[str, bytes | None]] | None = None
    ) -> None:
        log = self.log[partition]
        log.append(PlainMessage(key, value, number=partition, at=len(log), time_ms=ms, told=headers or ()))

    def read(self, partition: int, offset: int, records_max: int) -> Iterator[PlainMessage]:
        for message in self.log[partition][offset:]:
            if message is not None:
                if not records_max:
                    return
                records_max -= 1
                yield message

    def end(self, partition: int) -> int:
        return len(self.log[partition])

    # -- transactions ---------------------------------------------------------------------------------------------------------

    def answers(self) -> bool:
        """False where this call is not answered."""
        self.away = max(0, self.away - 1)
        return not self.away

    def fault(self, call: str) -> str | None:
        faults = self.faults.get(call)
        return faults.pop(0) if faults else None

    def init_producer(self, name: str) -> int:
        self._open.pop(name, None)
        self._epochs[name] = self._epochs.get(name, 0) + 1
        return self._epochs[name]

    def current(self, name: str, epoch: int) -> bool:
        self._time_out()
        return self._epochs[name] == epoch

    def begin(self, name: str) -> Open:
        return self._open.setdefault(name, Open(self.clock.s))

    def end_transaction(self, name: str, offsets: list[tuple[int, int, str]] | None) -> None:
        """offsets: None aborts."""
        ended = self._open.pop(name, None)
        if offsets is not None:
            self.outputs += ended.outs if ended else []
            self.committed |= {number: (offset, metadata) for number, offset, metadata in offsets}

    def fence(self, name: str) -> None:
        """The broker ends the producer, as if another one of the name had come."""
        self.init_producer(name)

    def _time_out(self) -> None:
        for name, transaction in list(self._open.items()):
            if self.clock.s - transaction.begun_s >= TRANSACTION_TIMEOUT_S:
                self.fence(name)

    # -- the group --------------------------------------------------------------------------------------------------------------

    def join(self, name: str, mark: str) -> str:
        self._ids += 1
        new = name not in self.members
        self.members[name] = Member(f"{name}-{self._ids}", mark, self.clock.s)
        if new:
            self.deal()
        # The successor is handed what its predecessor was to keep; the rest is free.
        self.owner = {p: owner for p, owner in self.owner.items() if owner != name or self.target[p] == name}
        return self.members[name].id

    def leave(self, name: str, member_id: str) -> None:
        if self.accepts(name, member_id):
            self._forget(name)

    def accepts(self, name: str, member_id: str | None) -> bool:
        member = self.members.get(name)
        return member is not None and member.id == member_id

    def holder(self, name: str) -> Holder | None:
        member = self.members.get(name)
        return None if member is None else Holder(member.id, member.mark)

    def heartbeat(self, name: str, member_id: str | None) -> None:
        if self.accepts(name, member_id):
            self.members[name].seen_s = self.clock.s

    def end_sessions(self) -> None:
        for name, member in list(self.members.items()):
            if self.clock.s - member.seen_s > SESSION_S:
                self._forget(name)

    def expire(self, name: str) -> None:
        """The member's session is over; it has not heard of it yet."""
        if name in self.members:
            self._forget(name)

    def deal(self) -> None:
        """Who is to have which partition; those that have to give one up hear it in their next call."""
        names = sorted(self.members)
        self.target = {p: names[(p + self.turned) % len(names)] for p in range(len(self.log))} if names else {}

    def _forget(self, name: str) -> None:
        del self.members[name]
        self.owner = {p: owner for p, owner in self.owner.items() if owner != name}
        self.deal()
