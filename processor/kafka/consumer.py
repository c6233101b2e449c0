"""The consumer that is a member of the group: one call per turn, which includes rebalances.

An assigned partition is not fetched until the service starts it at an explicit offset. To rewind, the service stops the partition and
starts it again, because a seek fails in the callback and while a partition has no leader, and a paused partition is first fetched from
its placeholder offset. The records from consume() belong to partitions that are still owned; nothing is kept from one call to the next.
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
    """The group refuses this member, and the client is unusable.

    Either another process has joined under the name, or the client has fenced itself: when its session times out it discards its member
    id, and sends heartbeats without one until the callback for the loss has run (librdkafka 2.16). Only the group can tell which
    (loop.membership).
    """


@dataclass(frozen=True, slots=True)
class Committed:
    offset: int
    metadata: str


class Listener(Protocol):
    """Called from inside consume(), with partition numbers. An exception from lost() keeps the client from rejoining."""

    def assigned(self, partitions: list[int]) -> None: ...
    def revoked(self, partitions: list[int]) -> None: ...
    def lost(self, partitions: list[int]) -> None: ...


@dataclass(slots=True)
class Polled:
    """The result of one call, for started partitions.

    messages  records, in offset order within each partition
    ends      the end offsets of partitions that were read to their end
    lost      partitions whose log does not hold the next record: they return nothing more
    """

    messages: list[Message] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)


class GroupConsumer:
    """mark: identifies this process in the group's description. suspect: called when the topic may be gone."""

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
        self._displaced = False  # the client is a new member now, but still holds the partitions of the old one
        self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    @property
    def member_id(self) -> str | None:
        """The client's current member id; None before it has joined, and once it has lost its session."""
        return None if self._closed else self._consumer.memberid() or None

    @property
    def joined(self) -> bool:
        """Whether the group has answered with an assignment, even an empty one."""
        return self._assigned

    def group_metadata(self) -> Any:
        """The metadata for sending a transaction's offsets. Raises MemberFencedError if the partitions belong to another member."""
        metadata = self._consumer.consumer_group_metadata()
        # Checked afterwards: ids only move forward, so the group refuses metadata with an older id.
        self._check_place()
        return metadata

    def commit(self, topic: str, positions: list[tuple[int, int, str]]) -> None:
        """Commits (partition, offset, metadata) without a transaction. Raises KafkaException, and the errors of group_metadata()."""
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
        """Raises an exception from a callback, MemberFencedError, and any client error that is not retriable."""
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
        """Starts fetching these partitions from these offsets."""
        if positions:
            self._consumer.incremental_assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])
            self._started.update(positions)

    def stop(self, partitions: Iterable[int]) -> None:
        """Stops fetching these partitions, and drops records that were already fetched."""
        stopped = self._started.intersection(partitions)
        if stopped:
            self._consumer.incremental_unassign([TopicPartition(self._topic, p) for p in stopped])
            self._started -= stopped

    def rewind(self, positions: Mapping[int, int]) -> None:
        self.stop(positions)
        self.start(positions)

    def known_end(self, partition: int) -> int:
        """The partition's end as of the last fetch, including control records; 0 before the first fetch."""
        _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return max(0, int(high))

    def leave(self) -> None:
        """Gives back all partitions, by the revoke callback in the next calls of consume(). close() alone does not leave the group."""
        self._leaving = True
        self._consumer.unsubscribe()

    @property
    def left(self) -> bool:
        """Whether all partitions were given back after leave()."""
        return self._leaving and not self._held

    def close(self) -> None:
        """Closes without calling the listener again, which must drop its partitions by itself. A second call does nothing."""
        if not self._closed:
            self._closed = True
            with self._asking:
                self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign([])  # accept the assignment; start() decides what is fetched
        self._assigned = True
        if self._is_displaced():
            return  # the next call of consume() reports it
        if not self._held:
            self._held_as = consumer.memberid() or None
        self._held.update(tp.partition for tp in partitions)
        self._call(self._listener.assigned, partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # A displaced member must skip the normal revoke path: the group would accept its last commit, although others have done that
        # work.
        if not self._is_displaced():
            self._call(self._listener.revoked, partitions)
        self._unassign(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = False
        self._call(self._listener.lost, partitions)
        if self._failure is None:
            self._unassign(consumer, partitions)
        else:
            # Once the partitions are unassigned, the client rejoins at once and takes the name from its current holder.
            consumer.incremental_assign([])

    def _unassign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        stopped = [tp for tp in partitions if tp.partition in self._started]
        consumer.incremental_unassign(stopped)
        self._started -= {tp.partition for tp in stopped}
        self._held -= {tp.partition for tp in partitions}

    def _is_displaced(self) -> bool:
        """Whether the client has joined under a new member id and kept the partitions of the old one, without reporting their loss.

        librdkafka 2.16 does this if a session ends while the client is rejoining. The group, which checks the member but not the
        partition, would accept its commits for them.
        """
        if self._held and not self._closed and (now := self._consumer.memberid()) and now != self._held_as:
            self._displaced = True
        return self._displaced

    def _check_place(self) -> None:
        if self._is_displaced() or (self._held and (self._consumer.memberid() or None) != self._held_as):
            raise MemberFencedError(DISPLACED)

    def _call(self, listener: Any, partitions: list[TopicPartition]) -> None:
        """Calls the listener. An exception must not unwind through the client's C code, so it is raised when consume() returns."""
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
        _log.warning("the broker answered with an error, the client retries", error=error.str(), partition=message.partition())

    def _raise(self, error: KafkaError) -> None:
        # A fatal error arrives once, as an event that contains the reason only as text: its code only says that it is fatal.
        if error.code() in FENCED_CODES or (error.code() == KafkaError._FATAL and "fenced" in error.str().lower()):
            raise MemberFencedError(error.str())
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise SlotstreamError(
                f"the Kafka client cannot go on ({error.name()}: {error.str()})",
                expected="a broker that this client can work with",
                do="look at the broker's log for the same time, then start again",
                see="the-kafka-client-cannot-go-on",
            )
