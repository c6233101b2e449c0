"""`slotstream state`: what checkpoints hold, in an operator's hands, from either store; and a reset while the service runs."""

import io
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from confluent_kafka import Producer, TopicPartition
from harness import L, Service, Topics, answers_due, assert_exact, numbers, save_model
from safetensors import safe_open
from waiting import wait_for

from processor import cli, logs
from processor.app.fit import fingerprint_of, load_model, shapes_of
from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot
from processor.checkpoint.topic import TopicStore, TopicWriter
from processor.errors import SlotstreamError
from processor.kafka import admin
from processor.kafka.clients import restore_consumer
from processor.kafka.partition_log import read_to_end
from processor.kafka.topics import describe
from processor.partitions import Beginning, Position
from processor.settings import Settings, load_settings
from processor.slots.rows import Rows
from processor.states import export, newest
from processor.states.display import as_time, keys_of, printable
from processor.testbed.embedded_kafka import free_port

W = 3
MODEL = "abcdef01" * 8
EVENT_MS = 1_700_000_000_123


@pytest.fixture(autouse=True)
def _as_a_command(monkeypatch, tmp_path):
    """The log is left alone, no settings of this machine, and nobody waits long for a broker that is not there."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(newest, "COMMITTED_S", 0.2)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """`run("list", ...)` gives exit code, standard output as lines, and standard error."""

    def call(*words):
        code = cli.main(["state", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return call


class Folder:
    """A checkpoint folder without a service or a broker."""

    def __init__(self, path: Path) -> None:
        self.options = [f"--checkpoint.path={path}", "--checkpoint.store=directory", "--group=group", "--input.topic=readings"]
        self.options.append(f"--kafka=bootstrap.servers=127.0.0.1:{free_port()}")
        self.store = Directory(path, "group", "readings", keep=2)

    def settings(self, *options: str) -> Settings:
        return load_settings(None, [*self.options, *options], {})

    def write(self, snapshot: Snapshot) -> Path:
        return self.store.write(snapshot)[0]


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "checkpoints")


def beginning_of(fingerprint: str = MODEL, lineage: str = "00aa" * 4) -> Beginning:
    return Beginning(0, lineage, fingerprint, "topic-id", 8)


def snapshot_of(keys, partition=1, position=100, *, width=W, beginning=None, steps=None, states=None) -> Snapshot:
    n = len(keys)
    rows = Rows.zeros(n, width)
    rows.state[:] = np.arange(n * width, dtype=np.float32).reshape(n, width) / 10 if states is None else states
    rows.applied, rows.event_ms = np.arange(n) + 50, np.arange(n) + EVENT_MS
    rows.steps = np.arange(n) + 1 if steps is None else np.full(n, steps, np.int64)
    rows.incomplete = np.arange(n) % 2 > 0
    return Snapshot(partition, Position(position, EVENT_MS), beginning or beginning_of(), list(keys), rows, {"tensorflow": "2.21"})


# -- list ---------------------------------------------------------------------------------------------------------------------


def objects(lines):
    return [json.loads(line) for line in lines]


def test_a_list_tells_each_sensor_of_the_newest_checkpoints_and_how_old_they_are(folder, run):
    folder.write(snapshot_of([b"old"], position=50))
    folder.write(snapshot_of([b"pump-7", b"\xff\0"]))
    folder.write(snapshot_of([b"fan-1"], partition=10, position=7))
    code, out, err = run("list", *folder.options)
    assert (code, len(out)) == (0, 4)
    assert out[0].split() == ["PARTITION", "STEPS", "LAST", "EVENT", "BYTES", "INCOMPLETE", "SENSOR"]
    assert out[1].split() == ["1", "1", "2023-11-14T22:13:20.123Z", "12", "pump-7"]
    assert out[2].split() == ["1", "2", "2023-11-14T22:13:20.124Z", "12", "yes", "0xff00"]
    assert out[3].split() == ["10", "1", "2023-11-14T22:13:20.123Z", "12", "fan-1"]
    assert "up to 30s old (checkpoint.interval)" in err
    assert "partition 1: 2 sensors in a checkpoint at offset 100, 0 s old, of model abcdef01; no broker tells what is committed" in err
    assert "partition 10: 1 sensor in a checkpoint at offset 7, 0 s old" in err


def test_a_list_names_sensors_that_have_a_state_in_several_partitions(folder, run):
    folder.write(snapshot_of([b"pump-7", b"\xff\0", b"fan-1"]))
    folder.write(snapshot_of([b"\xff\0", b"fan-2", b"pump-7"], partition=3))
    code, _, err = run("list", *folder.options)
    assert code == 0
    assert "2 sensors have a state in several partitions: pump-7 in 1 and 3, 0xff00 in 1 and 3." in err
    assert "murmur2_random" in err
    assert "several partitions" not in run("list", "--partition=3", *folder.options)[2]


def test_a_list_as_json_is_an_object_a_line_and_nothing_else(folder, run):
    folder.write(snapshot_of([b"pump-7", b"\xff\0"]))
    code, out, _ = run("list", "--json", *folder.options)
    assert code == 0
    assert objects(out) == [
        {"partition": 1, "sensor": "pump-7", "steps": 1, "event_ms": EVENT_MS, "bytes": 12, "incomplete": False, "checkpoint": 100},
        {"partition": 1, "sensor": "0xff00", "steps": 2, "event_ms": EVENT_MS + 1, "bytes": 12, "incomplete": True, "checkpoint": 100},
    ]


def test_a_list_is_cut_to_a_partition_to_names_that_begin_so_and_to_a_number(folder, run):
    for partition in (0, 3):
        folder.write(snapshot_of([b"pump-2", b"pump-1", b"fan-1", b"\xff"], partition=partition))

    def sensors(*words):
        code, out, _ = run("list", "--json", *words, *folder.options)
        assert code == 0
        return [(found["partition"], found["sensor"]) for found in objects(out)]

    assert sensors("--partition", "3") == [(3, "fan-1"), (3, "pump-1"), (3, "pump-2"), (3, "0xff")]
    assert sensors("--sensor=pump-1") == [(0, "pump-1"), (3, "pump-1")]
    assert sensors("--sensor", "0x", "--partition=0") == [(0, "0xff")]
    assert sensors("--sensor=none") == []
    assert sensors("--limit", "5")[-1] == (3, "fan-1")
    assert "more than 5 sensors" in run("list", "--limit", "5", *folder.options)[2]
    assert "more than" not in run("list", "--limit", "8", *folder.options)[2]


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_is_listed(folder, run):
    folder.write(snapshot_of([b"older"], position=50))
    folder.write(snapshot_of([b"newer"])).write_bytes(b"torn")
    code, out, err = run("list", *folder.options)
    assert code == 0
    assert out[-1].endswith("older")
    assert "at offset 50" in err


def test_names_cannot_command_a_terminal(folder, run):
    folder.write(snapshot_of([b"\x1b[2Jpump\n7"]))
    assert run("list", *folder.options)[1][1].endswith("\\x1b[2Jpump\\n7")


@pytest.mark.parametrize("words", [["list"], ["show", "pump-7"], ["export", "out.safetensors"]])
def test_without_a_folder_or_a_checkpoint_in_it_each_command_says_where_it_looked(folder, run, words, tmp_path):
    code, _, err = run(*words, *folder.options)
    assert code == 2
    assert f"there is no folder {tmp_path}/checkpoints/group/readings" in err
    folder.store.prepare()
    code, _, err = run(*words, *folder.options)
    assert code == 1
    assert f"there is no checkpoint in {tmp_path}/checkpoints/group/readings yet" in err
    folder.write(snapshot_of([b"a"], partition=4))
    code, _, err = run(*words, *folder.options, "--partition=5")
    assert code == 2
    assert "there is no partition 5" in err
    assert "one of 4" in err
    assert not Path("out.safetensors").exists()


def test_times_that_no_calendar_has_are_numbers():
    assert as_time(0) == "1970-01-01T00:00:00.000Z"
    assert as_time(-1) == "1969-12-31T23:59:59.999Z"
    assert as_time(2**53) == str(2**53)


# -- export -------------------------------------------------------------------------------------------------------------------


def test_an_export_holds_every_row_bit_for_bit_and_says_what_it_is_of(folder, run, tmp_path):
    snapshots = [snapshot_of([b"a", b"\xff\0", b""], partition=0), snapshot_of([], partition=1), snapshot_of([b"b"], partition=2)]
    for snapshot in snapshots:
        folder.write(snapshot)
    before = time.time() * 1000
    code, out, _ = run("export", tmp_path / "out.safetensors", *folder.options)
    assert (code, len(out)) == (0, 1)
    assert "4 sensors of 3 partitions" in out[0]
    with safe_open(tmp_path / "out.safetensors", framework="np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["slotstream.export"])
    joined, ends = found["keys"].tobytes(), np.cumsum(found["key_lengths"]).tolist()
    assert [joined[end - n : end] for end, n in zip(ends, found["key_lengths"].tolist(), strict=True)] == [b"a", b"\xff\0", b"", b"b"]
    assert found["partition"].tolist() == [0, 0, 0, 2]
    rows = Rows.join([snapshot.rows for snapshot in snapshots], W)
    for name in ("applied", "steps", "event_ms", "state", "incomplete"):
        np.testing.assert_array_equal(found[name], getattr(rows, name))
    assert (facts["group"], facts["topic"], facts["format"]) == ("group", "readings", 1)
    assert [(c["partition"], c["position"], c["sensors"]) for c in facts["checkpoints"]] == [(0, 100, 3), (1, 100, 0), (2, 100, 1)]
    assert facts["checkpoints"][0]["beginning"]["fingerprint"] == MODEL
    assert abs(facts["exported_ms"] - before) < 60_000
    assert abs(facts["checkpoints"][0]["written_ms"] - before) < 60_000


def test_an_export_of_one_partition_holds_no_other(folder, run):
    folder.write(snapshot_of([b"a"], partition=0))
    folder.write(snapshot_of([b"b"], partition=2))
    assert run("export", "out.safetensors", "--partition", "2", *folder.options)[0] == 0
    assert safetensors.numpy.load_file("out.safetensors")["keys"].tobytes() == b"b"


def test_rows_of_two_models_are_not_exported_together(folder, run):
    folder.write(snapshot_of([b"a"], partition=0))
    folder.write(snapshot_of([b"b"], partition=2, width=5))
    code, _, err = run("export", "out.safetensors", *folder.options)
    assert code == 1
    assert "3 numbers in partition 0, 5 numbers in partition 2" in err
    assert "--partition" in err


def test_a_file_that_cannot_be_written_leaves_the_one_before_it(folder, run, monkeypatch, tmp_path):
    folder.write(snapshot_of([b"a"]))
    assert run("export", "out.safetensors", *folder.options)[0] == 0
    before = Path("out.safetensors").read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise safetensors.SafetensorError("no space left")

    monkeypatch.setattr(export, "save_file", full)
    code, _, err = run("export", "out.safetensors", *folder.options)
    assert (code, "no space left" in err) == (1, True)
    assert Path("out.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.safetensors"]
    code, _, err = run("export", "nowhere/out.safetensors", *folder.options)
    assert (code, "nowhere/out.safetensors cannot be written" in err) == (1, True)


# -- show ---------------------------------------------------------------------------------------------------------------------


def shown(folder: Folder, run, model: Path, states, *options: str, steps=7, fingerprint=None, sensor="pump-7"):
    """The lines of `state show` for a checkpoint of that model whose one sensor has this row."""
    settings = folder.settings(f"--model.path={model}", *options)
    served = load_model(settings)
    assert shapes_of(served, settings).row_width == len(states)
    beginning = beginning_of(fingerprint or fingerprint_of(settings, served))
    # Each later than the one before it: of two at one position either may be taken for the newest.
    row = {"width": len(states), "states": np.array(states, np.float32), "steps": steps}
    folder.write(snapshot_of([b"pump-7"], position=100 + steps, beginning=beginning, **row))
    code, out, _ = run("show", sensor, *folder.options, f"--model.path={model}", *options)
    assert code == 0
    return out


def table(lines):
    """The rows below the heads, without blanks."""
    at = next(i for i, line in enumerate(lines) if line.startswith("LAYER"))
    return [line.split() for line in lines[at + 1 :]]


def test_a_row_is_told_layer_by_layer_with_the_share_of_saturated_units(folder, run, tmp_path):
    layers = [
        L.LSTM(4, return_sequences=True, name="first"),
        L.GRU(2, return_sequences=True, name="second"),
        L.SimpleRNN(3, activation="relu"),
    ]
    model = save_model(tmp_path / "model.keras", *layers, L.Dense(2))
    name = layers[2].name
    lines = shown(folder, run, model, [0.0, 1.0, -0.995, 0.5, 5, 6, 7, 8, 0.1, -1.0, 1, 2, 3])
    assert table(lines) == [
        ["first", "LSTM", "h", "4", "-0.995", "0.1262", "1", "50%"],
        ["first", "LSTM", "c", "4", "5", "6.5", "8"],
        ["second", "GRU", "h", "2", "-1", "-0.45", "0.1", "50%"],
        [name, "SimpleRNN", "h", "3", "1", "2", "3"],
    ]
    text = "\n".join(lines)
    for said in ("sensor      pump-7", "7 since its last reset", "2023-11-14T22:13:20.123Z", "up to offset 50", "13 numbers, 52 bytes"):
        assert said in text


def test_stacked_cells_are_told_apart_and_a_previous_prediction_follows_the_layers(folder, run, tmp_path):
    cells = L.RNN([L.LSTMCell(2), L.GRUCell(1)], name="stacked")
    model = save_model(tmp_path / "model.keras", cells, L.Dense(3))
    lines = shown(folder, run, model, [1, 1, 2, 2, 3, 0.25, 0.5, 0.75], "--output.residual=true")
    at = next(i for i, line in enumerate(lines) if line.startswith("LAYER"))
    assert [line.split("RNN(StackedRNNCells)")[1].split() for line in lines[at + 1 : at + 4]] == [
        ["h", "of", "cell", "0", "2", "1", "1", "1", "100%"],
        ["c", "of", "cell", "0", "2", "2", "2", "2"],
        ["h", "of", "cell", "1", "1", "3", "3", "3", "100%"],
    ]
    assert lines[-1].endswith(": 0.25, 0.5, 0.75")


def test_of_a_windowed_model_the_readings_in_the_window_are_told(folder, run, tmp_path):
    model = save_model(tmp_path / "model.keras", L.LSTM(4), L.Dense(2), steps=4)
    row = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4.5, 5, 6]
    lines = shown(folder, run, model, row, "--input.features=[a, b.c, d]", steps=2)
    assert "window      2 of 4 readings: there is no prediction until it is full" in lines
    assert [line.split() for line in lines[-3:]] == [["READING", "a", "b.c", "d"], ["1", "1", "2", "3"], ["2", "4.5", "5", "6"]]
    assert "window      4 of 4 readings" in shown(folder, run, model, row, "--input.features=[a, b.c, d]", steps=9)


@pytest.mark.parametrize("file", ["model.keras", "gone.keras"])
def test_a_checkpoint_of_another_model_is_shown_without_its_layers(folder, run, tmp_path, file):
    model = save_model(tmp_path / "model.keras", L.LSTM(2), L.Dense(2))
    lines = shown(folder, run, model, [0, 1, 2, 3], fingerprint=MODEL)
    if file == "gone.keras":
        lines = run("show", "pump-7", *folder.options, "--model.path=gone.keras")[1]
    (said,) = [line for line in lines if line.startswith("layers")]
    assert "cannot be named" in said
    assert ("the checkpoint is of model abcdef01" if file == "model.keras" else "gone.keras") in said
    assert table(lines) == [["all", "4", "0", "1.5", "3"]]
    assert run("list", *folder.options, f"--model.path={file}")[0] == 0


def test_a_sensor_without_a_row_is_no_sensor(folder, run):
    folder.write(snapshot_of([b"pump-7"]))
    code, out, err = run("show", "pump-8", *folder.options)
    assert (code, out) == (1, [])
    assert "no checkpoint has a row of pump-8 in any partition" in err
    assert "state list" in err


def test_a_key_that_is_no_utf8_goes_by_its_hex(folder, run):
    folder.write(snapshot_of([b"\xff\0"]))
    for name in ("0xff00", "0xFF00", os.fsdecode(b"\xff\0".replace(b"\0", b""))):
        code, out, _ = run("show", name, *folder.options)
        assert (code, bool(out)) == ((0, True) if name.startswith("0x") else (1, False))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("pump-7", [b"pump-7"]),
        ("", [b""]),
        ("ü", ["ü".encode()]),
        ("0xff00", [b"0xff00", b"\xff\0"]),
        ("0xFF", [b"0xFF", b"\xff"]),
        ("0x41", [b"0x41"]),
        ("0x", [b"0x"]),
        ("0xf", [b"0xf"]),
        ("0xfg", [b"0xfg"]),
    ],
)
def test_a_name_stands_for_the_keys_that_are_shown_so(name, keys):
    assert keys_of(name) == keys


def test_printable():
    assert printable("Pumpe ü\u2028\x1b") == "Pumpe ü\\u2028\\x1b"


# -- checkpoints in a topic ---------------------------------------------------------------------------------------------------


class Log:
    """A checkpoint topic, written to as the loop's transactions do."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.options = [
            f"--kafka=bootstrap.servers={topics.bootstrap}",
            f"--input.topic={topics.input}",
            f"--output.topic={topics.output}",
            f"--checkpoint.topic={topics.checkpoint}",
            f"--group={topics.input}",
        ]
        self.settings = load_settings(None, self.options, {})
        self.producer = Producer({"bootstrap.servers": topics.bootstrap, "transactional.id": topics.checkpoint})
        self.producer.init_transactions(30)

    def write(self, snapshot: Snapshot) -> None:
        topic = describe(self.settings).checkpoint
        writer = TopicWriter(TopicStore(partial(read_to_end, self.settings), topic, snapshot.rows.state.shape[1]))
        writer.write(snapshot)
        self.producer.begin_transaction()
        for out in writer.outs()[0]:
            self.producer.produce(topic.name, out.value, out.key, out.partition, timestamp=0)
        self.producer.commit_transaction(30)

    def commit(self, partition: int, offset: int) -> None:
        consumer = restore_consumer(self.settings)
        consumer.commit(offsets=[TopicPartition(self.topics.input, partition, offset)], asynchronous=False)
        consumer.close()


