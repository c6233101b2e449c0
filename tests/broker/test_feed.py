"""`slotstream feed`: a CSV onto the input topic, on a real Kafka. Paces are told by a clock of the test's own."""

import contextlib
import json
import struct
import time

import pytest
from harness import Topics
from waiting import wait_for

from processor import cli, logs
from processor.csv_io import feed as feed_module
from processor.csv_io.csv_rows import Reading
from processor.csv_io.feed import Feed, Pace
from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka import admin
from processor.kafka.clients import feed_producer
from processor.kafka.topics import describe_input
from processor.settings import load_settings
from processor.testbed.embedded_kafka import free_port

T0_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOTSTREAM_CONFIG", raising=False)
    monkeypatch.setattr(logs, "configure", lambda *_: None)


def settings_of(bootstrap, topic):
    return load_settings(None, [f"--kafka=bootstrap.servers={bootstrap}", f"--input.topic={topic}"], {})


def wait_until_known(bootstrap, topic):
    """A topic is created before every part of the broker tells of it."""

    def known():
        with contextlib.suppress(SlotstreamError):
            return describe_input(settings_of(bootstrap, topic))

    wait_for(known, f"{topic} to be known")


@pytest.fixture
def topics(kafka, unique):
    made = Topics(kafka.bootstrap, unique("feed"))
    wait_until_known(kafka.bootstrap, made.input)
    return made


