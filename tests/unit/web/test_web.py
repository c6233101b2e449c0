"""processor.web.server: the answers, the refusals, and that nobody can hold it up."""

import http.client
import re
import socket
import threading
import time
import tomllib
from collections.abc import Iterator

import pytest
import structlog
from places import ROOT

from processor.errors import ConfigurationError
from processor.metrics import Metrics
from processor.web import server
from processor.web.pages import HEADERS, Page, page_files
from processor.web.server import Address, serve

PAGES = {**page_files(), "/status.json": Page("application/json", lambda: b"{}")}


class Probes:
    def __init__(self) -> None:
        self.is_alive, self.is_ready, self.broken = True, False, False

    def alive(self) -> tuple[bool, str]:
        if self.broken:
            raise RuntimeError("a bug")
        return self.is_alive, "the loop turned 0.1 s ago" if self.is_alive else "the loop has not turned for 61 s"

    def ready(self) -> tuple[bool, str]:
        return self.is_ready, "ready" if self.is_ready else "restoring partition 3"


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def address(metrics: Metrics, probes: Probes) -> Iterator[Address]:
    with serve("127.0.0.1", 0, metrics, probes, PAGES) as address:
        yield address


def ask(address: Address, path: str, method: str = "GET", **options) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=10)
    try:
        connection.request(method, path, **options)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.headers)
    finally:
        connection.close()


def test_a_free_port_is_taken_and_told(address: Address) -> None:
    assert address.port > 0
    assert address.url == f"http://127.0.0.1:{address.port}"
    with structlog.testing.capture_logs() as logs, serve("127.0.0.1", 0, Metrics(), Probes()) as other:
        assert [entry["url"] for entry in logs] == [other.url]
    assert Address("::1", 80).url == "http://[::1]:80"


def test_metrics_are_served_as_they_stand(address: Address, metrics: Metrics) -> None:
    metrics.add("readings_total", 7)
    status, body, headers = ask(address, "/metrics?name[]=x")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert body == metrics.render().decode()
    assert "slotstream_readings_total 7.0\n" in body


def test_probes_answer_with_their_reason(address: Address, probes: Probes) -> None:
    assert ask(address, "/healthz")[:2] == (200, "the loop turned 0.1 s ago\n")
    assert ask(address, "/readyz")[:2] == (503, "restoring partition 3\n")
    probes.is_alive, probes.is_ready = False, True
    assert ask(address, "/healthz")[:2] == (503, "the loop has not turned for 61 s\n")
    assert ask(address, "/readyz")[:2] == (200, "ready\n")


def test_the_first_page_lists_the_others_and_they_exist(address: Address) -> None:
    status, body, _ = ask(address, "/")
    paths = [line.split()[0] for line in body.splitlines() if line.startswith("/")]
    assert (status, paths) == (200, ["/", "/status.json", "/metrics", "/healthz", "/readyz"])
    assert all(ask(address, path)[0] != 404 for path in paths)


