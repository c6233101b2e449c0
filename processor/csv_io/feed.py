"""`slotstream feed`: the rows of a CSV onto the input topic, as records in the settings' format.

Responsible for the order, the pace and the count of what is sent, and for saying where to go on. A row that is no reading is
named and left out: it would be a dead letter, and a column with gaps should not end a replay. A value that may be missing (input.missing)
is sent as none.

A JSON record's own time is when it was sent, and the reading's stands in it: a topic keeps records by their own time, and
would delete last year's readings as soon as they are there. A float32 record has no other time than its own, nor has any record where
input.timestamp is null.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import KafkaException

from processor.app.forms import missing_policies
from processor.codec.record_form import key_header, unit_header
from processor.csv_io.csv_file import CsvFile, Form
from processor.csv_io.csv_rows import Reading, Readings, Wanted, value_as, with_missing
from processor.csv_io.progress_bar import Shown
from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.clients import feed_producer
from processor.kafka.topics import describe_input
from processor.settings import Settings
from processor.words import counted

NAMED_MAX = 20  # rows left out that are named each; further ones are counted
POLL_S = 0.1
FLUSH_S = 10.0


def feed(settings: Settings, path: Path, form: Form, wanted: Wanted, pace: "Pace", *, from_line: int = 1) -> "Fed":
    """Sends a file. Raises ConfigurationError for a file or topic that will not do, SlotstreamError if a reading is not delivered."""
    if pace.needs_timestamps and wanted.timestamp is None:
        raise ConfigurationError("--speed without --timestamp", expected="the column that tells the time", do="name it, or use --rate")
    with CsvFile(path, form) as file:
        readings = Readings(file, with_missing(wanted, settings.input.missing_values), settings.input.features)
        if settings.input.features is not None:
            readings.expect(len(settings.input.features), "input.features names")
        readings.expect_numbers()
        readings.may_miss([policy != "dead_letter" for policy in missing_policies(settings, len(readings.names))])
        topic = describe_input(settings)
        producer = feed_producer(settings, record_bytes_max=topic.bytes_max)
        with Shown("sent", file.bytes_total, bar=True, lines=True) as shown:
            shown.tell(readings.described)
            feed = Feed(settings, producer, tell=shown.tell)
            return feed.run(readings, pace, from_line=from_line, at=lambda sent: shown.at(file.bytes_read, sent))


class Producer(Protocol):
    """The part of confluent_kafka.Producer that is used here."""

    def produce(self, topic: str, **record: Any) -> None: ...
    def poll(self, timeout: float) -> int: ...
    def flush(self, timeout: float) -> int: ...


class Pace:
    """When a reading is due, in seconds from the first one. Neither rate nor speed: at once.

    rate   readings a second
    speed  times as fast as the readings' own timestamps; one that lies before an earlier one is due at once
    """

    def __init__(self, *, rate: float | None = None, speed: float | None = None) -> None:
        self._rate, self._speed = rate, speed
        self._first_ms: int | None = None
        self._due = 0

    @property
    def needs_timestamps(self) -> bool:
        return self._speed is not None

    def due_s(self, reading: Reading) -> float:
        if self._rate is not None:
            self._due += 1
            return (self._due - 1) / self._rate
        if self._speed is not None and isinstance(reading.timestamp, int):
            if self._first_ms is None:
                self._first_ms = reading.timestamp
            return (reading.timestamp - self._first_ms) / 1000 / self._speed
        return 0.0


@dataclass(slots=True)
class Fed:
    """What became of the file: readings delivered, rows left out, whether Ctrl-C ended it, and the line to go on from."""

    delivered: int = 0
    left_out: int = 0
    sensors: set[str] = field(default_factory=set)
    interrupted: bool = False
    next_line: int = 1

    def __str__(self) -> str:
        said = f"{counted(self.delivered, 'reading')} of {counted(len(self.sensors), 'sensor')} delivered"
        return f"{said}, {counted(self.left_out, 'row')} left out" if self.left_out else said


class Feed:
    """Sends readings. The clock is an argument: now_s tells it, wait passes time."""

    def __init__(
        self,
        settings: Settings,
        producer: Producer,
        *,
        tell: Callable[[str], None],
        now_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        if settings.input.format not in ("json", "float32"):
            raise ConfigurationError(
                f"input.format is {settings.input.format}",
                expected="json or float32: feed writes no records of a schema",
                do="feed a topic of its own with --input.format=json, or use a producer of that format",
            )
        self._topic, self._source = settings.input.topic, settings.input
        self._value = value_as(settings.input)
        self._time_inside = settings.input.format == "json" and settings.input.timestamp is not None
        self._producer, self._tell, self._now_s = producer, tell, now_s
        self._wait = wait or producer.poll  # deliveries are answered while it waits
        self._pending: dict[int, None] = {}  # lines sent and not answered yet, in file order
        self._failed: tuple[int, str] | None = None
        self._fed = Fed()

    def run(self, readings: Iterable[Reading], pace: Pace, *, from_line: int = 1, at: Callable[[int], None] = lambda _: None) -> Fed:
        """Sends the readings from this line of the file on, until they end or Ctrl-C. Raises SlotstreamError if one is not delivered.

        at: called now and then with the number of readings sent.
        """
        sent, go_on = 0, from_line
        begun_s: float | None = None
        try:
            for reading in readings:
                if reading.line < from_line:
                    continue
                if reading.problem is not None or reading.sensor is None:
                    self._leave_out(reading)
                else:
                    begun_s = self._now_s() if begun_s is None else begun_s
                    self._wait_until(begun_s + pace.due_s(reading))
                    self._send(reading, reading.sensor)
                    sent += 1
                    at(sent)
                if self._failed:
                    break
                go_on = reading.line + 1
            self._flush()
        except KeyboardInterrupt:
            self._fed.interrupted = True
            self._flush()
        self._fed.next_line = next(iter(self._pending), go_on)
        if self._failed or (self._pending and not self._fed.interrupted):
            raise self._not_delivered()
        return self._fed

    def _leave_out(self, reading: Reading) -> None:
        self._fed.left_out += 1
        if self._fed.left_out <= NAMED_MAX:
            self._tell(f"line {reading.line} is left out: {reading.problem}")
        elif self._fed.left_out == NAMED_MAX + 1:
            self._tell("further lines that are left out are counted only")

    def _wait_until(self, due_s: float) -> None:
        while not self._failed and (left_s := due_s - self._now_s()) > 0:
            self._wait(min(left_s, POLL_S))

    def _send(self, reading: Reading, sensor: str) -> None:
        source = self._source
        headers = key_header(source.key, sensor.encode())
        record: dict[str, Any] = {"key": sensor.encode(), "value": self._value(reading)}
        if not self._time_inside and isinstance(reading.timestamp, int):
            record["timestamp"] = reading.timestamp
        elif reading.timestamp is not None:
            # A history may be older than any timestamp is taken for without the sender's word on its unit.
            headers.append(unit_header(source.timestamp_unit))
        if headers:
            record["headers"] = headers
        self._pending[reading.line] = None
        while not self._failed:
            try:
                self._producer.produce(self._topic, on_delivery=partial(self._answered, reading.line, sensor), **record)
                break
            except BufferError:  # the client's queue is full
                self._producer.poll(POLL_S)
            except KafkaException as error:
                self._failed = (reading.line, error.args[0].str())
        self._producer.poll(0)

    def _answered(self, line: int, sensor: str, error: Any, _message: object) -> None:
        if error is None:
            self._pending.pop(line, None)
            self._fed.delivered += 1
            self._fed.sensors.add(sensor)
        elif self._failed is None:
            self._failed = (line, error.str())

    def _flush(self) -> None:
        """Until everything is answered; after a failure or Ctrl-C not for ever."""
        until_s = time.monotonic() + FLUSH_S
        bounded = self._failed is not None or self._fed.interrupted
        while self._producer.flush(POLL_S) and not (bounded and time.monotonic() > until_s):
            bounded = bounded or self._failed is not None

    def _not_delivered(self) -> SlotstreamError:
        line, reason = self._failed or (next(iter(self._pending)), "the broker did not answer in time")
        return SlotstreamError(
            f"the reading of line {line} was not delivered ({reason}); {self._fed}",
            expected=f"the topic {self._topic} to take every reading",
            do=f"fix what the broker names, then go on with --from-line {self._fed.next_line}",
        )
