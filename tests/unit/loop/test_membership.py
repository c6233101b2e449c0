"""Whose the name is: what the group's description shows, and which of it ends a process."""

import random
from collections.abc import Callable, Iterator

import pytest

from processor.errors import Fenced
from processor.kafka.delivery import ClientStuckError
from processor.kafka.group import Holder, rack_of
from processor.loop.membership import CONFIRM_S, PATIENCE_S, Membership, Name
from processor.loop.orphans import Orphans

OURS, OTHERS = "slotstream#0000000a", "slotstream#0000000b"
AWAY = TimeoutError("the coordinator is away")


class Group:
    """Answers in turn, the last one for ever, on a clock that only waiting moves."""

    def __init__(self, *answers: Holder | TimeoutError | None, mark: str | None = OURS, confirm_s: float = CONFIRM_S) -> None:
        self._answers, self.now_s, self.beats = list(answers), 100.0, 0
        self.name = Name("g.a", mark, self._ask, self._beat, confirm_s=confirm_s, now_s=lambda: self.now_s, sleep=self._sleep)

    def _ask(self, _member_id: str | None) -> Holder | None:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, TimeoutError):
            raise answer
        return answer

    def _beat(self) -> None:
        self.beats += 1

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def prove(self, *member_ids: str | None) -> float:
        """How long it took. member_ids: the client's, one after another, the last one for ever."""
        ids, begun_s = list(member_ids), self.now_s
        self.name.prove(lambda: ids.pop(0) if len(ids) > 1 else ids[0], "a reason")
        return self.now_s - begun_s


def test_a_name_that_nobody_holds_or_that_shows_our_mark_or_our_member_is_ours_at_once() -> None:
    assert Group(None).prove("m1") == 0
    assert Group(Holder("m1", None)).prove("m1") == 0
    assert Group(Holder("m2", OURS)).prove("m1") == 0
    assert Group(Holder("m2", OURS)).prove(None) == 0


def test_a_member_that_the_client_does_not_know_yet_is_ours_by_its_mark_or_once_the_client_knows_it() -> None:
    assert Group(Holder("m2", OURS)).prove("m1") == 0
    assert 0 < Group(Holder("m2", None)).prove("m1", "m1", "m1", "m1", "m2") < PATIENCE_S


def test_another_mark_seen_twice_ends_the_process_and_seen_once_does_not() -> None:
    group = Group(Holder("m2", OTHERS))
    with pytest.raises(Fenced, match=r"another process runs as g\.a \(a reason; the group shows slotstream#0000000b"):
        group.prove("m1")
    assert group.now_s - 100.0 >= CONFIRM_S
    assert Group(Holder("m2", OTHERS), None).prove("m1") > 0
    assert Group(Holder("m2", OTHERS), Holder("m3", OURS)).prove("m1") > 0


def test_a_look_that_shows_nothing_begins_the_confirmation_anew() -> None:
    other = Holder("m2", OTHERS)
    for nothing in (AWAY, Holder("m2", None)):
        group = Group(*[other] * 5, nothing, *[other] * 5, None)
        assert group.prove("m1") > 2 * CONFIRM_S - 1


def test_a_group_that_shows_no_marks_for_long_is_no_reason_to_end() -> None:
    assert Group(Holder("m2", None)).prove("m1") > PATIENCE_S


def test_it_asks_until_the_coordinator_answers_and_beats_meanwhile() -> None:
    group = Group(*[AWAY] * 500, None)
    assert group.prove("m1") > 60
    assert group.beats == 501


def test_without_a_mark_a_holder_must_outlive_the_session_of_a_member_that_is_gone() -> None:
    group = Group(Holder("m2", "rack-1"), mark=None, confirm_s=60)
    with pytest.raises(Fenced):
        group.prove("m1")
    assert group.now_s - 100.0 >= 60
    assert Group(*[Holder("m2", "rack-1")] * 100, None, mark=None, confirm_s=60).prove("m1") > 0
    assert Group(*[Holder("m2", "rack-1")] * 100, Holder("m2", ""), mark=None, confirm_s=60).prove(*["m1"] * 150, "m2") > 0


