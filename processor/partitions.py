"""An input partition that this instance owns: its lifecycle, its positions, and what its state is a function of.

The source of truth for positions: only applied offsets are committed, and an abort goes back only to committed ones. The Kafka client's
own positions are never used. Every change is a method that checks the current state first. Knows nothing about Kafka or rows.

    restoring --> joining --> live        and from each of them --> dropped
    (state is     (its beginning          (its records are
    rebuilt)      is committed)           fetched and applied)
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from processor.records import Claim

# A broker accepts 4,096 bytes of metadata with an offset.
DECIDING_MAX, HASHED_SHOWN = 100, 60


class State(Enum):
    RESTORING = "restoring"
    JOINING = "joining"
    LIVE = "live"
    DROPPED = "dropped"


_NEXT = {
    State.RESTORING: {State.JOINING, State.LIVE, State.DROPPED},
    State.JOINING: {State.LIVE, State.DROPPED},
    State.LIVE: {State.DROPPED},
    State.DROPPED: set[State](),
}


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a partition's state is a function of: the input from `origin`, and the model and settings that `fingerprint` identifies.

    lineage is a random id, generated each time that the state begins from zero. Stored in the committed offset's metadata and in every
    checkpoint.

    gap       readings before the origin were lost: a sensor that begins without a reset may lack readings
    added_to  the number of partitions before some were added: those from this number on begin at their log's start
    deciding  the parts of the fingerprint as text by name, to report what has changed; None if not stored. Not compared:
              two beginnings that differ only in it are equal
    """

    origin: int
    lineage: str
    fingerprint: str
    topic_id: str
    partitions: int
    gap: bool = False
    added_to: int | None = None
    deciding: Mapping[str, str] | None = field(default=None, compare=False)

    def to_metadata(self) -> str:
        told: dict[str, Any] = {
            "origin": self.origin,
            "lineage": self.lineage,
            "fingerprint": self.fingerprint,
            "topic_id": self.topic_id,
            "partitions": self.partitions,
        }
        if self.gap:
            told["gap"] = True
        if self.added_to is not None:
            told["added_to"] = self.added_to
        if self.deciding is not None:
            told["deciding"] = {name: _short(text) for name, text in self.deciding.items()}
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_metadata(cls, text: str | None) -> "Beginning | None":
        """None for metadata that an operator's tool has written: empty, or other text."""
        try:
            found = json.loads(text or "")
            added_to = found.get("added_to")
            return cls(
                int(found["origin"]),
                str(found["lineage"]),
                str(found["fingerprint"]),
                str(found["topic_id"]),
                int(found["partitions"]),
                gap=found.get("gap") is True,
                added_to=None if added_to is None else int(added_to),
                deciding=_deciding(found.get("deciding")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None


def _deciding(found: Any) -> dict[str, str] | None:
    is_text = isinstance(found, dict) and all(isinstance(text, str) for text in found.values())
    return found if is_text else None


def _short(text: str) -> str:
    """The text; if it takes many bytes in JSON, its first characters and a hash that distinguishes it from others."""
    if len(json.dumps(text)) <= DECIDING_MAX:
        return text
    shown = text[:HASHED_SHOWN].encode("ascii", "replace").decode()
    return f"{shown}... ({hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]})"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The deciding settings that differ, with both values."""
    told = {name: _short(text) for name, text in now.items()}
    names = [name for name in dict.fromkeys([*before, *told]) if before.get(name) != told.get(name)]
    return [f"{name} was {before.get(name, 'not there')} and is {told.get(name, 'not there')}" for name in names]


@dataclass(frozen=True, slots=True)
class Position:
    """An offset in a partition's log, and the partition time at that offset.

    offset    offset of the next record to apply
    time_ms   partition time, None before there is one; first_ms: the first partition time
    claim     a sensor's timestamp that partition time has not followed yet
    """

    offset: int
    time_ms: int | None
    first_ms: int | None = None
    claim: Claim | None = None

    def passed(self, offset: int) -> "Position":
        """Moves on past records that have no timestamp."""
        return replace(self, offset=offset)


START = Position(0, None)


@dataclass(slots=True)
class Partition:
    """A partition from its assignment until it is dropped. `applied` runs ahead of `committed` within a transaction.

    begun                whether the beginning is in the committed metadata
    end_seen, caught_up  the log's end when the restore completed, and whether everything up to it has been committed
    replay               the offsets that are replayed, from the restore's decision until it is done
    """

    number: int
    assigned_at_s: float
    state: State = State.RESTORING
    beginning: Beginning | None = None
    begun: bool = False
    applied: Position = START
    committed: Position = START
    end_seen: int = 0
    caught_up: bool = False
    checkpoint_due_s: float = 0.0
    checkpoint_at_s: float | None = None
    checkpoint_position: int | None = None
    expiry_due_s: float = 0.0
    replay: range | None = None

    def to(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"partition {self.number} cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def live(self) -> bool:
        return self.state is State.LIVE

    @property
    def moved(self) -> bool:
        """Whether there is something to commit: a beginning, or applied records."""
        return (self.state is State.JOINING and not self.begun) or (self.live and self.applied.offset != self.committed.offset)

    @property
    def offset(self) -> tuple[int, int, str]:
        """The group offset to commit: number, applied offset, and the beginning as metadata."""
        return self.number, self.applied.offset, self.beginning.to_metadata() if self.beginning else ""

    # -- restoring ---------------------------------------------------------------------------------------------------------

    def begin(self, beginning: Beginning, at: Position, *, replay: range | None, checkpoint: int | None) -> None:
        """Starts rebuilding the state from this position; starts over if the restore decides a second time."""
        self._require(State.RESTORING)
        self.beginning, self.replay, self.checkpoint_position = beginning, replay, checkpoint
        self.applied = self.committed = at

    def replayed(self, to: Position) -> None:
        """Previously committed records were applied again: an abort does not go back before them."""
        self._require(State.RESTORING)
        self._forward(to)
        self.committed = to

    def restored(self, offset: int, end: int) -> None:
        """The state is now the one at this offset; `end` is the end of the log. If there is no checkpoint, one is due at once."""
        self._require(State.RESTORING)
        self.applied = self.committed = self.applied.passed(offset)
        self.replay, self.end_seen, self.caught_up = None, end, offset >= end
        if self.checkpoint_position is None:
            self.checkpoint_due_s = 0.0

    def join(self) -> None:
        """The beginning is new: it must be committed before the first record is read."""
        self.to(State.JOINING)

    def go_live(self) -> None:
        if self.state is State.JOINING and not self.begun:
            raise ValueError(f"partition {self.number} cannot go live before its beginning is committed")
        self.to(State.LIVE)

    # -- applying ----------------------------------------------------------------------------------------------------------

    def apply(self, to: Position) -> None:
        """Records up to this position are now part of the state and of the open transaction."""
        self._require(State.LIVE)
        self._forward(to)

    def reached_end(self, offset: int) -> None:
        """The log ends at this offset: only control records lie between the applied offset and the end."""
        self._require(State.LIVE)
        self.applied = self.applied.passed(max(self.applied.offset, offset))
        if not self.moved and self.applied.offset >= self.end_seen:
            self.caught_up = True

    def commit(self) -> None:
        """The broker has confirmed the applied offset."""
        self._require(State.JOINING, State.LIVE)
        self.committed, self.begun = self.applied, True
        if self.committed.offset >= self.end_seen:
            self.caught_up = True

    def abort(self) -> None:
        self.applied = self.committed

    def drop(self) -> None:
        """Another instance now owns the partition, or its restore starts over."""
        self.to(State.DROPPED)

    # -- checkpoints -------------------------------------------------------------------------------------------------------

    @property
    def checkpoint_stale(self) -> bool:
        """Whether the newest checkpoint is at a different position than the committed one."""
        return self.live and self.committed.offset != self.checkpoint_position

    def checkpoint_taken(self, next_due_s: float) -> None:
        """The rows have been copied and are being written to the store."""
        self._require(State.LIVE)
        self.checkpoint_due_s = next_due_s

    def checkpointed(self, position: int, now_s: float) -> None:
        """The store now has a checkpoint at this position."""
        self.checkpoint_position, self.checkpoint_at_s = position, now_s

    def checkpoint_lost(self) -> None:
        """The store has been emptied: the next checkpoint is due at once."""
        self.checkpoint_position, self.checkpoint_due_s = None, 0.0

    def _require(self, *states: State) -> None:
        if self.state not in states:
            raise ValueError(f"partition {self.number} is {self.state.value}, expected {' or '.join(state.value for state in states)}")

    def _forward(self, to: Position) -> None:
        if to.offset < self.applied.offset:
            raise ValueError(f"partition {self.number} cannot go back from {self.applied.offset} to {to.offset}")
        self.applied = to


class Partitions(dict[int, Partition]):
    """The partitions of this instance by number, as one participant in its transactions."""

    def __init__(self) -> None:
        super().__init__()
        self._sent: list[Partition] = []

    def offsets(self, written_for: Collection[int] = ()) -> list[tuple[int, int, str]]:
        """The offsets that the next commit sends: those of partitions that moved, and of partitions in written_for."""
        self._sent = [p for p in self.values() if p.moved or p.number in written_for]
        return [p.offset for p in self._sent]

    def commit(self) -> None:
        """The offsets that offsets() last returned are confirmed."""
        for partition in self._sent:
            partition.commit()
        self._sent = []

    def abort(self) -> None:
        for partition in self.values():
            partition.abort()

    @property
    def applied(self) -> dict[int, int]:
        """The applied offset of each live partition, from which the consumer continues."""
        return {p.number: p.applied.offset for p in self.values() if p.live}
