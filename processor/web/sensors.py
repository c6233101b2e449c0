"""What is served below /sensors: lists of sensors, one sensor, and its last readings, as JSON.

Responsible for paths, names and statuses. A sensor's name is bytes: in a path it is percent-encoded, in JSON it is text, or 0x and hex
where it is no UTF-8. What is known of a sensor is the book's (processor/app/sensor_book.py).
"""

import contextlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, quote_from_bytes, unquote_to_bytes

import numpy as np
import orjson
from numpy.typing import NDArray

from processor.app.sensor_book import Found, Look, Seat, SensorBook
from processor.app.sensor_form import SATURATED, SensorForm
from processor.codec.encode import shown
from processor.loop.inquiries import BusyError
from processor.loop.recent_readings import READINGS_MAX, Reading

PATH = "/sensors"
LISTED_MAX = 20
RETRY_S, RESTORING_RETRY_S = 1, 5
DOTS = (b".", b"..")  # which a browser takes out of a path, percent-encoded or not


class Reply(NamedTuple):
    status: HTTPStatus
    body: bytes
    retry_s: int | None = None


class Source(Protocol):
    """What the service tells of itself (app.health.Health). book: None until the loop runs."""

    @property
    def start_step(self) -> str | None: ...

    @property
    def trouble(self) -> str | None: ...

    @property
    def book(self) -> SensorBook | None: ...


