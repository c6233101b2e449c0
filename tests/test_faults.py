"""What happens to processes, brokers, disks and groups: after each, every record is answered once, as the reference oracle would."""

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from harness import (
    L,
    Service,
    Topics,
    answers_due,
    assert_exact,
    assert_same,
    keras,
    numbers,
    readings,
    save_model,
    served,
    wait_for,
)

from processor import cli, logs
from processor.checkpoint.directory import Directory, Name
from processor.records import ERRORS
from processor.sandbox.kafka import EmbeddedKafka
from processor.stream import admin
from processor.stream.assignment import Beginning
from processor.tools.oracle import as_published

SMALL = ("--slots=8", "--dead_letter.max_ratio=1")
SLOW_COMMITS = "--commit_interval=1s"  # so that what ends a transaction early finds one


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "other.keras", L.LSTM(8), L.Dense(3), seed=2)


class Stream:
    """A seeded stream of records of every kind, produced piece by piece."""

    def __init__(self, topics: Topics, count: int, seed: int = 1):
        sensors = 8 * topics.partitions
        self._topics = topics
        self._left = readings(np.random.default_rng(seed), count, features=3, sensors=sensors, partitions=topics.partitions)
        self.due = 0

    def feed(self, count: int | None = None) -> int:
        """Produces the next records, all by default; returns how many answers are due for everything produced so far."""
        count = len(self._left) if count is None else count
        assert len(self._left) >= count, "the stream is used up"
        records, self._left = self._left[:count], self._left[count:]
        self._topics.produce(records)
        self.due += answers_due(records)
        return self.due

    def feed_until(self, condition, what, records: int = 5, timeout_s: float = 90.0):
        """Produces some records again and again until the condition holds, so that it comes true while the service works."""

        def step():
            if self._left:
                self.feed(min(records, len(self._left)))
            return condition()

        wait_for(step, what, timeout_s, every_s=0.1)


class Group:
    """A consumer group's offsets in a topic, as an operator sees and moves them."""

    def __init__(self, bootstrap: str, name: str, topic: str):
        self.bootstrap, self.name, self.topic = bootstrap, name, topic
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def committed(self) -> dict[int, TopicPartition]:
        """By partition; without those that have none."""
        request = [ConsumerGroupTopicPartitions(self.name)]
        wanted = self.admin.list_consumer_group_offsets(request, require_stable=True)[self.name].result(30)
        return {tp.partition: tp for tp in wanted.topic_partitions if tp.topic == self.topic and tp.offset >= 0}

    def positions(self) -> dict[int, int]:
        return {number: tp.offset for number, tp in self.committed().items()}

    def move(self, positions: dict[int, int]) -> None:
        """As kafka-consumer-groups.sh does it: the metadata goes."""
        moved = [TopicPartition(self.topic, p, offset) for p, offset in positions.items()]
        self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name, moved)])[self.name].result(30)

    def commit(self, offsets: dict[int, tuple[int, str]]) -> None:
        """(position, metadata) by partition, as an instance would have left them."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.name, "enable.auto.commit": False})
        try:
            told = [TopicPartition(self.topic, p, offset, metadata) for p, (offset, metadata) in offsets.items()]
            consumer.commit(offsets=told, asynchronous=False)
        finally:
            consumer.close()


def group_of(service: Service) -> Group:
    return Group(service.topics.bootstrap, service.settings.group_id, service.topics.input)


def checkpoints(service: Service) -> dict[int, list[Path]]:
    """Each partition's checkpoint files, newest first."""
    settings = service.settings
    store = Directory(settings.checkpoint.path, settings.group_id, settings.input.topic, keep=2)
    found = {}
    for partition in range(service.topics.partitions):
        folder = store.folder(partition)
        files = [path for path in folder.iterdir() if Name.parse(path.name)] if folder.is_dir() else []
        found[partition] = sorted(files, reverse=True)
    return found


def newest(service: Service) -> dict[int, int]:
    """The positions of the newest checkpoints, by partition."""
    return {p: Name.parse(files[0].name).position for p, files in checkpoints(service).items() if files}