@pytest.fixture
def run(topics, capsys):
    """Exit code, output and errors of the command, for topics of its own."""

    def run(*words, bootstrap=topics.bootstrap, topic=topics.input):
        code = cli.main(["feed", f"--kafka=bootstrap.servers={bootstrap}", "--input.topic", topic, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def started(topics):
    """A Feed onto the topics, and what it told."""

    def started(**options):
        settings, told = settings_of(topics.bootstrap, topics.input), []
        producer = options.pop("producer", None) or feed_producer(settings, record_bytes_max=1_000_000)
        return Feed(settings, producer, tell=told.append, **options), told

    return started


class Clock:
    """Time passes when one waits."""

    def __init__(self):
        self.now = 1000.0

    def now_s(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def readings(count, sensors=3, step_ms=1000):
    return [Reading(i + 2, f"pump-{i % sensors}", T0_MS + i * step_ms, [float(i), -1.5], None) for i in range(count)]


def sent(topics):
    """Sensor and values of every record, each sensor's in order."""
    return sorted(((m.key().decode(), json.loads(m.value())["values"]) for m in topics.read(topics.input)), key=lambda pair: pair[0])


def expected(readings):
    return sorted(((reading.sensor, reading.values) for reading in readings), key=lambda pair: pair[0])


CSV = "pump;time;x;y\r\npump-1;2024-01-01 00:00;1,5;2\r\npump-2;2024-01-01 00:01;2,5;3\r\npump-1;2024-01-01 00:02;3,5;4\r\n"


def test_every_row_is_a_record_of_its_sensor_with_the_rows_time_in_it(run, topics, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    before_ms = int(time.time() * 1000)
    code, out, err = run("a.csv", "--key=pump", "--timestamp=time")
    assert (code, out) == (0, f"{topics.input}: 3 readings of 2 sensors delivered\n")
    assert "a.csv: UTF-8, separator semicolon; decimal commas; timestamps are dates with the year first" in err
    messages = topics.read(topics.input)
    found = sorted((m.key(), json.loads(m.value())["timestamp"], json.loads(m.value())["values"]) for m in messages)
    assert found == [
        (b"pump-1", T0_MS, [1.5, 2.0]),
        (b"pump-1", T0_MS + 120_000, [3.5, 4.0]),
        (b"pump-2", T0_MS + 60_000, [2.5, 3.0]),
    ]
    # The topic's retention goes by the record's own time: it is the sending's.
    assert all(before_ms <= m.timestamp()[1] <= time.time() * 1000 for m in messages)


def test_a_float32_record_bears_the_readings_time_as_its_own(run, topics, tmp_path):
    now_ms = int(time.time() * 1000)
    recent = CSV
    for minute in range(3):
        recent = recent.replace(f"2024-01-01 00:0{minute}", str(now_ms + 60_000 * minute))
    (tmp_path / "a.csv").write_text(recent)
    assert run("a.csv", "--key=pump", "--timestamp=time", "--input.format=float32")[0] == 0
    found = sorted((m.key(), m.timestamp()[1] - now_ms, struct.unpack("<2f", m.value())) for m in topics.read(topics.input))
    assert found == [(b"pump-1", 0, (1.5, 2.0)), (b"pump-1", 120_000, (3.5, 4.0)), (b"pump-2", 60_000, (2.5, 3.0))]


def test_named_features_are_fields_and_must_be_as_many_as_the_columns(run, topics, tmp_path):
    (tmp_path / "a.csv").write_text("pump,m.current,note,t\na,1.5,ok,2\n")
    assert run("a.csv", "--key=pump", "--input.features=[t, m.current]")[0] == 0
    assert json.loads(topics.read(topics.input)[0].value()) == {"t": 2.0, "m": {"current": 1.5}}
    code, _, err = run("a.csv", "--key=pump", "--columns=t", "--input.features=[t, m.current]")
    assert code == 2
    assert "input.features names 2 features, and these columns are taken: t (1)" in err


def test_a_sensors_partition_is_the_one_a_java_producer_takes(run, topics, tmp_path):
    """Kafka's own hash of the key, murmur2, worked out by hand for these names and three partitions."""
    (tmp_path / "a.csv").write_text("pump,x\n" + "".join(f"pump-{i},1\n" for i in range(40)))
    assert run("a.csv", "--key=pump")[0] == 0
    assert {m.key(): m.partition() for m in topics.read(topics.input)} == {
        b"pump-%d" % i: (murmur2(b"pump-%d" % i) & 0x7FFFFFFF) % 3 for i in range(40)
    }


def murmur2(key: bytes) -> int:
    m, h = 0x5BD1E995, 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & 0xFFFFFFFF
        k = (k ^ k >> 24) * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ k
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return h ^ h >> 15


def test_many_readings_arrive_once_and_each_sensors_in_order(started, topics):
    feed, _ = started()
    given = readings(30_000, sensors=7)
    fed = feed.run(given, Pace())
    assert (fed.delivered, len(fed.sensors), fed.next_line) == (30_000, 7, 30_002)
    assert sent(topics) == expected(given)


def test_rows_that_are_no_readings_are_named_left_out_and_counted(run, topics, tmp_path):
    (tmp_path / "a.csv").write_text("pump,x\na,1\na,\n,2\na,N/A\na,3,4\nb,5\n")
    code, out, err = run("a.csv", "--key", "pump")
    assert code == 0
    assert out == f"{topics.input}: 2 readings of 2 sensors delivered, 4 rows left out\n"
    assert [line for line in err.splitlines() if "left out" in line] == [
        "line 3 is left out: x is empty",
        "line 4 is left out: pump is empty: expected a sensor's name",
        "line 5 is left out: x is 'N/A': expected a number",
        "line 6 is left out: found 3 cells, expected 2",
    ]
    assert sent(topics) == [("a", [1.0]), ("b", [5.0])]


def test_of_many_rows_left_out_the_first_are_named(started):
    feed, told = started()
    bad = [Reading(i + 2, "a", None, [None], "x is empty") for i in range(100)]
    assert feed.run(bad, Pace()).left_out == 100
    assert len(told) == feed_module.NAMED_MAX + 1
    assert told[-1] == "further lines that are left out are counted only"


def test_one_sensor_for_all_rows(run, topics, tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    assert run("a.csv", "--sensor", "seven")[0] == 0
    assert sent(topics) == [("seven", [1.0]), ("seven", [2.0])]


# The pace.


def paced(started, pace, given):
    """When each reading was asked for after the one before had been sent, in seconds from the first."""
    clock, times = Clock(), []

    def watched():
        for reading in given:
            times.append(clock.now - 1000.0)
            yield reading

    feed, _ = started(now_s=clock.now_s, wait=clock.wait)
    feed.run(watched(), pace)
    return [*times[1:], clock.now - 1000.0]


def test_a_rate_is_readings_a_second(started, topics):
    given = readings(21)
    assert paced(started, Pace(rate=10), given) == pytest.approx([i / 10 for i in range(21)])
    assert sent(topics) == expected(given)


def test_a_speed_is_a_multiple_of_the_timestamps_pace(started, topics):
    given = readings(5, step_ms=60_000)
    assert paced(started, Pace(speed=60), given) == pytest.approx([0, 1, 2, 3, 4])


def test_a_repeated_or_backward_timestamp_is_due_at_once(started):
    given = [Reading(i, "a", T0_MS + ms, [1.0], None) for i, ms in enumerate([0, 2000, 2000, 1000, 3000], 2)]
    assert paced(started, Pace(speed=1), given) == pytest.approx([0, 2, 2, 2, 3])


def test_a_rate_does_not_make_up_for_what_is_left_out(started):
    given = readings(10)
    for i in range(1, 9):
        given[i].problem = "x is empty"
    assert paced(started, Pace(rate=1), given)[-1] == pytest.approx(1.0)


# The ends.


def test_ctrl_c_delivers_what_was_sent_and_says_where_to_go_on(started, topics):
    given = readings(100)

    def interrupted():
        yield from given[:60]
        raise KeyboardInterrupt

    feed, _ = started()
    fed = feed.run(interrupted(), Pace())
    assert (fed.interrupted, fed.delivered, fed.next_line) == (True, 60, 62)
    feed, _ = started()
    feed.run(given, Pace(), from_line=fed.next_line)
    assert sent(topics) == expected(given)


def test_ctrl_c_while_waiting_goes_on_with_the_reading_that_was_waited_for(started, topics):
    clock = Clock()

    def wait(seconds):
        clock.now += seconds
        if clock.now > 1004.5:
            raise KeyboardInterrupt

    feed, _ = started(now_s=clock.now_s, wait=wait)
    fed = feed.run(readings(10), Pace(rate=1))
    assert (fed.delivered, fed.next_line) == (5, 7)
    assert len(sent(topics)) == 5


def test_the_command_says_that_it_was_interrupted_and_from_line_goes_on(run, topics, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(10)))
    whole = Feed._send

    def send(self, reading, sensor):
        if reading.line == 6:
            raise KeyboardInterrupt
        whole(self, reading, sensor)

    monkeypatch.setattr(Feed, "_send", send)
    code, out, _ = run("a.csv", "--sensor=a")
    assert code == 130
    assert out == f"{topics.input}: 4 readings of 1 sensor delivered\ninterrupted: go on with --from-line 6\n"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    assert run("a.csv", "--sensor=a", "--from-line", "6")[0] == 0
    assert sent(topics) == [("a", [float(i)]) for i in range(10)]


def test_a_reading_that_the_topic_refuses_ends_with_what_was_delivered_and_where_to_go_on(kafka, unique, tmp_path, capsys):
    from confluent_kafka.admin import AdminClient, NewTopic

    name = unique("small")
    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    client.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "2000"})])[name].result(30)
    wait_until_known(kafka.bootstrap, name)
    wide = ",".join(["1.2345678901"] * 300)
    names = ",".join(f"c{i}" for i in range(300))
    (tmp_path / "a.csv").write_text(f"{names}\n{wide}\n")
    code = cli.main(["feed", "a.csv", "--sensor=a", f"--kafka=bootstrap.servers={kafka.bootstrap}", f"--input.topic={name}"])
    said = capsys.readouterr().err
    assert code == 1
    assert "the reading of line 2 was not delivered" in said
    assert "0 readings of 0 sensors delivered" in said
    assert "--from-line 2" in said


