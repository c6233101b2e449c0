"""A simulated plant: pumps, motors and fans that report temperature, vibration, pressure and current, and now and then break.

Responsible for readings and for the truth about the faults in them; as a process, for publishing them to a topic.
Not for finding faults: nothing here knows a model. The same seed gives the same plant, readings and faults.

    slotstream plant --bootstrap HOST:PORT --topic readings --rate 2000

**What is published** is standardised: each value is the distance from the machine's operating point in units of its usual spread,
so that a healthy plant has about zero mean and unit variance, as the model expects it. `Plant.engineering` gives the same values in
degrees Celsius, mm/s, bar and ampere.

**How a machine behaves** (one tick is a minute of event time, all machines at once): its load follows a daily rhythm and steps to
another level now and then; temperature follows the load slowly; vibration, pressure and current follow it at once, with the signs
and strengths of its kind; a control loop hunts around the set point with a period of its own (a damped oscillation driven by
noise); on top come autocorrelated noise, measurement noise and a slow drift.
"""

import json
import signal
import sys
import time
from bisect import bisect_right
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from numpy.typing import NDArray

TICK_MS = 60_000
DAY_TICKS = 1440
# In the past, since a plant runs faster than the clock and an event must not lie ahead of its record's own time.
START_MS = 1_577_836_800_000  # 2020-01-01T00:00:00Z

FEATURES = ("temperature", "vibration", "pressure", "current")
TEMPERATURE, VIBRATION, PRESSURE, CURRENT = range(4)
KINDS = ("pump", "motor", "fan")

Values = NDArray[np.float32]
Array = NDArray[np.float64]


class Kind(NamedTuple):
    """One kind of machine; each tuple has one entry a feature."""

    centre: tuple[float, ...]  # operating point: degrees Celsius, mm/s, bar, ampere
    spread: tuple[float, ...]  # usual deviation, the same units
    load: tuple[float, ...]  # how the feature answers to the load
    hunting: tuple[float, ...]  # and to the hunting of the control loop


MACHINES = {
    "pump": Kind((62.0, 2.8, 6.0, 41.0), (4.0, 0.5, 0.6, 3.5), (0.85, 0.60, 0.75, 0.85), (0.10, 0.45, 0.50, 0.30)),
    "motor": Kind((74.0, 1.9, 2.2, 88.0), (6.0, 0.3, 0.2, 9.0), (0.90, 0.70, 0.45, 0.90), (0.10, 0.40, 0.40, 0.35)),
    "fan": Kind((45.0, 4.1, 0.4, 22.0), (3.0, 0.8, 0.1, 2.0), (0.70, 0.75, -0.75, 0.80), (0.05, 0.35, 0.50, 0.25)),
}

FAULT_KINDS = ("bearing wear", "blockage", "leak", "stuck sensor", "spikes")
FIRST_FAULT_TICK = 20
FAULTS_AT_ONCE_MAX = 64  # they begin 15 ticks apart at least, and last 400 at most
CROWDED_FAULTS = 5  # the first ones come close together, so that a short run shows every kind


@dataclass(frozen=True)
class Fault:
    """One fault: on ticks start_tick <= tick < end_tick of the sensor `sensor`."""

    sensor: int
    name: str
    kind: str
    start_tick: int
    end_tick: int
    feature: int  # of a stuck sensor or spikes: which one of the four
    severity: float  # 1 is a grave one, 0.3 one that is easily overlooked

    @property
    def start_ms(self) -> int:
        return START_MS + self.start_tick * TICK_MS

    @property
    def end_ms(self) -> int:
        return START_MS + self.end_tick * TICK_MS


def names(sensors: int) -> list[str]:
    """The sensors' names, by index: pump-000, motor-001, fan-002, pump-003 ..."""
    return [f"{KINDS[i % len(KINDS)]}-{i:03d}" for i in range(sensors)]


