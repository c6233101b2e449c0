"""What happens to processes, brokers, disks and groups: after each, every record is answered once, as the reference oracle would."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from harness import (
    SMALL,
    L,
    Service,
    Stream,
    Topics,
    answers_due,
    assert_exact,
    assert_same,
    checkpoints,
    feed_into_open_transaction,
    group_of,
    keras,
    newest,
    numbers,
    readings,
    save_model,
    served,
)
from waiting import wait_for

from processor.checkpoint.directory import Directory, Name
from processor.records import ERRORS
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.verify.oracle import as_published

SLOW_COMMITS = "--commit_interval=1s"  # so that what ends a transaction early finds one


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(8), L.Dense(3))


def replayed(service: Service) -> float:
    return service.metric("replayed_readings_total")


# -- stopping -----------------------------------------------------------------------------------------------------------------


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.failure("broker away for less than the transaction timeout (10 s)", "broker away for longer")
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
            wait_for(lambda: "waiting for the broker" in service.get("/readyz")[1], "that it says what it waits for", 90)
            assert service.get("/readyz")[0] == 503
            assert service.get("/healthz")[0] == 200
            broker.start()
            service.wait_answered(stream.feed(200))
            assert service.get("/healthz")[0] == 200
            assert service.get("/readyz")[0] == 200

            broker.kill()
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: service.events("stopping: last commit and last checkpoint"), "stopping")
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_end() == 128 + signal.SIGTERM
        broker.start()
        with service:
            service.wait_answered(stream.feed())
        assert_exact(service, topics)


@pytest.mark.long
@pytest.mark.failure("broker away for longer than the session (30 s)")
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
            assert service.events("partitions lost: the group continued without this instance")
            assert service.stop() == 0
        assert_exact(service, topics)


# -- processes ----------------------------------------------------------------------------------------------------------------


def owned(service: Service) -> int:
    changes = service.events("partitions assigned")
    return changes[-1]["owned"] if changes else 0


@pytest.mark.soak  # as test_verify.py's, and slower
@pytest.mark.failure("partitions revoked")
@pytest.mark.parametrize("store", ["topic", "directory"])
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


@pytest.mark.long
@pytest.mark.failure(
    "SIGSTOP, a process of the same name takes its place on another host, SIGCONT",
    "a second process of one name, same host",
    "a second process of one name, another host",
)
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


@pytest.mark.long
@pytest.mark.failure("SIGSTOP, a process of the same name takes its place on another host, SIGCONT")
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
                assert not second.events("partitions lost: the group continued without this instance")
                assert second.stop() == 0
        finally:
            if first.process.poll() is None:
                first.process.send_signal(signal.SIGCONT)
    assert_exact(second, topics)


@pytest.mark.long
@pytest.mark.failure("SIGSTOP, other instances take its partitions, SIGCONT", "partitions lost")
@pytest.mark.parametrize("store", ["topic", pytest.param("directory", marks=pytest.mark.soak)])
def test_a_process_that_slept_through_a_rebalance_does_not_commit_what_was_given_to_others(kafka, unique, tmp_path, model, store):
    """Its client joins again under another member id without a word of the loss, and holds what has a new owner."""
    topics = Topics(kafka.bootstrap, unique("rebalance"), partitions=4)
    stream = Stream(topics, 3000)
    own = (*SMALL, SLOW_COMMITS, "--kafka=session.timeout.ms=6000", f"--checkpoint.store={store}")
    a, b = (Service(topics, model, tmp_path, *own, instance=name) for name in "ab")
    with a:
        a.wait_ready()
        stream.feed(200)
        with b:
            # While it gives partitions up, before its client has joined again.
            wait_for(lambda: '"partitions revoked"' in a.said(), "a to give partitions up", 120, every_s=0.0005)
            a.process.send_signal(signal.SIGSTOP)
            try:
                stream.feed(400)
                wait_for(lambda: owned(b) == 4, "b to have all partitions", 120)
                b.wait_answered(stream.feed(200), 120)
            finally:
                a.process.send_signal(signal.SIGCONT)
            assigned = len(a.events("partitions assigned"))
            stream.feed_until(lambda: len(a.events("partitions assigned")) > assigned and owned(a) == 2, "a to be back", timeout_s=120)
            b.wait_answered(stream.feed(), 120)
            assert a.process.poll() is None, a.said()[-3000:]
            assert_exact(b, topics)
            assert a.stop() == b.stop() == 0
    assert_exact(b, topics)


def sleep_past_its_session(service: Service) -> None:
    """Stops the process, and is back when the group has forgotten it; SIGCONT wakes it."""
    group = group_of(service)
    service.process.send_signal(signal.SIGSTOP)

    def forgotten():
        return not group.admin.describe_consumer_groups([group.name])[group.name].result(30).members

    wait_for(forgotten, "the session to be over")


@pytest.mark.long
def test_a_process_that_is_stopped_when_it_wakes_past_its_session_gives_up_its_last_commit_at_once(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("woken"))
    stream = Stream(topics, 600)
    own = ("--kafka=session.timeout.ms=6000", "--leave_on_stop=false", "--checkpoint.store=topic", "--checkpoint.interval=1h")
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, *own)
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(200))
        feed_into_open_transaction(service, stream, 200)
        sleep_past_its_session(service)
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGCONT)
        assert service.wait_end() == 0, service.said()
        assert len(service.events("transaction aborted, returning to the last commit")) < 5
    with service:
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


@pytest.mark.long
@pytest.mark.failure("SIGSTOP, nobody takes its place")
def test_a_process_that_sleeps_past_its_session_and_is_not_replaced_goes_on(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("alone"))
    stream = Stream(topics, 600)
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, "--kafka=session.timeout.ms=6000")
    with service:
        service.wait_ready()
        service.wait_answered(stream.feed(200))
        feed_into_open_transaction(service, stream, 200)
        sleep_past_its_session(service)
        service.process.send_signal(signal.SIGCONT)
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


# -- topics -------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.failure("a transaction aborted five times in a row for one kind of reason that does not pass")
def test_a_topic_that_begins_to_refuse_outputs_ends_the_service_with_the_reason_and_nothing_is_lost(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("refused"))
    stream = Stream(topics, 300)
    service = Service(topics, model, tmp_path, *SMALL)
    with service:
        service.wait_answered(stream.feed(100))
        configure(topics, topics.output, "max.message.bytes", "100")
        stream.feed(100)
        assert service.wait_end() == 3, service.said()
        assert "5 transactions in a row were aborted (a record was not taken: MSG_SIZE_TOO_LARGE: " in service.said()
    configure(topics, topics.output, "max.message.bytes", "1000000")
    with service:
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert_exact(service, topics)


def configure(topics: Topics, topic: str, name: str, value: str) -> None:
    change = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    for future in admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])]).values():
        future.result(30)


# -- bad records --------------------------------------------------------------------------------------------------------------


def overflowing(path: Path) -> Path:
    """h' = relu(10 (x1 + x2 + x3) + h / 4): two readings of 1e37 in a row are too many."""
    model = keras.Sequential([keras.Input((None, 3)), L.SimpleRNN(4, activation="relu"), L.Dense(3)])
    model.layers[0].set_weights([np.full((3, 4), 10.0), np.eye(4) / 4, np.zeros(4)])
    model.layers[1].set_weights([np.full((4, 3), 0.01), np.zeros(3)])
    model.save(path)
    return path


