"""How a partition's state comes back: what is found, what follows from it, and the replay.

find() asks the broker and the store; decide() is the table of what happens then, a pure function; Restore does both beside
the loop, on a consumer of its own that never joins the group, and hands the loop what it is to load and to replay. The loop
applies it, in turns with live batches: the engine has one owner.
"""

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from processor.checkpoint.snapshot import Snapshot
from processor.errors import PolicyStop
from processor.settings import Settings
from processor.stream.assignment import Beginning
from processor.stream.history import CancelledError, History, OutOfRangeError

_log = structlog.get_logger(__name__)

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
        _check_bounds(found, committed, settings)
        _log.warning("another model: every sensor starts anew", partition=found.partition, position=committed)
        return Decision(committed, present.begin(committed), new=True)
    _check_bounds(found, committed, settings)
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


def _check_bounds(found: Found, committed: int, settings: Settings) -> None:
    if committed < found.low or committed > found.end:
        raise _lost_input(found, settings)


def _first_start(found: Found, present: Present, settings: Settings) -> Decision:
    if found.newest is not None:
        if found.newest.beginning.topic_id != present.topic_id:
            raise PolicyStop(
                f"partition {found.partition}: a checkpoint of another topic named {settings.input.topic}, and no committed offset",
                expected="checkpoints of this topic, or none: it was created anew",
                do=f"remove the folder of {settings.input.topic} below {settings.checkpoint.path}, or take another `group`",
            )
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
    if said.topic_id == present.topic_id:
        return partitions_added(settings.input.topic, said.partitions, present.partitions)
    return PolicyStop(
        f"{settings.input.topic} is another topic of the same name (seen at partition {found.partition})",
        expected="the topic that the state was made from (on_partitions_added: fail)",
        do="start afresh under another `group`",
    )


def partitions_added(topic: str, before: int, now: int) -> PolicyStop:
    return PolicyStop(
        f"{topic} had {before} partitions and has {now}: keys went to other partitions",
        expected="the partitions that the state was made from (on_partitions_added: fail)",
        do="start afresh under another `group`, with an output topic of as many partitions",
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
        do=f"raise retention of {settings.input.topic}; to go on without what is lost, with every sensor of the partition anew, remove the "
        f"checkpoints of partition {found.partition} below {settings.checkpoint.path}, set the group's offset to {found.low} "
        "(kafka-consumer-groups.sh --reset-offsets), and start with on_missing_state: cold",
    )


def _gap(found: Found, start: int, settings: Settings) -> PolicyStop:
    return PolicyStop(
        f"partition {found.partition}: the replay begins at {start}, but the log holds {found.low} to {found.end}",
        expected="the log to reach back to the newest checkpoint, or else to the origin (on_gap: fail)",
        do=f"bring newer checkpoints back, or set on_missing_state: cold and remove those of partition {found.partition}; "
        f"and keep retention of {settings.input.topic} above the checkpoint interval",
    )


# What a Restore hands the loop, in this order: a Decision, records to replay, then Done.
@dataclass(frozen=True, slots=True)
class Done:
    """The state is that of the decision's position. end: the log's end as it was asked for."""

    end: int


Item = Decision | list[Any] | Done | BaseException


class Store(Protocol):
    """Where checkpoints lie, as a restore sees it: checkpoint.directory, checkpoint.topic."""

    def newest(
        self, partition: int, *, position_max: int | None, usable: Callable[[Beginning], bool], cancelled: Callable[[], bool]
    ) -> Snapshot | None: ...


class Restore:
    """The restoring of one partition, on a thread of its own. The loop takes what it has by take(), and may cancel it."""

    def __init__(self, settings: Settings, store: Store, present: Present, partition: int, gate: threading.Semaphore) -> None:
        """gate: how many partitions are restored at once; each has a client and a snapshot in memory."""
        self._settings, self._store, self._present, self._partition, self._gate = settings, store, present, partition, gate
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
            self._wait_for_turn()
        except CancelledError:
            return
        try:
            history = History(self._settings, self._partition, self._cancelled.is_set)
            try:
                self._restore(history)
            finally:
                history.close()
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - raised again by the loop, which takes it
            with contextlib.suppress(CancelledError):
                self._put(error)
        finally:
            self._gate.release()

    def _wait_for_turn(self) -> None:
        while not self._gate.acquire(timeout=0.1):
            if self._cancelled.is_set():
                raise CancelledError

    def _restore(self, history: History) -> None:
        found = self._find(history)
        decision = decide(found, self._present, self._settings)
        self._put(decision)
        if decision.replay_from is not None:
            try:
                for batch in history.read(decision.replay_from, decision.position):
                    self._put(batch)
            except OutOfRangeError:
                low, end = history.bounds()
                raise _gap(replace(found, low=low, end=end), decision.replay_from, self._settings) from None
        self._put(Done(found.end))

    def _find(self, history: History) -> Found:
        committed, (low, end) = history.committed(), history.bounds()
        offset = committed.offset if committed else None
        said = Beginning.from_metadata(committed.metadata) if committed else None
        # Without metadata (an operator moved the offset) the newest checkpoint says what the state is a function of.
        newest = self._newest(None, lambda _: True) if said is None else None

        def usable(beginning: Beginning) -> Snapshot | None:
            return self._newest(offset, lambda b: b == beginning)

        return Found(self._partition, offset, said, low, end, newest, usable)

    def _newest(self, position_max: int | None, usable: Callable[[Beginning], bool]) -> Snapshot | None:
        return self._store.newest(self._partition, position_max=position_max, usable=usable, cancelled=self._cancelled.is_set)

    def _put(self, item: Item) -> None:
        while not self._cancelled.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
        raise CancelledError
