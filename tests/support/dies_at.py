"""The service as a program that kills itself with -9, hangs or falls asleep at one exact point: `python dies_at.py POINT TIMES run ...`.

POINT is reached TIMES times before it is the end. What stands in the process at that moment is what a crash there leaves: nothing
is flushed, closed or told to the broker, unless the point says so.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from processor import cli
from processor.app import health
from processor.checkpoint import directory, topic
from processor.engine import Engine
from processor.kafka.consumer import GroupConsumer
from processor.kafka.transaction import Transaction
from processor.loop.loop import Loop


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_soon(*_: Any) -> None:
    """While the call that follows is on its way to the broker."""
    threading.Timer(0.0005, die).start()


def before(owner: Any, name: str, act: Callable[..., None] = die, *, if_: Callable[..., bool] = lambda *_: True) -> None:
    """Lets a function act before it does its work, the first time that it is called with what `if_` accepts, and so often before."""
    function, left = getattr(owner, name), int(sys.argv[2])

    @wraps(function)
    def changed(*args: Any, **options: Any) -> Any:
        nonlocal left
        if if_(*args):
            left -= 1
            if left < 0:
                act(*args)
        return function(*args, **options)

    setattr(owner, name, changed)


def flush_and_die(transaction: Transaction, *_: Any) -> None:
    transaction._producer.flush(10)
    die()


def hang(*_: Any) -> None:
    threading.Event().wait()


def sleep(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def half_a_file(_tensors: Any, path: Any, _metadata: Any) -> None:
    path.write_bytes(b"\x10" * 100)
    die()


def rows_before_the_marker(writer: topic.TopicWriter) -> bool:
    return any(round_.sent and not round_.marked for round_ in writer._rounds.values())


def has_outputs(engine: Engine) -> bool:
    return not engine.at_boundary


def nothing_sent(loop: Loop, *_: Any) -> bool:
    """What was published waits for more (linger.ms), and the broker has not heard of its partitions."""
    return (loop._committer.age_s or 1.0) < 0.004


def to_commit(_transaction: Transaction, call: str, *_: Any) -> bool:
    return call == "commit_transaction"


POINTS: dict[str, Callable[[], None]] = {
    "before anything is published": lambda: before(Transaction, "publish"),
    "after publishing": lambda: before(Transaction, "commit", flush_and_die, if_=lambda t, *_: t.age_s is not None),
    "before the commit": lambda: before(Transaction, "_until_decided", if_=to_commit),
    "in the commit": lambda: before(Transaction, "_until_decided", die_soon, if_=to_commit),
    "after the commit": lambda: before(Engine, "commit", if_=has_outputs),
    "in the first commit": lambda: before(Engine, "commit"),
    "in a checkpoint file": lambda: before(directory, "_save", half_a_file),
    "before a checkpoint file has its name": lambda: before(directory.os, "link"),
    "hangs": lambda: before(Engine, "commit", hang, if_=has_outputs),
    "sleeps with records in hand": lambda: before(Loop, "_note_ends", sleep, if_=nothing_sent),
    "giving up": lambda: before(GroupConsumer, "_unassign"),
    "in a round": lambda: before(topic.TopicWriter, "commit", if_=rows_before_the_marker),
}

if __name__ == "__main__":
    topic.ROWS_MAX = 4  # so that a round is several transactions
    health.HUNG_S = 2.0
    POINTS[sys.argv[1]]()
    sys.exit(cli.main(sys.argv[3:]))
