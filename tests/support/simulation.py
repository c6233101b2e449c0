"""One process of the service around the Kafka in memory, and the judge of what a group of them has published.

Everything between the consumer and the delivery is the service's own: loop, committer, restorer, checkpoints, pipeline, codec, engine,
slots, both checkpoint writers and the table of decisions. `Parts` names what a test may put a faulty one in place of.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from delivery import FakeDelivery
from memory_kafka import Broker
from memory_stores import InlineWriter, MemoryFiles, MemoryTopic
from reader import FakeReader
from stepper import Decay, stepped

from processor.alarms import Decider
from processor.alarms.rule import Rule
from processor.alarms.score import Score
from processor.app.fit import policies_of
from processor.checkpoint.policy import Present
from processor.checkpoint.restore import Cancel, Item, restored
from processor.checkpoint.topic import TopicWriter
from processor.codec.alarm_records import AlarmEncoder
from processor.codec.dead_letters import BadShare
from processor.codec.decode import Decoder
from processor.codec.encode import Encoder
from processor.codec.json_records import JsonFormat
from processor.codec.plain_message import PlainMessage
from processor.engine import Engine, Shapes
from processor.errors import Fenced, RepeatedAbort
from processor.kafka.partition_log import Committed
from processor.kafka.topics import Topic, Topics
from processor.loop.checkpoints import Checkpoints
from processor.loop.committer import Committer
from processor.loop.loop import Loop, Pace
from processor.loop.membership import Membership, Name
from processor.loop.orphans import Orphans
from processor.loop.outputs import Outputs
from processor.loop.progress import Progress
from processor.loop.rebalance import Rebalance
from processor.loop.restorer import Restorer
from processor.metrics import Metrics
from processor.partitions import Partitions
from processor.pipeline import Codec, Pipeline
from processor.recorder import Recorder
from processor.records import Output
from processor.rules import Clock, Rules
from processor.settings import Settings
from processor.split_sensors import SplitSensors

PARTITIONS, SLOTS, EXPIRE_MS, RECORDS_MAX = 3, 2, 60_000, 5
DRAIN_S = 10.0


def _topic(name: str) -> Topic:
    return Topic(name, f"{name}-id", PARTITIONS, 1_000_000, "delete")


INPUT, OUTPUT, DEAD, CHECKPOINTS, ALARMS = (_topic(name) for name in ("readings", "predictions", "dead-letters", "checkpoints", "alarms"))
RAISE_AT, RAISE_FOR = 1.5, 2
RULE = Rule(above=True, raise_at=RAISE_AT, raise_for=RAISE_FOR)


@dataclass(frozen=True)
class Parts:
    loop: type[Loop] = Loop
    engine: type[Engine] = Engine
    committer: type[Committer] = Committer
    checkpoints: type[Checkpoints] = Checkpoints
    delivery: type[FakeDelivery] = FakeDelivery
    reader: type[FakeReader] = FakeReader


@dataclass
class World:
    """What outlives a process: the broker and the checkpoints. in_topic: these are in a topic, else in files."""

    in_topic: bool
    commit_s: float
    checkpoint_s: float
    parts: Parts = field(default_factory=Parts)
    broker: Broker = field(default_factory=lambda: Broker(PARTITIONS))
    files: MemoryFiles = field(default_factory=MemoryFiles)
    settings: Settings = field(default_factory=Settings)
    present: Present = field(default_factory=lambda: Present("f" * 64, INPUT.id, PARTITIONS))
    metrics: Metrics = field(default_factory=Metrics)


class _Log:
    """As kafka.partition_log.PartitionLog, read committed."""

    def __init__(self, broker: Broker, partition: int) -> None:
        self._broker, self._partition = broker, partition

    def committed(self) -> Committed | None:
        found = self._broker.committed.get(self._partition)
        return None if found is None else Committed(*found)

    def others(self, partitions: int) -> list[str]:
        return [metadata for number, (_, metadata) in self._broker.committed.items() if number != self._partition]

    def bounds(self) -> tuple[int, int]:
        return 0, self._broker.end(self._partition)

    def read(self, start: int, position: int) -> Iterator[list[PlainMessage]]:
        messages = [message for message in self._broker.read(self._partition, start, position) if message.offset() < position]
        for i in range(0, len(messages), RECORDS_MAX):
            yield messages[i : i + RECORDS_MAX]


class _Restore:
    """As checkpoint.restore.Restore, a step a call."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items

    def take(self) -> Item | None:
        return next(self._items, None)

    def cancel(self) -> None:
        pass