class _Refused(Exception):
    """Carries the reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class SensorPages:
    def __init__(self, source: Source, instance: str) -> None:
        self._source, self._instance = source, instance

    def reply(self, path: str, query: str) -> Reply | None:
        """path: as it was asked for, beginning with /, not decoded. None for a path that is not below /sensors."""
        if path != PATH and not path.startswith(f"{PATH}/"):
            return None
        try:
            asked, book = parse_qs(query, keep_blank_values=True, errors="surrogateescape"), self._book()
            if path == PATH:
                return _good(self._list(book, asked))
            name, _, rest = path.removeprefix(f"{PATH}/").partition("/")
            if rest not in ("", "readings") or (path.endswith("/") and name):
                raise _no("found a path of several parts", "/sensors/KEY or /sensors/KEY/readings", "write / in a name as %2F")
            partition = _number(asked, "partition")
            if rest:
                return _good(self._readings(book, name, partition, _number(asked, "after")))
            return _good(self._sensor(book, name, partition))
        except _Refused as refused:
            return refused.reply

    def _book(self) -> SensorBook:
        if (trouble := self._source.trouble) is not None:
            raise _later(trouble, RESTORING_RETRY_S)
        book = self._source.book
        if book is None:
            raise _later(f"the service is starting: it is {self._source.start_step}", RESTORING_RETRY_S)
        return book

    def _list(self, book: SensorBook, asked: dict[str, list[str]]) -> dict[str, Any]:
        part = asked["find"][0].encode(errors="surrogateescape") if "find" in asked else None
        found = book.highest(LISTED_MAX) if part is None else book.find(part, LISTED_MAX)
        readings, seconds = book.logged()
        return {
            "by": "name" if part is not None else "residual" if book.form.forecasts else "time",
            "sensors": [_listed(one) for one in found],
            "logged_readings": readings,
            "logged_s": round(seconds, 1),
        }

    def _sensor(self, book: SensorBook, name: str, partition: int | None) -> dict[str, Any]:
        key, look, _ = self._asked(book, name, partition, lambda key: (book.look(key, partition), None))
        seat, form = look.seats[0], book.form
        last = book.last(seat)
        return {
            **self._named(key, look),
            "committed": seat.committed,
            "offset": int(seat.row.applied[0]),
            "timestamp": int(seat.row.event_ms[0]),
            "steps": int(seat.row.steps[0]),
            "incomplete": bool(seat.row.incomplete[0]),
            "slot": seat.slot,
            "parked": seat.slot is None,
            "last": None if last is None else _told(last, form),
            "state": _state(seat, form),
        }

    def _readings(self, book: SensorBook, name: str, partition: int | None, after: int | None) -> dict[str, Any]:
        key, look, readings = self._asked(book, name, partition, lambda key: book.readings(key, partition))
        form = book.form
        if after is not None:
            readings = [reading for reading in readings if reading.offset > after]
        return {
            **self._named(key, look),
            "readings_max": READINGS_MAX,
            "features": form.features,
            "outputs": form.outputs,
            "forecasts": form.forecasts,
            "offset": [int(reading.offset) for reading in readings],
            "timestamp": [int(reading.event_ms) for reading in readings],
            "steps": [int(reading.steps) for reading in readings],
            "residual": [_or_null(reading.residual) for reading in readings],
            "warming_up": [bool(reading.warming) for reading in readings],
            "reading": _own(form.reading.own, [reading.x for reading in readings]),
            "prediction": _without([reading.filling for reading in readings], _own(form.answer.own, [reading.y for reading in readings])),
        }

    def _asked(
        self, book: SensorBook, name: str, partition: int | None, ask: Callable[[bytes], tuple[Look, Any]]
    ) -> tuple[bytes, Look, Any]:
        """The key that goes by this name, and the answer. Raises _Refused if there is none."""
        looks = list[Look]()
        for key in _keys(name):
            try:
                look, more = ask(key)
            except BusyError:
                raise _later("too many questions are waiting for the loop", RETRY_S) from None
            except TimeoutError:
                raise _later("the loop has not come to a commit in time", RETRY_S) from None
            if look.seats:
                return key, look, more
            looks.append(look)
        raise self._missing(book, looks[-1], partition)

    def _missing(self, book: SensorBook, look: Look, partition: int | None) -> _Refused:
        if not look.owned and partition is None:
            return _later("no partition is assigned to this instance", RESTORING_RETRY_S)
        if look.not_live:
            waiting = ", ".join(map(str, look.not_live))
            return _later(f"the state is being restored in partition {waiting}", RESTORING_RETRY_S)
        if partition is not None and not 0 <= partition < book.partitions_total:
            return _no(f"found partition {partition}", f"one from 0 to {book.partitions_total - 1}", "correct the partition")
        if partition in look.owned or len(look.owned) == book.partitions_total:
            return _no("no sensor of this name has a state", "the key of its records, percent-encoded", "look for it: /sensors?find=PART")
        return self._elsewhere(book, look, partition)

    def _elsewhere(self, book: SensorBook, look: Look, partition: int | None) -> _Refused:
        """Only the producer knows which partition a key belongs to; where no partition is named, any other instance may have the sensor."""
        owners = book.owners()
        others = [
            {"instance": owner.instance, "host": owner.host, "partitions": owner.partitions}
            for owner in owners or ()
            if owner.instance != self._instance and (owner.partitions if partition is None else partition in owner.partitions)
        ]
        found = f"partition {partition} is not on this instance" if partition is not None else "no sensor of this name is on this instance"
        return _no(
            found,
            f"a sensor in partition {', '.join(map(str, look.owned))}" if look.owned else "an instance with partitions",
            "ask the instances that are listed" if others else "ask again soon: the group is handing out its partitions",
            instances=others,
        )

    def _named(self, key: bytes, look: Look) -> dict[str, Any]:
        return {
            "sensor": shown(key),
            "path": path_of(key),
            "instance": self._instance,
            "partition": look.seats[0].partition,
            "also_in_partitions": [seat.partition for seat in look.seats[1:]],
        }


def path_of(key: bytes) -> str:
    """Where a sensor is found, relative to the first page."""
    name = f"0x{key.hex()}" if key in DOTS else quote_from_bytes(key, safe="")
    return f"{PATH.removeprefix('/')}/{name}"


def _keys(name: str) -> list[bytes]:
    """The keys that a path can name: its own bytes; of 0x and hex also the bytes that these write."""
    keys = [unquote_to_bytes(name.encode("latin-1"))]  # a request's line is read as Latin-1, whatever bytes it has
    if name.startswith("0x"):
        with contextlib.suppress(ValueError):
            keys.append(bytes.fromhex(name[2:]))
    return keys


def _listed(found: Found) -> dict[str, Any]:
    reading = found.reading
    return {
        "sensor": shown(found.key),
        "path": path_of(found.key),
        "partition": found.partition,
        "residual": _or_null(reading.residual),
        "timestamp": int(reading.event_ms),
        "steps": int(reading.steps),
    }


def _told(reading: Reading, form: SensorForm) -> dict[str, Any]:
    return {
        "offset": int(reading.offset),
        "timestamp": int(reading.event_ms),
        "reading": dict(zip(form.features, _own(form.reading.own, [reading.x])[0], strict=True)),
        "prediction": None if reading.filling else dict(zip(form.outputs, _own(form.answer.own, [reading.y])[0], strict=True)),
        "residual": _or_null(reading.residual),
        "warming_up": bool(reading.warming),
    }


def _state(seat: Seat, form: SensorForm) -> list[dict[str, Any]]:
    row = seat.row.state[0]
    told = []
    for part in form.parts:
        numbers = row[part.begin : part.end]
        told.append(
            {
                "layer": part.layer,
                "type": part.type,
                "state": part.state,
                "width": len(numbers),
                "norm": float(np.linalg.norm(numbers.astype(np.float64))),
                "saturated_ratio": float((np.abs(numbers) > SATURATED).mean()) if part.bounded and len(numbers) else None,
            }
        )
    return told


def _own(units: Callable[[NDArray[np.float32]], NDArray[np.float32]], rows: list[NDArray[np.float32]]) -> list[Any]:
    """In their own units, as the shortest decimals of each float32."""
    if not rows:
        return []
    numbers = np.ascontiguousarray(units(np.stack(rows)))
    return orjson.loads(orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY))  # type: ignore[no-any-return]


def _without(filling: list[Any], rows: list[Any]) -> list[Any]:
    return [None if fills else row for fills, row in zip(filling, rows, strict=True)]


def _or_null(number: np.float32) -> float | None:
    return None if np.isnan(number) else float(str(number))


def _number(asked: dict[str, list[str]], name: str) -> int | None:
    if name not in asked:
        return None
    text = asked[name][0]
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise _Refused(_error(HTTPStatus.BAD_REQUEST, f"found {name}={text[:40]}", "a whole number", f"correct {name}"))
    return int(text)


def _good(told: dict[str, Any]) -> Reply:
    return Reply(HTTPStatus.OK, orjson.dumps(told))


def _no(found: str, expected: str, do: str, **more: Any) -> _Refused:
    return _Refused(_error(HTTPStatus.NOT_FOUND, found, expected, do, **more))


def _later(found: str, retry_s: int) -> _Refused:
    reply = _error(HTTPStatus.SERVICE_UNAVAILABLE, found, "a service that is ready", f"ask again in {retry_s} s")
    return _Refused(reply._replace(retry_s=retry_s))


def _error(status: HTTPStatus, found: str, expected: str, do: str, **more: Any) -> Reply:
    text = {"found": found.encode(errors="replace").decode(), "expected": expected, "to_do": do}
    return Reply(status, orjson.dumps({**text, **more}))