def replayed(service: Service) -> float:
    return service.metric("replayed_readings_total")


def feed_into_open_transaction(service: Service, stream: Stream, count: int) -> None:
    """Produces records, and is back while a transaction with the first of them is open."""
    before = service.metric("batch_readings_count")
    stream.feed(count)
    wait_for(lambda: service.metric("batch_readings_count") > before, "work under way", every_s=0.01)


# -- stopping -----------------------------------------------------------------------------------------------------------------


def test_a_stop_leaves_a_checkpoint_at_every_committed_offset_so_that_the_next_start_replays_nothing(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("stop"))
    stream = Stream(topics, 800)
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, "--checkpoint.interval=1h")
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(60))
        feed_into_open_transaction(service, stream, 640)
        assert service.stop() == 0
        assert service.events("stopped")
    committed = group_of(service).positions()
    assert newest(service) == committed
    _, reference = served(service, topics)
    want = reference.expect(topics.inputs())
    assert_same(topics.answers(), {at: answer for at, answer in want.items() if at[1] < committed[at[0]]})
    with service:
        service.wait_answered(stream.feed())
        assert replayed(service) == 0
        assert wait_for(lambda: service.events("ready"), "said to be ready")[0]["replayed_readings"] == 0
        restored = service.events("partition restored")
        assert {e["partition"]: e["checkpoint"] for e in restored} == {e["partition"]: e["position"] for e in restored} == committed
        assert service.stop() == 0
    assert_exact(service, topics)


# -- brokers ------------------------------------------------------------------------------------------------------------------


def test_a_service_outlives_its_broker_and_ends_at_once_when_told_twice(tmp_path, model):
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        topics = Topics(broker.bootstrap, "outage")
        stream = Stream(topics, 1200)
        service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS)
        with service:
            service.wait_ready()
            feed_into_open_transaction(service, stream, 200)
            broker.kill()
            broker.start()
            service.wait_answered(stream.feed(200))

            feed_into_open_transaction(service, stream, 400)
            broker.kill()
            # Longer than the transaction timeout, so that the broker may abort what was open.
            until_s = time.monotonic() + 13
            wait_for(lambda: service.get("/healthz")[0] != 200 or time.monotonic() > until_s, "the outage")
            broker.start()
            service.wait_answered(stream.feed(200))
            assert service.get("/healthz")[0] == 200
            assert service.get("/readyz")[0] == 200

            broker.kill()
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: service.events("stopping: last commit, last checkpoint"), "stopping")
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_end() == 128 + signal.SIGTERM
        broker.start()
        with service:
            service.wait_answered(stream.feed())
        assert_exact(service, topics)