@pytest.mark.failure("a record that cannot be used", "a reading turns a state NaN or infinite", "a dead letter that its topic would refuse")
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
    with_settings = {"late", "missing", "unknown_category", "unknown_schema"}  # or models of their own
    assert bad.keys() == set(ERRORS) - with_settings
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


@pytest.mark.failure("too many of them")
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


# -- sensors that fall silent ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.failure("a sensor's clock a year ahead, with `state.expire_after`")
def test_a_sensor_that_has_expired_leaves_the_checkpoints_and_begins_anew_when_it_returns(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("expiry"), partitions=1)
    service = Service(topics, model, tmp_path, *SMALL, SLOW_COMMITS, "--state.expire_after=10m")
    rng, start_ms, hour_ms = np.random.default_rng(3), int(time.time() * 1000) - 7_200_000, 3_600_000
    sensors = [b"sensor-%d" % i for i in range(30)]

    def records(keys, count, at_ms):
        return [(0, key, numbers(rng.normal(size=3)), at_ms + i, ()) for i, key in enumerate(keys * count)]

    def held():
        settings = service.settings
        store = Directory(settings.checkpoint.path, settings.group_id, settings.input.topic, keep=2)
        snapshot = store.newest(0, position_max=None, usable=lambda _: True)
        return sorted(snapshot.keys) if snapshot else []

    batches = [
        records(sensors, 3, start_ms),
        records(sensors[:1], 2, start_ms + hour_ms),  # one clock alone
        records(sensors[1:2], 1, start_ms + hour_ms + 100),  # time goes on, and all but these two are silent
        records(sensors[:20], 4, start_ms + hour_ms + 1000),
        records(sensors, 1, start_ms + hour_ms + 2000),
    ]
    with service:
        service.wait_ready()
        topics.produce(batches[0])
        service.wait_answered(90)
        wait_for(lambda: held() == sorted(sensors), "all in a checkpoint")
        topics.produce(batches[1])
        service.wait_answered(92)
        assert held() == sorted(sensors), "one clock alone forgets nobody"
        assert service.metric("resets_total", '{reason="expired"}') == 1, "the sensor itself has expired by its own record"
        ahead = "a sensor's clock is ahead by more than state.expire_after: no sensor expires until a second sensor confirms the time"
        assert [line["sensor"] for line in service.events(ahead)] == ["sensor-0"]
        topics.produce(batches[2])
        wait_for(lambda: held() == sensors[:2], "those that expired gone from the checkpoint")
        assert service.metric("sensors_expired_total") == 28
        assert service.metric("resets_total", '{reason="expired"}') == 2
        jumped = "partition time jumped by more than state.expire_after: sensors without a newer reading expire"
        found = [(line["sensor"], line["confirmed"], line["forgotten"]) for line in service.events(jumped)]
        assert found == [("sensor-1", "sensor-0", 29)], "sensor-1 begins anew too"
        before = service.metric("batch_readings_count")
        topics.produce(batches[3])
        wait_for(lambda: service.metric("batch_readings_count") > before, "work under way", every_s=0.01)
        service.kill()
    with service:
        topics.produce(batches[4])
        service.wait_answered(sum(map(len, batches)))
        assert service.stop() == 0
    assert_exact(service, topics)
    steps = [answer["steps"] for _, answer in sorted(topics.answers().items())][-30:]
    assert steps == [7, 6] + [5] * 18 + [1] * 10
    assert held() == sorted(sensors)


