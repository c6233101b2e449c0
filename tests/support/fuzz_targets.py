"""What is fuzzed: everything that reads bytes which somebody else may have written. Each target makes a batch and judges it.

A target raises AssertionError for what must not be, and lets through whatever the product raises. Beyond "no exception but
those declared" they compare: the codec with the reference oracle and with itself among other neighbours, a checkpoint topic with
a dict, a checkpoint file with what was written to it.
"""

import datetime
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy
from judge import Judge, Record, echo_model
from mutate import AHEAD_MS, RECORD_MS, Mutator

from processor.app.fit import codec_of
from processor.checkpoint.directory import Directory
from processor.checkpoint.snapshot import Snapshot, to_tensors
from processor.checkpoint.topic import MARKER, ROW, TopicStore, TopicWriter, row_type
from processor.codec.dead_letters import OVERHEAD_BYTES, dead_letter
from processor.codec.decode import Decoded
from processor.codec.encode import shown
from processor.codec.key_source import sensor_of
from processor.codec.plain_message import PlainMessage
from processor.codec.reject import DETAIL_MAX
from processor.csv_io.csv_file import CsvFile, Form
from processor.csv_io.csv_rows import Readings, Wanted, value_of
from processor.errors import ConfigurationError
from processor.kafka.topics import Topic
from processor.partitions import Beginning, Position
from processor.pipeline import Codec
from processor.records import ERRORS, Applied
from processor.settings import load_settings
from processor.slots.rows import Rows

F = 3
STEPS_MAX = 4
NAMES = ("temperature", "motor.current", "motor.vibration")
MODEL_ID = "3f2a9c01"


class Target:
    """name; inputs: how many a batch holds; share: of all inputs, relative to the others'."""

    name: str
    inputs: int
    share: float

    def run(self, random: Random) -> None:
        """Makes and judges one batch."""
        raise NotImplementedError


# -- the codecs -----------------------------------------------------------------------------------------------------------