def test_a_session_that_ends_in_an_outage_costs_nothing_but_time(tmp_path, model):
    """The loop waits for the broker's word on its transaction: the client finds the session over before the loop asks it anything."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        topics = Topics(broker.bootstrap, "session")
        stream = Stream(topics, 600)
        service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, "--kafka=session.timeout.ms=6000")
        with service:
            service.wait_ready()
            for outage_s in (8, 10):
                feed_into_open_transaction(service, stream, 200)
                broker.kill()
                until_s = time.monotonic() + outage_s
                wait_for(lambda until_s=until_s: time.monotonic() > until_s, "the outage")
                broker.start()
                service.wait_answered(stream.feed(100))
            assert service.events("partitions lost: the group went on without this instance")
            assert service.stop() == 0
        assert_exact(service, topics)


# -- processes ----------------------------------------------------------------------------------------------------------------


def owned(service: Service) -> int:
    changes = service.events("partitions assigned")
    return changes[-1]["owned"] if changes else 0


@pytest.mark.parametrize("store", ["directory", "topic"])
def test_partitions_move_between_instances_that_come_stop_and_are_killed(kafka, unique, tmp_path, model, store):
    topics = Topics(kafka.bootstrap, unique("move"), partitions=4)
    stream = Stream(topics, 3000)
    a, b = (Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, f"--checkpoint.store={store}", instance=name) for name in "ab")
    with a:
        a.wait_ready()
        stream.feed(300)
        with b:
            stream.feed_until(lambda: owned(b) == 2, "two partitions handed over to b")
            b.wait_ready()
            assert replayed(b) == 0, "a left final checkpoints"

            feed_into_open_transaction(b, stream, 300)
            b.kill()
            b.start()
            stream.feed_until(lambda: owned(b) == 2, "b has its partitions back")
            b.wait_ready()
            so_far = replayed(b)

            stream.feed(100)
            assert a.stop() == 0
            wait_for(lambda: owned(b) == 4, "b has all partitions")
            b.wait_answered(stream.feed(100))
            assert replayed(b) == so_far, "a left final checkpoints"
    assert_exact(b, topics)


def test_a_name_belongs_to_one_process_refused_on_its_host_and_fenced_elsewhere(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("name"))
    stream = Stream(topics, 1200)
    first, second = (Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS) for _ in range(2))
    second.log = tmp_path / "second.log"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with first:
        first.wait_ready()
        first.wait_answered(stream.feed(200))
        assert second.start().wait_end() == 2
        assert f"already runs on this host, as pid {first.process.pid}" in second.said()
        assert "set `instance`" in second.said()
        feed_into_open_transaction(first, stream, 500)
        first.process.send_signal(signal.SIGSTOP)
        try:
            second.environment = {"TMPDIR": str(elsewhere)}
            with second:
                second.wait_answered(stream.feed(400))
                first.process.send_signal(signal.SIGCONT)
                assert first.wait_end() == 3, first.said()
                assert "Expected: one process a name" in first.said()
                second.wait_answered(stream.feed())
                assert second.stop() == 0
        finally:
            if first.process.poll() is None:
                first.process.send_signal(signal.SIGCONT)
    assert_exact(second, topics)
    assert newest(second) == group_of(second).positions()


def test_a_process_that_slept_past_its_session_with_nothing_in_hand_does_not_take_its_name_back(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("asleep"))
    stream = Stream(topics, 600)
    first, second = (Service(topics, model, tmp_path, *SMALL, "--kafka=session.timeout.ms=6000") for _ in range(2))
    second.log = tmp_path / "second.log"
    second.environment = {"TMPDIR": str(tmp_path)}  # as on another host: the lock of the name is found in another folder
    with first:
        first.wait_ready()
        first.wait_answered(stream.feed(200))
        first.process.send_signal(signal.SIGSTOP)
        asleep_until_s = time.monotonic() + 7
        try:
            with second:
                second.wait_answered(stream.feed(200))
                wait_for(lambda: time.monotonic() > asleep_until_s, "the session to be over")
                first.process.send_signal(signal.SIGCONT)
                assert first.wait_end() == 3, first.said()
                assert "Expected: one process a name" in first.said()
                second.wait_answered(stream.feed())
                assert not second.events("partitions lost: the group went on without this instance")
                assert second.stop() == 0
        finally:
            if first.process.poll() is None:
                first.process.send_signal(signal.SIGCONT)
    assert_exact(second, topics)


def test_a_process_that_is_stopped_when_it_wakes_past_its_session_gives_up_its_last_commit_at_once(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("woken"))
    stream = Stream(topics, 600)
    own = ("--kafka=session.timeout.ms=6000", "--leave_on_stop=false", "--checkpoint.store=topic", "--checkpoint.interval=1h")
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, *own)
    group = group_of(service)
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(200))
        feed_into_open_transaction(service, stream, 200)
        service.process.send_signal(signal.SIGSTOP)

        def forgotten():
            return not group.admin.describe_consumer_groups([group.name])[group.name].result(30).members

        wait_for(forgotten, "the session to be over")
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGCONT)
        assert service.wait_end() == 0, service.said()
        assert len(service.events("transaction aborted, going back to the last commit")) < 5
    with service:
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


# -- bad records --------------------------------------------------------------------------------------------------------------


def overflowing(path: Path) -> Path:
    """h' = relu(10 (x1 + x2 + x3) + h / 4): two readings of 1e37 in a row are too many."""
    model = keras.Sequential([keras.Input((None, 3)), L.SimpleRNN(4, activation="relu"), L.Dense(3)])
    model.layers[0].set_weights([np.full((3, 4), 10.0), np.eye(4) / 4, np.zeros(4)])
    model.layers[1].set_weights([np.full((4, 3), 0.01), np.zeros(3)])
    model.save(path)
    return path


