"""Metrics, health and the status page over HTTP, in threads beside the loop.

Responsible for answering quickly whatever is asked, and for never disturbing the loop: no body is read, a request has few
bytes and little time, of many at once some are turned away, a broken one is a debug message. Nothing here changes anything.
Not responsible for what the answers mean: the probes are the service's, what a page says is status's and pages'.
"""

import contextlib
import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, socket
from socketserver import TCPServer
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import structlog

from processor.errors import ConfigurationError
from processor.metrics import CONTENT_TYPE, Metrics
from processor.web.pages import HEADERS, HTML, Pages

CLIENT_TIMEOUT_S = 5.0  # for the whole request, and as long again for the answer
REQUEST_BYTES_MAX = 16_384  # a browser sends its cookies of every other port of the host too
CONNECTIONS_MAX = 32  # a browser takes six, Prometheus one, a probe one
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
PLAIN = "text/plain; charset=utf-8"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_PAGES: Pages = MappingProxyType({})
INDEX = """\
slotstream

/             this; to a browser the status page
/status.json  what the status page shows
/metrics      figures for Prometheus
/healthz      200 while the process works
/readyz       200 once it has caught up
"""

_log = structlog.get_logger(__name__)


class Probes(Protocol):
    """Both are called by web threads, and answer with a one-line reason."""

    def alive(self) -> tuple[bool, str]: ...

    def ready(self) -> tuple[bool, str]: ...


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@contextmanager
def serve(host: str, port: int, metrics: Metrics, probes: Probes, pages: Pages = NO_PAGES) -> Iterator[Address]:
    """Answers until the block ends, with `pages` beside metrics and probes. Port 0 takes a free one.

    Raises ConfigurationError if the address cannot be had.
    """
    try:
        server = _Server(host, port, metrics, probes, pages)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"cannot serve metrics and health on {host}:{port} ({reason})",
            expected="a local address and a port that nothing else uses",
            do="set http.host and http.port, or stop what uses it; http.port 0 takes a free port",
            see="the-address-cannot-be-had",
        ) from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="web", daemon=True)
    thread.start()
    address = Address(host, server.server_port)
    _log.info("serving metrics and health", url=address.url)
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow client must not hold up the shutdown

    def __init__(self, host: str, port: int, metrics: Metrics, probes: Probes, pages: Pages) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.metrics, self.probes, self.pages = metrics, probes, pages
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own looks the host up in the DNS, which can take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.setblocking(False)  # the loop that accepts waits for nobody
        with contextlib.suppress(OSError):
            request.sendall(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        _log.debug("web request failed", client=str(client_address), exc_info=True)


class _TooLargeError(Exception):
    """The request has more bytes than any that is answered."""


class _Request(io.RawIOBase):
    """What a client says: so many bytes at most, and all of them in time, however slowly each comes."""

    def __init__(self, connection: socket, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._until_s, self._left = time.monotonic() + timeout_s, REQUEST_BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left == 0:
            raise _TooLargeError
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._connection.settimeout(self._timeout_s)
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server_version, sys_version = "slotstream", ""
    error_content_type = PLAIN
    error_message_format = "%(code)d %(message)s\n"
    requestline = command = ""  # until there is a request to answer
    request_version = "HTTP/1.0"
    server: _Server
    _pages: ClassVar[tuple[str, ...]] = ("/", "/status.json", "/metrics", "/healthz", "/readyz")

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection, self.timeout))

    def handle(self) -> None:
        try:
            super().handle()
        except _TooLargeError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "found a body, expected none\n")
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.metrics.render(), CONTENT_TYPE)
        elif path == "/healthz":
            self._probe(*self.server.probes.alive())
        elif path == "/readyz":
            self._probe(*self.server.probes.ready())
        elif path == "/" and HTML.partition(";")[0] not in self.headers.get("Accept", ""):
            self._answer(HTTPStatus.OK, INDEX)
        elif page := self.server.pages.get(path):
            self._answer(HTTPStatus.OK, page.content(), page.content_type, headers=HEADERS)
        else:
            self._answer(HTTPStatus.NOT_FOUND, f"found no such page, expected one of {' '.join(self._pages)}\n")

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:  # http.server's answer to every method that has no do_ function
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or HEAD\n", headers={"Allow": "GET, HEAD"})
        else:
            super().send_error(code, message, explain)

    def _probe(self, good: bool, reason: str) -> None:
        self._answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")

    def _answer(self, status: HTTPStatus, body: str | bytes, content_type: str = PLAIN, *, headers: Mapping[str, str] = NO_HEADERS) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in {"X-Content-Type-Options": "nosniff", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        _log.debug("web request", client=self.address_string(), request=format % args)
