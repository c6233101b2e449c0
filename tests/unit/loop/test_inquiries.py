"""Questions to the loop: answered as of the last commit, between two transactions, and never at the loop's cost."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from simulation import Process, World

from processor.loop.inquiries import ANSWERS_MAX, WAITING_MAX, BusyError, Inquiries

LONG_S = 60.0


def asked(inquiries: Inquiries, question: Callable[[], Any]) -> "Future[Any]":
    """The question, asked by another thread, which waits for its answer."""
    waiting, answer = len(inquiries._queue), Future[Any]()

    def ask() -> None:
        try:
            answer.set_result(inquiries.ask(question, LONG_S))
        except Exception as error:  # noqa: BLE001 (the test raises it)
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    until(lambda: len(inquiries._queue) > waiting or answer.done())
    return answer


def until(condition: Callable[[], object]) -> None:
    ticks = threading.Event()
    for _ in range(int(LONG_S / 0.002)):
        if condition():
            return
        ticks.wait(0.002)
    pytest.fail("it never came to that")


def started() -> tuple[World, Process]:
    world = World(in_topic=True, commit_s=0.1, checkpoint_s=1000.0)
    process = Process(world, "a", "slotstream#00000001")
    for _ in range(40):
        process.turn()
    return world, process


def test_an_answer_is_as_of_the_last_commit() -> None:
    world, process = started()
    for number in (1, 2):
        world.broker.feed(0, b"x", b'{"values":[%d]}' % number, 1_000_000)
    process.turn()
    process.turn()
    assert not process.engine.at_boundary
    engine, partition = process.engine, process.partitions[0]
    answer = asked(process.inquiries, lambda: (engine.row(0, b"x"), engine.at_boundary, partition.committed.offset))
    seen = []
    while not answer.done():
        seen.append(world.broker.committed.get(0, (0, ""))[0])
        process.turn()
        if not process.inquiries.waiting:
            break
    found, at_boundary, committed = answer.result(LONG_S)
    assert (at_boundary, committed, world.broker.committed[0][0]) == (True, 2, 2)
    assert 0 in seen  # it was not answered while the transaction was open
    slot, rows = found
    assert (slot in (0, 1), rows.steps.tolist(), rows.state[:, :1].tolist()) == (True, [2], [[2.5]])
    assert process.engine.row(0, b"z") is None
    assert process.engine.row(1, b"x") is None


def test_a_question_that_fails_fails_for_who_asked_and_the_loop_goes_on() -> None:
    world, process = started()
    answer = asked(process.inquiries, lambda: 1 // 0)
    until(lambda: process.turn() and not process.inquiries.waiting)
    with pytest.raises(ZeroDivisionError):
        answer.result(LONG_S)
    world.broker.feed(0, b"x", b'{"values":[1]}', 1_000_000)
    until(lambda: process.turn() and world.broker.committed.get(0, (0, ""))[0] == 1)


def test_a_question_that_is_not_answered_in_time_is_withdrawn() -> None:
    inquiries = Inquiries()
    with pytest.raises(TimeoutError):
        inquiries.ask(lambda: pytest.fail("nobody waits for it"), 0.0)
    assert not inquiries.waiting
    inquiries.answer()


def test_more_questions_than_the_queue_takes_are_refused_and_a_turn_answers_only_some() -> None:
    inquiries = Inquiries()
    answers = [asked(inquiries, lambda i=i: i) for i in range(WAITING_MAX)]
    with pytest.raises(BusyError):
        inquiries.ask(lambda: None, LONG_S)
    inquiries.answer()
    until(lambda: sum(answer.done() for answer in answers) == ANSWERS_MAX)
    while inquiries.waiting:
        inquiries.answer()
    assert [answer.result(LONG_S) for answer in answers] == list(range(WAITING_MAX))