@pytest.fixture
def log(kafka, unique, monkeypatch) -> Log:
    monkeypatch.setattr(newest, "COMMITTED_S", 10.0)
    return Log(Topics(kafka.bootstrap, unique("state"), partitions=3))


def test_a_topic_is_listed_shown_and_exported_whatever_model_it_is_of_and_whatever_was_there_before(log, run):
    log.write(snapshot_of([b"gone"], width=9, beginning=beginning_of(lineage="00bb" * 4)))
    log.write(snapshot_of([b"pump-7", b"\xff"], width=4))
    log.write(snapshot_of([], partition=2, position=0))
    log.commit(1, 120)
    code, out, err = run("list", "--json", *log.options)
    assert code == 0
    assert [(found["partition"], found["sensor"], found["bytes"]) for found in objects(out)] == [(1, "pump-7", 16), (1, "0xff", 16)]
    assert "partition 1: 2 sensors in a checkpoint at offset 100, " in err
    assert "of model abcdef01; committed 120" in err
    assert "partition 2: 0 sensors in a checkpoint at offset 0, " in err
    assert "the group has no committed offset" in err
    age_s = int(err.partition("at offset 100, ")[2].partition(" s old")[0])
    assert 0 <= age_s < 60
    assert run("show", "pump-7", *log.options, "--model.path=gone.keras")[0] == 0
    assert run("export", "out.safetensors", *log.options)[0] == 0
    assert safetensors.numpy.load_file("out.safetensors")["state"].shape == (2, 4)


