"""What is asked, what was measured and what a plan consists of: the data of `slotstream plan`, and how parts add up.

Every figure is a range: from what is expected to what is to be provided for. Bytes and seconds throughout.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from processor.sizing.reference_machine import reference_machine

Source = Literal["measured", "computed", "constant"]


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Range":
        return Range(self.low * factor, self.high * factor)


NOTHING = Range(0, 0)


def exactly(value: float) -> Range:
    return Range(value, value)


@dataclass(frozen=True, slots=True)
class Part:
    """One summand, and whether it was measured on this machine, follows from the numbers given, or is a constant of this module."""

    name: str
    of: Range
    source: Source


def total(parts: tuple[Part, ...]) -> Range:
    return sum((part.of for part in parts), NOTHING)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked. steps: readings a record. partitions, instances: None where they are to be recommended."""

    sensors: int
    readings_per_s: float
    partitions: int | None = None
    instances: int | None = None
    key_bytes: int = 20
    steps: int = 1
    replication: int = 3


@dataclass(frozen=True, slots=True)
class Stepped:
    """One batch of so many readings, in the loop's seconds a batch, and the CPU seconds of all threads."""

    readings: int
    decode_s: float
    apply_s: float
    encode_s: float
    cpu_s: float

    @property
    def seconds(self) -> float:
        return self.decode_s + self.apply_s + self.encode_s


@dataclass(frozen=True, slots=True)
class Measured:
    """What this machine and this model showed.

    row_numbers   W, float32 numbers in a sensor's state row
    base_bytes    resident once the model is compiled, without a sensor and without Kafka's clients
    start_s       from nothing to a compiled model
    batches       ascending by readings
    copy_row_s    to copy a row for a checkpoint
    value_bytes, output_bytes   of a record read and of one written
    busy          the machine did other work meanwhile
    """

    mode: str
    features: int
    outputs: int
    row_numbers: int
    base_bytes: int
    start_s: float
    batches: tuple[Stepped, ...]
    copy_row_s: float
    value_bytes: int
    output_bytes: int
    busy: bool = False

    @property
    def speed(self) -> float:
        """How much slower than the machine of the constants."""
        largest = self.batches[-1]
        features = max(1.0, self.features / 10)
        return max(0.25, largest.decode_s / largest.readings / (reference_machine().decode_s * features))

    def batch(self, readings: float) -> tuple[float, float]:
        """The loop's seconds and the CPU's for a batch; one smaller than any that was measured costs as much as the smallest."""
        below = next((batch for batch in reversed(self.batches) if batch.readings <= readings), self.batches[0])
        above = next((batch for batch in self.batches if batch.readings >= readings), self.batches[-1])
        share = (readings - below.readings) / (above.readings - below.readings) if above.readings > below.readings else 0.0
        beyond = max(1.0, readings / self.batches[-1].readings)
        seconds = below.seconds + share * (above.seconds - below.seconds)
        return beyond * seconds, beyond * (below.cpu_s + share * (above.cpu_s - below.cpu_s))


@dataclass(frozen=True, slots=True)
class Load:
    """What one instance does. busy: share of the loop's time; cores: CPU seconds a second, of all threads."""

    readings_per_s: float
    batch_readings: float
    busy: float
    cores: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures are of one instance unless they say otherwise. memory: `steady` and `peak` are sums of the parts told."""

    wanted: Wanted
    measured: Measured
    instances: int
    partitions: int
    sensors: int
    sensors_one_away: int
    slots: int
    slots_setting: str
    load: Load
    load_one_away: Load
    capacity: float
    memory: tuple[Part, ...]
    memory_peaks: tuple[Part, ...]
    limit_bytes: int
    cores: Range
    start: tuple[Part, ...]
    copy_s: float
    parked_bytes_on_disk: int
    checkpoint_store: str
    checkpoint_bytes: Range
    network: tuple[Part, ...]

    @property
    def memory_steady(self) -> Range:
        return total(self.memory)

    @property
    def memory_peak(self) -> Range:
        """With the greater of what a stop and what a restore takes for a moment."""
        return self.memory_steady + Range(*(max(getattr(part.of, end) for part in self.memory_peaks) for end in ("low", "high")))

    @property
    def start_total(self) -> Range:
        return total(self.start)

    def as_json(self) -> dict[str, Any]:
        totals = {"memory_steady": self.memory_steady, "memory_peak": self.memory_peak, "start_total": self.start_total}
        return {**asdict(self), **{name: asdict(of) for name, of in totals.items()}}
