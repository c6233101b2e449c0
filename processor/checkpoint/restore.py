"""How a partition's state comes back: what is found, what follows from it, and the replay.

find() asks the broker and the store; decide() is the table of what happens then, a pure function; Restore does both beside
the loop, on a consumer of its own that never joins the group, and hands the loop what it is to load and to replay. The loop
applies it, in turns with live batches: the engine has one owner.
"""

import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot
from processor.errors import PolicyStop, SlotstreamError
from processor.settings import Settings
from processor.stream.assignment import Beginning
from processor.stream.clients import restore_consumer

_log = structlog.get_logger(__name__)

CALL_S = 2.0
PATIENCE_S = 10.0
REPLAY_RECORDS = 4096
REPLAY_BATCHES_AHEAD = 4  # read ahead of the loop, so that neither waits for the other


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to go on.

    committed, said   the group's committed offset and what its metadata says, None without
    low, end          the log's first offset, and the one after its last committed record
    newest            the newest intact checkpoint of any beginning
    usable            reads the newest intact checkpoint of a beginning at or below the committed offset
    """

    partition: int
    committed: int | None
    said: Beginning | None
    low: int
    end: int
    newest: Snapshot | None
    usable: Callable[[Beginning], Snapshot | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """Load `snapshot` if there is one, replay from `replay_from` up to `position`, then go on from there.

    new: the beginning is not in the committed metadata, and is committed before any record is read.
    """

    position: int
    beginning: Beginning
    new: bool
    snapshot: Snapshot | None = None
    replay_from: int | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """What the state would be a function of, were it to begin now."""

    fingerprint: str
    topic_id: str
    partitions: int

    def begin(self, origin: int) -> Beginning:
        return Beginning(origin, secrets.token_hex(8), self.fingerprint, self.topic_id, self.partitions)


def decide(found: Found, present: Present, settings: Settings) -> Decision:
    """The table of docs/architecture.md. Raises PolicyStop where a policy says fail."""
    if found.committed is None:
        return _first_start(found, present, settings)
    committed, said = found.committed, found.said or (found.newest.beginning if found.newest else None)
    if said is not None and (said.topic_id, said.partitions) != (present.topic_id, present.partitions):
        raise _another_topic(found, said, present, settings)
    if said is not None and said.fingerprint != present.fingerprint:
        if settings.on_model_change == "fail":
            raise _another_model(found, said, present)
        _log.warning("another model: every sensor starts anew", partition=found.partition, position=committed)
        return Decision(committed, present.begin(committed), new=True)
    if committed < found.low or committed > found.end:
        raise _lost_input(found, settings)
    if said is None:
        said = present.begin(found.low)
    elif said.origin > committed:
        # Moved back before everything the state ever came from: it begins here.
        return Decision(committed, present.begin(committed), new=True)
    new = said != found.said
    if said.origin == committed:
        return Decision(committed, said, new=new)
    snapshot = found.usable(said)
    if snapshot is None:
        return _missing_state(found, committed, said, present, settings, new=new)
    start = snapshot.mark.position
    if start < committed and start < found.low:
        raise _gap(found, start, settings)
    return Decision(committed, said, new=new, snapshot=snapshot, replay_from=start)


def _first_start(found: Found, present: Present, settings: Settings) -> Decision:
    if found.newest is not None:
        position = found.newest.mark.position
        group, topic = settings.group_id, settings.input.topic
        raise PolicyStop(
            f"partition {found.partition}: group {group} has no committed offset, but a checkpoint at {position}",
            expected="both, or neither",
            do=f"go on from it: kafka-consumer-groups.sh --bootstrap-server ... --group {group} --topic {topic}:{found.partition} "
            f"--reset-offsets --to-offset {position} --execute; or start afresh under another `group`",
        )
    position = found.low if settings.input.start == "earliest" else found.end
    return Decision(position, present.begin(position), new=True)


def _missing_state(found: Found, committed: int, said: Beginning, present: Present, settings: Settings, *, new: bool) -> Decision:
    if settings.on_missing_state == "fail":
        raise PolicyStop(
            f"partition {found.partition}: committed offset {found.committed}, but no usable checkpoint at or below it",
            expected="one (on_missing_state: fail)",
            do="bring the checkpoint folder back, or set on_missing_state to rebuild (replays the input) or cold (forgets)",
        )
    if settings.on_missing_state == "cold":
        _log.warning("no usable checkpoint: every sensor starts anew", partition=found.partition, position=found.committed)
        return Decision(committed, present.begin(committed), new=True)
    if said.origin < found.low:
        raise _gap(found, said.origin, settings)
    _log.warning("no usable checkpoint: replaying", partition=found.partition, origin=said.origin, position=found.committed)
    return Decision(committed, said, new=new, replay_from=said.origin)


def _another_topic(found: Found, said: Beginning, present: Present, settings: Settings) -> PolicyStop:
    change = (
        f"had {said.partitions} partitions and has {present.partitions}: keys went to other partitions"
        if said.topic_id == present.topic_id
        else "is another topic of the same name"
    )
    return PolicyStop(
        f"{settings.input.topic} {change} (seen at partition {found.partition})",
        expected="the topic that the state was made from (on_partitions_added: fail)",
        do="start afresh under another `group`",
    )


def _another_model(found: Found, said: Beginning, present: Present) -> PolicyStop:
    return PolicyStop(
        f"partition {found.partition}: the state was made by model {said.fingerprint[:8]}, this is {present.fingerprint[:8]}",
        expected="the same model file and deciding settings (on_model_change: fail)",
        do="bring the old model and settings back; or set on_model_change to cold (every sensor starts anew); or take another `group`",
    )


def _lost_input(found: Found, settings: Settings) -> PolicyStop:
    return PolicyStop(
        f"partition {found.partition}: committed offset {found.committed}, but the log holds {found.low} to {found.end}",
        expected="the next record to be there (on_lost_input: fail)",
        do=f"raise retention of {settings.input.topic}; to go on without what is lost, set the group's offset to {found.low}",
    )


def _gap(found: Found, start: int, settings: Settings) -> PolicyStop:
    return PolicyStop(
        f"partition {found.partition}: the replay begins at {start}, but the log holds {found.low} to {found.end}",
        expected="the log to reach back to the newest checkpoint, or else to the origin (on_gap: fail)",
        do=f"bring newer checkpoints back, or set on_missing_state: cold and remove those of partition {found.partition}; "
        f"and keep retention of {settings.input.topic} above the checkpoint interval",
    )


# What a Restore hands the loop, in this order: a Decision, messages to replay, then Done.
@dataclass(frozen=True, slots=True)
class Done:
    """The state is that of the decision's position. end: the log's end as it was asked for."""

    end: int


Item = Decision | list[Message] | Done | BaseException


class Restore:
    """The restoring of one partition, on a thread of its own. The loop takes what it has by take(), and may cancel it."""

    def __init__(self, settings: Settings, store: Directory, present: Present, partition: int) -> None:
        self._settings, self._store, self._present = settings, store, present
        self._partition = TopicPartition(settings.input.topic, partition)
        self._items: queue.Queue[Item] = queue.Queue(REPLAY_BATCHES_AHEAD)
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"restore-{partition}", daemon=True)
        self._thread.start()

    def take(self) -> Item | None:
        """The next thing, None if there is none yet."""
        try:
            return self._items.get_nowait()
        except queue.Empty:
            return None

    def cancel(self) -> None:
        """Ends soon; nothing more is taken from it."""
        self._cancelled.set()

    def _run(self) -> None:
        try:
            consumer = restore_consumer(self._settings)
            try:
                self._restore(consumer)
            finally:
                consumer.close()
        except _Cancelled:
            return
        except Exception as error:  # noqa: BLE001 - raised again by the loop, which takes it
            self._put_anyway(error)

    def _restore(self, consumer: Consumer) -> None:
        found = self._find(consumer)
        decision = decide(found, self._present, self._settings)
        self._put(decision)
        if decision.replay_from is not None and decision.replay_from < decision.position:
            self._replay(consumer, decision.replay_from, decision.position)
        self._put(Done(found.end))

    def _find(self, consumer: Consumer) -> Found:
        number = self._partition.partition
        committed = self._until_answered(lambda: consumer.committed([self._partition], CALL_S)[0])
        low, end = self._until_answered(lambda: consumer.get_watermark_offsets(self._partition, CALL_S))
        offset = committed.offset if committed.offset >= 0 else None
        said = Beginning.from_metadata(committed.metadata) if offset is not None else None
        # Without metadata (an operator moved the offset) the newest checkpoint says what the state is a function of.
        newest = self._store.newest(number, position_max=None, usable=lambda _: True) if said is None else None

        def usable(beginning: Beginning) -> Snapshot | None:
            return self._store.newest(number, position_max=offset, usable=lambda b: b == beginning)

        return Found(number, offset, said, low, end, newest, usable)

    def _replay(self, consumer: Consumer, start: int, position: int) -> None:
        """Hands over the records from start up to, not including, position. The last of them may not exist."""
        consumer.assign([TopicPartition(self._partition.topic, self._partition.partition, start)])
        while not self._cancelled.is_set():
            batch, ended = list[Message](), False
            for message in consumer.consume(REPLAY_RECORDS, 0.1):
                error = message.error()
                if error is None:
                    ended = ended or message.offset() >= position
                    if message.offset() < position:
                        batch.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended = True
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    low, end = self._until_answered(lambda: consumer.get_watermark_offsets(self._partition, CALL_S))
                    raise _gap(Found(self._partition.partition, position, None, low, end, None, lambda _: None), start, self._settings)
                elif error.fatal():
                    raise KafkaException(error)
            if batch:
                self._put(batch)
            if ended:
                return
        raise _Cancelled

    def _until_answered(self, ask: Callable[[], Any]) -> Any:
        """Asks until the broker has an answer: an instance that died may have left a transaction open on the offset."""
        said_at_s = time.monotonic()
        while not self._cancelled.is_set():
            try:
                return ask()
            except KafkaException as error:
                reason = error.args[0]
                if reason.fatal() or reason.code() in _REFUSED:
                    raise SlotstreamError(
                        f"partition {self._partition.partition}: the broker refuses to tell offsets ({reason.str()})",
                        expected="an answer",
                        do="look at the permissions on the group and the topic",
                    ) from error
                if time.monotonic() - said_at_s > PATIENCE_S:
                    said_at_s = time.monotonic()
                    _log.warning("waiting for offsets", partition=self._partition.partition, error=reason.str())
        raise _Cancelled

    def _put(self, item: Item) -> None:
        while not self._cancelled.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
        raise _Cancelled

    def _put_anyway(self, error: BaseException) -> None:
        try:
            self._put(error)
        except _Cancelled:
            return


class _Cancelled(Exception):  # noqa: N818 - not an error
    pass


_REFUSED = {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}

