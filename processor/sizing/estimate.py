"""`slotstream plan`: memory, cores, partitions, disks and network for so many sensors at such a rate.

The sum alone: numbers in, numbers out. What depends on the model and the machine is measured (measure.py) and comes in as Measured;
what only a broker can show was measured on the reference machine (reference_machine.py) or is a constant here. The parts of a total
are all told, and add up to it.
"""

import math

from processor.app.fit import SLOTS_AUTO_BYTES, SLOTS_AUTO_MAX
from processor.settings import Settings
from processor.sizing.plan_parts import Load, Measured, Part, Plan, Range, Wanted, exactly, total
from processor.sizing.reference_machine import reference_machine
from processor.slots.parking import PIECE_ROWS

# Of the loop's time this much is planned with: what is left catches up after an outage.
BUSY_MAX = 0.6
# A partition's rows are copied at once, at a commit boundary: the readings wait so long.
COPY_S_MAX = 0.1
# Partitions for one instance: added ones make every sensor begin anew, so there are enough for four times the instances.
PARTITIONS_EACH = 4
PARTITIONS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
INSTANCES_MAX = 1024

SESSION_S = 30.0  # kafka.clients: session.timeout.ms

# librdkafka: its threads and buffers, and what it fetches ahead (queued.max.messages.kbytes, queued.min.messages).
CLIENT_BYTES = 25e6
FETCHED_BYTES_MAX, FETCHED_RECORDS = 65_536 * 1024, 100_000
RECORD_OVERHEAD_BYTES = 120  # in memory, beside key and value
WIRE_OVERHEAD_BYTES = 20  # in a batch of records, beside key and value
CHECKPOINT_RECORD_BYTES = 34 + 12  # a row's own numbers, and what a batch adds
FILE_ROW_BYTES = 33  # a row in a checkpoint file beside its state and key
SEGMENT_BYTES = 64 << 20
DIRTY_RATIO = 0.3

# Seen by /proc of services with 100,000 and 300,000 sensors on 8 partitions: a restore takes some copies of the rows, and what it took
# is not all given back.
RESTORE_ROWS, RESTORE_BYTES = (2.0, 3.5), 200e6
KEPT_BYTES, KEPT_SHARE = 60e6, 0.4

# CPython 3.11 to 3.13 on 64 bits.
KEY_OBJECT_BYTES, NUMBER_BYTES, PAIR_BYTES, POINTER_BYTES = 33, 32, 64, 8
TABLE_ENTRY_BYTES = 20  # of a dict's table, which is a power of two, two thirds of it usable
ROW_BYTES = 4 * 8 + 1  # of slots.rows.Rows beside the state
SLOT_BYTES = 2 * 8 + 2 * POINTER_BYTES  # generation and turn; the free list and the list of sensors


def plan(wanted: Wanted, measured: Measured, settings: Settings) -> Plan:
    instances = wanted.instances or _instances(wanted, measured, settings)
    partitions = wanted.partitions or _partitions(wanted, measured, instances)
    instances = min(instances, partitions)
    away = max(1, instances - 1)
    owned, owned_away = math.ceil(partitions / instances), math.ceil(partitions / away)
    sensors, sensors_away = _share(wanted.sensors, owned, partitions), _share(wanted.sensors, owned_away, partitions)
    slots, setting = slots_for(settings, measured, sensors_away)
    load = load_of(wanted, measured, settings, wanted.readings_per_s * owned / partitions, sensors)
    load_away = load_of(wanted, measured, settings, wanted.readings_per_s * owned_away / partitions, sensors_away)
    memory = memory_parts(wanted, measured, settings, sensors, slots, owned)
    peaks = peak_parts(measured, settings, sensors, owned)
    most = total(memory_parts(wanted, measured, settings, sensors_away, slots, owned_away)).high
    most += max(part.of.high for part in peak_parts(measured, settings, sensors_away, owned_away))
    return Plan(
        wanted=wanted,
        measured=measured,
        instances=instances,
        partitions=partitions,
        sensors=sensors,
        sensors_one_away=sensors_away,
        slots=slots,
        slots_setting=setting,
        load=load,
        load_one_away=load_away,
        capacity=capacity_of(wanted, measured, settings, sensors),
        memory=memory,
        memory_peaks=peaks,
        limit_bytes=math.ceil(most / 100e6) * 100_000_000,
        cores=Range(load.cores, load_away.cores),
        start=start_parts(wanted, measured, settings, load, sensors),
        copy_s=measured.copy_row_s * wanted.sensors / partitions,
        parked_bytes_on_disk=max(0, sensors_away - slots) * 4 * measured.row_numbers if settings.parking.path is not None else 0,
        checkpoint_store=settings.checkpoint_store,
        checkpoint_bytes=checkpoint_bytes(wanted, measured, settings, partitions),
        network=network_parts(wanted, measured, settings),
    )


# -- cores ------------------------------------------------------------------------------------------------------------------