class Process:
    """mark: its own, as each start of the service has one."""

    def __init__(self, world: World, name: str, mark: str) -> None:
        self.name, self.mark, broker, parts = name, mark, world.broker, world.parts
        now_s = broker.clock.now_s
        self.partitions, recorder = Partitions(), Recorder(world.metrics)
        shapes = Shapes(1, 1, 1, alarms=Decider(RULE, Score("prediction")))
        self.engine = parts.engine(Decay(), shapes, Rules(expire_ms=EXPIRE_MS), slots=SLOTS)
        decoder = Decoder(JsonFormat(features=1, record_steps_max=4), ahead_max_s=10**9, each_record=False)
        encoder = Encoder(model_id="decay", outputs=[Output("y", 0, 1)], scales=[None], residual=False)
        codec = Codec(decoder.decode, encoder.encode, alarms=AlarmEncoder(INPUT.name, "decay", [0]).encode)
        pipeline = Pipeline(codec, self.engine, EXPIRE_MS)
        store: Any = MemoryTopic(broker, CHECKPOINTS, self.engine.table.rows.state.shape[1]) if world.in_topic else world.files
        writer = TopicWriter(store) if world.in_topic else InlineWriter(store)
        whose = Name(name, mark, lambda _: broker.holder(name), _beat, now_s=now_s, sleep=broker.clock.sleep)
        orphans = Orphans(lambda: set(range(PARTITIONS)) - broker.owner.keys(), now_s)
        self.membership = Membership(
            lambda listener: parts.reader(broker, name, mark, listener),  # type: ignore[arg-type,return-value]
            whose,
            orphans,
            _beat,
            now_s=now_s,
        )
        bad_share = BadShare(1.0, DEAD.name)
        together: dict[str, Any] = {"partitions": self.partitions, "recorder": recorder}
        committer = parts.committer(
            parts.delivery(broker, name), self.membership, INPUT.name, writer=writer, participants=[self.engine, bad_share], **together
        )
        together["engine"] = self.engine

        def start(partition: int) -> _Restore:
            cancel = Cancel(lambda: False, lambda seconds: bool(broker.clock.sleep(seconds)))
            log, policies = _Log(broker, partition), policies_of(world.settings)
            return _Restore(restored(log, store, world.present, partition, policies, cancel, now_s))

        restorer = Restorer(start, pipeline=pipeline, writer=writer, made_by={}, now_s=now_s, **together)
        split = SplitSensors(world.metrics)
        checkpoints = parts.checkpoints(writer, world.checkpoint_s, split=split, made_by={}, now_s=now_s, **together)
        together |= {"committer": committer, "restorer": restorer, "checkpoints": checkpoints, "membership": self.membership}
        rebalance = Rebalance(check_assigned=lambda _: None, drain_s=DRAIN_S, now_s=now_s, **together)
        outputs = Outputs(Topics("cluster", INPUT, OUTPUT, DEAD, CHECKPOINTS if world.in_topic else None, ALARMS))
        progress = Progress(world.metrics, recorder, now_s)
        pace = Pace(RECORDS_MAX, 0.0, world.commit_s)
        self.loop = parts.loop(
            pace, pipeline=pipeline, outputs=outputs, bad_share=bad_share, rebalance=rebalance, progress=progress, beat=_beat, **together
        )
        self.membership.join(rebalance)

    def turn(self) -> bool:
        """False where the process has ended: another one has its name, or five transactions in a row came to nothing."""
        try:
            self.loop.turn()
        except Fenced:
            self.loop.abandon(leave=False, abort=False)
            return False
        except RepeatedAbort:
            self.loop.abandon(leave=True)
            return False
        return True


def _beat() -> None:
    pass


# -- the judge ---------------------------------------------------------------------------------------------------------------


Answer = tuple[Any, ...]  # offset, prediction and steps; or offset and error; or offset, state and id of an alarm


