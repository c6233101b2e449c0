"""Restores a partition's state: collects what the group, the log and the store hold, decides, and replays.

restored() is the whole procedure, step by step and without a thread. Restore runs it on its own thread, with a consumer that never joins
the group, and passes the loop what to load and to replay. The loop applies this, alternating with live batches, because the engine has
one owner.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from processor.checkpoint.policy import Decision, Found, Policies, Present, decide
from processor.checkpoint.snapshot import Snapshot
from processor.errors import SlotstreamError
from processor.kafka.consumer import Committed
from processor.kafka.partition_log import CancelledError, OutOfRangeError
from processor.partitions import Beginning

REPLAY_BATCHES_AHEAD = 4  # batches read ahead of the loop, so that neither waits for the other
TRIES = 5
LAGS_S, LOOK_S = 5.0, 0.2


# What a restore passes to the loop, in this order: a Decision, records to replay, then Done. Another Decision means: start over.
@dataclass(frozen=True, slots=True)
class Done:
    """The state is now the one at the decision's position. end: the end of the log when it was requested."""

    end: int


Item = Decision | list[Any] | Done | BaseException


class Store(Protocol):
    """A checkpoint store, as a restore uses it: checkpoint.directory, checkpoint.topic."""

    def newest(
        self, partition: int, *, position_max: int | None, usable: Callable[[Beginning], bool], cancelled: Callable[[], bool]
    ) -> Snapshot | None: ...


class Log(Protocol):
    """The group's offset and the log of a partition: kafka.partition_log.PartitionLog."""

    def committed(self) -> Committed | None: ...
    def others(self, partitions: int) -> list[str]: ...
    def bounds(self) -> tuple[int, int]: ...
    def read(self, start: int, position: int) -> Iterator[list[Any]]: ...


class OwnLog(Log, Protocol):
    """A log with a client of its own."""

    def close(self) -> None: ...


OpenLog = Callable[[int, Callable[[], bool]], OwnLog]  # of a partition; the function tells whether it was cancelled


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tells a restore to stop. wait(seconds): returns True, and early, once it is cancelled."""

    is_set: Callable[[], bool]
    wait: Callable[[float], bool]


def restored(
    log: Log,
    store: Store,
    present: Present,
    partition: int,
    policies: Policies,
    cancel: Cancel,
    now_s: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Raises PolicyStop if a policy is set to fail, and CancelledError."""
    found = _find(log, store, present, partition, cancel, now_s)
    for _ in range(TRIES):
        decision = decide(found, present, policies)
        yield decision
        try:
            if decision.replay_from is not None:
                yield from log.read(decision.replay_from, decision.position)
        except OutOfRangeError:
            # The log was cut while it was being read. Decide again by the same table; the loop starts over.
            low, end = log.bounds()
            found = replace(found, low=low, end=end)
            continue
        yield Done(found.end)
        return
    raise SlotstreamError(
        f"partition {partition}: the log was cut {TRIES} times while it was replayed, and begins at {found.low} now",
        expected="a log that is kept for longer than its replay takes",
        do=f"raise retention of {policies.topic}, then start again",
        see="the-log-does-not-reach-back",
    )


def _find(log: Log, store: Store, present: Present, partition: int, cancel: Cancel, now_s: Callable[[], float]) -> Found:
    committed = log.committed()
    offset = committed.offset if committed else None
    low, end = _settled(log, offset, cancel, now_s)
    said = Beginning.from_metadata(committed.metadata) if committed else None

    def newest(position_max: int | None, usable: Callable[[Beginning], bool]) -> Snapshot | None:
        return store.newest(partition, position_max=position_max, usable=usable, cancelled=cancel.is_set)

    def usable(beginning: Beginning) -> Snapshot | None:
        return newest(offset, lambda b: b == beginning)

    # Without metadata (an operator moved the offset), the newest checkpoint provides the beginning.
    of_any = newest(None, lambda _: True) if said is None else None
    told = map(Beginning.from_metadata, log.others(present.partitions)) if committed is None else ()
    return Found(partition, offset, said, low, end, of_any, usable, tuple(said for said in told if said is not None))


def _settled(log: Log, offset: int | None, cancel: Cancel, now_s: Callable[[], float]) -> tuple[int, int]:
    """The log's bounds. If the end is before the committed offset, retries for a while: a newly elected leader may lag behind."""
    until_s = now_s() + LAGS_S
    while True:
        low, end = log.bounds()
        if offset is None or offset <= end or now_s() > until_s:
            return low, end
        if cancel.wait(LOOK_S):
            raise CancelledError


class Restore:
    """The restore of one partition, on its own thread. The loop takes its results with take(), and may cancel it."""

    def __init__(
        self, policies: Policies, store: Store, present: Present, partition: int, gate: threading.Semaphore, open_log: OpenLog
    ) -> None:
        """gate: limits how many partitions are restored at once; each holds a client and a snapshot. open_log: called on the thread."""
        self._policies, self._store, self._present, self._partition, self._gate = policies, store, present, partition, gate
        self._open_log = open_log
        self._items: queue.Queue[Item] = queue.Queue(REPLAY_BATCHES_AHEAD)
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"restore-{partition}", daemon=True)
        self._thread.start()

    def take(self) -> Item | None:
        """The next result, None if there is none yet."""
        try:
            return self._items.get_nowait()
        except queue.Empty:
            return None

    def cancel(self) -> None:
        """Stops the restore soon; do not take any more results from it."""
        self._cancelled.set()

    def _run(self) -> None:
        try:
            self._wait_for_turn()
        except CancelledError:
            return
        try:
            log = self._open_log(self._partition, self._cancelled.is_set)
            try:
                cancel = Cancel(self._cancelled.is_set, self._cancelled.wait)
                for item in restored(log, self._store, self._present, self._partition, self._policies, cancel):
                    self._put(item)
            finally:
                log.close()
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

    def _put(self, item: Item) -> None:
        while not self._cancelled.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
        raise CancelledError