def load_of(wanted: Wanted, measured: Measured, settings: Settings, readings_per_s: float, sensors: int) -> Load:
    """A turn takes what came since the last one, so its batch is as large as the rate makes it."""
    most = settings.batch.readings_max * wanted.steps
    batch, before = 1.0, 0.0
    while batch > before * (1 + 1e-6):  # it rises to where a turn's readings are those of the turn's time
        seconds = settings.batch.linger + measured.batch(batch)[0] + batch / wanted.steps * _client_s(measured)
        batch, before = min(float(most), max(1.0, readings_per_s * seconds)), batch
    turns = readings_per_s / batch
    seconds, cpu_s = measured.batch(batch)
    records = readings_per_s / wanted.steps
    beside = records * _client_s(measured) + _fixed_busy(measured, settings, readings_per_s, sensors)
    cores = turns * cpu_s + beside + records * reference_machine().client_cpu_s * measured.speed
    return Load(readings_per_s, batch, turns * seconds + beside, cores)


def capacity_of(wanted: Wanted, measured: Measured, settings: Settings, sensors: int) -> float:
    """Readings a second that keep the loop busy all the time, with batches as large as they may be."""
    most = settings.batch.readings_max * wanted.steps
    a_reading = measured.batch(most)[0] / most + _client_s(measured) / wanted.steps
    low, high = 0.0, 1 / a_reading
    for _ in range(60):
        middle = (low + high) / 2
        fits = middle * a_reading + _fixed_busy(measured, settings, middle, sensors) < 1
        low, high = (middle, high) if fits else (low, middle)
    return low


def _client_s(measured: Measured) -> float:
    return reference_machine().record_s * measured.speed


def _fixed_busy(measured: Measured, settings: Settings, readings_per_s: float, sensors: int) -> float:
    """The loop's share for transactions and checkpoints."""
    rows = rows_per_s(settings, readings_per_s, sensors)
    a_row_s = measured.copy_row_s + (reference_machine().publish_s * measured.speed if settings.checkpoint_store == "topic" else 0.0)
    return reference_machine().commit_s * measured.speed / max(settings.commit_interval, 0.02) * min(1.0, readings_per_s) + rows * a_row_s


def rows_per_s(settings: Settings, readings_per_s: float, sensors: int) -> float:
    """Rows that checkpoints write: each sensor that had a reading in the interval once."""
    return min(float(sensors), readings_per_s * settings.checkpoint.interval) / settings.checkpoint.interval


def _instances(wanted: Wanted, measured: Measured, settings: Settings) -> int:
    for instances in range(1, INSTANCES_MAX):
        sensors, rate = math.ceil(wanted.sensors / instances), wanted.readings_per_s / instances
        if rate <= BUSY_MAX * capacity_of(wanted, measured, settings, sensors):
            return instances
    return INSTANCES_MAX


def _partitions(wanted: Wanted, measured: Measured, instances: int) -> int:
    least = max(PARTITIONS_EACH * instances, math.ceil(wanted.sensors * measured.copy_row_s / COPY_S_MAX))
    return next((count for count in PARTITIONS if count >= least), PARTITIONS[-1])


def _share(sensors: int, owned: int, partitions: int) -> int:
    return math.ceil(sensors * owned / partitions)


# -- memory -----------------------------------------------------------------------------------------------------------------