@dataclass
class Expected:
    """Of one partition, straight from its log: a dict of states, one record after another."""

    predictions: list[Answer] = field(default_factory=list)
    dead: list[Answer] = field(default_factory=list)
    alarms: list[Answer] = field(default_factory=list)
    lasting: dict[bytes, str] = field(default_factory=dict)  # the ids of alarms
    streaks: Counter[bytes] = field(default_factory=Counter)
    states: dict[bytes, tuple[np.float32, int, int]] = field(default_factory=dict)  # state, steps, latest time
    clock: Clock = field(default_factory=Clock)

    def feed(self, message: PlainMessage) -> None:
        key, value = message.key() or b"", message.value()
        if value is None:
            self.states.pop(key, None)
            self.reset(message, key)
            return
        try:
            number = np.float32(orjson.loads(value)["values"][0])
        except orjson.JSONDecodeError:
            self.dead.append((message.offset(), "bad_encoding"))
            return
        self.clock = self.clock.heard(key, message.time_ms, EXPIRE_MS)
        time_ms = message.time_ms if self.clock.time_ms is None else max(message.time_ms, self.clock.time_ms)
        state, steps, latest_ms = self.states.get(key, (np.float32(0), 0, message.time_ms))
        if time_ms - latest_ms > EXPIRE_MS:
            state, steps, latest_ms = np.float32(0), 0, message.time_ms
            self.reset(message, key)
        state, steps = stepped(state, number), steps + 1
        self.states[key] = state, steps, max(latest_ms, message.time_ms)
        self.predictions.append((message.offset(), float(state), steps))
        self.judge(message, key, state > RAISE_AT)

    def judge(self, message: PlainMessage, key: bytes, beyond: bool) -> None:
        self.streaks[key] = self.streaks[key] + 1 if beyond else 0
        if key in self.lasting and not beyond:
            self.alarms.append((message.offset(), "cleared", self.lasting.pop(key)))
        elif key not in self.lasting and self.streaks[key] >= RAISE_FOR:
            self.lasting[key] = f"{INPUT.name}-{message.partition()}-{message.offset()}"
            self.alarms.append((message.offset(), "raised", self.lasting[key]))

    def reset(self, message: PlainMessage, key: bytes) -> None:
        self.streaks[key] = 0
        if key in self.lasting:
            self.alarms.append((message.offset(), "cleared", self.lasting.pop(key)))


class Judge:
    def __init__(self, world: World) -> None:
        self._world = world
        self._expected = [Expected() for _ in range(PARTITIONS)]
        self._judged = [0] * PARTITIONS
        self._seen = 0
        self._predictions: list[list[Answer]] = [[] for _ in range(PARTITIONS)]
        self._dead: list[list[Answer]] = [[] for _ in range(PARTITIONS)]
        self._alarms: list[list[Answer]] = [[] for _ in range(PARTITIONS)]

    def check(self, *, complete: bool = False) -> None:
        """What is committed are the first answers of each partition, each once, in order and right; and as many as the offset says."""
        broker = self._world.broker
        for out in broker.outputs[self._seen :]:
            self._take(out)
        self._seen = len(broker.outputs)
        for number in range(PARTITIONS):
            expected = self._expected[number]
            for message in broker.log[number][self._judged[number] :]:
                if message is not None:
                    expected.feed(message)
            self._judged[number] = broker.end(number)
            position = broker.committed.get(number, (0, ""))[0]
            for name, found, due in (
                ("predictions", self._predictions[number], expected.predictions),
                ("dead letters", self._dead[number], expected.dead),
                ("alarms", self._alarms[number], expected.alarms),
            ):
                first = [answer for answer in due if complete or answer[0] < position]
                assert found == first, f"{name} of partition {number}, committed {position}: {found}, expected {first}"

    def _take(self, out: Any) -> None:
        assert out.partition is not None
        if out.topic == OUTPUT.name:
            value = orjson.loads(out.value)
            assert value["partition"] == out.partition
            self._predictions[out.partition].append((value["offset"], float(np.float32(value["prediction"][0])), value["steps"]))
        elif out.topic == ALARMS.name:
            value = orjson.loads(out.value)
            self._alarms[out.partition].append((value["offset"], value["state"], value["id"]))
        elif out.topic == DEAD.name:
            headers = dict(out.headers)
            self._dead[out.partition].append((int(headers["source_offset"]), headers["error"].decode()))

    @property
    def counts(self) -> Counter[str]:
        return Counter(predictions=sum(map(len, self._predictions)), dead=sum(map(len, self._dead)))
