"""When whoever joins asks for partitions without an owner, and when it believes that nobody is coming for them."""

from processor.loop.orphans import EVERY_S, PATIENCE_S, Orphans


class Group:
    """What the group answers, on a clock that stands."""

    def __init__(self, answer: set[int] | None) -> None:
        self.answer, self.now_s, self.asked = answer, 100.0, 0
        self.orphans = Orphans(self._unowned, lambda: self.now_s)

    def _unowned(self) -> set[int] | None:
        self.asked += 1
        return self.answer

    def found_within(self, seconds: float) -> float | None:
        """After how many seconds of turns orphans were found; None if they were not."""
        begun_s = self.now_s
        while self.now_s - begun_s <= seconds:
            if self.orphans.found():
                return self.now_s - begun_s
            self.now_s += 0.5
        return None


def test_nothing_is_asked_before_it_joins_and_once_all_partitions_have_an_owner() -> None:
    group = Group(set())
    assert group.found_within(100) is None
    assert group.asked == 0
    group.orphans.joined()
    assert group.found_within(100) is None
    assert group.asked == 1


def test_what_has_no_owner_for_long_is_found_and_later_each_time() -> None:
    group = Group({1, 3})
    group.orphans.joined()
    assert group.found_within(100) == PATIENCE_S
    group.orphans.joined()
    assert group.found_within(100) == 2 * PATIENCE_S
    assert group.asked <= 2 + 3 * PATIENCE_S / EVERY_S


def test_a_group_that_moves_or_does_not_say_gets_its_time_anew() -> None:
    group = Group({1})
    group.orphans.joined()
    assert group.found_within(PATIENCE_S - 1) is None
    group.orphans.moved()
    assert group.found_within(PATIENCE_S - 1) is None
    group.answer = None
    assert group.found_within(100) is None
    group.answer = {1}
    assert group.found_within(PATIENCE_S - 1) is None
    group.answer = set()
    assert group.found_within(100) is None