class Broken:
    """A producer whose broker refuses one line, after which it answers the rest."""

    def __init__(self, refused):
        self.refused, self.waiting, self.full = refused, [], True

    def produce(self, _topic, *, on_delivery, **_record):
        if len(self.waiting) == 3 and self.full:
            self.full = False
            raise BufferError
        self.waiting.append(on_delivery)

    def poll(self, _timeout):
        return 0

    def flush(self, _timeout):
        for i, answered in enumerate(self.waiting):
            answered(Refusal() if i == self.refused else None, None)
        self.waiting = []
        return 0


class Refusal:
    def str(self):
        return "no room"


def test_where_to_go_on_is_the_first_reading_that_was_not_delivered(started):
    feed, _ = started(producer=Broken(refused=4))
    with pytest.raises(SlotstreamError, match=r"line 6 was not delivered \(no room\); 9 readings of 3 sensors.*--from-line 6"):
        feed.run(readings(10), Pace())


def test_a_missing_topic_is_told_as_run_tells_it(run, unique, tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    name = unique("missing")
    code, _, err = run("a.csv", "--sensor=a", topic=name)
    assert code == 2
    assert f"has no topic {name} (input.topic)" in err
    assert "slotstream init" in err


def test_no_broker_is_told_as_run_tells_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(admin, "BROKER_TIMEOUT_S", 1.0)
    (tmp_path / "a.csv").write_text("x\n1\n")
    nowhere = f"127.0.0.1:{free_port()}"
    code, _, err = run("a.csv", "--sensor=a", bootstrap=nowhere)
    assert code == 1
    assert f"nothing listens at {nowhere}" in err


def test_a_broken_file_is_told_before_the_broker_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "describe_input", lambda _: pytest.fail("the broker was asked"))
    settings = load_settings(None, [], {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        feed_module.feed(settings, tmp_path / "none.csv", feed_module.Form(), feed_module.Wanted(sensor="a"), Pace())
    with pytest.raises(ConfigurationError, match="--speed without --timestamp"):
        feed_module.feed(settings, tmp_path / "none.csv", feed_module.Form(), feed_module.Wanted(sensor="a"), Pace(speed=2))


def test_a_file_without_a_reading_ends_with_1(run, topics, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,\n,2\n")
    code, out, _ = run("a.csv", "--sensor=a")
    assert (code, out) == (1, f"{topics.input}: 0 readings of 0 sensors delivered, 2 rows left out\n")


def test_values_that_may_be_missing_are_sent_as_null_and_other_rows_are_left_out(run, topics, tmp_path):
    path = tmp_path / "holes.csv"
    path.write_text("pump,time,x,y\np1,1704067200,1,2\np1,1704067201,?,2\np1,1704067202,-200,3\np1,1704067203,1,?\n")
    holds = ["--input.missing={x: hold}", "--input.missing_values=-200", "--input.features=[x, y]"]
    code, said, told = run(str(path), "--key=pump", "--timestamp=time", *holds, "--input.timestamp=meta.at", "--input.timestamp_unit=s")
    assert (code, "3 readings" in said, "line 5 is left out: y is '?'" in told) == (0, True, True)
    records = topics.read(topics.input)
    assert [json.loads(record.value()) for record in records] == [
        {"meta": {"at": 1704067200}, "x": 1.0, "y": 2.0},
        {"meta": {"at": 1704067201}, "x": None, "y": 2.0},
        {"meta": {"at": 1704067202}, "x": None, "y": 3.0},
    ]
    assert {tuple(record.headers()) for record in records} == {(("timestamp_unit", b"s"),)}
