"""The stores that checkpoints are kept in, each with its writer fed as the loop feeds it, and snapshots to put there."""

import itertools
import secrets
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from processor.checkpoint import directory
from processor.checkpoint import topic as topic_module
from processor.checkpoint.directory import TEMPORARY, Directory
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.topic import TopicStore, TopicWriter
from processor.checkpoint.writer import Writer, Written
from processor.kafka.partition_log import read_to_end
from processor.kafka.topics import Topic
from processor.partitions import Beginning, Position
from processor.settings import Settings
from processor.slots.rows import Rows

W = 3
BEGINNING = Beginning(5, "00aa" * 4, "f" * 64, "topic-id", 8)
OTHER = Beginning(90, "00bb" * 4, "f" * 64, "topic-id", 8)
P = 2
LONG_S = 30.0  # only ever waited for by a test that fails


def snapshot_of(
    keys, position=100, *, partition=P, beginning=BEGINNING, seed=0, base=None, removed=(), applied_max=None, time_ms=1_700_000_000_000
) -> Snapshot:
    """Every column random, the states any float32 there is."""
    rng, n = np.random.default_rng(seed), len(keys)
    rows = Rows.zeros(n, W)
    rows.state = rng.integers(0, 2**32, (n, W), np.uint32).view(np.float32)
    rows.applied, rows.steps = rng.integers(0, applied_max or max(position, 1), n), rng.integers(1, 2**62, n)
    rows.event_ms, rows.incomplete = rng.integers(-(2**53), 2**53, n), rng.random(n) < 0.5
    mark = Position(position, time_ms, None if time_ms is None else time_ms - 7)
    return Snapshot(partition, mark, beginning, list(keys), rows, {"tensorflow": "2.21"}, base, list(removed))


def rows_by_sensor(keys: list[bytes], rows: Rows) -> dict[bytes, tuple[object, ...]]:
    """To compare bit for bit."""
    columns = [rows.state.view(np.uint32).tolist(), *(c.tolist() for c in (rows.applied, rows.steps, rows.event_ms, rows.incomplete))]
    return dict(zip(keys, zip(*columns, strict=True), strict=True))


def content(snapshot: Snapshot | None):
    """All that a snapshot says, in whatever order its sensors are."""
    if snapshot is None:
        return None
    return snapshot.partition, snapshot.mark, snapshot.beginning, snapshot.made_by, rows_by_sensor(snapshot.keys, snapshot.rows)


def ends(writer: Writer | TopicWriter, partition: int) -> Written:
    """What is told of the partition's snapshot, which must have come to its end."""
    (written,) = (w for w in writer.wait([partition], LONG_S) if w.partition == partition)
    return written


class Folder:
    """A folder, as the processes that come one after another find it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self) -> Directory:
        return Directory(self.path, "group", "readings", keep=2)

    def writer(self, store: Directory) -> Writer:
        return Writer(store)

    def round(self, writer: Writer, snapshot: Snapshot) -> Written:
        writer.write(snapshot)
        return ends(writer, snapshot.partition)

    def faulty_round(self, writer: Writer, snapshot: Snapshot) -> Written:
        """The disk is full."""

        def full(*_: object) -> None:
            raise OSError("No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(directory.os, "link", full)
            return self.round(writer, snapshot)

    def half_round(self, writer: Writer, snapshot: Snapshot) -> None:
        """What a process leaves that was killed while it wrote."""
        folder = self.store().folder(snapshot.partition)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY}{secrets.token_hex(6)}").write_bytes(b"half")

    def close(self, writer: Writer) -> None:
        writer.close()


class Log:
    """A checkpoint topic, written to as the loop's transactions do."""

    def __init__(self, bootstrap: str, name: str, partitions: int = P + 1) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._admin.create_topics([NewTopic(name, partitions, 1, config={"cleanup.policy": "compact"})])[name].result(30)
        self.topic = Topic(name, "checkpoint-id", partitions, 1_000_000, "compact")
        # Waiting for more at the log's end is half of what reading a short topic takes.
        self.settings = Settings(kafka={"bootstrap.servers": bootstrap, "fetch.wait.max.ms": "10"}, group="group")
        self.producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
        self.producer.init_transactions(30)

    def store(self) -> TopicStore:
        return TopicStore(partial(read_to_end, self.settings), self.topic, W)

    def writer(self, store: TopicStore) -> TopicWriter:
        return TopicWriter(store)

    def put(self, outs: list, *, commit: bool = True) -> None:
        self.producer.begin_transaction()
        for out in outs:
            self.producer.produce(out.topic, out.value, out.key, out.partition)
        if commit:
            self.producer.commit_transaction(30)
        else:
            self.producer.flush(30)
            self.producer.abort_transaction(30)
        until_s = time.monotonic() + LONG_S
        while self._ends(IsolationLevel.READ_COMMITTED) != self._ends(IsolationLevel.READ_UNCOMMITTED):
            assert time.monotonic() < until_s, "the log is not decided"
            time.sleep(0.01)

    def _ends(self, level: IsolationLevel) -> list[int]:
        """A transaction is decided before its markers are in the log: until then readers of committed data see an earlier end."""
        wanted = {TopicPartition(self.topic.name, p): OffsetSpec.latest() for p in range(self.topic.partitions)}
        return [found.result(30).offset for found in self._admin.list_offsets(wanted, isolation_level=level).values()]

    def round(self, writer: TopicWriter, snapshot: Snapshot) -> Written:
        """A whole round, each piece in a transaction of its own."""
        return self._round(writer, snapshot, itertools.repeat(True))

    def faulty_round(self, writer: TopicWriter, snapshot: Snapshot) -> Written:
        """Every other transaction is aborted; each holds two rows."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(topic_module, "ROWS_MAX", 2)
            return self._round(writer, snapshot, itertools.cycle([False, True]))

    def _round(self, writer: TopicWriter, snapshot: Snapshot, commits) -> Written:
        writer.write(snapshot)
        while writer.busy(snapshot.partition):
            outs, partitions = writer.outs()
            assert partitions == {snapshot.partition}
            commit = next(commits)
            self.put(outs, commit=commit)
            writer.commit() if commit else writer.abort()
        return ends(writer, snapshot.partition)

    def half_round(self, writer: TopicWriter, snapshot: Snapshot) -> None:
        """The first rows are committed, the next ones aborted; the rest never comes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(topic_module, "ROWS_MAX", max(1, len(snapshot.keys) // 2))
            writer.write(snapshot)
            for commit in (True, False):
                outs, _ = writer.outs()
                if all(out.key != topic_module.MARKER for out in outs):
                    self.put(outs, commit=commit)
                    writer.commit() if commit else writer.abort()

    def close(self, writer: TopicWriter) -> None:
        writer.close()
