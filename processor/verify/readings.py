"""What is fed: seeded records of every kind that an input topic may hold, the bad ones too.

Responsible for the bytes of each record, its partition, headers and times; the same seed makes the same records. Not for when they
are sent, nor for what becomes of them: what is bad, and in which way, the oracle says.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from processor.codec.record_form import features_of, in_unit, key_field, key_header, merged, put
from processor.settings import Settings

STEP_MS = 3  # by which a record is later than the one before it
SENSORS_A_PARTITION = 12
HOT_SHARE = 0.15
STRANGER_SHARE = 0.01
BURST_EVERY = 1500
BURST_MAX = 120
LONG_MAX = 5000
HOLE_SHARE = 0.05
QUALITY_SHARE = 0.2
HALF = 0.5

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Sent:
    """A record to produce. key None: it has none. value None: the sensor is to be forgotten."""

    partition: int
    key: bytes | None
    value: bytes | None
    record_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def due(self) -> bool:
        """It must be answered, by a prediction or a dead letter."""
        return self.value is not None or self.key is None


class Readings:
    """Records without end, by `seed`, in the form that the settings name.

    start_ms: the first one's time. categories: of each feature, how many it has, None for a measurement; empty: all are measurements.
    """

    def __init__(
        self,
        seed: int,
        settings: Settings,
        *,
        features: int,
        partitions: int,
        start_ms: int,
        categories: Sequence[int | None] = (),
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._settings, self._features, self._partitions = settings, features, partitions
        self._categories = [(feature, count) for feature, count in enumerate(categories) if count is not None]
        self._sensors = SENSORS_A_PARTITION * partitions
        self._now_ms = start_ms
        self._count = 0
        self._burst = 0
        source = settings.input
        self._may_miss = source.missing != "dead_letter" or bool(source.missing_values) or source.quality is not None
        self._kinds: dict[Callable[[], Sent], float] = {
            self._reading: 0.80,
            self._several: 0.06,
            self._marked: 0.03,
            self._null: 0.01,
            self._odd_time: 0.08,
            self._bad: 0.02,
        }

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        self._count += 1
        self._now_ms += STEP_MS
        if self._count % BURST_EVERY == 0:
            self._burst = int(self._rng.integers(20, BURST_MAX))
        if self._burst:
            self._burst -= 1
            return self._named(self._bad())
        kinds = list(self._kinds)
        return self._named(kinds[int(self._rng.choice(len(kinds), p=list(self._kinds.values())))]())

    def _named(self, sent: Sent) -> Sent:
        """The record with its sensor where the settings want it (input.key), and most often without a key of its own then."""
        key = self._settings.input.key
        if key is None or sent.key is None or sent.value is None:
            return sent
        own = sent.key if self._rng.random() < HALF else None
        if (field := key_field(key)) is None:
            return replace(sent, key=own, headers=(*sent.headers, *key_header(key, sent.key)))
        try:
            record, name = json.loads(sent.value), sent.key.decode()
        except ValueError:
            return sent
        if not isinstance(record, dict):
            return sent
        put(record, field, name)
        return replace(sent, key=own, value=json.dumps(record).encode())

    # Kinds of records.

    def _reading(self) -> Sent:
        partition, key = self._sensor()
        return Sent(partition, key, self._value(1, self._event_ms()), self._now_ms)

    def _several(self) -> Sent:
        partition, key = self._sensor()
        steps = int(self._rng.integers(1, min(6, self._settings.input.record_steps_max) + 1))
        headers = (("steps", b"%d" % steps),) if self._settings.input.format == "float32" else ()
        return Sent(partition, key, self._value(steps, self._event_ms()), self._now_ms, headers)

    def _marked(self) -> Sent:
        """A reading that says where a sequence begins or ends."""
        partition, key = self._sensor()
        word = (b"start", b"end", b"single")[int(self._rng.integers(3))]
        return Sent(partition, key, self._value(1, self._event_ms()), self._now_ms, (("trace", b"\xff\0"), ("sequence", word)))

    def _null(self) -> Sent:
        partition, key = self._sensor()
        return Sent(partition, key, None, self._now_ms)

    def _odd_time(self) -> Sent:
        """A reading or a record of a time that is far off, on either side, or told in another way."""
        partition, key = self._sensor()
        ahead_ms = round(self._settings.input.ahead_max * 1000)
        event_ms = (
            None,
            0,
            self._now_ms - 300 * DAY_MS,
            self._now_ms + ahead_ms,
            self._now_ms + ahead_ms + 1,
            self._now_ms + 30_000 * DAY_MS,
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:20.5",
            "yesterday",
            float(self._now_ms) + 0.5,
            str(self._now_ms),
            self._now_ms // 1000,
            self._now_ms * 1000,
        )[int(self._rng.integers(13))]
        record_ms = self._now_ms + (0, 0, 0, -3 * DAY_MS, 7 * DAY_MS)[int(self._rng.integers(5))]
        return Sent(partition, key, self._value(1, event_ms), record_ms)

    def _bad(self) -> Sent:
        """A record that is no reading, or none of this model."""
        partition, key = self._sensor()
        good = self._value(1, self._event_ms())
        many = self._settings.input.record_steps_max + 1
        numbers = self._features
        makers: tuple[Callable[[], tuple[bytes | None, bytes]], ...] = (
            lambda: (None, good),
            lambda: (key, b""),
            lambda: (key, b"\xff\xfe stray"),
            lambda: (key, good[: len(good) // 2]),
            lambda: (key, b'{"values": "none"}'),
            lambda: (key, b"[" * 120 + b"]" * 120),
            lambda: (key, good.replace(b"0.", b"1e9990")),
            lambda: (key, self._written([[1.0] * (numbers + 1)], None)),
            lambda: (key, self._written([[1.0] * numbers, [1.0] * (numbers + 1)], None)),
            lambda: (key, self._written([[None] * numbers], None)),
            lambda: (key, self._written([[float("nan")] * numbers], None)),
            lambda: (key, self._written([[1e39] * numbers], None)),
            lambda: (key, self._value(1, "2199-01-01T00:00:00Z")),
            lambda: (key, self._written([[0] * numbers] * many, None) if many < LONG_MAX else b"{}"),
            lambda: (key * 400, good),
        )
        found, value = makers[int(self._rng.integers(len(makers)))]()
        headers = (("sequence", b"middle"),) if self._rng.random() < 0.1 else ()
        return Sent(partition, found, value, self._now_ms, headers)

    # Parts of a record.

    def _sensor(self) -> tuple[int, bytes]:
        """A partition, and the key of one of its sensors: a few are busy, some come once, some names are no text."""
        draw = self._rng.random()
        if draw < HOT_SHARE:
            number = 0
        elif draw < HOT_SHARE + STRANGER_SHARE:
            number = self._sensors + self._count
        else:
            number = int(self._rng.integers(self._sensors))
        name = b"pump-%d" % number
        return number % self._partitions, b"\xfe" + name if number % 11 == 5 else name

    def _event_ms(self) -> int:
        """Near the record's time, not in order."""
        return self._now_ms - int(self._rng.integers(0, 400))

    def _value(self, steps: int, event_ms: int | float | str | None) -> bytes:
        numbers = self._rng.normal(size=(steps, self._features)).round(3)
        for feature, count in self._categories:
            numbers[:, feature] = self._rng.integers(count + (self._rng.random() < 0.01), size=steps)  # rarely one that there is not
        return self._written(numbers.tolist(), event_ms)

    def _written(self, steps: list[list[Any]], event_ms: int | float | str | None) -> bytes:
        """A record's value in the settings' format. Where that knows neither several steps nor times it has one, and none."""
        source = self._settings.input
        if self._may_miss:
            steps = [[self._holed(number) for number in step] for step in steps]
        if source.format == "float32":
            with np.errstate(over="ignore"):
                return b"".join(np.array(step, np.float64).astype("<f4").tobytes() for step in steps)
        record: dict[str, Any] = {"note": "passed over"} if source.features else {}
        if source.quality is not None and isinstance(source.quality.field, str) and self._rng.random() < QUALITY_SHARE:
            qualities = (*source.quality.good, None, "BAD", ["BAD"])
            put(record, source.quality.field, qualities[int(self._rng.integers(len(qualities)))])
        if event_ms is not None and source.timestamp is not None:
            put(record, source.timestamp, self._told(event_ms))
        return json.dumps(merged(record, features_of(source.features, steps))).encode()

    def _holed(self, number: Any) -> Any:
        """The number, or now and then what stands for none."""
        if self._rng.random() >= HOLE_SHARE:
            return number
        source = self._settings.input
        none = (None, float("nan"), *(value for value in source.missing_values if source.format == "json" or not isinstance(value, str)))
        return none[int(self._rng.integers(len(none)))]

    def _told(self, event_ms: int | float | str) -> int | float | str:
        """A time as the settings' unit has it; what is no whole number of milliseconds as it stands."""
        return in_unit(event_ms, self._settings.input.timestamp_unit) if isinstance(event_ms, int) else event_ms
