"""GET /sensors: one sensor by its name, whatever bytes it has; lists; and what is said where the answer is not here."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from simulation import EXPIRE_MS
from stepper import Decay

from processor.app.sensor_book import SensorBook
from processor.app.sensor_form import LayerPart, SensorForm, Units
from processor.engine import Engine, Shapes
from processor.kafka.group import Owner
from processor.loop.inquiries import WAITING_MAX, Inquiries
from processor.loop.recent_readings import RecentReadings
from processor.metrics import Metrics
from processor.partitions import Partition, Partitions, Position, State
from processor.records import Batch
from processor.rules import Rules
from processor.settings import Scale
from processor.web.sensors import SensorPages, path_of
from processor.web.server import Address, serve

NOW_MS, SLOTS, TOTAL = 1_700_000_000_000, 2, 4
FORM = SensorForm(
    features=("pressure",),
    outputs=("forecast pressure",),
    reading=Units([(Scale((10.0,), (2.0,)), 1)]),
    answer=Units([(None, 1)]),
    forecasts=((0, 0),),
    countable=frozenset({0}),
    parts=(LayerPart("lstm", "LSTM", "h", 0, 1, True), LayerPart("lstm", "LSTM", "c", 1, 2, False)),
    window=None,
)


class Instance:
    """One instance's engine and partitions, a thread in the loop's place, and what the probes tell."""

    def __init__(self) -> None:
        self.start_step: str | None = None
        self.trouble: str | None = None
        others = [Owner("two", "10.0.0.2", (2,)), Owner("three", "10.0.0.3", (3,))]
        self.owners: list[Owner] | None = [Owner("one", "10.0.0.1", (0, 1)), *others]
        self.partitions, self.inquiries = Partitions(), Inquiries()
        self.recent = RecentReadings(unix_s=lambda: NOW_MS / 1000)
        self.engine = Engine(Decay(), Shapes(1, 1, 1, residual=(0,), forecasts=(0,)), Rules(expire_ms=EXPIRE_MS), slots=SLOTS)
        self.book: SensorBook | None = SensorBook(
            FORM,
            self.partitions,
            self.engine,
            self.inquiries,
            self.recent,
            partitions_total=TOTAL,
            timeout_s=30.0,
            ask_owners=lambda: self.owners,
            unix_s=lambda: NOW_MS / 1000,
        )
        for number in (0, 1):
            self.partitions[number] = Partition(number, 0.0, state=State.LIVE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)

    def _turn(self) -> None:
        while not self._over.wait(0.001):
            self.inquiries.answer()

    def __enter__(self) -> "Instance":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def feed(self, key: bytes, *values: float, partition: int = 0, at_ms: int = NOW_MS) -> None:
        """Before the thread starts."""
        n, first = len(values), self.partitions[partition].applied.offset
        offsets, times, none = np.arange(first, first + n), np.full(n, at_ms), np.zeros(n, np.bool_)
        x = np.array(values, np.float32)[:, None]
        batch = Batch([partition] * n, [key] * n, offsets, times, times, np.ones(n, np.int64), none, none.copy(), x, time_ms=times)
        applied = self.engine.apply(batch)
        self.recent.applied(batch, applied)
        self.engine.commit()
        self.recent.commit()
        self.partitions[partition].apply(Position(first + n, at_ms))
        self.partitions[partition].commit()


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def address(instance: Instance) -> Iterator[Address]:
    with serve("127.0.0.1", 0, Metrics(), _Probes(), sensors=SensorPages(instance, "one")) as address:
        yield address


class _Probes:
    def alive(self) -> tuple[bool, str]:
        return True, "alive"

    ready = alive


def ask(address: Address, path: str, method: str = "GET") -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else None, dict(response.headers)
    finally:
        connection.close()


def test_a_sensor_is_told_as_of_the_last_commit(instance: Instance, address: Address) -> None:
    instance.feed(b"pump-1", 1.0, 2.0, 4.0)
    with instance:
        status, told, headers = ask(address, "/sensors/pump-1")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert told.pop("state")[0] == {"layer": "lstm", "type": "LSTM", "state": "h", "width": 1, "norm": 5.25, "saturated_ratio": 1.0}
    assert told.pop("last") == {
        "offset": 2,
        "timestamp": NOW_MS,
        "reading": {"pressure": 18.0},  # in its own unit: 4 * 2 + 10
        "prediction": {"forecast pressure": 5.25},
        "residual": 1.5,  # in the model's scale: the prediction before was 2.5
        "warming_up": False,
    }
    assert told == {
        "sensor": "pump-1",
        "path": "sensors/pump-1",
        "instance": "one",
        "partition": 0,
        "also_in_partitions": [],
        "committed": 3,
        "offset": 2,
        "timestamp": NOW_MS,
        "steps": 3,
        "incomplete": False,
        "slot": 0,
        "parked": False,
    }


def test_a_parked_sensor_is_told_as_such(instance: Instance, address: Address) -> None:
    for name in (b"a", b"b", b"c"):
        instance.feed(name, 1.0)
    with instance:
        told = {name: ask(address, f"/sensors/{name}")[1] for name in "abc"}
    assert sorted(one["parked"] for one in told.values()) == [False, False, True]
    assert [one["slot"] for one in told.values() if one["parked"]] == [None]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"pump/1", "/sensors/pump%2F1"),
        ("Pumpe Süd".encode(), "/sensors/Pumpe%20S%C3%BCd"),
        (b"\xff\x00\xfe", "/sensors/%FF%00%FE"),
        (b"\xff\x00\xfe", "/sensors/0xff00fe"),
        (b"", "/sensors/"),
        (b"..", "/sensors/0x2e2e"),
        (b"readings", "/sensors/readings"),
        (b"0x41", "/sensors/0x41"),
        (b"a?b#c%", "/sensors/a%3Fb%23c%25"),
        (b"\x80" * 1024, "/sensors/" + "%80" * 1024),
    ],
    ids=["slash", "text", "no UTF-8", "hex", "empty", "dots", "readings", "looks like hex", "of a URL", "the longest"],
)
def test_a_name_is_bytes(instance: Instance, address: Address, key: bytes, path: str) -> None:
    instance.feed(b"A", 7.0)
    instance.feed(key, 1.0)
    with instance:
        status, told, _ = ask(address, path)
        assert (status, told["last"]["prediction"]) == (200, {"forecast pressure": 1.0})
        assert told["sensor"] == (key.decode() if key.isascii() or key.startswith(b"Pumpe") else "0x" + key.hex())
        assert told["path"] == path_of(key)
        assert ask(address, f"/{told['path']}")[1] == told
        assert ask(address, f"{path}/readings")[1]["steps"] == [1]


def test_a_name_longer_than_any_request_is_refused(address: Address) -> None:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    connection.request("GET", "/sensors/" + "%80" * 10_000)
    assert connection.getresponse().status == 431


def test_bytes_that_a_client_sends_without_encoding_them_are_the_name(instance: Instance, address: Address) -> None:
    instance.feed("Süd".encode(), 1.0)
    import socket

    with instance, socket.create_connection((address.host, address.port), timeout=60) as client:
        client.sendall("GET /sensors/Süd HTTP/1.0\r\n\r\n".encode())
        assert b"200 OK" in client.makefile("rb").readline()


def test_the_last_readings_stand_beside_their_predictions(instance: Instance, address: Address) -> None:
    instance.feed(b"pump-1", 1.0, 2.0)
    instance.feed(b"other", 9.0)
    instance.feed(b"pump-1", 4.0, at_ms=NOW_MS + 5)
    with instance:
        status, told, _ = ask(address, "/sensors/pump-1/readings")
        assert (status, told["features"], told["outputs"], told["forecasts"]) == (200, ["pressure"], ["forecast pressure"], [[0, 0]])
        assert told["offset"] == [0, 1, 3]
        assert told["timestamp"] == [NOW_MS, NOW_MS, NOW_MS + 5]
        assert told["reading"] == [[12.0], [14.0], [18.0]]
        assert told["prediction"] == [[1.0], [2.5], [5.25]]
        assert told["residual"] == [None, 1.0, 1.5]
        assert ask(address, "/sensors/pump-1/readings?after=1")[1]["offset"] == [3]
        assert ask(address, "/sensors/pump-1/readings?after=3")[1]["reading"] == []


def test_a_prediction_of_a_window_that_is_not_full_is_null(instance: Instance, address: Address) -> None:
    instance.feed(b"pump-1", 1.0, 2.0)
    (piece,) = instance.recent.logged()
    piece.filling[0] = True
    with instance:
        assert ask(address, "/sensors/pump-1/readings")[1]["prediction"] == [None, [2.5]]


def test_a_sensor_in_several_partitions_is_told_by_its_newest_event(instance: Instance, address: Address) -> None:
    instance.feed(b"split", 1.0, partition=0)
    instance.feed(b"split", 2.0, partition=1, at_ms=NOW_MS + 1)
    with instance:
        told = ask(address, "/sensors/split")[1]
        assert (told["partition"], told["also_in_partitions"]) == (1, [0])
        assert ask(address, "/sensors/split?partition=0")[1]["partition"] == 0
        assert ask(address, "/sensors/split/readings?partition=0")[1]["reading"] == [[12.0]]


def test_a_sensor_that_is_not_here_may_be_with_the_instances_that_are_named(instance: Instance, address: Address) -> None:
    with instance:
        status, told, _ = ask(address, "/sensors/nobody")
        assert (status, told["found"]) == (404, "no sensor of this name is on this instance")
        assert told["instances"] == [
            {"instance": "two", "host": "10.0.0.2", "partitions": [2]},
            {"instance": "three", "host": "10.0.0.3", "partitions": [3]},
        ]
        status, told, _ = ask(address, "/sensors/nobody?partition=3")
        assert (status, [owner["instance"] for owner in told["instances"]]) == (404, ["three"])
        assert "instances" not in ask(address, "/sensors/nobody?partition=1")[1]
        assert ask(address, "/sensors/nobody?partition=4")[1]["expected"] == "one from 0 to 3"


def test_a_group_that_does_not_say_who_owns_what_is_told_as_such(instance: Instance, address: Address) -> None:
    instance.owners = None
    with instance:
        status, told, _ = ask(address, "/sensors/nobody")
    assert (status, told["instances"], told["to_do"]) == (404, [], "ask again soon: the group is handing out its partitions")


def test_an_instance_with_all_partitions_says_that_there_is_no_such_sensor(instance: Instance, address: Address) -> None:
    for number in (2, 3):
        instance.partitions[number] = Partition(number, 0.0, state=State.LIVE)
    with instance:
        status, told, _ = ask(address, "/sensors/nobody")
    assert (status, told["found"]) == (404, "no sensor of this name has a state")


def test_a_sensor_that_was_reset_has_no_state(instance: Instance, address: Address) -> None:
    instance.feed(b"pump-1", 1.0)
    instance.engine.table.forget([(0, b"pump-1")])
    with instance:
        assert ask(address, "/sensors/pump-1?partition=0")[0] == 404


def test_while_its_state_is_restored_a_sensor_is_to_be_asked_for_later(instance: Instance, address: Address) -> None:
    instance.feed(b"pump-1", 1.0)
    instance.partitions[1] = Partition(1, 0.0, state=State.RESTORING)
    with instance:
        assert ask(address, "/sensors/pump-1")[0] == 200  # its partition is live
        status, told, headers = ask(address, "/sensors/other")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert told["found"] == "the state is being restored in partition 1"
        assert ask(address, "/sensors/other?partition=1")[0] == 503
        assert ask(address, "/sensors/other?partition=0")[0] == 404


def test_a_service_that_starts_waits_or_does_not_come_to_a_commit_is_to_be_asked_later(instance: Instance, address: Address) -> None:
    book, instance.book, instance.start_step = instance.book, None, "compiling the model"
    status, told, headers = ask(address, "/sensors/pump-1")
    assert (status, told["found"], headers["Retry-After"]) == (503, "the service is starting: it is compiling the model", "5")
    instance.book, instance.trouble = book, "the topic readings does not exist"
    assert ask(address, "/sensors")[:2][1]["found"] == "the topic readings does not exist"
    instance.trouble = None
    instance.partitions.clear()
    with instance:
        assert ask(address, "/sensors/pump-1")[1]["found"] == "no partition is assigned to this instance"
    book._timeout_s = 0.01
    status, told, headers = ask(address, "/sensors/pump-1")  # the loop's thread is over
    assert (status, told["found"], headers["Retry-After"]) == (503, "the loop has not come to a commit in time", "1")
    instance.inquiries._queue.extend([(lambda: None, None)] * WAITING_MAX)
    assert ask(address, "/sensors/pump-1")[1]["found"] == "too many questions are waiting for the loop"


def test_sensors_are_listed_by_their_highest_residual(instance: Instance, address: Address) -> None:
    instance.feed(b"calm", 1.0, 1.0)
    instance.feed(b"wild", 1.0, 50.0, 2.0)
    instance.feed(b"new", 1.0)
    with instance:
        told = ask(address, "/sensors")[1]
    assert told["by"] == "residual"
    assert [(one["sensor"], one["residual"]) for one in told["sensors"]] == [("wild", 49.0), ("calm", 0.0)]
    assert told["sensors"][0]["path"] == "sensors/wild"
    assert told["logged_readings"] == 6


def test_sensors_are_found_by_a_part_of_their_name(instance: Instance, address: Address) -> None:
    for name in (b"pump-1", b"pump-2", "Süd".encode(), b"\xff\xfe"):
        instance.feed(name, 1.0)
    with instance:
        assert sorted(one["sensor"] for one in ask(address, "/sensors?find=pump")[1]["sensors"]) == ["pump-1", "pump-2"]
        assert [one["sensor"] for one in ask(address, "/sensors?find=S%C3%BC")[1]["sensors"]] == ["Süd"]
        assert [one["sensor"] for one in ask(address, "/sensors?find=%FF")[1]["sensors"]] == ["0xfffe"]
        assert ask(address, "/sensors?find=valve")[1]["sensors"] == []
        assert len(ask(address, "/sensors?find=")[1]["sensors"]) == 4


@pytest.mark.parametrize("path", ["/sensors/a?partition=x", "/sensors/a?partition=-1", "/sensors/a/readings?after=%C2%B2"])
def test_a_number_that_is_none_is_refused(instance: Instance, address: Address, path: str) -> None:
    with instance:
        status, told, _ = ask(address, path)
    assert (status, told["expected"]) == (400, "a whole number")


@pytest.mark.parametrize("path", ["/sensors/a/b", "/sensors/a/", "/sensors/a/readings/", "/sensors/a/readings/b"])
def test_a_path_of_several_parts_is_refused_with_what_to_do(address: Address, path: str) -> None:
    status, told, _ = ask(address, path)
    assert (status, told["to_do"]) == (404, "write / in a name as %2F")


def test_without_the_setting_there_are_no_sensors() -> None:
    with serve("127.0.0.1", 0, Metrics(), _Probes()) as address:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
        for path in ("/sensors", "/sensors/pump-1"):
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, b"/sensors" in response.read()) == (404, False)


def test_the_first_page_names_them_where_they_are_served(address: Address) -> None:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    connection.request("GET", "/")
    assert "/sensors/KEY" in connection.getresponse().read().decode()
