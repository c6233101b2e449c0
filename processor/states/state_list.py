"""`slotstream state list`: the sensors of the newest checkpoints, as a table or as JSON lines."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from processor.checkpoint.snapshot import Snapshot
from processor.codec.encode import shown
from processor.settings import Settings
from processor.split_sensors import named
from processor.states.display import age_said, as_time, printable
from processor.states.newest import checkpoints


@dataclass(frozen=True, slots=True)
class Listed:
    """A sensor. bytes: of its state row; checkpoint: the offset up to which it is told."""

    partition: int
    sensor: str
    steps: int
    event_ms: int
    bytes: int
    incomplete: bool
    checkpoint: int


def list_sensors(
    settings: Settings, *, partition: int | None, prefix: str, limit: int | None, as_json: bool, tell: Callable[[str], None]
) -> Iterator[str]:
    """Lines: a sensor each, as a table or as JSON objects. tell: takes what is no result."""
    tell(age_said(settings))
    if not as_json:
        yield f"{'PARTITION':>9}  {'STEPS':>12}  {'LAST EVENT':24}  {'BYTES':>8}  {'INCOMPLETE':10}  SENSOR"
    left, partitions = limit, dict[bytes, list[int]]()
    for seen in checkpoints(settings, partition):
        tell(seen.described(time.time()))
        for key in seen.snapshot.keys:
            partitions.setdefault(key, []).append(seen.snapshot.partition)
        for sensor in _listed(seen.snapshot, prefix):
            if left == 0:
                tell(f"more than {limit:,} sensors (--limit)")
                return
            left = None if left is None else left - 1
            yield json.dumps(asdict(sensor)) if as_json else _line(sensor)
    if split := {key: numbers for key, numbers in partitions.items() if len(numbers) > 1}:
        words = "sensors have a state in several partitions" if len(split) > 1 else "sensor has a state in several partitions"
        tell(f"{len(split):,} {words}: {printable(named(split))}. Give every producer the same partitioner (murmur2_random in librdkafka)")


def _listed(snapshot: Snapshot, prefix: str) -> Iterator[Listed]:
    rows = snapshot.rows
    steps, event_ms, incomplete = rows.steps.tolist(), rows.event_ms.tolist(), rows.incomplete.tolist()
    size = 4 * rows.state.shape[1]
    for i in sorted(range(len(snapshot.keys)), key=snapshot.keys.__getitem__):
        name = shown(snapshot.keys[i])
        if name.startswith(prefix):
            yield Listed(snapshot.partition, name, steps[i], event_ms[i], size, incomplete[i], snapshot.mark.offset)


def _line(sensor: Listed) -> str:
    incomplete = "yes" if sensor.incomplete else ""
    when, name = as_time(sensor.event_ms), printable(sensor.sensor)
    return f"{sensor.partition:9}  {sensor.steps:12}  {when:24}  {sensor.bytes:8}  {incomplete:10}  {name}"