class Values(Target):
    """Records of one format through the codec that the settings make."""

    inputs = 64

    def __init__(self, name: str, share: float, *options: str, oracle_share: float) -> None:
        self.name, self.share = name, share
        self._settings = load_settings(None, [f"--input.record_steps_max={STEPS_MAX}", *options], {})
        self._float32 = self._settings.input.format == "float32"
        self._codec = self._new()  # one for all batches, as in the service: what it read before must not matter
        self._judge, self._oracle_share = Judge(self._settings, F), oracle_share

    def _new(self) -> Codec:
        return codec_of(self._settings, echo_model(F), MODEL_ID)

    def run(self, random: Random) -> None:
        mutator = Mutator(random)
        records = self._records(mutator)
        verdicts = self._verdicts(records, self._codec)
        if mutator.chance(0.1):
            self._in_other_company(records, verdicts, mutator)
        for record, found in zip(records, verdicts, strict=True):
            if record.kind and mutator.chance(self._oracle_share):
                expected = self._judge.answer(record)
                assert found[:3] == expected[:3], f"{record}: the codec says {_short(found)}, the oracle {_short(expected)}"

    def _records(self, mutator: Mutator) -> list[Record]:
        names = self._settings.input.features or ()
        values: list[bytes] = []
        records = []
        for i in range(self.inputs):
            value = self._floats(mutator) if self._float32 else mutator.json_record(names, F, self._settings.input.timestamp or "timestamp")
            if mutator.chance(0.4):
                value = mutator.mutated(value, values)
            values.append(value)
            record = Record(None if mutator.chance(0.01) else value, o=i + 7)
            if self._float32:
                self._steps(record, mutator)
            if mutator.chance(0.2):
                self._around(record, mutator)
            records.append(record)
        return records

    def _floats(self, mutator: Mutator) -> bytes:
        if mutator.chance(0.3):
            return mutator.random.randbytes(mutator.below(4 * F * (STEPS_MAX + 2)))
        numbers = [mutator.random.gauss(0, 100) for _ in range(F * (1 + mutator.below(STEPS_MAX + 1)))]
        if mutator.chance(0.2):
            numbers[mutator.below(len(numbers))] = mutator.one([math.nan, math.inf, -math.inf, 3.4028234663852886e38, 1e-45, -0.0])
        return struct.pack(f"{mutator.one('<<<<<>')}{len(numbers)}{mutator.one('ffffffd')}", *numbers)

    def _steps(self, record: Record, mutator: Mutator) -> None:
        """The header that a float32 record of several steps needs."""
        if record.v and mutator.chance(0.9):
            record.h = [("steps", b"%d" % max(1, len(record.v) // (4 * F)))]

    def _around(self, record: Record, mutator: Mutator) -> None:
        """Key, headers and the record's own time."""
        if mutator.chance(0.5):
            record.k = mutator.one([None, b"", b"\xff\0", b"k" * 1024, b"k" * 1025, b"\xed\xa0\x80", mutator.random.randbytes(9)])
        if mutator.chance(0.5):
            texts = [b"start", b"end", b"single", b"Start", b"", None, b"\xff", mutator.random.randbytes(3)]
            texts += [b"ms", b"ms", b"s", b"s", b"ns", b"1", b"2", b"4", b"5", b"0", b"-1", b"02", b"1" * 10, b"\xb2"]
            names = ["sequence", "sequence", "trace", "", "Sequence", "é", "steps", "steps", "timestamp_unit"]
            record.h = [(mutator.one(names), mutator.one(texts)) for _ in range(mutator.below(4))]
        if mutator.chance(0.5):
            record.kind = mutator.one([0, 1, 2])
            record.record_ms = -1 if not record.kind else mutator.one([0, 1, RECORD_MS, RECORD_MS - AHEAD_MS - 1, 2**53, 2**62, -1])

    def _verdicts(self, records: list[Record], codec: Codec) -> list[Any]:
        """What became of each record, after all that must hold of a batch."""
        decoded = codec.decode(records)
        batch, rejected = decoded.batch, decoded.rejected
        assert sorted([*decoded.source, *(i for i, _ in rejected)]) == list(range(len(records)))
        assert decoded.source == sorted(decoded.source)
        assert [i for i, _ in rejected] == sorted(i for i, _ in rejected)
        assert batch.x.dtype == np.float32
        assert batch.x.shape == (batch.steps.sum(), F)
        assert np.isfinite(batch.x).all()
        verdicts: list[Any] = [None] * len(records)
        ends = np.cumsum(batch.steps).tolist()
        for j, i in enumerate(decoded.source):
            record, steps = records[i], int(batch.steps[j])
            where = (batch.key[j], batch.partition[j], batch.offset[j], batch.record_ms[j])
            assert where == (sensor_of(self._settings.input.key)(record), record.p, record.o, record.record_ms)
            assert (steps == 0) == (record.v is None)
            assert steps <= STEPS_MAX
            x = batch.x[ends[j] - steps : ends[j]]
            verdicts[i] = (steps, int(batch.event_ms[j]), x.tobytes(), bool(batch.reset_before[j]), bool(batch.reset_after[j]))
        for i, reason in rejected:
            assert reason.error in ERRORS, reason
            assert 0 < len(reason.detail) <= DETAIL_MAX, reason
            assert (reason.partition, reason.offset) == (records[i].p, records[i].o)
            verdicts[i] = (reason.error,)
        return verdicts

    def _in_other_company(self, records: list[Record], verdicts: list[Any], mutator: Mutator) -> None:
        """The same records in another order and in two batches, through a codec that has read nothing yet; then published."""
        order = list(range(len(records)))
        mutator.random.shuffle(order)
        codec, cut = self._new(), mutator.below(len(order))
        for part in (order[:cut], order[cut:]):
            again = self._verdicts([records[i] for i in part], codec)
            for i, found in zip(part, again, strict=True):
                assert found == verdicts[i], f"{records[i]}: {_short(verdicts[i])} among the first neighbours, {_short(found)} among others"
        decoded = codec.decode(records)
        self._publish(decoded, codec)
        for i, reason in decoded.rejected:
            out = dead_letter(records[i], reason, source_topic="readings", topic="dead", partition=None, bytes_max=4000)
            size = len(out.key or b"") + len(out.value or b"") + sum(len(n.encode()) + len(t) + 10 for n, t in out.headers or [])
            assert size + OVERHEAD_BYTES <= 4000, f"{records[i]}: a dead letter of {size} bytes"

    def _publish(self, decoded: Decoded, codec: Codec) -> None:
        """Every batch can be answered, in JSON that says whose and when."""
        batch, n = decoded.batch, len(decoded.batch)
        no = np.zeros(n, np.bool_)
        last, residual = np.cumsum(batch.steps) - 1, np.full(n, np.nan, np.float32)
        outs = codec.encode(batch, Applied(batch.x, last, batch.steps, residual, no, no, ~no, no, np.zeros(n, np.int8)))
        for j, out in enumerate(outs):
            assert (out is None) == (batch.steps[j] == 0)
            if out is not None:
                found = json.loads(out)
                assert (found["sensor"], found["timestamp"]) == (shown(batch.key[j]), batch.event_ms[j])


# -- checkpoints ----------------------------------------------------------------------------------------------------------

W = 3
P = 2
BEGINNING = Beginning(5, "00aa" * 4, "f" * 64, "topic-id", 8)


def snapshot_of(random: Random, n: int, position: int = 100) -> Snapshot:
    rows = Rows.zeros(n, W)
    rows.state = np.frombuffer(random.randbytes(4 * n * W), np.float32).reshape(n, W)
    rows.applied = np.array([random.randrange(position) for _ in range(n)], np.int64)
    rows.steps, rows.event_ms = rows.applied + 1, rows.applied * 1000
    rows.incomplete = rows.applied % 2 > 0
    keys = [b"sensor-%d" % i for i in range(n - 2)] + [b"", b"\xff\0"][: min(n, 2)]
    return Snapshot(P, Position(position, 7), BEGINNING, keys, rows, {"tensorflow": "2.21"})


def content(snapshot: Snapshot | None) -> Any:
    """To compare bit for bit."""
    if snapshot is None:
        return None
    rows = snapshot.rows
    columns = [np.ascontiguousarray(c).tobytes() for c in (rows.state, rows.applied, rows.steps, rows.event_ms, rows.incomplete)]
    return snapshot.partition, snapshot.mark, snapshot.beginning, snapshot.keys, columns, snapshot.made_by


class Files(Target):
    """Checkpoint files of which bytes were changed: read as they were written, or passed over.

    One whole file at a time, or a whole one and an increment on it, of which one is changed.
    """

    name, inputs, share = "files", 8, 0.012

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checkpoints"
        self._folder = self._store().folder(P)
        random, store = Random(1), self._store()
        self._sets = list[dict[str, bytes]]()  # files by name, which are one snapshot together
        self._contents = list[Any]()
        for n in (0, 1, 3, 40):
            store.write(snapshot_of(random, n))
            self._keep()
        whole, more = snapshot_of(random, 40), snapshot_of(random, 5, 200)
        path, _, chain = store.write(whole)
        self._contents.append(self._found())
        store.write(replace(more, base=100, removed=[b"sensor-30", b"never there"]), chain)
        self._keep()
        self._bytes = [text for files in self._sets for text in files.values()]
        assert None not in self._contents
        assert path.name in self._sets[-1]

    def _store(self) -> Directory:
        return Directory(self._path, "group", "readings", keep=2)

    def _found(self) -> Any:
        return content(self._store().newest(P, position_max=None, usable=lambda _: True))

    def _keep(self) -> None:
        """Takes what is in the folder for a set, and empties it."""
        self._contents.append(self._found())
        self._sets.append({path.name: path.read_bytes() for path in self._folder.iterdir()})
        self._empty()

    def _empty(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()

    def run(self, random: Random) -> None:
        mutator = Mutator(random)
        for _ in range(self.inputs):
            files = dict(mutator.one(self._sets))
            name = mutator.one(list(files))
            changed = mutator.mutated(files[name], self._bytes)
            if mutator.chance(0.02):
                del files[name]
            else:
                files[name] = changed
            self._place(files)
            found = self._found()
            assert found is None or found in self._contents, f"read as something else: {name}, {changed[:400]!r}"
        self._strange(mutator)

    def _place(self, files: dict[str, bytes]) -> None:
        self._empty()
        for name, text in files.items():
            (self._folder / name).write_bytes(text)

    def _strange(self, mutator: Mutator) -> None:
        """Facts of another program, with a digest that is right: nothing is raised."""
        name, text = mutator.one([pair for files in self._sets for pair in files.items()])
        tensors, metadata = safetensors.numpy.load(text), json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])["__metadata__"]
        facts = mutator.facts(metadata["slotstream"]) if mutator.chance(0.8) else json.dumps(mutator.strange())
        facts = facts.encode(errors="replace").decode()
        # As the writer makes it: the digest is the only thing that cannot be got by changing what was written.
        with mock.patch.object(json, "dumps", return_value=facts):
            _, strange = to_tensors(snapshot_of(Random(1), 3))
        if mutator.chance(0.5):
            self._place({name: safetensors.numpy.save(tensors, {**metadata, "slotstream": facts})})
        else:
            self._place({name: safetensors.numpy.save(to_tensors(snapshot_of(Random(1), 3))[0], strange)})
        self._found()


class Log(Target):
    """A checkpoint topic in which records were changed, left out, mixed up: what a dict would hold of it, or nothing."""

    name, inputs, share = "topic", 40, 0.1

    def __init__(self) -> None:
        self._topic = Topic("states", "checkpoint-id", 8, 1_000_000, "compact")
        self._records: list[PlainMessage] = []

    def _read(self, *_: object) -> list[list[PlainMessage]]:
        return [self._records[:9], self._records[9:]]

    def run(self, random: Random) -> None:
        mutator = Mutator(random)
        self._records = records = self._written(mutator)
        position_max = mutator.one([None, 50, 100, 10**9])
        found = TopicStore(self._read, self._topic, W).newest(P, position_max=position_max, usable=lambda _: True)
        if found is not None:
            self._compare(found, records, position_max)

    def _written(self, mutator: Mutator) -> list[PlainMessage]:
        writer = TopicWriter(TopicStore(self._read, self._topic, W))
        writer.write(snapshot_of(mutator.random, self.inputs - 2))
        pairs = [(out.key, out.value) for out in writer.outs()[0]]
        others = [value for _, value in pairs if value]
        for _ in range(mutator.below(6)):
            at = mutator.below(len(pairs))
            key, value = pairs[at]
            kind = mutator.below(6)
            if kind == 0:
                pairs[at] = (key, mutator.mutated(value or b"", others))
            elif kind == 1:
                pairs[at] = (mutator.mutated(key or b""), value)
            elif kind == 2:
                del pairs[at]
            elif kind == 3:
                pairs.insert(mutator.below(len(pairs) + 1), (mutator.one([key, None, b"", MARKER, ROW]), mutator.one([None, value, b""])))
            elif kind == 4:
                pairs.append((MARKER, self._marker(mutator)))
            else:
                mutator.random.shuffle(pairs)
        return [PlainMessage(key, value) for key, value in pairs]

    def _marker(self, mutator: Mutator) -> bytes:
        facts = {
            "format": 1,
            "position": 100,
            "time_ms": 7,
            "beginning": BEGINNING.to_metadata(),
            "topic_id": self._topic.id,
            "made_by": {},
        }
        if mutator.chance(0.5):
            facts["beginning"] = mutator.facts(BEGINNING.to_metadata())
        if mutator.chance(0.5):
            facts["claim"] = mutator.one([{"key": "ff00", "ms": 9, "since_ms": 8}, {"key": mutator.strange(), "ms": 9, "since_ms": 8}])
        if mutator.chance(0.2):
            facts["claim"] = mutator.strange()
        text = mutator.facts(json.dumps(facts)) if mutator.chance(0.5) else json.dumps(facts)
        return text.encode(errors="surrogateescape")

    def _compare(self, found: Snapshot, records: list[PlainMessage], position_max: int | None) -> None:
        rows: dict[bytes, bytes] = {}
        for record in records:
            key, value = record.key() or b"", record.value()
            if key[:1] == ROW and value is not None and len(value) == row_type(W).itemsize and value[0] == 1:
                rows[key[1:]] = value
            elif key[:1] == ROW:
                rows.pop(key[1:], None)
        lineage = int(found.beginning.lineage, 16)
        expected = {key: value for key, value in rows.items() if int.from_bytes(value[2:10], "little") == lineage}
        state = {key: found.rows.state[i].tobytes() for i, key in enumerate(found.keys)}
        assert state == {key: value[34:] for key, value in expected.items()}
        assert len(found.keys) == len(found.rows)
        if position_max is not None:
            assert found.mark.offset <= position_max
            assert not (found.rows.applied >= position_max).any()


class Metadata(Target):
    """The text beside a committed offset, which any tool may have written."""

    name, inputs, share = "metadata", 40, 0.05

    def run(self, random: Random) -> None:
        mutator = Mutator(random)
        for _ in range(self.inputs):
            deciding = mutator.one([None, {}, {"late": '"accept"', "input.scale": "é" * 500}])
            beginning = Beginning(mutator.one([0, 5, 2**62]), mutator.one(["00aa" * 4, "é"]), "f" * 64, "id", 8, deciding=deciding)
            text = beginning.to_metadata()
            assert Beginning.from_metadata(text) == beginning
            strange = mutator.facts(text) if mutator.chance(0.9) else mutator.one([None, "", json.dumps(mutator.strange())])
            found = Beginning.from_metadata(strange)
            if found is not None:
                assert type(found.origin) is type(found.partitions) is int, strange
                assert Beginning.from_metadata(found.to_metadata()) == found, strange


# -- CSV files ------------------------------------------------------------------------------------------------------------

TABLES = [
    "time,pump,a,b,c\n2024-01-31 13:45:00,p1,1.5,2,3\n2024-01-31 13:46:00,p2,4,5,6e3\n,p2,,,\n",
    'time;pump;a;b;c\r\n31.01.2024 13:45;p1;1,5;2;3\r\n31.01.2024 13:46;"p;2";4;5;6\r\n',
    "# of a logger\nsep=|\ntime|pump|a|b|c\n1706708700000|p1|1|2|3\n1706708760000|p 2|NaN|-5|N/A\n",
    'time\tpump\ta\tb\tc\n"2024-01-31T13:45:00Z"\t"say ""p1"""\t1\t2\t1,234\n2024-01-31T13:45:01+02:00\tp1\t1\t2\n',
    ",time,pump,a,b,c\n0,1706708700,p1,1,2,3\n1,1706708701,p2,1e39,-1e400,inf\n2,1706708702,p2,1_0,٣,0x1\n",
    "time pump a b c\n1706708700 p1 1 2 3\n1706708701 p2 4 5 6\n",
]
FORMS = [Form(), Form(), Form(), Form(separator="comma"), Form(header=False), Form(encoding="latin-1"), Form(encoding="utf-16"), Form("x")]
WANTED = [
    Wanted(key="pump", timestamp="time"),
    Wanted(key="pump", timestamp="time", columns="a,b,c"),
    Wanted(sensor="pump-7", columns="a,b,c", timestamp="time", timestamp_unit="ms"),
    Wanted(sensor="pump-7", columns="a,b,c", timestamp="time", timestamp_format="%d.%m.%Y %H:%M"),
    Wanted(key="2", columns="3,4,5", decimal="comma"),
    Wanted(key="pump", timestamp="time,a", columns="b,c,pump", timestamp_unit="s"),
]
CSV_FORMATS = [("json", None), ("json", NAMES), ("float32", None)]


class Tables(Target):
    """CSV files: ConfigurationError, or readings; and what has no problem is a record that the codec takes."""

    name, inputs, share = "csv", 4, 0.012

    def __init__(self, folder: Path) -> None:
        self._file = folder / "table.csv"
        names = f"--input.features=[{', '.join(NAMES)}]"
        options = {("json", None): [], ("json", NAMES): [names], ("float32", None): ["--input.format=float32"]}
        self._codecs = {form: codec_of(load_settings(None, o, {}), echo_model(F), MODEL_ID) for form, o in options.items()}
        self._ahead_ms = int(datetime.datetime(2300, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000)

    def run(self, random: Random) -> None:
        mutator = Mutator(random)
        tables = [text.encode(mutator.one(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]), "replace") for text in TABLES]
        for _ in range(self.inputs):
            table = mutator.one(tables)
            changed = mutator.mutated(table, tables) if mutator.chance(0.9) else table
            self._file.write_bytes(changed)
            form, wanted = mutator.one(FORMS), mutator.one(WANTED)
            try:
                self._read(form, wanted)
            except ConfigurationError:
                continue
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error} of {form}, {wanted}, {changed[:600]!r}") from error

    def _read(self, form: Form, wanted: Wanted) -> None:
        with CsvFile(self._file, form) as file:
            for reading in Readings(file, wanted, None):
                for (format_, names), codec in self._codecs.items():
                    value = value_of(reading, format_, names)
                    unit = [("timestamp_unit", b"ms")]
                    decoded = codec.decode([Record(value, (reading.sensor or "x").encode(), unit, record_ms=self._ahead_ms)])
                    if reading.problem is None and len(reading.values) == F:
                        # Finite, and past float32: what is too large for a reading is the codec's to say.
                        errors = [reason.error for _, reason in decoded.rejected]
                        allowed = [[], ["not_finite"]] if any(abs(v or 0.0) > 3.4e38 for v in reading.values) else [[]]
                        late = isinstance(reading.timestamp, int) and abs(reading.timestamp) > self._ahead_ms
                        assert errors in allowed or late or len(reading.sensor or "") > 256, f"{reading}: {errors}"


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 300 else f"{text[:300]}..."


def all_targets(folder: Path, *, oracle_share: float) -> Iterator[Target]:
    names = f"--input.features=[{', '.join(NAMES)}]"
    yield Values("json", 0.38, oracle_share=oracle_share)
    yield Values("fields", 0.2, names, oracle_share=oracle_share)
    yield Values("dotted keys", 0.05, """--input.features=[temperature, '"motor.hot"', motor.current]""", oracle_share=oracle_share)
    yield Values("scaled", 0.05, "--input.scale={mean: 1e30, std: 1e-9}", "--reset.each_record=true", oracle_share=oracle_share)
    time = ["--input.timestamp=meta.at", "--input.timestamp_unit=s"]
    yield Values("time elsewhere", 0.04, names, *time, oracle_share=oracle_share)
    yield Values("nanoseconds", 0.02, "--input.timestamp_unit=ns", oracle_share=oracle_share)
    yield Values("sensors in values", 0.03, "--input.key=value:x", oracle_share=oracle_share)
    yield Values("sensors in headers", 0.02, "--input.key=header:trace", "--input.format=float32", oracle_share=oracle_share)
    missing = ["--input.missing={0: 7, motor.current: mean}", "--input.scale={mean: 2, std: 3}", "--input.missing_values=[0, x]"]
    yield Values("holes in fields", 0.04, names, *missing, "--input.quality={field: x, good: [true, 1]}", oracle_share=oracle_share)
    yield Values("holes", 0.03, "--input.missing={0: 7, 2: 0}", "--input.missing_values=-0.0", oracle_share=oracle_share)
    yield Values("holes in float32", 0.03, "--input.format=float32", "--input.missing=0.5", oracle_share=oracle_share)
    yield Values("float32", 0.15, "--input.format=float32", oracle_share=oracle_share)
    yield Log()
    yield Metadata()
    yield Files(folder)
    yield Tables(folder)
