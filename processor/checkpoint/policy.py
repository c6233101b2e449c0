"""Decides how to restore, at a start or after the log was cut: the table of docs/architecture/restore.md as a pure function.

Owns the decision and the messages that explain it. Must not query the broker or a store: checkpoint.restore collects the input of
decide().
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from processor.checkpoint.snapshot import Snapshot
from processor.errors import PolicyStop, SlotstreamError
from processor.kafka.topic_errors import another_input, partitions_added
from processor.partitions import Beginning, differences

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The input of the decision.

    committed, said   the group's committed offset and its metadata, None without
    low, end          the log's first offset, and the offset after its last committed record
    newest            the newest intact checkpoint of any beginning
    usable            loads the newest intact checkpoint of a beginning at or below the committed offset
    others            the metadata of the group's other partitions, if this one has no committed offset
    """

    partition: int
    committed: int | None
    said: Beginning | None
    low: int
    end: int
    newest: Snapshot | None
    usable: Callable[[Beginning], Snapshot | None]
    others: tuple[Beginning, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Load `snapshot` if there is one, replay from `replay_from` up to `position`, then continue from there.

    new: the beginning is not in the committed metadata yet, and must be committed before any record is read.
    policy: the policy that allowed continuing after lost readings, None if none were lost.
    """

    position: int
    beginning: Beginning
    new: bool
    snapshot: Snapshot | None = None
    replay_from: int | None = None
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """What the state would be a function of if it began now."""

    fingerprint: str
    topic_id: str
    partitions: int
    deciding: Mapping[str, str] | None = None

    def begin(self, origin: int, *, gap: bool = False, added_to: int | None = None) -> Beginning:
        return Beginning(origin, secrets.token_hex(8), self.fingerprint, self.topic_id, self.partitions, gap, added_to, self.deciding)


@dataclass(frozen=True, slots=True)
class Policies:
    """How a start proceeds where it cannot simply continue: the settings on_..., and where a first start begins (input.start).

    group, topic: their names, for error messages.
    """

    group: str
    topic: str
    start: Literal["earliest", "latest"]
    on_partitions_added: Literal["fail", "cold"]
    on_model_change: Literal["fail", "rebuild", "cold"]
    on_missing_state: Literal["fail", "rebuild", "cold"]
    on_gap: Literal["fail", "rebuild", "cold"]
    on_lost_input: Literal["fail", "continue"]


def decide(found: Found, present: Present, policies: Policies) -> Decision:
    """Implements the table of docs/architecture/restore.md. Raises PolicyStop if a policy is set to fail."""
    if found.committed is None:
        return _first_start(found, present, policies)
    committed, said = found.committed, found.said or (found.newest.beginning if found.newest else None)
    if said is not None and said.topic_id != present.topic_id:
        # Without metadata, an operator has set the offset in the current topic.
        return _another_topic(found, committed if found.said is None else None, said.topic_id, present, policies)
    if said is not None and said.partitions != present.partitions:
        return _other_partitions(found, committed, said, present, policies)
    if said is not None and said.fingerprint != present.fingerprint:
        return _another_model(found, committed, said, present, policies)
    origin = said.origin if said else found.low
    if not found.low <= committed <= found.end:
        return _lost_input(found, committed, origin, present, policies)
    if said is None:
        said = present.begin(found.low)
    elif said.origin > committed:
        # The offset was moved back before the origin: the state begins here.
        return Decision(committed, present.begin(committed, gap=said.gap), new=True)
    new = said != found.said
    if said.origin == committed:
        return Decision(committed, said, new=new)
    snapshot = found.usable(said)
    if snapshot is None:
        return _missing_state(found, committed, said, present, policies, new=new)
    start = snapshot.mark.offset
    if start < committed and start < found.low:
        return _gap(found, committed, start, present, policies)
    return Decision(committed, said, new=new, snapshot=snapshot, replay_from=start)


def _first_start(found: Found, present: Present, policies: Policies) -> Decision:
    told = [*found.others, *([found.newest.beginning] if found.newest else [])]
    if (other := next((said.topic_id for said in told if said.topic_id != present.topic_id), None)) is not None:
        return _another_topic(found, None, other, present, policies)
    if found.newest is not None:
        position = found.newest.mark.offset
        group, topic = policies.group, policies.topic
        raise PolicyStop(
            f"partition {found.partition}: group {group} has no committed offset, but a checkpoint at {position}",
            expected="both, or neither",
            do=f"go on from it: kafka-consumer-groups.sh --bootstrap-server ... --group {group} --topic {topic}:{found.partition} "
            f"--reset-offsets --to-offset {position} --execute; or start under another `group`",
            see="a-checkpoint-without-committed-offset",
        )
    for said in found.others:
        _refuse_to_go_back(said, present, policies)
    before = min((said.partitions if said.added_to is None else said.added_to for said in found.others), default=present.partitions)
    if any(said.partitions != present.partitions for said in found.others) and policies.on_partitions_added == "fail":
        raise partitions_added(policies.topic, policies.on_partitions_added, before, present.partitions)
    if found.partition >= before:
        # All its records were sent after it was added, so none of them are old.
        return Decision(found.low, present.begin(found.low, added_to=before), new=True)
    position = _input_start(found, policies)
    return Decision(position, present.begin(position), new=True)


def _input_start(found: Found, policies: Policies) -> int:
    return found.low if policies.start == "earliest" else found.end


def _another_topic(found: Found, committed: int | None, before: str, present: Present, policies: Policies) -> Decision:
    if policies.on_partitions_added == "fail":
        raise another_input(policies.topic, policies.on_partitions_added, before, present.topic_id)
    position = _input_start(found, policies) if committed is None else committed
    if not found.low <= position <= found.end:
        return _lost_input(found, position, position, present, policies)
    _log.warning("another topic of the same name: every sensor restarts from zero state", partition=found.partition, position=position)
    return Decision(position, present.begin(position), new=True)


def _other_partitions(found: Found, committed: int, said: Beginning, present: Present, policies: Policies) -> Decision:
    _refuse_to_go_back(said, present, policies)
    if policies.on_partitions_added == "fail":
        raise partitions_added(policies.topic, policies.on_partitions_added, said.partitions, present.partitions)
    if not found.low <= committed <= found.end:
        return _lost_input(found, committed, committed, present, policies)
    _log.warning(
        "partitions were added, so keys moved to other partitions: every sensor restarts from zero state",
        partition=found.partition,
        position=committed,
        before=said.partitions,
        now=present.partitions,
    )
    return Decision(committed, present.begin(committed, added_to=said.partitions), new=True)


def _refuse_to_go_back(said: Beginning, present: Present, policies: Policies) -> None:
    """The number of partitions never decreases: another instance has started since they were added, and this one has not."""
    if said.partitions > present.partitions:
        raise SlotstreamError(
            f"{policies.topic} had {present.partitions} partitions when this process started and has {said.partitions}",
            expected="every instance of the group to know them",
            do="start again",
            see="partitions-were-added",
        )


def _another_model(found: Found, committed: int, said: Beginning, present: Present, policies: Policies) -> Decision:
    if policies.on_model_change == "fail":
        raise PolicyStop(
            f"partition {found.partition}: the state was made by model {said.fingerprint[:8]}, this is {present.fingerprint[:8]}"
            f"{_what_differs(said, present)}",
            expected="the same model file and deciding settings (on_model_change: fail)",
            do="bring the old model and settings back; or set on_model_change to rebuild (replays the input through the new model) or cold "
            "(every sensor restarts from zero state); or take another `group`",
            see="the-model-or-a-setting-that-decides-has-changed",
        )
    number, cold = found.partition, policies.on_model_change == "cold"
    if not found.low <= committed <= found.end:
        return _lost_input(found, committed, committed if cold else said.origin, present, policies)
    if cold:
        _log.warning("another model or deciding setting: every sensor restarts from zero state", partition=number, position=committed)
        return Decision(committed, present.begin(committed), new=True)
    origin = min(said.origin, committed)
    if origin < found.low:
        return _gap(found, committed, origin, present, policies)
    _log.warning("another model or deciding setting: replaying the input", partition=number, origin=origin, position=committed)
    return Decision(committed, present.begin(origin, gap=said.gap), new=True, replay_from=origin if origin < committed else None)


def _what_differs(said: Beginning, present: Present) -> str:
    if said.deciding is None or present.deciding is None:
        return ""
    found = differences(said.deciding, present.deciding)
    return f" ({'; '.join(found)})" if found else ""


def _missing_state(found: Found, committed: int, said: Beginning, present: Present, policies: Policies, *, new: bool) -> Decision:
    if policies.on_missing_state == "fail":
        raise PolicyStop(
            f"partition {found.partition}: committed offset {found.committed}, but no usable checkpoint at or below it",
            expected="one (on_missing_state: fail)",
            do="bring the checkpoints back, or set on_missing_state to rebuild (replays the input) or cold (forgets)",
            see="no-usable-checkpoint",
        )
    if policies.on_missing_state == "cold":
        _log.warning("no usable checkpoint: every sensor restarts from zero state", partition=found.partition, position=found.committed)
        return Decision(committed, present.begin(committed), new=True)
    if said.origin < found.low:
        return _gap(found, committed, said.origin, present, policies)
    _log.warning("no usable checkpoint: replaying the input", partition=found.partition, origin=said.origin, position=found.committed)
    return Decision(committed, said, new=new, replay_from=said.origin)


def _gap(found: Found, committed: int, start: int, present: Present, policies: Policies) -> Decision:
    """Everything up to the committed offset was processed, but the log no longer holds all the records that the state depends on."""
    if policies.on_gap == "fail":
        raise PolicyStop(
            f"partition {found.partition}: the replay begins at {start}, but the log holds {found.low} to {found.end}",
            expected="the log to reach back to the newest checkpoint, or else to the origin (on_gap: fail)",
            do="bring newer checkpoints back; or set on_gap to rebuild (from what is left) or cold, both of which mark a sensor's outputs "
            f"warming_up until its reset; and keep retention of {policies.topic} above the checkpoint interval",
            see="the-log-does-not-reach-back",
        )
    told = {"partition": found.partition, "replay_from": start, "log_begins": found.low, "records_lost": found.low - start}
    if policies.on_gap == "cold":
        _log.warning("earlier readings are no longer in the log: every sensor restarts from zero state", **told, position=committed)
        return Decision(committed, present.begin(committed, gap=True), new=True, policy="cold")
    _log.warning("earlier readings are no longer in the log: replaying the ones that are left", **told, position=committed)
    replay_from = found.low if found.low < committed else None
    return Decision(committed, present.begin(found.low, gap=True), new=True, replay_from=replay_from, policy="rebuild")


def _lost_input(found: Found, committed: int, origin: int, present: Present, policies: Policies) -> Decision:
    """The next record is not in the log: it was deleted before it was processed, or the log ends before it."""
    deleted = committed < found.low
    if policies.on_lost_input == "fail":
        going_on = f"goes on at {found.low if deleted else found.end}, with every sensor marked warming_up until its reset"
        raise PolicyStop(
            f"partition {found.partition}: committed offset {committed}, but the log holds {found.low} to {found.end}",
            expected="the next record to be there (on_lost_input: fail)",
            do=f"raise retention of {policies.topic}, if it was that; and set on_lost_input: continue, which {going_on}",
            see="readings-are-gone-that-were-not-processed",
        )
    if deleted:
        _log.warning(
            "readings were deleted before they were processed: every sensor restarts from zero state",
            partition=found.partition,
            first_lost=committed,
            last_lost=found.low - 1,
            records_lost=found.low - committed,
            position=found.low,
        )
        return Decision(found.low, present.begin(found.low, gap=True), new=True, policy="continue")
    # The truncated records had been processed, and no record in the log is lost; the log's new end replaces the offset. Checkpoints may
    # include truncated readings, so the state is rebuilt from the log as it is now.
    origin = min(max(origin, found.low), found.end)
    _log.warning(
        "the log ends before the committed offset: continuing at its end",
        partition=found.partition,
        committed=committed,
        position=found.end,
        replay_from=origin,
    )
    replay_from = origin if origin < found.end else None
    return Decision(found.end, present.begin(origin, gap=True), new=True, replay_from=replay_from, policy="continue")