class FaultPlan:
    """Which sensor breaks when, and how: known beforehand, endless, and independent of the readings' noise."""

    def __init__(self, seed: int, sensors: int) -> None:
        self._random = np.random.default_rng([seed, 2])
        self._names = names(sensors)
        self._faults: list[Fault] = []
        self._next_tick = FIRST_FAULT_TICK
        self._free_tick = np.zeros(sensors, np.int64)

    def until(self, tick: int) -> list[Fault]:
        """All faults that begin at or before `tick`, in the order of their beginnings."""
        while self._next_tick <= tick:
            self._add()
        return self._faults[: bisect_right(self._faults, tick, key=lambda fault: fault.start_tick)]

    def _add(self) -> None:
        start, count = self._next_tick, len(self._faults)
        crowded = count < CROWDED_FAULTS
        self._next_tick += int(self._random.integers(4, 8) if crowded else self._random.integers(15, 45))
        kind = FAULT_KINDS[count % len(FAULT_KINDS)] if crowded else str(self._random.choice(FAULT_KINDS))
        duration, feature = int(self._random.integers(150, 400)), int(self._random.integers(len(FEATURES)))
        severity = float(self._random.uniform(0.3, 1.2))
        healthy = np.flatnonzero(self._free_tick <= start)
        if len(healthy) == 0:
            return
        sensor = int(self._random.choice(healthy))
        # A machine that was repaired stays healthy for at least a shift.
        self._free_tick[sensor] = start + duration + 480
        self._faults.append(Fault(sensor, self._names[sensor], kind, start, start + duration, feature, severity))


class Plant:
    """`sensors` machines, one sensor each. `tick` moves all of them one minute on.

    `faulty=False` gives the same plant in good health, bit for bit the same where no fault is.
    """

    def __init__(self, seed: int, sensors: int = 500, *, faulty: bool = True) -> None:
        self.names = names(sensors)
        self._plan = FaultPlan(seed, sensors)
        self._faulty = faulty
        self._ticks = 0
        self._noise = np.random.default_rng([seed, 1])
        self._build(np.random.default_rng([seed, 0]), sensors)

    @property
    def faults(self) -> list[Fault]:
        """The faults that have begun so far."""
        return self._plan.until(self._ticks - 1) if self._faulty else []

    def tick(self) -> tuple[int, Values]:
        """The next minute: its event time in Unix milliseconds, and the standardised values, float32 [sensors, 4]."""
        tick = self._ticks
        self._ticks += 1
        values = self._healthy(tick)
        roughness = self._noise.standard_normal((len(values), 2))
        if self._faulty:
            for fault in self._plan.until(tick)[-FAULTS_AT_ONCE_MAX:]:
                if tick < fault.end_tick:
                    self._break(fault, tick - fault.start_tick, values, roughness[fault.sensor])
        return START_MS + tick * TICK_MS, values.astype(np.float32)

    def engineering(self, values: Values) -> Array:
        """Standardised values [..., sensors, 4] in degrees Celsius, mm/s, bar and ampere."""
        return self._centre + self._spread * values

    def _build(self, random: np.random.Generator, sensors: int) -> None:
        """Draws every machine's own parameters around its kind's."""
        kinds = [MACHINES[KINDS[i % len(KINDS)]] for i in range(sensors)]
        self._centre = np.array([k.centre for k in kinds]) * random.normal(1, 0.03, (sensors, 4))
        self._spread = np.array([k.spread for k in kinds]) * random.uniform(0.9, 1.1, (sensors, 4))
        self._load_gain = np.array([k.load for k in kinds]) * random.uniform(0.9, 1.1, (sensors, 4))
        self._hunting_gain = np.array([k.hunting for k in kinds]) * random.uniform(0.8, 1.2, (sensors, 4))
        self._day_phase = random.normal(0, 0.4, sensors)
        self._thermal_rate = 1 / random.uniform(20, 50, sensors)
        self._level = random.normal(0, 0.7, sensors)
        self._load = self._level + np.sin(self._day_phase)
        self._thermal = self._load.copy()
        damping, angle = random.uniform(0.95, 0.98, sensors), 2 * np.pi / random.uniform(8, 20, sensors)
        self._hunting_1, self._hunting_2 = 2 * damping * np.cos(angle), -(damping**2)
        self._hunting_noise = _unit_variance(self._hunting_1, self._hunting_2)
        self._hunting = random.normal(0, 1, (2, sensors))
        self._wander = random.normal(0, 0.15, (sensors, 4))
        self._drift = random.normal(0, 0.2, (sensors, 4))

    def _healthy(self, tick: int) -> Array:
        noise, sensors = self._noise, len(self.names)
        stepped = noise.random(sensors) < 1 / 240
        self._level = np.where(stepped, noise.normal(0, 0.7, sensors), self._level)
        rhythm = np.sin(2 * np.pi * tick / DAY_TICKS + self._day_phase)
        self._load += 0.25 * (self._level + rhythm - self._load)
        self._thermal += self._thermal_rate * (self._load - self._thermal)
        swing = self._hunting_1 * self._hunting[0] + self._hunting_2 * self._hunting[1] + self._hunting_noise * noise.normal(0, 1, sensors)
        self._hunting = np.stack([swing, self._hunting[0]])
        self._wander = 0.9 * self._wander + noise.normal(0, 0.15 * np.sqrt(1 - 0.9**2), (sensors, 4))
        self._drift = 0.9995 * self._drift + noise.normal(0, 0.2 * np.sqrt(1 - 0.9995**2), (sensors, 4))
        driven = np.repeat(self._load[:, None], 4, axis=1)
        driven[:, TEMPERATURE] = self._thermal
        values: Array = self._load_gain * driven + self._hunting_gain * swing[:, None] + self._wander + self._drift
        return values + noise.normal(0, 0.08, (sensors, 4))

    def _break(self, fault: Fault, age: int, values: Array, rough: Array) -> None:
        """Adds what the fault does after `age` ticks to its sensor's row of `values`; `rough` is two standard normal numbers."""
        row, severity = values[fault.sensor], fault.severity
        if fault.kind == "bearing wear":
            row[VIBRATION] += severity * _ramp(age, 30) * (3.5 + 1.5 * rough[0])
            row[TEMPERATURE] += severity * _ramp(age - 30, 90) * 2.5
        elif fault.kind == "blockage":
            row[PRESSURE] += severity * _ramp(age, 12) * (3.5 + 0.8 * rough[0])
            row[CURRENT] += severity * _ramp(age, 12) * (2.5 + 0.8 * rough[1])
        elif fault.kind == "leak":
            row[PRESSURE] -= severity * _ramp(age, 20) * (4.0 + 1.2 * rough[0])
        elif fault.kind == "stuck sensor":
            # Far from where it worked, as a broken wire or a loose mounting reads.
            row[fault.feature] = -6.0 * severity
        elif rough[1] > 0.5:
            row[fault.feature] += 6.0 * severity * np.sign(rough[0])