def test_every_kind_of_bad_record_is_a_dead_letter_unchanged_and_touches_nothing_else(kafka, unique, tmp_path):
    topics = Topics(kafka.bootstrap, unique("bad"), partitions=2, dead_letter_bytes=4000)
    model = overflowing(tmp_path / "model.keras")
    service = Service(topics, model, tmp_path, *SMALL, "--input.record_steps_max=8")
    now_ms = int(time.time() * 1000) - 60_000
    own = [("trace", b"7"), ("tenant", b"\xff\x00")]
    good, high = np.array([1.0, -2.0, 3.0]), np.full(3, 1e37)
    ahead = json.dumps({"values": [0, 0, 0], "timestamp": now_ms + 4_000_000}).encode()
    bad = {
        "no_key": (None, numbers(good)),
        "bad_encoding": (b"pump", b"\xff\xfe stray"),
        "bad_schema": (b"pump", b'{"values": [1, null, 3]}'),
        "wrong_feature_count": (b"pump", b'{"values": [1, 2]}'),
        "not_finite": (b"pump", b'{"values": [1, 2, 1e999]}'),
        "bad_timestamp": (b"pump", ahead),
        "too_large": (b"pump", numbers(np.zeros((9, 3)))),
        "non_finite_state": (b"pump", numbers(high)),
    }
    assert bad.keys() == set(ERRORS) - {"late"}
    stray = b"\xff" * 5000  # more than the dead-letter topic takes
    records = [(0, key, numbers(good), now_ms, ()) for key in (b"pump", b"fan", b"\x01" * 1000)]
    for error, (key, value) in bad.items():
        before = high if error == "non_finite_state" else good  # the first that is so high is taken, the second is too many
        records += [(0, b"pump", numbers(before), now_ms, ()), (0, b"fan", numbers(good), now_ms, ())]
        records += [(0, key, value, now_ms, own), (0, b"fan", numbers(good), now_ms, ()), (0, b"pump", numbers(good), now_ms, ())]
    records += [(1, b"valve", stray, now_ms, own), (1, b"valve", numbers(good), now_ms, ())]
    topics.produce(records)
    with service:
        service.wait_answered(len(records))
        counts = {error: 2 if error == "bad_encoding" else int(error in bad) for error in ERRORS}
        wait_for(lambda: counts == {error: service.metric("dead_letters_total", f'{{error="{error}"}}') for error in counts}, "all counted")
        assert service.stop() == 0
    assert_exact(service, topics)
    inputs = {(r.partition, r.offset): r for r in topics.inputs()}
    letters = topics.read(topics.dead_letter)
    assert {dict(m.headers())["error"].decode() for m in letters} == bad.keys()
    for letter in letters:
        names = [name for name, _ in letter.headers()]
        headers = dict(letter.headers())
        source = inputs[int(headers["source_partition"]), int(headers["source_offset"])]
        ours = ["error", "error_detail", "source_topic", "source_partition", "source_offset"]
        assert names[: len(source.headers)] == [name for name, _ in source.headers]
        assert all(headers[name] == value for name, value in source.headers)
        assert names[len(source.headers) : len(source.headers) + 5] == ours
        assert headers["source_topic"] == topics.input.encode()
        assert headers["error_detail"]
        assert (letter.partition(), letter.key(), letter.timestamp()[1]) == (source.partition, source.key, source.record_ms)
        if source.value == stray:
            assert (letter.value(), headers["truncated"]) == (None, b"5000")
        else:
            assert letter.value() == source.value
            assert "truncated" not in headers


