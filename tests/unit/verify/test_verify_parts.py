"""The parts of a verification: readings, the judge that must be able to fail, the schedule, the proxy, the processes, the disk."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from judge import Judge as Echo
from places import ROOT
from waiting import wait_for

from processor import cli
from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.delivery import AbortedError
from processor.kafka.produce import aborted
from processor.settings import load_settings
from processor.testbed.embedded_kafka import free_port
from processor.verify import judge
from processor.verify.faults import COULD_NOT_WRITE, FAULTS
from processor.verify.instances import GIVES_ALL_UP, SERVES, Instances, Running, differing, leaving
from processor.verify.judge import DifferentError, Judge
from processor.verify.oracle_records import InputRecord
from processor.verify.output_watch import Stalls
from processor.verify.proxy import Proxy, Route
from processor.verify.readings import Readings, Sent
from processor.verify.run import chosen
from processor.verify.schedule import deal, endless, kill_is_due

START_MS = 1_700_000_000_000


# -- readings -----------------------------------------------------------------------------------------------------------------


def made(count: int, *options: str, seed: int = 1) -> list[Sent]:
    settings = load_settings(None, list(options), {})
    return list(islice(Readings(seed, settings, features=2, partitions=4, start_ms=START_MS), count))


def test_a_seed_makes_the_same_readings_every_time_and_another_seed_makes_others() -> None:
    assert made(500) == made(500)
    assert made(500) != made(500, seed=2)


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "never"),
    [
        ((), {"late", "non_finite_state"}),
        (("--input.features=[a, b.c]",), {"late", "non_finite_state", "wrong_feature_count", "too_large"}),
        (("--input.format=float32",), {"late", "non_finite_state", "bad_timestamp"}),
    ],
)
def test_readings_are_of_every_kind_and_most_are_good(options: tuple[str, ...], never: set[str]) -> None:
    settings = load_settings(None, list(options), {})
    oracle = Echo(settings, 2)._reference
    verdicts = Counter[str]()
    for offset, sent in enumerate(made(6000, *options)):
        answer = oracle.feed(InputRecord(sent.partition, offset, sent.key, sent.value, sent.record_ms, sent.headers))
        assert sent.due == (answer is not None)
        verdicts[answer if isinstance(answer, str) else "forgotten" if answer is None else "good"] += 1
    errors = {"no_key", "bad_encoding", "bad_schema", "wrong_feature_count", "not_finite", "bad_timestamp", "too_large"}
    assert errors - never <= verdicts.keys()
    assert verdicts["forgotten"] > 10
    assert verdicts["good"] > 4000


def test_readings_come_to_every_partition_from_many_sensors_and_some_names_are_no_text() -> None:
    records = made(3000)
    assert {sent.partition for sent in records} == {0, 1, 2, 3}
    keys = {sent.key for sent in records if sent.key}
    assert len(keys) > 50
    assert any(key.startswith(b"\xfe") for key in keys)
    assert {value for sent in records for name, value in sent.headers if name == "sequence"} >= {b"start", b"end", b"single", b"middle"}


# -- the judge ----------------------------------------------------------------------------------------------------------------


def output(offset: int, number: float = 0.5) -> dict[str, Any]:
    return {"sensor": "pump", "prediction": [number], "steps": 1, "partition": 0, "offset": offset}


def record(offset: int) -> InputRecord:
    return InputRecord(0, offset, b"pump", b"value %d" % offset, START_MS + offset, (("trace", b"7"),))


def published(offset: int, number: float = 0.5) -> judge.Answer:
    partition, answer = judge.prediction(b"pump", json.dumps(output(offset, number)).encode(), START_MS + offset)
    assert partition == 0
    return answer


def letter(offset: int, error: bytes = b"no_key", value: bytes | None = None) -> judge.Answer:
    own = [("error", error), ("error_detail", b"why"), ("source_topic", b"readings"), ("source_partition", b"0")]
    headers = [("trace", b"7"), *own, ("source_offset", str(offset).encode())]
    return judge.dead_letter(b"pump", value or b"value %d" % offset, START_MS + offset, headers)[1]


@pytest.fixture
def court() -> Judge:
    """Five records: the one at offset 2 is a dead letter, the one at 3 is not answered."""
    found = Judge(lambda r: {2: "no_key", 3: None}.get(r.offset, output(r.offset)))
    for offset in range(5):
        found.record(record(offset))
    return found


def hand_over(court: Judge, predictions: list[judge.Answer], letters: list[judge.Answer]) -> None:
    for answer in predictions:
        court.answer("prediction", 0, answer)
    for answer in letters:
        court.answer("dead letter", 0, answer)
    court.finish()


def right() -> list[judge.Answer]:
    return [published(0), published(1), published(4)]


def test_an_answer_without_a_prediction_is_compared_and_counts_as_none() -> None:
    """A model whose every full window is a NaN is answered with nothing but these and dead letters: that proves no prediction right."""
    court = Judge(lambda r: {**output(r.offset), "prediction": None} if r.offset < 4 else "non_finite_state")
    for offset in range(5):
        court.record(record(offset))
    court.work(lambda: False)
    for offset in range(4):
        answered = json.dumps({**output(offset), "prediction": None}).encode()
        court.answer("prediction", 0, judge.prediction(b"pump", answered, START_MS + offset)[1])
    court.answer("dead letter", 0, letter(4, b"non_finite_state"))
    court.finish()
    assert court.compared == {"prediction": 0, "filling": 4, "dead letter": 1, "alarm": 0}


def alarm(sensor: str, state: str, offset: int) -> dict[str, Any]:
    told = {"id": f"readings-0-{offset}", "sensor": sensor, "state": state, "score": None, "partition": 0, "offset": offset}
    return told | {"level": "silent", "since": START_MS}


@pytest.mark.parametrize(
    ("got", "kind"),
    [
        ([("pump", "cleared"), ("fan", "raised")], None),
        ([("pump", "cleared")], "lost"),
        ([("fan", "raised")], "different"),
        ([("pump", "cleared"), ("fan", "raised"), ("fan", "raised")], "duplicated"),
        ([("pump", "cleared"), ("fan", "cleared")], "different"),
    ],
)
def test_what_is_published_of_alarms_is_compared_each_with_its_own_sensor(got: list[tuple[str, str]], kind: str | None) -> None:
    """One record may bring several, of other sensors too."""
    told = [(b"pump", alarm("pump", "cleared", 0)), (b"fan", alarm("fan", "raised", 0))]
    court = Judge(lambda r: output(r.offset), alarms=lambda: [told.pop(0) for _ in range(len(told))])
    court.record(record(0))
    court.answer("prediction", 0, published(0))

    def compare() -> None:
        for sensor, state in got:
            value = json.dumps(alarm(sensor, state, 0)).encode()
            court.answer("alarm", 0, judge.alarm(sensor.encode(), value, START_MS)[1])
        court.finish()

    if kind is None:
        compare()
        assert court.compared["alarm"] == 2
    else:
        with pytest.raises(DifferentError, match=kind):
            compare()


def test_what_is_right_is_found_right_phase_after_phase_and_counted(court: Judge) -> None:
    for phase in (1, 2):
        hand_over(court, right(), [letter(2)])
        assert court.compared == {"prediction": 3 * phase, "filling": 0, "dead letter": phase, "alarm": 0}
        assert court.next_offset[0] == 5
    assert court.records == 5
    with pytest.raises(DifferentError, match="lost: sensor pump, partition 0, offset 0"):
        court.finish()


@pytest.mark.parametrize(
    ("kind", "offset", "predictions", "letters"),
    [
        ("lost", 4, right()[:2], [letter(2)]),
        ("lost", 1, [published(0), published(4)], [letter(2)]),
        ("lost", 2, right(), []),
        ("duplicated", 0, [published(0), *right()], [letter(2)]),
        ("duplicated", 4, [*right(), published(4)], [letter(2)]),
        ("duplicated", 2, right(), [letter(2), letter(2)]),
        ("duplicated", 3, [published(0), published(1), published(3), published(4)], [letter(2)]),
        ("lost", 0, [published(1), published(0), published(4)], [letter(2)]),
        ("different", 1, [published(0), published(1, 0.5000001), published(4)], [letter(2)]),
        ("different", 1, [published(0), published(1, -0.5), published(4)], [letter(2)]),
        ("different", 2, right(), [letter(2, b"late")]),
        ("different", 2, right(), [letter(2, value=b"other bytes")]),
    ],
)
def test_a_lost_a_doubled_and_a_changed_answer_are_found(
    court: Judge, kind: str, offset: int, predictions: list[judge.Answer], letters: list[judge.Answer]
) -> None:
    with pytest.raises(DifferentError) as found:
        hand_over(court, predictions, letters)
    assert (found.value.kind, found.value.partition, found.value.offset, found.value.sensor) == (kind, 0, offset, "pump")


def test_bits_are_compared_and_not_numbers() -> None:
    court = Judge(lambda r: output(r.offset, 0.0))
    court.record(record(0))
    with pytest.raises(DifferentError, match="different"):
        hand_over(court, [published(0, -0.0)], [])


def test_a_difference_is_found_before_the_end_and_says_what_was_expected(court: Judge) -> None:
    court.answer("prediction", 0, published(0))
    court.answer("prediction", 0, published(4))
    assert court.open == 5 + 2
    with pytest.raises(DifferentError) as found:
        court.work(lambda: False)
    assert '"offset": 1' in found.value.expected
    assert found.value.got == "the answer to offset 4 came next"


@pytest.mark.parametrize("value", [b"{}", b"[1]", b"no JSON", b'{"prediction": [1]}'])
def test_an_output_that_names_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        judge.prediction(b"pump", value, START_MS)


def test_a_dead_letter_without_its_headers_is_refused() -> None:
    with pytest.raises(ValueError, match="headers"):
        judge.dead_letter(b"pump", b"value", START_MS, [("error", b"no_key")])


# -- the schedule -------------------------------------------------------------------------------------------------------------

POSSIBLE = {"topic": ["kill", "cut", "sleep"], "directory": ["kill", "cut", "sleep", "torn", "disk-full"]}


def test_a_seed_deals_the_same_faults_every_time_each_kind_once_where_it_is_possible() -> None:
    orders = set()
    for seed in range(20):
        dealt = deal(seed, POSSIBLE)
        assert dealt == deal(seed, POSSIBLE)
        assert sorted(dealt["topic"] + dealt["directory"]) == sorted(POSSIBLE["directory"])
        assert {"torn", "disk-full"} <= set(dealt["directory"])
        assert {len(kinds) for kinds in dealt.values()} == {2, 3}
        orders.add(tuple(dealt["topic"] + dealt["directory"]))
    assert len(orders) > 5


def test_after_the_kinds_that_must_be_any_kind_may_come_as_the_seed_says() -> None:
    def first(seed: int, phase: int) -> list[str]:
        return list(islice(endless(seed, phase, ["torn", "kill"], POSSIBLE["directory"]), 60))

    assert first(1, 0) == first(1, 0)
    assert first(1, 0)[:2] == ["torn", "kill"]
    assert set(first(1, 0)[2:]) == set(POSSIBLE["directory"])
    assert first(1, 0) != first(1, 1) != first(2, 1)
    assert list(endless(1, 0, [], [])) == []


def test_wanted_kills_are_spread_over_the_time() -> None:
    assert [kill_is_due(4, done, share) for done, share in ((0, 0.0), (0, 0.1), (1, 0.2), (1, 0.3), (4, 5.0), (3, 5.0))] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_faults_are_chosen_by_name_and_an_unknown_one_is_refused() -> None:
    assert chosen(()) == list(FAULTS)
    assert [fault.name for fault in chosen(("torn", "kill"))] == ["kill", "torn"]
    with pytest.raises(ConfigurationError, match="no fault is called earthquake"):
        chosen(("kill", "earthquake"))


@pytest.mark.parametrize("words", [["--instances=1"], ["--minutes=0"], ["--faults=earthquake"], ["--brokers=2"], ["--seeed=1"]])
def test_wrong_use_ends_with_2_before_anything_is_started(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["verify", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    said = {"--faults": "no fault is called", "--seeed": "unknown key", "--brokers": "invalid choice"}
    assert said.get(words[0].partition("=")[0], "found") in capsys.readouterr().err


# -- the proxy ----------------------------------------------------------------------------------------------------------------


class EchoServer:
    """Sends back what it gets, on one connection after another."""

    def __init__(self) -> None:
        program = (
            "import socketserver, sys\n"
            "class Echo(socketserver.BaseRequestHandler):\n"
            "    def handle(self):\n"
            "        while piece := self.request.recv(65536):\n"
            "            self.request.sendall(piece)\n"
            "socketserver.ThreadingTCPServer(('127.0.0.1', int(sys.argv[1])), Echo).serve_forever()\n"
        )
        self.port = free_port()
        self._process = subprocess.Popen([sys.executable, "-c", program, str(self.port)])
        wait_for(self._answers, "the server")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    found = EchoServer()
    yield found
    found.end()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[Proxy]:
    with Proxy(Route(free_port(), server.port)) as found:
        yield found


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.routes[0].port), timeout=30)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """What comes back; less than was sent where the connection ends."""
    found = b""
    try:
        connection.sendall(data)
        while len(found) < len(data) and (piece := connection.recv(65536)):
            found += piece
    except ConnectionError:
        pass
    return found


def test_the_proxy_passes_everything_on_both_ways(proxy: Proxy) -> None:
    data = bytes(range(256)) * 2000
    with connect(proxy) as first, connect(proxy) as second:
        assert echoed(first, data) == data
        assert echoed(second, b"beside it") == b"beside it"
        assert proxy.connections == 2
    wait_for(lambda: proxy.connections == 0, "both to be gone")


def test_a_cut_ends_what_is_open_and_lets_new_connections_in(proxy: Proxy) -> None:
    with connect(proxy) as first:
        assert echoed(first, b"hello") == b"hello"
        proxy.cut()
        wait_for(lambda: proxy.connections == 0, "the cut")
        assert echoed(first, b"anybody there") == b""
    with connect(proxy) as second:
        assert echoed(second, b"again") == b"again"


def test_a_refusal_lets_nothing_in_until_it_is_mended(proxy: Proxy) -> None:
    proxy.refuse()
    with connect(proxy) as refused:
        assert echoed(refused, b"hello") == b""
    proxy.mend()
    with connect(proxy) as mended:
        assert echoed(mended, b"hello") == b"hello"


def test_nothing_comes_through_a_hanging_proxy_and_all_of_it_when_it_is_mended(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert echoed(connection, b"hello") == b"hello"
        proxy.hang()
        connection.sendall(b"waiting")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        connection.settimeout(30)
        proxy.mend()
        assert connection.recv(100) == b"waiting"


def test_a_slow_proxy_delays_each_piece(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.slow(0.2)
        begun_s = time.monotonic()
        assert echoed(connection, b"there and back") == b"there and back"
        assert time.monotonic() - begun_s >= 0.4


def test_without_a_server_behind_it_a_connection_ends(server: EchoServer, proxy: Proxy) -> None:
    server.end()
    with connect(proxy) as connection:
        assert echoed(connection, b"hello") == b""


def test_a_taken_port_is_told(server: EchoServer) -> None:
    with pytest.raises(OSError, match="in use"), Proxy(Route(server.port, server.port)):
        pass


# -- processes and time -------------------------------------------------------------------------------------------------------


def program(text: str, tmp_path: Path) -> Running:
    return Running("a", [sys.executable, "-c", text], tmp_path / "a.log", {}, tmp_path)


def test_what_a_process_owns_is_what_it_last_said(tmp_path: Path) -> None:
    events = [
        {"event": "partitions assigned", "partitions": [0, 1, 2]},
        {"event": "partitions revoked", "partitions": [1]},
        {"event": "partitions assigned", "partitions": [3]},
        {"event": "partitions lost: the group continued without this instance", "partitions": [0]},
    ]
    (tmp_path / "a.log").write_text("words of a library\n" + "".join(json.dumps(event) + "\n" for event in events) + '{"event": "par')
    one = program("", tmp_path)
    assert one.owned == {2, 3}
    assert one.said("partitions lost")
    assert not one.said("stopped")
    assert not one.ready
    wait_for(lambda: one.exit_code == 0, "its end")


def test_an_instance_that_ends_by_itself_is_noticed_and_one_that_was_asked_to_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawn(self: Instances, name: str, _folder: Path) -> Running:
        return Running(
            name, [sys.executable, "-c", f"print('last words'); raise SystemExit({name!r} == 'bad')"], self._folder / name, {}, self._folder
        )

    monkeypatch.setattr(Instances, "_spawn", spawn)
    instances = Instances([], {}, tmp_path / "instances")
    bad = instances.start("bad")
    wait_for(lambda: bad.exit_code is not None, "its end")
    with pytest.raises(SlotstreamError, match=r"bad ended by itself with exit code 1(?s:.*)last words"):
        instances.watch()
    instances.forget("bad")
    instances.watch()
    instances.start("good")
    instances.close()


def test_instances_differ_and_both_ways_of_stopping_are_there() -> None:
    options = differing(2, lambda _: 0, ["--kafka=bootstrap.servers=proxy:1"])
    assert list(options) == ["a", "b", "c"]
    assert leaving(options, leave=True) == {"a", "c"}
    assert leaving(options, leave=False) == {"b"}
    assert [name for name, given in options.items() if "--kafka=bootstrap.servers=proxy:1" in given] == ["b"]


@pytest.mark.parametrize("words", [COULD_NOT_WRITE, SERVES, *GIVES_ALL_UP, "partitions assigned", "partitions revoked", "partitions lost"])
def test_what_is_looked_for_in_a_log_is_what_the_service_says(words: str) -> None:
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "processor").rglob("*.py") if path.parent.name != "verify"]
    assert any(f'"{words}' in text for text in code)


def test_a_stall_is_time_without_answers_while_some_are_due() -> None:
    clock = [0.0]
    stalls = Stalls(lambda: clock[0])

    def note(at_s: float, *, came: bool, pending: bool) -> None:
        clock[0] = at_s
        stalls.note(came=came, pending=pending)

    note(5.0, came=False, pending=False)
    note(6.0, came=False, pending=True)
    note(9.0, came=False, pending=True)
    note(9.5, came=True, pending=True)
    note(10.0, came=False, pending=True)
    assert stalls.taken() == 4.5
    assert stalls.taken() == 0.0
    note(11.5, came=True, pending=True)
    assert (stalls.taken(), stalls.longest_s) == (2.0, 4.5)
    stalls.forget()
    assert stalls.longest_s == 0.0


def test_a_disk_is_filled_and_made_read_only_for_its_process_alone(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from processor.verify.disk import Disk
folder = pathlib.Path(sys.argv[1])
try:
    disk = Disk(folder)
except OSError as error:
    sys.exit(f"no right: {error}" if error.errno == 1 else 7)
def refused():
    try:
        (folder / "file").write_bytes(b"x" * 5000)
    except OSError as error:
        return error.errno
disk.fill()
full = refused()
disk.free()
free = refused()
disk.read_only()
read_only = refused()
disk.writable()
writable = refused()
disk.close()
print(full, free, read_only, writable, list(folder.iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    if done.stderr.startswith("no right"):
        pytest.skip(done.stderr)
    assert done.stdout.split() == ["28", "None", "30", "None", "[]"], done.stderr
    assert list(tmp_path.iterdir()) == []


# -- what a verification found in the service -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "passing"), [("UNKNOWN_MEMBER_ID", True), ("_TIMED_OUT", True), ("INVALID_TXN_STATE", False)])
def test_aborts_are_told_apart_by_their_kind_and_those_that_pass_are_not_counted(code: str, passing: bool) -> None:
    make: Callable[[str], AbortedError] = lambda words: aborted(KafkaError(getattr(KafkaError, code), words))  # noqa: E731
    first, second = make("after 1ms"), make("after 4ms")
    assert (first.kind, first.retriable) == (second.kind, second.retriable) == (code, passing)
    assert str(first) != str(second)