def slots_for(settings: Settings, measured: Measured, sensors: int) -> tuple[int, str]:
    """S as it will be, and what to set: as many slots as sensors, since a row takes as much memory parked as in a slot."""
    if settings.slots != "auto":
        return int(settings.slots), str(settings.slots)
    auto = max(1, min(SLOTS_AUTO_MAX, SLOTS_AUTO_BYTES // max(1, 4 * measured.row_numbers)))
    if sensors <= auto or settings.parking.path is not None:
        return auto, "auto"
    slots = math.ceil(sensors / 1000) * 1000
    return slots, str(slots)


def memory_parts(wanted: Wanted, measured: Measured, settings: Settings, sensors: int, slots: int, partitions: int) -> tuple[Part, ...]:
    """What stays resident. sensors and partitions are the instance's."""
    row, seated = 4 * measured.row_numbers + ROW_BYTES, min(slots, sensors)
    parked = math.ceil((sensors - seated) / PIECE_ROWS) * PIECE_ROWS
    on_disk = settings.parking.path is not None
    parked_bytes = parked * ((ROW_BYTES if on_disk else row) + NUMBER_BYTES + POINTER_BYTES)
    record = measured.value_bytes + wanted.key_bytes + RECORD_OVERHEAD_BYTES
    fetched = min(FETCHED_BYTES_MAX * 1.5, FETCHED_RECORDS * partitions * record)
    rate = wanted.readings_per_s
    changed = min(sensors, rate * settings.commit_interval)
    a_transaction = changed * (row + PAIR_BYTES + KEY_OBJECT_BYTES + wanted.key_bytes)
    outputs = rate / wanted.steps * settings.commit_interval * (measured.output_bytes + wanted.key_bytes + RECORD_OVERHEAD_BYTES)
    a_batch = settings.batch.readings_max * (record + 600 + wanted.steps * (measured.features + measured.outputs) * 12)
    index = sensors * (_block(KEY_OBJECT_BYTES + wanted.key_bytes) + NUMBER_BYTES) + partitions * _table_bytes(sensors // partitions)
    return (
        Part("Python, TensorFlow, the compiled model", Range(measured.base_bytes, measured.base_bytes * 1.05), "measured"),
        Part("Kafka's clients and what they fetch ahead", Range(CLIENT_BYTES, 2 * CLIENT_BYTES + fetched), "constant"),
        Part("rows in slots", exactly(seated * (row + PAIR_BYTES) + slots * (SLOT_BYTES + NUMBER_BYTES)), "computed"),
        Part("parked rows" + (" without their states" if on_disk else ""), exactly(parked_bytes), "computed"),
        Part("names of sensors", Range(index, index * 1.2), "computed"),
        Part(
            "what the allocator keeps after a restore",
            Range(0, KEPT_BYTES + KEPT_SHARE * (seated * row + parked_bytes + index)),
            "constant",
        ),
        Part(
            "a batch and an open transaction",
            Range((a_transaction + outputs) / 2 + a_batch / 4, 2 * (a_transaction + outputs) + a_batch),
            "computed",
        ),
    )


def peak_parts(measured: Measured, settings: Settings, sensors: int, partitions: int) -> tuple[Part, ...]:
    """What is taken for a moment on top; never two of them at once."""
    row = 4 * measured.row_numbers + ROW_BYTES + POINTER_BYTES
    rows, one = sensors * row, sensors * row / partitions
    beside = one * 3 if settings.checkpoint_store == "directory" else 8e6
    return (
        Part("copies for the last checkpoints, at a stop", Range(one + beside, rows + beside), "computed"),
        Part("a restore", Range(RESTORE_ROWS[0] * rows + RESTORE_BYTES / 2, RESTORE_ROWS[1] * rows + RESTORE_BYTES), "constant"),
    )


def _table_bytes(entries: int) -> int:
    """Of a dict that grew to so many."""
    size = 8
    while size * 2 // 3 < entries:
        size *= 2
    return size * TABLE_ENTRY_BYTES


def _block(size: int) -> int:
    """As Python's allocator rounds it."""
    return -(-size // 16) * 16


# -- start, checkpoints, network ------------------------------------------------------------------------------------------------


def start_parts(wanted: Wanted, measured: Measured, settings: Settings, load: Load, sensors: int) -> tuple[Part, ...]:
    """From the start of the process until it is ready, after a kill."""
    rows_s = sensors / reference_machine().restored_rows_per_s[settings.checkpoint_store] * measured.speed
    to_replay = load.readings_per_s * settings.checkpoint.interval
    largest = measured.batches[-1]
    a_reading = (largest.decode_s + largest.apply_s) / largest.readings + reference_machine().consume_s * measured.speed
    catching_up = (measured.start_s + rows_s) * load.readings_per_s / max(1.0, capacity_of(wanted, measured, settings, sensors))
    return (
        Part("import, load and compile", Range(measured.start_s, measured.start_s * 1.5), "measured"),
        Part("read the checkpoints", Range(rows_s, rows_s * 3), "constant"),
        Part("replay what came after them", Range(to_replay / 2 * a_reading, to_replay * a_reading * 1.5), "measured"),
        Part("catch up with what came meanwhile", Range(catching_up, catching_up * 2), "measured"),
    )


def checkpoint_bytes(wanted: Wanted, measured: Measured, settings: Settings, partitions: int) -> Range:
    """Of all instances: the topic with its replicas, or the folder."""
    state = 4 * measured.row_numbers + wanted.key_bytes
    if settings.checkpoint_store == "topic":
        live = wanted.sensors * (state + CHECKPOINT_RECORD_BYTES)
        # What is not compacted yet: up to the dirty ratio, and one segment that is written to.
        return Range(live, live / (1 - DIRTY_RATIO) + partitions * 2 * min(SEGMENT_BYTES, live)).times(wanted.replication)
    whole = wanted.sensors * (state + FILE_ROW_BYTES)
    # A chain holds at most two whole ones; one more is being written.
    return Range(whole * settings.checkpoint.keep, whole * (2 * settings.checkpoint.keep + 2))


def network_parts(wanted: Wanted, measured: Measured, settings: Settings) -> tuple[Part, ...]:
    """Bytes a second of all instances, uncompressed, without replication."""
    records = wanted.readings_per_s / wanted.steps
    rows = rows_per_s(settings, wanted.readings_per_s, wanted.sensors)
    beside = wanted.key_bytes + WIRE_OVERHEAD_BYTES
    row = 4 * measured.row_numbers + CHECKPOINT_RECORD_BYTES + wanted.key_bytes
    return (
        Part("readings", exactly(records * (measured.value_bytes + beside)), "computed"),
        Part("predictions", exactly(records * (measured.output_bytes + beside)), "computed"),
        Part("checkpoints" if settings.checkpoint_store == "topic" else "checkpoints, to the folder", exactly(rows * row), "computed"),
    )