def test_too_many_bad_records_stop_the_service_and_leave_them_in_the_input(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("limit"))
    stream = Stream(topics, 90)
    now_ms = int(time.time() * 1000) - 60_000
    bad = [(i % 3, f"sensor-{i}".encode(), b"not JSON", now_ms, ()) for i in range(400)]
    service = Service(topics, model, tmp_path, "--slots=8")
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed())
        topics.produce(bad)
        assert service.wait_end() == 3
        assert "(dead_letter.max_ratio)" in service.said()
        assert "bad_encoding" in service.said()
        assert topics.dead_letter in service.said()
    # What was answered is what was committed: the transaction that was open is no part of it.
    committed = group_of(service).positions()
    assert sum(committed.values()) < topics.end()
    _, reference = served(service, topics)
    want = reference.expect(topics.inputs())
    assert_same(topics.answers(), {at: answer for at, answer in want.items() if at[1] < committed[at[0]]})
    service.options.append("--dead_letter.max_ratio=1")
    with service:
        service.wait_answered(stream.due + len(bad))
    assert_same(topics.answers(), want)


# -- what a start finds -------------------------------------------------------------------------------------------------------

PARTITIONS = 7


@pytest.fixture(scope="module")
def past(kafka, tmp_path_factory, model):
    """A service that has worked and was stopped: committed offsets, two checkpoints and more a partition."""
    folder = tmp_path_factory.mktemp("past")
    topics = Topics(kafka.bootstrap, "past", partitions=PARTITIONS)
    stream = Stream(topics, 1050)
    service = Service(topics, model, folder, *SMALL)
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(700))
        wait_for(lambda: newest(service) == group_of(service).positions(), "checkpoints half way")
        service.wait_answered(stream.feed(250))
        assert service.stop() == 0
    assert all(len(files) >= 2 for files in checkpoints(service).values())
    stream.feed()  # what a successor finds to do
    service.log.unlink()
    return service


@pytest.fixture
def successor(past, unique, tmp_path):
    """Makes services of another group that has the past of the first: its offsets and checkpoints, but outputs of its own."""

    def make(*options: str, model: Path | None = None, offsets: bool = True) -> Service:
        name = unique("successor")
        topics = past.topics.answered_to(name)
        service = Service(topics, model or past.model, tmp_path, *SMALL, f"--group={name}", *options)
        shutil.copytree(past.folder / "checkpoints" / past.settings.group_id, tmp_path / "checkpoints" / name)
        if offsets:
            group_of(service).commit({p: (tp.offset, tp.metadata) for p, tp in group_of(past).committed().items()})
        return service

    return make


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs `slotstream run` in this process, where TensorFlow is there already, and gives its exit code and last message."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(service: Service) -> tuple[int, str]:
        code = cli.main(["run", *service.options])
        return code, capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def due_from(service: Service, positions: dict[int, int]) -> int:
    return sum(r.offset >= positions[r.partition] and (r.value is not None or r.key is None) for r in service.topics.inputs())


def test_offsets_moved_by_an_operator_and_lost_checkpoints_change_no_prediction(successor):
    service = successor()
    group, files = group_of(service), checkpoints(service)
    found = group.positions()
    positions = found | {0: found[0] + 10, 1: Name.parse(files[1][1].name).position + 1, 2: 0}
    group.move({p: positions[p] for p in (0, 1, 2)})
    shutil.rmtree(files[3][0].parent)
    with service:
        service.wait_answered(due_from(service, positions))
        said = service.events("no usable checkpoint: replaying")
        assert service.stop() == 0
    assert [event["partition"] for event in said] == [3]
    _, reference = served(service, service.topics)
    want = reference.expect(service.topics.inputs())
    assert_same(service.topics.answers(), {at: answer for at, answer in want.items() if at[1] >= positions[at[0]]})


