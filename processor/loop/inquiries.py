"""Questions of other threads to the loop, which answers them between two transactions: there every row is as of the last commit.

Owns the queue of questions, which is bounded. A question only reads; the loop, which runs it, owns everything that it reads. Without
questions a turn costs one look at an empty queue.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

WAITING_MAX = 16
ANSWERS_MAX = 2  # of one turn: questions must not hold up the readings

Found = TypeVar("Found")


class BusyError(Exception):
    """As many questions as the queue takes are waiting already."""


class Inquiries:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def ask(self, question: Callable[[], Found], timeout_s: float) -> Found:
        """The answer, or what the question raises. Any thread may call it, except the loop's.

        Raises BusyError, and TimeoutError if the loop gets to no commit in time: the question is then withdrawn.
        """
        answer: Future[Found] = Future()
        entry = question, answer
        with self._lock:
            if len(self._queue) >= WAITING_MAX:
                raise BusyError
            self._queue.append(entry)
        try:
            return answer.result(timeout_s)
        finally:
            with self._lock:
                if entry in self._queue:
                    self._queue.remove(entry)

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def answer(self) -> None:
        """Answers the oldest questions. Only the loop's thread calls it, at a commit boundary."""
        for _ in range(ANSWERS_MAX):
            with self._lock:
                if not self._queue:
                    return
                question, answer = self._queue.popleft()
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 (it is raised where the question was asked, and never in the loop)
                answer.set_exception(error)
