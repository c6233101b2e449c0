"""Codec, engine and ladder together against the reference oracle, bit for bit: any model, any cuts, any slots, any aborts.

The same promise as test_oracle.py's, without Kafka, so that many more ways of cutting a stream are tried.
"""

import json

import numpy as np
import pytest
from harness import keras, readings, rewritten, save_model
from judge import message_of
from tiers import few

from processor.app.fit import codec_of, load_model, rules_of, shapes_of
from processor.engine import Engine
from processor.model.tiles import Tiles
from processor.rules import Clock, keep_time
from processor.settings import load_settings
from processor.slots.parking import Parking, StateFile
from processor.verify.oracle import Reference, as_published
from processor.verify.oracle_records import InputRecord

L = keras.layers

RULES = ["--reset.after_gap=400ms", "--reset.after_steps=9", "--late=dead_letter"]
MODELS = {
    "lstm": ([L.LSTM(16), L.Dense(3)], {}, ["--output.residual=true"]),
    "gru a step": ([L.GRU(100, return_sequences=True), L.Dense(2)], {}, []),
    "stacked": ([L.SimpleRNN(5, return_sequences=True), L.Dropout(0.3), L.LSTM(9, return_sequences=True), L.Dense(3)], {}, []),
    "lstm, each residual": ([L.LSTM(16), L.Dense(2)], {}, ["--output.residual={each: [2, 0]}", "--output.fields=[c, a]", *RULES]),
    "each record": ([L.LSTM(8), L.Dense(1)], {}, ["--reset.each_record=true"]),
    "by rules": ([L.LSTM(8), L.Dense(3)], {}, ["--output.residual=true", *RULES]),
    "expiring": ([L.GRU(8), L.Dense(3)], {}, ["--output.residual=true", "--state.expire_after=350ms", "--reset.after_steps=9"]),
    "fields, scaled": (
        [L.GRU(8), L.Dense(2)],
        {},
        [
            "--input.features=[a, b.c, b.d]",
            "--input.scale={mean: [0.1, 0, -1], std: [1, 2, 0.5]}",
            "--output.scale={min: -5, max: 20}",
            "--output.residual=[b.d, a]",
            *RULES,
        ],
    ),
    "float32": ([L.LSTM(8), L.Dense(1)], {}, ["--input.format=float32", "--reset.after_steps=5"]),
    "all steps of a window": (
        [L.LSTM(6, return_sequences=True), L.Conv1D(4, 3, padding="same"), L.Dense(2)],
        {"steps": 5},
        ["--model.output=all", "--output.scale={mean: [1, 2], std: [3, 4]}"],
    ),
    "autoencoder": (
        [L.LSTM(6), L.RepeatVector(5), L.LSTM(6, return_sequences=True), L.TimeDistributed(L.Dense(3))],
        {"steps": 5},
        ["--model.output=all", "--output.reconstruction=true", "--input.scale={mean: 1, std: 2}", *RULES],
    ),
    "reconstructed last step": ([L.GRU(8), L.Dense(3)], {}, ["--output.reconstruction=true", "--output.residual=each"]),
    "carried past the window": ([L.GRU(6), L.Dense(3)], {"steps": 4}, ["--model.mode=carried", "--output.residual=true"]),
    "windowed": ([L.Bidirectional(L.LSTM(6)), L.Dense(3)], {"steps": 7}, ["--output.residual=true"]),
}
# Judged as if the readings before partition 0's first one were lost.
AFTER_A_GAP = ("gru a step", "by rules", "expiring")


def stream(rng, count, sensors, settings):
    made, offsets = readings(rng, count, features=3, sensors=sensors, partitions=2, jitter_ms=300), [0, 0]
    records = []
    for partition, key, value, record_ms, headers in made:
        value = rewritten(value, settings)
        records.append(InputRecord(partition, offsets[partition], key, value, record_ms, headers))
        offsets[partition] += 1
    return records


def built(tmp_path, layers, options, settings):
    path = save_model(tmp_path / "model.keras", *layers, **options)
    settings = load_settings(None, [f"--model.path={path}", *settings], {})
    model = load_model(settings)
    codec = codec_of(settings, model, "test")
    return model, settings, codec


def answers(engine, codec, records, clocks, expire_ms=None):
    """What a batch of records is answered with, by partition and offset. clocks: partition time, which it moves."""
    decoded = codec.decode([message_of(r) for r in records])
    clocks.update(keep_time(decoded.batch, clocks, expire_ms))
    applied = engine.apply(decoded.batch)
    found = {(r.partition, r.offset): r.error for _, r in decoded.rejected}
    for i, value in enumerate(codec.encode(decoded.batch, applied)):
        at = (decoded.batch.partition[i], int(decoded.batch.offset[i]))
        if value is not None:
            found[at] = as_published(value)
        elif not applied.finite[i]:
            found[at] = "non_finite_state"
        elif applied.late[i]:
            found[at] = "late"
    return found