def test_damaged_checkpoints_are_passed_over_with_a_warning_and_cost_only_a_replay(successor):
    service = successor()
    files = checkpoints(service)
    whole = {p: listed[0].read_bytes() for p, listed in files.items()}
    middle = len(whole[1]) * 3 // 4
    damaged = {
        0: whole[0][: len(whole[0]) // 2],
        1: whole[1][:middle] + bytes([whole[1][middle] ^ 4]) + whole[1][middle + 1 :],
        2: b"These are no tensors, but somebody's notes. " * 40,
        3: b"",
        4: whole[5],
    }
    for p, content in damaged.items():
        files[p][0].write_bytes(content)
    for path in files[6]:
        path.write_bytes(path.read_bytes()[:-1])
    positions = group_of(service).positions()
    with service:
        service.wait_answered(due_from(service, positions))
        warned = {event["file"] for event in service.events("checkpoint passed over: it is damaged or no checkpoint")}
        restored = {event["partition"]: event["checkpoint"] for event in service.events("partition restored")}
        assert service.stop() == 0
    assert warned == {str(files[p][0]) for p in damaged} | {str(path) for path in files[6]}
    assert restored == {p: Name.parse(files[p][1].name).position for p in damaged} | {5: positions[5], 6: None}
    _, reference = served(service, service.topics)
    want = reference.expect(service.topics.inputs())
    assert_same(service.topics.answers(), {at: answer for at, answer in want.items() if at[1] >= positions[at[0]]})


def test_cold_starts_every_sensor_anew_at_the_committed_offset(successor, other_model):
    """Without checkpoints where the model is the same, and where it was another."""
    service = successor("--on_missing_state=cold", "--on_model_change=cold", model=other_model)
    group = group_of(service)
    committed = group.committed()
    positions = {p: tp.offset for p, tp in committed.items()}
    fingerprint = service_fingerprint(service)
    for p in (0, 1):
        said = Beginning.from_metadata(committed[p].metadata)
        group.commit({p: (positions[p], replace(said, fingerprint=fingerprint).to_metadata())})
        shutil.rmtree(checkpoints(service)[p][0].parent)
    with service:
        service.wait_answered(due_from(service, positions))
        assert {e["partition"] for e in service.events("no usable checkpoint: every sensor starts anew")} == {0, 1}
        assert {e["partition"] for e in service.events("another model: every sensor starts anew")} == {2, 3, 4, 5, 6}
        assert service.stop() == 0
    _, reference = served(service, service.topics)
    fed = [record for record in service.topics.inputs() if record.offset >= positions[record.partition]]
    assert_same(service.topics.answers(), reference.expect(fed))


def service_fingerprint(service: Service) -> str:
    from processor.model.load import load
    from processor.service import _fingerprint

    found = load(service.model)
    return _fingerprint(service.settings, found.digest, found.mode, found.window)


def test_a_checkpoint_without_offsets_stops_the_start_and_tells_the_position(successor, refused):
    service = successor(offsets=False)
    code, said = refused(service)
    assert code == 3
    assert f"group {service.settings.group_id} has no committed offset, but a checkpoint at" in said
    partition = int(said.split("partition ")[1].split(":")[0])
    position = newest(service)[partition]
    assert f"a checkpoint at {position}." in said
    topic = f"--topic {service.topics.input}:{partition}"
    assert f"--group {service.settings.group_id} {topic} --reset-offsets --to-offset {position} --execute" in said
    assert service.topics.answers() == {}


def test_missing_state_stops_the_start_where_the_policy_says_so(successor, refused):
    service = successor("--on_missing_state=fail")
    shutil.rmtree(service.folder / "checkpoints" / service.settings.group_id)
    code, said = refused(service)
    assert code == 3
    assert "no usable checkpoint at or below it" in said
    assert "on_missing_state" in said


def test_another_model_stops_the_start(successor, refused, other_model):
    service = successor(model=other_model)
    code, said = refused(service)
    assert code == 3
    assert f"this is {service_fingerprint(service)[:8]}" in said
    assert "on_model_change" in said


def test_a_log_that_no_longer_holds_what_is_needed_stops_the_start(kafka, unique, tmp_path, model, refused):
    """Cut after the origin, cut after the committed offset, with more partitions, and made anew."""
    topics = Topics(kafka.bootstrap, unique("cut"), partitions=1)
    Stream(topics, 100).feed()
    service = Service(topics, model, tmp_path, *SMALL)
    group = group_of(service)
    broker = AdminClient({"bootstrap.servers": kafka.bootstrap})
    beginning = Beginning(0, "0123456789abcdef", service_fingerprint(service), admin.describe(service.settings).input.id, 1)

    def ends(committed: int) -> str:
        group.commit({0: (committed, beginning.to_metadata())})
        code, said = refused(service)
        assert code == 3, said
        assert topics.answers() == {}
        return said

    cut = TopicPartition(topics.input, 0, 20)
    assert broker.delete_records([cut])[cut].result(30).low_watermark == 20
    said = ends(50)
    assert "on_gap" in said
    assert "20" in said
    said = ends(10)
    assert "committed offset 10, but the log holds 20 to 100" in said
    assert "on_lost_input" in said
    assert "set the group's offset to 20" in said

    broker.create_partitions([NewPartitions(topics.input, 2)])[topics.input].result(30)
    wait_for(lambda: admin.describe(service.settings).input.partitions == 2, "two partitions")
    said = ends(50)
    assert "had 1 partitions and has 2" in said
    assert "on_partitions_added" in said

    broker.delete_topics([topics.input])[topics.input].result(30)

    def made():
        return broker.create_topics([NewTopic(topics.input, 1, 1)])[topics.input].exception(30) is None

    wait_for(made, "the topic made anew")
    wait_for(lambda: len(broker.list_topics(topics.input).topics[topics.input].partitions) == 1, "the topic known")
    assert "is another topic of the same name" in ends(0)


# -- disks --------------------------------------------------------------------------------------------------------------------


def test_an_unwritable_checkpoint_folder_stops_no_commit_and_is_told_until_it_is_mended(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("disk"), partitions=1)
    stream = Stream(topics, 600)
    service = Service(topics, model, tmp_path, *SMALL)
    told = "a checkpoint could not be written; the one before it stays, and a restart replays from there"
    with service:
        service.wait_answered(stream.feed(200))
        wait_for(lambda: newest(service) == group_of(service).positions(), "a checkpoint")
        folder = checkpoints(service)[0][0].parent
        folder.rename(folder.with_name("aside"))
        folder.write_bytes(b"in the way")
        service.wait_answered(stream.feed(200))
        error = wait_for(lambda: service.events(told), "the error told")[0]
        assert error["level"] == "error"
        assert str(folder) in error["error"]
        assert "checkpoint.path" in error["expected"]
        assert "make room or mend the disk" in error["to_do"]
        assert service.get("/healthz")[0] == 200
        folder.unlink()
        wait_for(lambda: newest(service) == group_of(service).positions(), "the next checkpoint")
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert newest(service) == group_of(service).positions()
    assert_exact(service, topics)


# -- at least once ------------------------------------------------------------------------------------------------------------


def test_at_least_once_loses_nothing_through_kills_and_what_comes_twice_is_equal(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("least"))
    stream = Stream(topics, 900)
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, "--delivery=at_least_once", "--checkpoint.store=auto")
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(300))
        feed_into_open_transaction(service, stream, 300)
        service.kill()
    with service:
        due = stream.feed()
        service.wait_answered(due)
        wait_for(lambda: sum(group_of(service).positions().values()) == topics.end(), "every record committed")
        assert service.stop() == 0
    _, reference = served(service, topics)
    want = reference.expect(topics.inputs())
    found = {}
    for message in topics.read(topics.output):
        output = as_published(message.value())
        at = (output["partition"], output["offset"])
        assert found.setdefault(at, output) == output
    for message in topics.read(topics.dead_letter):
        headers = dict(message.headers())
        found[(int(headers["source_partition"]), int(headers["source_offset"]))] = headers["error"].decode()
    assert_same(found, want)
