"""The simulated plant: the same for the same seed, standardised, and broken exactly where it says."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from processor.demo.plant import FAULT_KINDS, FIRST_FAULT_TICK, MACHINES, START_MS, TICK_MS, FaultPlan, Plant, encode
from processor.testbed.embedded_kafka import EmbeddedKafka


def run(plant: Plant, ticks: int) -> np.ndarray:
    return np.stack([plant.tick()[1] for _ in range(ticks)])


def test_the_same_seed_gives_the_same_plant_bit_for_bit() -> None:
    first, second = Plant(7, 60), Plant(7, 60)
    assert run(first, 200).tobytes() == run(second, 200).tobytes()
    assert first.faults == second.faults
    assert run(Plant(8, 60), 200).tobytes() != run(Plant(7, 60), 200).tobytes()


def test_a_tick_is_a_minute_of_every_sensor() -> None:
    plant = Plant(1, 500)
    times, values = zip(*(plant.tick() for _ in range(3)), strict=True)
    assert times == (START_MS, START_MS + TICK_MS, START_MS + 2 * TICK_MS)
    assert all(v.shape == (500, 4) and v.dtype == np.float32 and np.isfinite(v).all() for v in values)
    assert plant.names[:4] == ["pump-000", "motor-001", "fan-002", "pump-003"]
    assert len(set(plant.names)) == 500


def test_healthy_readings_are_standardised_and_correlated() -> None:
    values = run(Plant(2, 300, faulty=False), 1440)
    assert np.abs(values.mean(axis=(0, 1))).max() < 0.15
    assert 0.7 < values.std(axis=(0, 1)).min() < values.std(axis=(0, 1)).max() < 1.2
    pumps, fans = values[:, ::3].reshape(-1, 4), values[:, 2::3].reshape(-1, 4)
    assert np.corrcoef(pumps.T)[2, 3] > 0.5
    assert np.corrcoef(fans.T)[2, 3] < -0.3


def test_engineering_units_lie_around_the_machines_operating_points() -> None:
    plant = Plant(3, 300, faulty=False)
    values = plant.engineering(run(plant, 300)).mean(axis=0)
    for first, machine in enumerate(MACHINES.values()):
        np.testing.assert_allclose(values[first::3].mean(axis=0), machine.centre, rtol=0.1)


def test_readings_differ_from_a_healthy_plants_exactly_where_a_fault_is() -> None:
    broken, healthy = Plant(4, 90), Plant(4, 90, faulty=False)
    differs = (run(broken, 400) != run(healthy, 400)).any(axis=2)
    assert healthy.faults == []
    allowed = np.zeros_like(differs)
    for fault in broken.faults:
        allowed[fault.start_tick : fault.end_tick, fault.sensor] = True
        assert differs[fault.start_tick : fault.end_tick, fault.sensor].any()
    assert not (differs & ~allowed).any()


def test_the_first_faults_show_every_kind_soon() -> None:
    faults = FaultPlan(5, 500).until(FIRST_FAULT_TICK + 40)
    assert faults[0].start_tick == FIRST_FAULT_TICK
    assert {fault.kind for fault in faults} == set(FAULT_KINDS)
    assert faults[0].start_ms == START_MS + FIRST_FAULT_TICK * TICK_MS
    assert all(fault.start_tick < fault.end_tick and fault.start_ms < fault.end_ms for fault in faults)


def test_the_plan_is_the_same_however_it_is_asked_and_no_sensor_has_two_faults_at_once() -> None:
    at_once, stepwise = FaultPlan(6, 20), FaultPlan(6, 20)
    for tick in range(0, 5000, 7):
        stepwise.until(tick)
    faults = at_once.until(5000)
    assert faults == stepwise.until(5000)
    for sensor in range(20):
        own = [fault for fault in faults if fault.sensor == sensor]
        assert all(before.end_tick < after.start_tick for before, after in itertools.pairwise(own))


def test_a_record_is_json_with_four_decimals() -> None:
    records = encode(123, np.array([[1.23456, -0.5, 0, 7]], np.float32))
    assert [json.loads(record) for record in records] == [{"timestamp": 123, "values": [1.2346, -0.5, 0.0, 7.0]}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_simulator_acknowledges_what_is_in_the_topic(
    kafka: EmbeddedKafka, unique: Callable[[str], str], number: signal.Signals
) -> None:
    topic = unique("readings")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    command = [sys.executable, "-m", "processor.cli", "plant", "--bootstrap", kafka.bootstrap, "--topic", topic]
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    partitions = [TopicPartition(topic, partition, 0) for partition in range(2)]
    reader.assign(partitions)
    with subprocess.Popen([*command, "--rate", "500", "--sensors", "30"], stdout=subprocess.PIPE, text=True) as simulator:
        seen = poll_until(reader, 100)
        simulator.send_signal(number)
        final = json.loads(simulator.communicate(timeout=60)[0].splitlines()[-1])
    assert simulator.returncode == 0
    published = sum(reader.get_watermark_offsets(partition, timeout=30)[1] for partition in partitions)
    reader.close()
    assert final == {"acknowledged": published, "failed": 0}
    assert {key for key, _ in seen} <= {name.encode() for name in Plant(1, 30).names}
    first = json.loads(seen[0][1])
    assert first["timestamp"] >= START_MS
    assert len(first["values"]) == 4


def poll_until(reader: Consumer, count: int, timeout_s: float = 60) -> list[tuple[bytes, bytes]]:
    deadline, seen = time.monotonic() + timeout_s, list[tuple[bytes, bytes]]()
    while len(seen) < count:
        assert time.monotonic() < deadline, f"{len(seen)} of {count} records"
        seen += [(message.key(), message.value()) for message in reader.consume(100, 0.2) if message.error() is None]
    return seen