# -- disks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.failure("full disk later")
def test_an_unwritable_checkpoint_folder_stops_no_commit_and_is_told_until_it_is_mended(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("disk"), partitions=1)
    stream = Stream(topics, 600)
    service = Service(topics, model, tmp_path, *SMALL)
    told = "could not write a checkpoint: the previous one stays, and a restart replays from it"
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
        assert "make room or repair the disk" in error["to_do"]
        assert service.get("/healthz")[0] == 200
        folder.unlink()
        wait_for(lambda: newest(service) == group_of(service).positions(), "the next checkpoint")
        service.wait_answered(stream.feed())
        assert service.stop() == 0
    assert newest(service) == group_of(service).positions()
    assert_exact(service, topics)


@pytest.mark.long
def test_where_few_sensors_change_few_rows_are_written_and_a_kill_restores_from_them(kafka, unique, tmp_path, model):
    topics = Topics(kafka.bootstrap, unique("increments"), partitions=1)
    service, rng, due = Service(topics, model, tmp_path, *SMALL), np.random.default_rng(1), 0

    def feed(count: int, *, sensors: int) -> int:
        nonlocal due
        records = readings(rng, count, features=3, sensors=sensors, partitions=1)
        topics.produce(records)
        due += answers_due(records)
        return due

    def checkpointed():
        return newest(service) == group_of(service).positions()

    with service:
        service.wait_answered(feed(400, sensors=100))
        wait_for(checkpointed, "a whole checkpoint")
        for _ in range(3):
            service.wait_answered(feed(20, sensors=3))
            wait_for(checkpointed, "a checkpoint of what changed")
        files = {Name.parse(path.name): path.stat().st_size for path in checkpoints(service)[0]}
        position = newest(service)[0]
        service.wait_answered(feed(5, sensors=3))
        service.kill()
    last = next(iter(files))
    assert (last.position, last.base < last.position) == (position, True)
    whole = max(size for name, size in files.items() if name.base == name.position)
    assert files[last] * 3 < whole
    with service:
        service.wait_answered(feed(100, sensors=100))
        (restored,) = service.events("partition restored")
        assert restored["checkpoint"] >= position
        assert service.stop() == 0
    assert_exact(service, topics)


# -- at least once ------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.failure("`delivery: at_least_once`, any crash")
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
