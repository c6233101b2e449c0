"""The consumer that is a member of the group: one call a turn, rebalances inside it.

A partition that is assigned is not fetched until the service starts it at an explicit offset, and going back is stopping and
starting it there: a seek fails in the callback and while a partition has no leader, and a paused partition is fetched from
its placeholder first. What consume() returns belongs to partitions still owned; nothing is kept from one call for the next.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from processor.errors import SlotstreamError
from processor.kafka import permissions
from processor.kafka.clients import UNKNOWN_TOPIC, member_consumer
from processor.settings import Settings

_log = structlog.get_logger(__name__)

FENCED_CODES = {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError.UNRELEASED_INSTANCE_ID}


DISPLACED = "the client joined under another member id, and held partitions of the one before"


class MemberFencedError(Exception):
    """The group refuses this member, and the client is at its end.

    Either another process has joined under the name, or the client has fenced itself: when its session times out it forgets
    its member id, and until the callback of that was run, it goes on sending heartbeats without one (librdkafka 2.16). Only
    the group can say which (loop.membership).
    """


@dataclass(frozen=True, slots=True)
class Committed:
    offset: int
    metadata: str


class Listener(Protocol):
    """Called from inside consume(), with partition numbers. What lost() raises keeps the client from joining again."""

    def assigned(self, partitions: list[int]) -> None: ...
    def revoked(self, partitions: list[int]) -> None: ...
    def lost(self, partitions: list[int]) -> None: ...


@dataclass(slots=True)
class Polled:
    """What one call returned, of started partitions.

    messages  records, in offset order within each partition
    ends      of partitions read to their end: that offset
    lost      partitions whose log does not hold the next record: nothing more comes of them
    """

    messages: list[Message] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)


class GroupConsumer:
    """mark: its process's own, shown by the group's description beside this member. suspect is called when the topic may be gone."""

    def __init__(self, settings: Settings, listener: Listener, mark: str, suspect: Callable[[], None] = lambda: None) -> None:
        self._suspect = suspect
        self._topic, self._group = settings.input.topic, settings.group_id
        self._listener = listener
        self._consumer: Consumer = member_consumer(settings, mark)
        self._started: set[int] = set()
        self._failure: BaseException | None = None
        self._assigned = self._leaving = self._closed = False
        self._asking = threading.Lock()  # held in committed(): the client must not be freed meanwhile
        self._held: set[int] = set()  # assigned by the group, started or not
        self._held_as: str | None = None  # the member id under which they were assigned
        self._displaced = False  # the client is another member now, and still holds what the first one had
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    @property
    def member_id(self) -> str | None:
        """What the client goes by in the group now; None before it has joined, and once it has lost its session."""
        return None if self._closed else self._consumer.memberid() or None

    @property
    def joined(self) -> bool:
        """The group has answered with an assignment, be it empty."""
        return self._assigned

    def group_metadata(self) -> Any:
        """What a transaction's offsets are sent with. Raises MemberFencedError where the partitions are another member's."""
        metadata = self._consumer.consumer_group_metadata()
        # Looked at afterwards: ids only move on, so metadata with an older one than this is refused by the group.
        self._check_place()
        return metadata

    def commit(self, topic: str, positions: list[tuple[int, int, str]]) -> None:
        """(partition, offset, metadata) of each, by the group's own call. Raises KafkaException, and as group_metadata()."""
        self._check_place()
        offsets = [TopicPartition(topic, partition, offset, metadata) for partition, offset, metadata in positions]
        for committed in self._consumer.commit(offsets=offsets, asynchronous=False):
            if committed.error is not None:
                raise KafkaException(committed.error)

    def committed(self, partitions: Sequence[int], timeout_s: float) -> list[Committed | None]:
        """The committed offset of each partition, None if it has none: stable, and from the coordinator that this member joined at.

        For any thread. Raises KafkaException, also once this consumer is closed. A client that is no member would ask the coordinator
        that it finds, and a broker that is cut off from its peers still takes itself for one and answers what it last knew. That one
        cannot have given this member its partitions: a coordinator tells an assignment only once its peers have it.
        """
        with self._asking:
            if self._closed:
                raise KafkaException(KafkaError(KafkaError._STATE, "the member has left the group"))
            wanted = [TopicPartition(self._topic, partition) for partition in partitions]
            found = self._consumer.committed(wanted, timeout_s)
        return [Committed(tp.offset, tp.metadata or "") if tp.offset >= 0 else None for tp in found]

    def consume(self, records_max: int, timeout_s: float) -> Polled:
        """Raises what a callback raised, MemberFencedError, and any error of the client that time does not mend."""
        if self._is_displaced():
            raise MemberFencedError(DISPLACED)
        try:
            messages = self._consumer.consume(records_max, timeout_s)
        except KafkaException as raised:
            self._raise(raised.args[0])
            raise
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        polled = Polled()
        for message in messages:
            error = message.error()
            if error is None:
                if message.partition() in self._started:
                    polled.messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.partition() in self._started:
                    polled.ends[message.partition()] = message.offset()
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                if message.partition() in self._started:
                    polled.lost.add(message.partition())
            else:
                self._handle(error, message)
        return polled

    def start(self, positions: Mapping[int, int]) -> None:
        """Fetches these partitions from these offsets on."""
        if positions:
            self._consumer.incremental_assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])
            self._started.update(positions)

    def stop(self, partitions: Iterable[int]) -> None:
        """Fetches them no more; what was fetched already is dropped."""
        stopped = self._started.intersection(partitions)
        if stopped:
            self._consumer.incremental_unassign([TopicPartition(self._topic, p) for p in stopped])
            self._started -= stopped

    def rewind(self, positions: Mapping[int, int]) -> None:
        self.stop(positions)
        self.start(positions)

    def known_end(self, partition: int) -> int:
        """The partition's end as the last fetch saw it, control records included; 0 before the first."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return max(0, int(high))

    def leave(self) -> None:
        """Gives every partition back, by the revoke callback in the next calls of consume(). close() alone does not leave."""
        self._leaving = True
        self._consumer.unsubscribe()

    @property
    def left(self) -> bool:
        """After leave(): every partition was given back."""
        return self._leaving and not self._held

    def close(self) -> None:
        """The listener hears no more: what it still holds it gives up by itself. Does nothing the second time."""
        if not self._closed:
            self._closed = True
            with self._asking:
                self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign([])  # the assignment is accepted; what of it is fetched, start() decides
        self._assigned = True
        if self._is_displaced():
            return  # the next call of consume() says so
        if not self._held:
            self._held_as = consumer.memberid() or None
        self._held.update(tp.partition for tp in partitions)
        self._call(self._listener.assigned, partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Whoever is displaced gives nothing up in good order: its last commit would be taken, and others have done that work.
        if not self._is_displaced():
            self._call(self._listener.revoked, partitions)
        self._unassign(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = False
        self._call(self._listener.lost, partitions)
        if self._failure is None:
            self._unassign(consumer, partitions)
        else:
            # Once the partitions are taken off, the client joins again at once and takes the name from whoever has it now.
            consumer.incremental_assign([])

    def _unassign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        stopped = [tp for tp in partitions if tp.partition in self._started]
        consumer.incremental_unassign(stopped)
        self._started -= {tp.partition for tp in stopped}
        self._held -= {tp.partition for tp in partitions}

    def _is_displaced(self) -> bool:
        """The client has joined under another member id and kept the partitions of the one before, without a word of their loss.

        A session that ends while the client joins again makes librdkafka 2.16 do that. The group, which looks at the member and never
        at the partition, would take what it commits for them.
        """
        if self._held and not self._closed and (now := self._consumer.memberid()) and now != self._held_as:
            self._displaced = True
        return self._displaced

    def _check_place(self) -> None:
        if self._is_displaced() or (self._held and (self._consumer.memberid() or None) != self._held_as):
            raise MemberFencedError(DISPLACED)

    def _call(self, listener: Any, partitions: list[TopicPartition]) -> None:
        """An exception must not unwind through the client's C code: it is raised when consume() is back."""
        if self._closed:
            return
        try:
            listener([tp.partition for tp in partitions])
        except Exception as failure:  # noqa: BLE001
            self._failure = self._failure or failure

    def _handle(self, error: KafkaError, message: Message) -> None:
        self._raise(error)
        if error.code() in permissions.AUTHORIZATION:
            raise permissions.refused(f"the broker does not let the group {self._group} read {self._topic} any more", error)
        if error.code() in UNKNOWN_TOPIC:
            self._suspect()
        _log.warning("the broker answered with an error; the client tries again", error=error.str(), partition=message.partition())

    def _raise(self, error: KafkaError) -> None:
        # A fatal error arrives once as an event that wraps the reason in words: its code is only that it is fatal.
        if error.code() in FENCED_CODES or (error.code() == KafkaError._FATAL and "fenced" in error.str().lower()):
            raise MemberFencedError(error.str())
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise SlotstreamError(
                f"the Kafka client cannot go on ({error.name()}: {error.str()})",
                expected="a broker that this client can work with",
                do="look at the broker's log for the same time, then start again",
                see="the-kafka-client-cannot-go-on",
            )