# -- a client that finds no broker --------------------------------------------------------------------------------------------


class Reader:
    joined = False

    def close(self) -> None:
        pass


def test_a_member_that_the_group_has_not_answered_for_long_is_stuck_and_a_new_client_has_as_long_again() -> None:
    now_s = [100.0]
    name = Name("g.a", OURS, lambda _: None, lambda: None)
    orphans = Orphans(lambda: set(), now_s=lambda: now_s[0])
    member = Membership(lambda _: Reader(), name, orphans, lambda: None, lambda waited_s: waited_s > 60, now_s=lambda: now_s[0])
    member.join(None)
    now_s[0] += 60
    member.check_contact()
    now_s[0] += 1
    with pytest.raises(ClientStuckError, match="61 s"):
        member.check_contact()
    member.join_again()
    member.check_contact()
    member.reader.joined = True
    now_s[0] += 1000
    member.check_contact()
    member.reader.joined = False
    now_s[0] += 60
    member.check_contact()
    now_s[0] += 1
    with pytest.raises(ClientStuckError):
        member.check_contact()


def test_commits_that_are_refused_for_long_are_those_of_a_stuck_client_and_one_that_is_accepted_ends_the_wait() -> None:
    now_s = [100.0]
    orphans = Orphans(lambda: set(), now_s=lambda: now_s[0])
    name = Name("g.a", OURS, lambda _: None, lambda: None)
    member = Membership(lambda _: Reader(), name, orphans, lambda: None, lambda waited_s: waited_s > 60, now_s=lambda: now_s[0])
    for _ in range(2):
        member.refused("UNKNOWN_MEMBER_ID")
        now_s[0] += 60
        member.refused("UNKNOWN_MEMBER_ID")
        member.accepted()
    member.refused("UNKNOWN_MEMBER_ID")
    now_s[0] += 61
    with pytest.raises(ClientStuckError, match=r"no commit was accepted for 61 s .UNKNOWN_MEMBER_ID."):
        member.refused("UNKNOWN_MEMBER_ID")
    member.refused("UNKNOWN_MEMBER_ID")  # by a new client


# -- what a subscription shows ------------------------------------------------------------------------------------------------


def subscription(rack: str | None, *, version: int = 3, topics: tuple[str, ...] = ("readings",), owned: tuple[int, ...] = (0, 1)) -> bytes:
    def text(words: str | None) -> bytes:
        return b"\xff\xff" if words is None else len(words.encode()).to_bytes(2, "big") + words.encode()

    def count(number: int) -> bytes:
        return number.to_bytes(4, "big", signed=True)

    found = version.to_bytes(2, "big") + count(len(topics)) + b"".join(map(text, topics)) + count(0)
    found += count(1) + text("readings") + count(len(owned)) + b"".join(map(count, owned))
    return found + count(7) + (text(rack) if version >= 3 else b"")


def test_the_rack_is_read_past_everything_before_it() -> None:
    assert rack_of(subscription(OURS)) == OURS
    assert rack_of(subscription(OURS, topics=(), owned=())) == OURS
    assert rack_of(subscription(OURS, topics=("a", "b" * 200), owned=tuple(range(500)))) == OURS
    assert rack_of(subscription("süd")) == "süd"


def test_no_rack_is_no_mark_and_no_subscription_is_no_answer() -> None:
    assert rack_of(subscription(None)) == ""
    assert rack_of(subscription(OURS, version=2)) == ""
    assert rack_of(b"") is None


def bytes_changed(rng: random.Random) -> Iterator[bytes]:
    whole = subscription(OURS)
    for at in range(len(whole)):
        yield whole[:at]
        yield whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :]


def test_a_subscription_of_another_kind_has_no_mark_and_raises_nothing() -> None:
    read: Callable[[bytes], str | None] = rack_of
    assert all(isinstance(read(piece), str) for piece in bytes_changed(random.Random(1)) if piece)
    assert rack_of(b"\x7f" * 4000) == ""