def test_a_checkpoint_past_the_committed_offset_is_listed_and_said_to_be(log, run):
    log.write(snapshot_of([b"pump-7"]))
    log.commit(1, 99)
    code, out, err = run("list", *log.options, "--partition=1")
    assert (code, len(out)) == (0, 2)
    assert "IT LIES PAST the committed offset 99" in err


def test_an_empty_topic_and_a_partition_that_is_not_there_are_told(log, run):
    code, _, err = run("list", *log.options)
    assert (code, f"no checkpoint in the topic {log.topics.checkpoint} yet" in err) == (1, True)
    code, _, err = run("list", *log.options, "--partition=3")
    assert (code, "no partition 3" in err, "one of 0, 1, 2" in err) == (2, True, True)


def test_without_a_broker_a_topic_cannot_be_read_and_nothing_reset(run, monkeypatch, folder):
    monkeypatch.setattr(admin, "BROKER_TIMEOUT_S", 0.5)
    nowhere = f"127.0.0.1:{free_port()}"
    for words in (["list"], ["reset", "pump-7"]):
        code, _, err = run(*words, f"--kafka=bootstrap.servers={nowhere}")
        assert (code, f"nothing listens at {nowhere}" in err) == (1, True)


# -- reset --------------------------------------------------------------------------------------------------------------------