def _ramp(age: int, ticks: int) -> float:
    return float(np.clip(age / ticks, 0, 1))


def _unit_variance(a: Array, b: Array) -> Array:
    """The noise with which x[t] = a x[t-1] + b x[t-2] + noise has variance 1."""
    correlation = a / (1 - b)
    noise: Array = np.sqrt(1 - a * correlation - b * (a * correlation + b))
    return noise


# The process that publishes.


class Publisher:
    """Publishes a plant's readings at a steady rate, one record a reading, and counts what the broker acknowledged."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
            }
        )
        self.acknowledged = 0
        self.failed = 0

    def publish(self, name: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, name, on_delivery=self._delivered)
                return
            except BufferError:
                self._producer.poll(0.05)

    def poll(self, wait_s: float) -> None:
        self._producer.poll(wait_s)

    def flush(self, timeout_s: float) -> None:
        self.failed += self._producer.flush(timeout_s)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.failed += 1


def encode(event_ms: int, values: Values) -> list[bytes]:
    """One JSON record a sensor of a tick; four decimals are more than such sensors have."""
    return [b'{"timestamp":%d,"values":[%.4f,%.4f,%.4f,%.4f]}' % (event_ms, *row) for row in values.tolist()]


def publish(plant: Plant, publisher: Publisher, rate: float, seconds: float | None, stopped: list[int]) -> None:
    """Until `seconds` have passed or `stopped` is not empty. The readings of a tick are spread evenly over the tick."""
    keys = [name.encode() for name in plant.names]
    began, sent = time.monotonic(), 0
    while not stopped and (seconds is None or time.monotonic() - began < seconds):
        event_ms, values = plant.tick()
        records = encode(min(event_ms, int(time.time() * 1000)), values)
        for key, record in zip(keys, records, strict=True):
            while (early_s := began + sent / rate - time.monotonic()) > 0 and not stopped:
                publisher.poll(min(early_s, 0.01))
            if stopped:
                return
            publisher.publish(key, record)
            sent += 1
        publisher.poll(0)


def publish_until_stopped(plant: Plant, bootstrap: str, topic: str, *, rate: float, seconds: float | None) -> int:
    """Publishes until SIGTERM, SIGINT or so many seconds are over, and prints what the broker acknowledged. Returns the exit code."""
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    publisher = Publisher(bootstrap, topic)
    publish(plant, publisher, rate, seconds, stopped)
    publisher.flush(30)
    sys.stdout.write(json.dumps({"acknowledged": publisher.acknowledged, "failed": publisher.failed}) + "\n")
    return 1 if publisher.failed else 0
