"""The demo's count finds every loss and every duplicate, whatever their order."""

import random

import pytest

from processor.demo.count import Count, Tally


@pytest.fixture
def tally() -> Tally:
    """Partition 0 with offsets 0 to 9, partition 3 with 5 to 9 (retention took the first) and a null record at 7."""
    tally = Tally()
    for offset in range(10):
        tally.reading(0, offset)
    for offset in (5, 6, 8, 9):
        tally.reading(3, offset)
    return tally


def answer_all(tally: Tally) -> None:
    places = [(0, offset) for offset in range(10)] + [(3, offset) for offset in (5, 6, 8, 9)]
    random.Random(1).shuffle(places)
    tally.dead_letter(*places[0])
    for place in places[1:]:
        tally.prediction(*place)


def test_all_answered_once_is_neither_loss_nor_duplicate(tally: Tally) -> None:
    answer_all(tally)
    assert tally.count() == Count(readings=14, predictions=13, dead_letters=1, lost=0, duplicated=0)


def test_nothing_answered_is_all_lost(tally: Tally) -> None:
    assert tally.count() == Count(14, 0, 0, lost=14, duplicated=0)


def test_an_offset_answered_three_times_is_two_duplicates(tally: Tally) -> None:
    answer_all(tally)
    tally.prediction(0, 4)
    tally.prediction(0, 4)
    assert tally.count() == Count(14, 15, 1, lost=0, duplicated=2)


def test_a_dead_letter_beside_a_prediction_is_a_duplicate(tally: Tally) -> None:
    answer_all(tally)
    tally.dead_letter(3, 8)
    assert tally.count() == Count(14, 13, 2, lost=0, duplicated=1)


def test_a_loss_does_not_hide_behind_a_duplicate(tally: Tally) -> None:
    for offset in (0, 1, 2, 3, 4, 5, 6, 7, 8, 8):
        tally.prediction(0, offset)
    for offset in (5, 6, 8, 9):
        tally.prediction(3, offset)
    assert tally.count() == Count(14, 14, 0, lost=1, duplicated=1)


@pytest.mark.parametrize("place", [(3, 7), (3, 0), (0, 10), (8, 0), (-1, -1), (0, 2**62)])
def test_an_answer_to_nothing_counts_as_duplicated(tally: Tally, place: tuple[int, int]) -> None:
    answer_all(tally)
    tally.prediction(*place)
    assert tally.count() == Count(14, 14, 1, lost=0, duplicated=1)


def test_counting_does_not_end_the_count(tally: Tally) -> None:
    tally.count()
    answer_all(tally)
    tally.reading(1, 0)
    assert tally.count() == Count(15, 13, 1, lost=1, duplicated=0)
