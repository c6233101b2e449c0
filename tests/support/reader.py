"""The consumer of the simulation: a member of the group in memory, with the calls of kafka.consumer.GroupConsumer."""

from collections.abc import Iterable, Mapping

from memory_kafka import Broker

from processor.kafka.consumer import DISPLACED, Listener, MemberFencedError, Polled

POLL_S = 0.01


class FakeReader:
    """What it returns was fetched before the callbacks of the same call, as the client may do it."""

    def __init__(self, broker: Broker, name: str, mark: str, listener: Listener) -> None:
        self._broker, self._name, self._mark, self._listener = broker, name, mark, listener
        self._id: str | None = broker.join(name, mark)
        self._held: set[int] = set()
        self._positions: dict[int, int] = {}
        self.joined = self._leaving = self._closed = self.displaced = False

    @property
    def member_id(self) -> str | None:
        return None if self._closed else self._id

    def group_metadata(self) -> tuple[str, str | None]:
        if self.displaced:
            raise MemberFencedError(DISPLACED)
        return self._name, self._id

    def consume(self, records_max: int, _timeout_s: float) -> Polled:
        broker = self._broker
        broker.clock.sleep(POLL_S)
        if self.displaced:
            raise MemberFencedError(DISPLACED)
        if self._name in broker.members and not broker.accepts(self._name, self._id):
            raise MemberFencedError("another member has the name")
        fetched = self._fetch(records_max)
        if not broker.accepts(self._name, self._id):
            self._lose()
        else:
            broker.heartbeat(self._name, self._id)
            broker.end_sessions()
            self._follow()
        fetched.messages = [message for message in fetched.messages if message.partition() in self._positions]
        fetched.ends = {number: end for number, end in fetched.ends.items() if number in self._positions}
        return fetched

    def start(self, positions: Mapping[int, int]) -> None:
        assert set(positions) <= self._held, "only what is held is fetched"
        self._positions.update(positions)

    def stop(self, partitions: Iterable[int]) -> None:
        for number in partitions:
            self._positions.pop(number, None)

    def rewind(self, positions: Mapping[int, int]) -> None:
        self.stop(positions)
        self.start(positions)

    def known_end(self, partition: int) -> int:
        return self._broker.end(partition)

    def leave(self) -> None:
        self._leaving = True

    @property
    def left(self) -> bool:
        return self._leaving and not self._held

    def close(self) -> None:
        self._closed = True

    def _fetch(self, records_max: int) -> Polled:
        polled = Polled()
        for number, position in list(self._positions.items()):
            found = list(self._broker.read(number, position, records_max - len(polled.messages)))
            polled.messages += found
            if found:
                self._positions[number] = found[-1].offset() + 1
            elif not list(self._broker.read(number, position, 1)):
                polled.ends[number] = self._broker.end(number)
        return polled

    def _lose(self) -> None:
        self.joined = False
        if self._held:
            self._listener.lost(sorted(self._held))
        self._held.clear()
        self._positions.clear()
        self._id = self._broker.join(self._name, self._mark)

    def _follow(self) -> None:
        """Gives up what the group gives to others, then takes what nobody holds any more."""
        broker, name = self._broker, self._name
        mine = set() if self._leaving else {number for number, owner in broker.target.items() if owner == name}
        if given_up := sorted(self._held - mine):
            self._listener.revoked(given_up)
            for number in given_up:
                self._positions.pop(number, None)
                broker.owner.pop(number, None)
            self._held -= set(given_up)
        for number in [number for number, owner in broker.owner.items() if owner == name and number not in self._held | mine]:
            del broker.owner[number]  # its predecessor's, and dealt to another since
        if self._leaving:
            broker.leave(name, self._id or "")
            return
        taken = sorted(number for number in mine - self._held if broker.owner.get(number) in (None, name))
        if taken or not self.joined:
            self.joined = True
            self._held.update(taken)
            broker.owner.update(dict.fromkeys(taken, name))
            self._listener.assigned(taken)