def test_a_browser_gets_the_page_and_what_it_names(address: Address) -> None:
    status, body, headers = ask(address, "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="((?!#)[^"]+)"', body)
    scripts = [ask(address, path)[1] for path in PAGES if path.endswith(".js")]
    imported = [f"page/{name}" for script in scripts for name in re.findall(r'from "\./([^"]+)"', script)]
    assert {"page/page.css", "page/page.js", "page/icon.svg", "page/plot.js"} <= {*named, *imported}
    assert [path for path in (*named, *imported) if ask(address, f"/{path}")[0] == 404] == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(ask(address, path)[1] for path in PAGES))


def test_an_installed_package_has_every_file_of_the_page() -> None:
    root = ROOT
    package_data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["processor"]
    packed = {path for pattern in package_data for path in (root / "processor").glob(pattern)}
    files = set((root / "processor/web/page").iterdir())
    assert files <= packed
    assert len(files) == len(page_files())


@pytest.mark.parametrize("path", sorted(PAGES))
def test_a_page_lets_nothing_from_elsewhere_in(address: Address, path: str) -> None:
    status, body, headers = ask(address, path, headers={"Accept": "text/html"})
    assert status == 200
    assert HEADERS.items() <= headers.items()
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", body)


def test_the_folder_of_the_page_is_all_that_is_served(address: Address) -> None:
    for path in ("/page/", "/page", "/page/../pages.py", "/page/..%2fpages.py", "/page//page.js", "/index.html"):
        assert ask(address, path)[0] == 404


def test_head_has_the_headers_and_no_body(address: Address) -> None:
    for path in ("/", "/status.json", "/page/page.js", "/metrics", "/healthz", "/readyz", "/nothing"):
        status, _, headers = ask(address, path, "HEAD")
        assert (status, int(headers["Content-Length"])) == (ask(address, path)[0], len(ask(address, path)[1].encode()))
        with socket.create_connection((address.host, address.port), timeout=10) as client, client.makefile("rb") as answer:
            client.sendall(f"HEAD {path} HTTP/1.1\r\n\r\n".encode())
            assert answer.read().endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/../etc/passwd", "/healthz%00"])
def test_other_pages_are_not_found(address: Address, path: str) -> None:
    assert ask(address, path)[:2] == (404, "found no such page, expected one of / /status.json /metrics /healthz /readyz\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_other_methods_are_refused(address: Address, method: str) -> None:
    status, _, headers = ask(address, "/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_body_is_refused_unread(address: Address) -> None:
    assert ask(address, "/metrics", headers={"Content-Length": "1000000"})[0] == 413
    assert ask(address, "/metrics", headers={"Transfer-Encoding": "chunked"})[0] == 413


def test_a_client_that_sends_nothing_is_dropped_and_holds_nobody_up(
    metrics: Metrics, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server._Handler.timeout == server.CLIENT_TIMEOUT_S
    monkeypatch.setattr(server._Handler, "timeout", 0.05)
    with serve("127.0.0.1", 0, metrics, probes) as address, socket.create_connection((address.host, address.port), timeout=10) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert ask(address, "/healthz")[0] == 200
        assert slow.recv(1) == b""


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nCookie: ", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 90 + b"X: "])
def test_an_endless_request_is_refused(address: Address, begin: bytes) -> None:
    with socket.create_connection((address.host, address.port), timeout=10) as client:
        client.sendall(begin + b"x" * server.REQUEST_BYTES_MAX)
        assert client.recv(1000).startswith(b"HTTP/1.0 431 ")


def test_a_client_that_sends_a_byte_now_and_then_is_dropped(metrics: Metrics, probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the request does not."""
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    with serve("127.0.0.1", 0, metrics, probes) as address, socket.create_connection((address.host, address.port), timeout=0.05) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for _ in range(1000):
            try:
                slow.sendall(b"x")
                assert slow.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it was listened to for 50 s")


def test_who_comes_when_all_places_are_taken_is_turned_away_at_once(
    metrics: Metrics, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    with serve("127.0.0.1", 0, metrics, probes) as address:
        with (
            socket.create_connection((address.host, address.port), timeout=10) as one,
            socket.create_connection((address.host, address.port), timeout=10) as two,
        ):
            one.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            two.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            assert ask(address, "/healthz")[0] == 503
            one.sendall(b"y\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.0 200 ")
        until_s = time.monotonic() + 30
        while ask(address, "/healthz")[0] == 503:
            assert time.monotonic() < until_s, "the places were not given back"


def test_a_broken_probe_fails_its_own_request_only(address: Address, probes: Probes, capfd: pytest.CaptureFixture[str]) -> None:
    probes.broken = True
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        ask(address, "/healthz")
    assert ask(address, "/readyz")[0] == 503


def test_many_ask_at_once(address: Address) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(address, "/metrics")[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20


def test_requests_are_not_written_to_the_log(address: Address, capfd: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as logs:
        ask(address, "/healthz")
        ask(address, "/nothing")
    assert {entry["log_level"] for entry in logs} <= {"debug"}
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_a_configuration_error(address: Address, metrics: Metrics, probes: Probes) -> None:
    with (
        pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{address.port} \(Address already in use\).*http\.port"),
        serve("127.0.0.1", address.port, metrics, probes),
    ):
        pass


def test_a_host_that_is_not_ours_is_a_configuration_error(metrics: Metrics, probes: Probes) -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:0 .*http\.host"), serve("192.0.2.1", 0, metrics, probes):
        pass


def test_nothing_answers_after_the_block(metrics: Metrics, probes: Probes) -> None:
    before = threading.active_count()
    with serve("127.0.0.1", 0, metrics, probes) as address:
        pass
    with pytest.raises(ConnectionRefusedError):
        ask(address, "/healthz")
    assert threading.active_count() == before
    with serve("127.0.0.1", address.port, metrics, probes) as again:
        assert again.port == address.port
