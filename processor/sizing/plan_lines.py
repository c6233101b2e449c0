"""A plan as `slotstream plan` prints it: line by line what it takes, each with where the figure comes from."""

import math
from collections.abc import Iterator
from typing import Any

from processor.sizing.estimate import BUSY_MAX, SESSION_S
from processor.sizing.plan_parts import Part, Plan, Range


def lines(found: Plan) -> Iterator[str]:
    wanted, measured = found.wanted, found.measured
    state = f"{4 * measured.row_numbers:,} bytes of state a sensor"
    yield f"{'model':14}{measured.mode}, {measured.features} features, {measured.outputs} outputs, {state}"
    yield f"{'instances':14}{found.instances}, each with {found.sensors:,} sensors, {found.load.readings_per_s:,.0f} readings/s"
    yield f"{'':14}one does {found.capacity:,.0f} readings/s at most on this machine; planned with {BUSY_MAX:.0%} of it"
    if found.instances > 1:
        yield f"{'':14}with one away: {found.sensors_one_away:,} sensors each, the loop {found.load_one_away.busy:.0%} busy"
    copies = f"a checkpoint's copy holds the loop up for {_seconds(found.copy_s)}"
    yield f"{'partitions':14}{found.partitions}: room for as many instances; {copies}"
    yield f"{'slots':14}{found.slots_setting}" + (f" ({found.slots:,})" if found.slots_setting == "auto" else "")
    yield ""
    yield from _table("memory", found.memory, _bytes)
    yield from _total("in all", found.memory_steady, _bytes)
    yield from _table("for a moment", found.memory_peaks, _bytes)
    yield from _total("most", found.memory_peak, _bytes)
    yield f"{'':14}{'set the limit to':44}{_bytes(found.limit_bytes):>20}" + ("  with one instance away" if found.instances > 1 else "")
    yield ""
    turns = f"{found.load.batch_readings:,.0f} readings; larger ones cost less each"
    yield f"{'cores':14}{_range(found.cores, lambda v: f'{v:.1f}')}  the loop {found.load.busy:.0%} busy by turns of {turns}"
    yield f"{'':14}set {max(1, math.ceil(found.cores.high + 0.5))} or more: while it catches up one is all the loop's"
    yield ""
    yield from _table("start", found.start, _seconds)
    yield from _total("until ready", found.start_total, _seconds)
    if (slow_s := found.start[0].of.high) > SESSION_S:
        yield f"{'':14}the group waits {SESSION_S:.0f} s for a restart: raise session.timeout.ms under kafka above {_seconds(slow_s)}"
    yield ""
    where = f"topic, {wanted.replication} replicas" if found.checkpoint_store == "topic" else "folder"
    yield f"{'checkpoints':14}{where:44}{_range(found.checkpoint_bytes, _bytes):>20}  all instances"
    if found.parked_bytes_on_disk:
        yield f"{'parked':14}{'folder of an instance':44}{_bytes(found.parked_bytes_on_disk):>20}"
    yield from _table("network", found.network, lambda value: f"{_bytes(value)}/s")
    day = sum(part.of.high for part in found.network[:2]) * 86_400
    yield f"{'':14}{'readings and predictions, a day of retention':44}{_bytes(day):>20}  before replication and compression"
    if measured.busy:
        yield ""
        yield "This machine was busy with other work: what is measured is slower than it would be. Run it again when it is idle."


def _table(title: str, parts: tuple[Part, ...], write: Any) -> Iterator[str]:
    for part in parts:
        yield f"{title:14}{part.name:44}{_range(part.of, write):>20}  {part.source}"
        title = ""


def _total(name: str, of: Range, write: Any) -> Iterator[str]:
    yield f"{'':14}{name:44}{_range(of, write):>20}"


def _range(of: Range, write: Any) -> str:
    low, high = write(of.low), write(of.high)
    return high if low == high else f"{low} to {high}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} bytes"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 0.95 else f"{value * 1000:.0f} ms"
