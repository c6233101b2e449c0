"""One partition of the input that this instance owns: where it stands, and what its state is a function of.

The source of truth for positions: only what is applied is committed, and only what is committed is gone back to. What the
client believes (position(), committed()) is never asked.

    restoring --> joining --> live        and from each of them --> dropped
    (state is     (its beginning          (its records are
    rebuilt)      is committed)           fetched and applied)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from processor.records import Claim

# A broker takes 4,096 bytes of metadata with an offset.
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
    """What a partition's state is a function of: the input from `origin`, by what `fingerprint` stands for.

    lineage is a random id, new each time that the state begins from zero. Travels in the committed offset's metadata and in
    every checkpoint.

    gap       readings before the origin were lost: a sensor that begins without a reset may lack some of its own
    added_to  partitions were added to so many: those from this number on begin at their log's start
    deciding  what the fingerprint stands for, in words by name, to tell what has changed; None where nobody kept it. It identifies
              nothing: two that differ in it alone are equal
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
        """None for what an operator's tool leaves there: nothing, or words of its own."""
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
    """The text; of one that takes many bytes in JSON its beginning, and a hash that tells it from others."""
    if len(json.dumps(text)) <= DECIDING_MAX:
        return text
    shown = text[:HASHED_SHOWN].encode("ascii", "replace").decode()
    return f"{shown}... ({hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]})"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What decides and differs, with both values."""
    told = {name: _short(text) for name, text in now.items()}
    names = [name for name in dict.fromkeys([*before, *told]) if before.get(name) != told.get(name)]
    return [f"{name} was {before.get(name, 'not there')} and is {told.get(name, 'not there')}" for name in names]


@dataclass(frozen=True, slots=True)
class Mark:
    """A position and the partition's time there.

    position  the offset of the next record to apply
    time_ms   partition time, None before it had one; first_ms: the first that it had
    claim     a sensor's time that partition time has not followed yet
    """

    position: int
    time_ms: int | None
    first_ms: int | None = None
    claim: Claim | None = None

    def passed(self, position: int) -> "Mark":
        """Further on, over nothing that has a time."""
        return replace(self, position=position)


@dataclass(slots=True)
class Partition:
    """A partition from its assignment until it is taken away. `applied` runs ahead of `committed` within a transaction."""

    number: int
    assigned_at_s: float
    state: State = State.RESTORING
    beginning: Beginning | None = None
    begun: bool = False  # the beginning is in the committed metadata
    applied: Mark = field(default_factory=lambda: Mark(0, None))
    committed: Mark = field(default_factory=lambda: Mark(0, None))
    end_seen: int = 0
    caught_up: bool = False
    checkpoint_due_s: float = 0.0
    checkpoint_at_s: float | None = None
    checkpoint_position: int | None = None
    expiry_due_s: float = 0.0
    replay: range | None = None  # these offsets are replayed, from the restore's decision until it is done

    def to(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"partition {self.number} cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def live(self) -> bool:
        return self.state is State.LIVE

    @property
    def moved(self) -> bool:
        """Something is to be committed: a beginning, or records applied."""
        return (self.state is State.JOINING and not self.begun) or (self.live and self.applied.position != self.committed.position)

    def end_at(self, position: int) -> None:
        """The log ended at this offset: nothing but control records lies between what was applied and it."""
        self.applied = self.applied.passed(max(self.applied.position, position))

    def commit(self) -> None:
        self.committed = self.applied
        self.begun = True
        if self.committed.position >= self.end_seen:
            self.caught_up = True

    def abort(self) -> None:
        self.applied = self.committed
