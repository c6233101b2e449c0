"""A whole log through codec, engine and alarms, cut into batches, undone, replayed and restarted in any way; and what the oracle says.

The model is a sum in NumPy, so neither TensorFlow nor a broker is needed, and whatever is remembered wrongly is seen for ever.
"""

import json
import math
from random import Random
from typing import Any

import numpy as np
from judge import echo_model

from processor.app.fit import codec_of, rules_of, shapes_of
from processor.engine import Engine
from processor.model.rungs import RungShape
from processor.pipeline import Pipeline, Processed
from processor.rules import Clock
from processor.settings import Settings
from processor.slots.rows import Rows
from processor.verify import oracle, oracle_alarms
from processor.verify.oracle_records import InputRecord

F = 3
T0_MS = 1_700_000_000_000


class Sum:
    """A model whose state and output are the sum of what it was fed: any number held wrongly is seen for ever. A large one breaks it."""

    shapes = (RungShape(16, 8), RungShape(4, 64))

    def buffers(self, rung: int) -> Any:
        shape = self.shapes[rung]
        return (
            np.zeros((shape.steps_max, shape.rows, F), np.float32),
            np.zeros(shape.rows, np.int32),
            np.zeros((shape.rows, F), np.float32),
        )

    def run(self, rung: int, x: Any, counts: Any, steps: int, state: Any) -> Any:
        shape = self.shapes[rung]
        state, y = state.copy(), np.zeros((shape.steps_max, shape.rows, F), np.float32)
        finite = np.ones((shape.steps_max, shape.rows), bool)
        for t in range(steps):
            with np.errstate(all="ignore"):
                y[t] = step(x[t], state)
            finite[t] = ~(counts > t) | np.isfinite(y[t]).all(1)
            state[counts > t] = y[t][counts > t]
        return y, state, finite


def step(x: Any, state: Any) -> Any:
    return np.where(x > 80, np.float32(np.inf), x + state * np.float32(0.5))


def model() -> Any:
    found = echo_model(F)
    found.width = F
    return found


class Message:
    def __init__(self, offset: int, key: bytes, value: bytes | None, record_ms: int, headers: list[tuple[str, bytes]]) -> None:
        self._offset, self._key, self._value, self._record_ms, self._headers = offset, key, value, record_ms, headers

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Any:
        return self._headers or None

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self._record_ms


def log_of(random: Random, settings: Settings, n: int) -> list[Message]:
    """Records of a few sensors, most with holes, with resets of every kind between them."""
    found, now_ms = [], T0_MS
    for offset in range(n):
        now_ms += random.choice([10, 10, 10, 500, 4000])
        steps = [[_number(random) for _ in range(F)] for _ in range(random.choice([1, 1, 1, 3]))]
        headers = [("sequence", random.choice([b"start", b"end", b"single"]))] if random.random() < 0.08 else []
        value: bytes | None = _value(random, settings, steps, now_ms - random.choice([0, 0, 0, 600]))
        if settings.input.format == "float32" and len(steps) > 1:
            headers.append(("steps", b"%d" % len(steps)))
        if random.random() < 0.03:
            value, headers = None, []
        found.append(Message(offset, b"s%d" % random.randrange(4), value, now_ms, headers))
    return found


def _number(random: Random) -> Any:
    return random.choice([None, -200, math.nan, "N/A"]) if random.random() < 0.25 else random.choice([1.5, 2.25, -3.0, 7.125, 666.0, 5])


def _value(random: Random, settings: Settings, steps: list[list[Any]], event_ms: int) -> bytes:
    if settings.input.format == "float32":
        numbers = [math.nan if number is None or number == "N/A" else number for each in steps for number in each]
        return np.array(numbers, "<f4").tobytes()
    record: dict[str, Any] = {"timestamp": event_ms, "values": steps if len(steps) > 1 else steps[0]}
    if settings.input.features:
        a, c, d = steps[0]
        record = {"timestamp": event_ms, "a": a, "b": {"c": c} if random.random() < 0.9 else None, "d": d}
        if random.random() < 0.1:
            del record["a"]
    if settings.input.quality is not None:
        record["q"] = random.choice(["GOOD", "GOOD", 192, None, "BAD", ["GOOD", "BAD", None], {"b.c": "BAD", "1": 0}, True])
    return json.dumps(record).encode()


def pipeline_of(settings: Settings, slots: int) -> tuple[Pipeline, Engine]:
    shapes, rules = shapes_of(model(), settings), rules_of(settings)
    engine = Engine(Sum(), shapes, rules, slots=slots)
    return Pipeline(codec_of(settings, model(), "3f2a9c01"), engine, rules.expire_ms), engine


def answers(done: Processed, into: dict[Any, Any]) -> None:
    for i, value in zip(done.decoded.source, done.values, strict=True):
        if value is not None:
            into[int(done.batch.offset[done.decoded.source.index(i)])] = oracle.as_published(value)
    for _, reason in done.rejected:
        into[reason.offset] = reason.error
    for i, sensor, value in done.alarms:
        into.setdefault(("alarms", int(done.batch.offset[i])), []).append((sensor, oracle_alarms.alarm_as_published(value)))


def served(settings: Settings, log: list[Message], random: Random, slots: int) -> dict[Any, Any]:
    """The log through pipeline and engine in random batches, some undone and done again, some after a restart.

    A restart has rows as a checkpoint topic has them: some newer than the marker from which it replays, and those of sensors gone since.
    """
    pipeline, engine = pipeline_of(settings, slots)
    found: dict[Any, Any] = {}
    at, clocks = 0, {0: Clock()}
    marked, marked_clock, marked_rows = 0, Clock(), dict[bytes, Rows]()
    while at < len(log):
        end = min(len(log), at + random.choice([1, 2, 5, 40]))
        done = pipeline.process(log[at:end], clocks)
        what = random.random()
        if what < 0.2:
            engine.abort()
            continue
        answers(done, found)
        engine.commit()
        clocks |= done.clocks
        at = end
        if random.random() < 0.5:
            engine.expire(0, at, clocks[0])
        keys, rows, _ = engine.copy(0)
        rows.saved_in[:] = 0  # as a checkpoint has them
        by_key = {key: rows.take(np.array([i])) for i, key in enumerate(keys)}
        if what > 0.9:
            pipeline, engine = pipeline_of(settings, slots)
            known = marked_rows | {key: row for key, row in by_key.items() if random.random() < 0.7 or key not in marked_rows}
            known = {key: row for key, row in known.items() if key in marked_rows or int(row.applied[0]) >= marked}
            engine.load(0, list(known), Rows.join(list(known.values()), rows.state.shape[1]))
            pipeline.replay(log[marked:at], {0: marked_clock})
        elif what > 0.7:
            marked, marked_clock, marked_rows = at, clocks[0], by_key
    return found


def expected(settings: Settings, log: list[Message]) -> dict[Any, Any]:
    def run(x: Any, _counts: Any, _steps: int, state: Any) -> Any:
        y = step(x[:1], state)
        return y, y[0], None

    reference = oracle.Reference(model(), settings, "3f2a9c01", run=run)
    given = ((m.offset(), m.key(), m.value(), m.timestamp()[1], tuple(m.headers() or ())) for m in log)
    found = dict[Any, Any]()
    for each in given:
        answer = reference.feed(InputRecord(0, *each))
        if answer is not None:
            found[each[0]] = answer
        for told in reference.take_alarms():
            found.setdefault(("alarms", each[0]), []).append(told)
    return found
