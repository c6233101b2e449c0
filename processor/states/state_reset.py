"""`slotstream state reset`: sensors made to begin anew while the service runs, by null records in the input.

A null record stands in order among a sensor's readings and is there again at a replay, so the reset is part of what the predictions are a
function of; a change of a checkpoint would be neither. Responsible for finding the partitions and for sending; asks nobody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaException

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.clients import feed_producer
from processor.kafka.topics import describe_input
from processor.settings import Settings
from processor.states.display import age_said, keys_of, printable
from processor.states.newest import checkpoints
from processor.states.state_show import no_row

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Reset:
    """A null record that is to be sent. sensor: as it was named."""

    sensor: str
    key: bytes
    partition: int

    def __str__(self) -> str:
        return f"{printable(self.sensor)} in partition {self.partition}"


def find(settings: Settings, sensors: Sequence[str], *, partition: int | None, tell: Callable[[str], None]) -> list[Reset]:
    """Where these sensors are to be reset: where they have a row, or in the partition that is named. Raises SlotstreamError.

    A sensor without a row is refused: which partition its sender chooses is the sender's to know.
    """
    sensors = list(dict.fromkeys(sensors))
    topic = describe_input(settings)
    if partition is not None and partition >= topic.partitions:
        raise ConfigurationError(
            f"there is no partition {partition} in {topic.name}", expected=f"one of 0 to {topic.partitions - 1}", do="correct --partition"
        )
    names = {sensor: keys_of(sensor) for sensor in sensors}
    if partition is not None and all(len(keys) == 1 for keys in names.values()):
        return [Reset(sensor, keys[0], partition) for sensor, keys in names.items()]
    tell(age_said(settings))
    rows = [Reset(sensor, key, number) for number, sensor, key in _rows(settings, names) if partition in (None, number)]
    found = {reset.sensor: {other.key for other in rows if other.sensor == reset.sensor} for reset in rows}
    if double := [sensor for sensor, keys in found.items() if len(keys) > 1]:
        raise SlotstreamError(
            f"two sensors are shown as {double[0]}: one has this text for a key, one these bytes",
            expected="a name that one sensor has",
            do="send the null record with a client of your own",
        )
    if without := [sensor for sensor in sensors if sensor not in found]:
        error = no_row(settings, without, partition)
        raise SlotstreamError(
            error.found, expected=error.expected, do=f"{error.do}; or name the partition that its sender puts it in (--partition)"
        )
    return sorted(rows, key=lambda reset: (sensors.index(reset.sensor), reset.partition))


def _rows(settings: Settings, names: dict[str, list[bytes]]) -> list[tuple[int, str, bytes]]:
    """Partition, sensor and key of each row that goes by one of the names."""
    found = []
    for seen in checkpoints(settings):
        there = set(seen.snapshot.keys)
        found += [(seen.snapshot.partition, sensor, key) for sensor, keys in names.items() for key in keys if key in there]
    return found


def send(settings: Settings, resets: Sequence[Reset]) -> list[str]:
    """Sends the null records and waits until the broker has them; returns what was sent where, a line each.

    Raises SlotstreamError if one was not taken, and names those that were.
    """
    producer = feed_producer(settings, record_bytes_max=describe_input(settings).bytes_max)
    sent, failed = dict[Reset, str](), dict[Reset, str]()

    def answered(reset: Reset, error: Any, message: Any) -> None:
        if error is None:
            sent[reset] = f"{reset}: null record at offset {message.offset()}"
        else:
            failed[reset] = str(error.str())

    for reset in resets:
        while reset not in failed:
            try:
                producer.produce(settings.input.topic, key=reset.key, partition=reset.partition, on_delivery=partial(answered, reset))
                break
            except BufferError:  # the client's queue is full
                producer.poll(POLL_S)
            except KafkaException as error:
                failed[reset] = str(error.args[0].str())
    while producer.flush(POLL_S):  # ends by itself: the client gives a record up after a while
        pass
    if failed:
        reset, reason = next(iter(failed.items()))
        raise SlotstreamError(
            f"{reset} was not reset ({reason}); sent: {'; '.join(sent.values()) or 'none'}",
            expected=f"the topic {settings.input.topic} to take every null record",
            do="fix what the broker names, and reset those that were not",
        )
    return [sent[reset] for reset in resets]