@pytest.mark.parametrize("name", few(MODELS, "lstm", "autoencoder", long=("by rules", "expiring", "windowed", "lstm, each residual")))
def test_any_cuts_slots_and_aborts_give_the_references_bits(name, tmp_path):
    layers, options, settings = MODELS[name]
    model, settings, codec = built(tmp_path, layers, options, settings)
    rng = np.random.default_rng(11)
    records = stream(rng, 500, 25, settings)
    gap = name in AFTER_A_GAP
    want = Reference(model, settings, "test", gap_partitions={0} if gap else ()).expect(records)
    if gap:
        flagged = {partition for (partition, _), answer in want.items() if isinstance(answer, dict) and "warming_up" in answer}
        assert flagged == {0}
    assert sum(isinstance(answer, dict) for answer in want.values()) > (200 if settings.late == "dead_letter" else 400)
    assert ("late" in want.values()) == (settings.late == "dead_letter")
    tiles = Tiles(model, rows_max=64)
    shapes = shapes_of(model, settings)
    for slots in (1, 7, 64):
        parking = Parking(shapes.row_width, StateFile(tmp_path)) if slots == 7 else None
        engine, at, got = Engine(tiles, shapes, rules_of(settings), slots=slots, parking=parking), 0, {}
        clocks, dropped = {0: Clock(gap=gap), 1: Clock()}, 0
        committed = (0, {}, dict(clocks))
        while at < len(records):
            batch = records[at : at + int(rng.choice([1, 2, 17, 90]))]
            got = {**got, **answers(engine, codec, batch, clocks, rules_of(settings).expire_ms)}
            at += len(batch)
            end = rng.random()
            if end < 0.3:
                engine.commit()
                committed = (at, dict(got), dict(clocks))
                dropped += engine.expire(at % 2, len(records), clocks[at % 2])
            elif end < 0.5:
                engine.abort()
                at, got, clocks = committed[0], dict(committed[1]), dict(committed[2])
        assert got == want, f"{slots} slots"
        assert (dropped > 0) == (settings.state.expire_after is not None)


def test_64_slots_give_5000_sensors_the_bits_of_65536(tmp_path):
    model, settings, codec = built(tmp_path, [L.LSTM(16), L.Dense(3)], {}, [])
    rng = np.random.default_rng(3)
    sensors, x = rng.integers(0, 5000, 15_000), rng.normal(size=(15_000, 3)).astype(np.float32)
    records = [
        InputRecord(0, i, b"sensor-%d" % s, json.dumps({"values": x[i].tolist()}).encode(), 1) for i, s in enumerate(sensors.tolist())
    ]
    tiles, outputs = Tiles(model, rows_max=1024), []
    for slots in (64, 65_536):
        engine, got = Engine(tiles, shapes_of(model, settings), slots=slots), []
        for first in range(0, len(records), 4096):
            decoded = codec.decode([message_of(r) for r in records[first : first + 4096]])
            got += codec.encode(decoded.batch, engine.apply(decoded.batch))
            engine.commit()
        outputs.append(got)
        assert (engine.table.evictions > 0) == (slots == 64)
    assert outputs[0] == outputs[1]


def test_a_record_that_breaks_its_sensor_is_left_out_and_no_neighbour_sees_it(tmp_path):
    loud = keras.initializers.Constant(3e19)
    model, settings, codec = built(tmp_path, [L.SimpleRNN(4, activation="relu", recurrent_initializer=loud), L.Dense(2)], {}, [])
    rng, records = np.random.default_rng(5), []
    for i in range(300):
        value = {"values": (rng.normal(size=3) * rng.choice([0.0, 1.0, 1e19])).tolist()}
        records.append(InputRecord(0, i, b"sensor-%d" % rng.integers(6), json.dumps(value).encode(), 1))
    want = Reference(model, settings, "test").expect(records)
    assert {"non_finite_state"} < {answer if isinstance(answer, str) else "output" for answer in want.values()}
    tiles = Tiles(model, rows_max=8)
    for size in (1, 13, 300):
        engine, got, clocks = Engine(tiles, shapes_of(model, settings), slots=4), {}, {0: Clock()}
        for first in range(0, len(records), size):
            got |= answers(engine, codec, records[first : first + size], clocks)
            engine.commit()
        assert got == want