def nulls(topics: Topics):
    return [(m.key(), m.partition()) for m in topics.read(topics.input) if m.value() is None]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_reset_goes_where_the_sensor_has_a_row_after_it_was_confirmed(log, run, monkeypatch):
    log.write(snapshot_of([b"pump-7", b"\xff\0"], partition=1))
    log.write(snapshot_of([b"pump-7"], partition=2))
    for answer in ("", "n\n", "what\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        code, out, err = run("reset", "pump-7", *log.options)
        assert (code, out) == (1, [])
        assert "pump-7 in partition 1\npump-7 in partition 2\n" in err
        assert "nothing was sent" in err
    assert nulls(log.topics) == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, _ = run("reset", "0xff00", "pump-7", *log.options)
    assert code == 0
    assert out == [
        "0xff00 in partition 1: null record at offset 0",
        "pump-7 in partition 1: null record at offset 1",
        "pump-7 in partition 2: null record at offset 0",
    ]
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert run("reset", "pump-7", "--yes", "--partition=2", *log.options)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal, nobody to ask
    assert run("reset", "pump-7", "--partition=2", *log.options)[0] == 0
    expected = [(b"\xff\0", 1), (b"pump-7", 1), (b"pump-7", 2), (b"pump-7", 2), (b"pump-7", 2)]
    assert sorted(nulls(log.topics)) == sorted(expected)


def test_a_sensor_without_a_row_is_refused_with_all_others_unless_its_partition_is_named(log, run):
    code, _, err = run("reset", "new", *log.options)
    assert (code, "there is no checkpoint" in err) == (1, True)
    log.write(snapshot_of([b"pump-7", b"\xfe", b"0xfe"]))
    code, out, err = run("reset", "pump-7", "new", "--yes", *log.options)
    assert (code, out) == (1, [])
    assert "no checkpoint has a row of new in any partition" in err
    assert "name the partition that its sender puts it in (--partition)" in err
    code, _, err = run("reset", "0xfe", "--yes", *log.options)
    assert (code, "two sensors are shown as 0xfe" in err) == (1, True)
    assert nulls(log.topics) == []
    assert run("reset", "new", "--partition", "0", "--yes", *log.options)[1] == ["new in partition 0: null record at offset 0"]
    code, _, err = run("reset", "new", "--partition", "3", "--yes", *log.options)
    assert (code, "no partition 3" in err) == (2, True)
    assert nulls(log.topics) == [(b"new", 0)]


def test_a_null_record_that_is_not_taken_is_an_error(log, run, monkeypatch):
    from processor.states import state_reset

    resets = [state_reset.Reset("new", b"new", 0), state_reset.Reset("far", b"far", 77)]
    with pytest.raises(SlotstreamError, match=r"far in partition 77 was not reset .*sent: new in partition 0: null record at offset 0"):
        state_reset.send(log.settings, resets)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_reset_while_the_service_runs_is_the_sensors_beginning_also_after_a_kill(kafka, unique, tmp_path, run):
    topics = Topics(kafka.bootstrap, unique("reset"), partitions=2)
    model = save_model(tmp_path / "model.keras", L.LSTM(8), L.Dense(3))
    rng, now_ms = np.random.default_rng(5), int(time.time() * 1000) - 60_000
    keys, due, sent = [b"pump-0", b"pump-1", b"\xff\1"], 0, 0

    def readings(times: int) -> int:
        nonlocal due, sent
        records = []
        for _ in range(times):
            for i, key in enumerate(keys):
                records.append((i % 2, key, numbers(rng.normal(size=3).round(3)), now_ms + 10 * sent, ()))
                sent += 1
        topics.produce(records)
        due += answers_due(records)
        return due

    def newest_steps():
        answers = [json.loads(m.value()) for m in topics.read(topics.output)]
        return {a["sensor"]: a["steps"] for a in sorted(answers, key=lambda a: a["offset"])}

    service = Service(topics, model, tmp_path, "--slots=64")

    def listed():
        code, out, err = run("list", "--json", *service.options)
        assert code == 0, err
        assert "PAST" not in err
        return {found["sensor"]: found["steps"] for found in objects(out)}

    with service:
        service.wait_answered(readings(3), timeout_s=240)
        wait_for(lambda: listed() == {"pump-0": 3, "pump-1": 3, "0xff01": 3}, "a checkpoint of all")
        code, out, _ = run("show", "pump-1", *service.options)
        assert (code, [line[2] for line in table(out)]) == (0, ["h", "c"])
        shutil.copytree("checkpoints", "before")
        code, out, _ = run("reset", "pump-1", "0xff01", "--yes", *service.options)
        assert (code, out) == (0, ["pump-1 in partition 1: null record at offset 3", "0xff01 in partition 0: null record at offset 6"])
        service.wait_answered(readings(1), timeout_s=240)
        assert newest_steps() == {"pump-0": 4, "pump-1": 1, "0xff01": 1}
        service.kill()
    # As if the kill had come before any later checkpoint: the null records are stepped over again.
    shutil.rmtree("checkpoints")
    shutil.move("before", "checkpoints")
    with service:
        service.wait_answered(readings(1), timeout_s=240)
        assert service.metric("replayed_readings_total") > 0
        assert newest_steps() == {"pump-0": 5, "pump-1": 2, "0xff01": 2}
        assert_exact(service, topics)
        assert service.stop() == 0, service.said()[-3000:]
