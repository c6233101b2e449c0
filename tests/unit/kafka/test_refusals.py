"""processor.kafka.refusals without a broker: what answers at an address, and how a refusal is told while it lasts."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import structlog
from confluent_kafka import KafkaError
from waiting import wait_for

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.refusals import Answer, RefusalWatch, advertised, listener, refusal, refusal_watch
from processor.kafka.refusals.addresses import sent_to
from processor.kafka.refusals.listener import NoListener, look
from processor.logs import plain
from processor.testbed.ports import free_port


@contextmanager
def server(banner: bytes | None) -> Iterator[int]:
    """A port that says this and closes; with None it says nothing and keeps its connections."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                if banner is not None:
                    with suppress(OSError):
                        connection.sendall(banner)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@contextmanager
def web_server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as serving:
        serving.RequestHandlerClass.log_message = lambda *_: None
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LOOK_S", 0.5)
    monkeypatch.setattr(refusal_watch, "ASK_AGAIN_S", 0.01)


def refused_at(*ports: int) -> SlotstreamError:
    found = refusal({"bootstrap.servers": ",".join(f"127.0.0.1:{port}" for port in ports)}, [])
    assert found is not None
    return found


def test_a_web_server_is_no_broker() -> None:
    with web_server() as port:
        error = refused_at(port)
    assert isinstance(error, ConfigurationError)
    assert error.found == f"no broker answers: an HTTP server answers at 127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("banner", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "an SSH server answers at"),
        (b"220 mail.example ESMTP\r\n", "is no Kafka broker (it says '220 mail.example ESMTP')"),
    ],
)
def test_what_speaks_another_protocol_is_named(banner: bytes, words: str) -> None:
    with server(banner) as port:
        error = refused_at(port)
    assert error.exit_code == 2
    assert words in error.found


@pytest.mark.parametrize("banner", [None, b"", b"\xff\xff\xff\xff\xff"])
def test_what_says_nothing_may_become_a_broker(banner: bytes | None) -> None:
    with server(banner) as port:
        assert look("127.0.0.1", port) == NoListener(
            "absent", f"127.0.0.1:{port} takes connections and does not answer as a Kafka broker does"
        )
        assert refused_at(port).exit_code == 1
        assert refusal({"bootstrap.servers": f"127.0.0.1:{port}"}, [], ignoring={"absent"}) is None


def test_each_address_is_named_and_one_that_may_pass_is_waited_for() -> None:
    port = free_port()
    servers = {"bootstrap.servers": f"nowhere.invalid:9092,127.0.0.1:{port}"}
    error = refusal(servers, [])
    assert error is not None
    assert error.exit_code == 1
    assert "the name nowhere.invalid does not resolve" in error.found
    assert f"nothing listens at 127.0.0.1:{port}" in error.found
    assert refusal(servers, [], ignoring={"absent"}) is None


def test_a_name_that_does_not_resolve_is_named_with_what_to_do() -> None:
    error = refusal({"bootstrap.servers": "nowhere.invalid:9092"}, [], ignoring={"absent"})
    assert error is not None
    assert "DNS" in error.do


def test_an_advertised_address_is_tried_unless_it_is_the_one_that_answered() -> None:
    here, closed, nowhere = ("127.0.0.1", free_port()), ("127.0.0.1", free_port()), ("broker.invalid", 19192)
    assert advertised("S", [here], [here]) == (None, False)
    error, of_all = advertised("S", [here, nowhere], [here])
    assert error is not None
    assert error.found == (
        "the broker at S answers and sends clients to broker.invalid:19192, which does not resolve (advertised.listeners)"
    )
    assert not of_all
    error, of_all = advertised("S", [closed, nowhere], [here])
    assert error is not None
    assert of_all
    assert f"sends clients to 127.0.0.1:{closed[1]}, but nothing listens" in error.found
    assert "1 more of its addresses" in error.found


def test_where_a_broker_sent_the_client_is_read_from_its_errors() -> None:
    words = (
        "ssl://broker.invalid:19192/1: Failed to resolve 'broker.invalid:19192': Name or service not known",
        "127.0.0.1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused",
        "[::1]:9/12: Connect to ipv6#[::1]:9 failed",
    )
    assert sent_to(KafkaError(KafkaError._TRANSPORT, text) for text in words) == [("broker.invalid", 19192), ("::1", 9)]


STANDING_ADVICE = {
    "x: Connect to ipv4#127.0.0.1:1 failed": " (after 0ms in state CONNECT, 3 identical error(s) suppressed)",
    "Disconnected": ": requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?) "
    "or broker version is < 0.10 (see api.version.request) (after 3ms in state APIVERSION_QUERY)",
    "Disconnected: requesting": ": requesting ApiVersion: might be caused by broker version < 0.10 (see api.version.request)",
    "Disconnected while up": ": verify that security.protocol is correctly configured, broker might require SASL authentication "
    "(after 1ms in state UP)",
    "SSL handshake failed: error:0A000086": ": broker certificate could not be verified, verify that ssl.ca.location is correctly "
    "configured or root CA certificates are installed (install ca-certificates package) (after 7ms in state SSL_HANDSHAKE)",
    "SSL handshake failed: Disconnected": ": connecting to a PLAINTEXT broker listener? (after 2ms in state SSL_HANDSHAKE)",
    "SSL handshake failed: unexpected message": ": client SSL authentication might be required (see ssl.key.location and "
    "ssl.certificate.location and consult the broker logs for more information)",
    "Invalid response size 1213486160 (0..100000000)": ": increase receive.message.max.bytes",
    "Failed to resolve 'b:9092': Name or service not known": " (after 4ms in state CONNECT)",
}


@pytest.mark.parametrize("text", STANDING_ADVICE)
def test_the_clients_standing_advice_is_left_out(text: str) -> None:
    assert plain(text + STANDING_ADVICE[text]) == text


class Client:
    given: tuple[str, str] | None = None

    def set_sasl_credentials(self, *credentials: str) -> None:
        self.given = credentials


def test_a_refusal_is_told_once_a_minute_and_once_when_it_is_over() -> None:
    now_s, asked = 0.0, 0

    def ask() -> Answer:
        nonlocal now_s, asked
        asked, now_s = asked + 1, now_s + 20.0
        return Answer(False, SlotstreamError("refused", expected="access", do="mend it")) if asked < 6 else Answer(True)

    watch = RefusalWatch(ask, lambda: None, lambda: now_s)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            watch(KafkaError(KafkaError._AUTHENTICATION, "no"))
        wait_for(lambda: len(lines) == 3, lambda: lines)
    assert [line["event"] for line in lines] == ["the broker rejected this client, retrying"] * 2 + ["the broker accepts this client again"]
    assert watch.reason is None
    assert asked == 6


def test_an_outage_without_a_reason_is_no_refusal() -> None:
    asked = threading.Event()

    def ask() -> Answer:
        asked.set()
        return Answer(False)

    watch = RefusalWatch(ask, lambda: None)
    watch(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    watch(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert not asked.is_set()
    watch(KafkaError(KafkaError._RESOLVE, "no name"))
    wait_for(asked.is_set, "the question")
    wait_for(lambda: not watch._asking, "the end")
    assert watch.reason is None


def test_renewed_credentials_are_given_to_every_client_that_lives() -> None:
    credentials, client, gone = [("user", "before")], Client(), Client()
    watch = RefusalWatch(lambda: Answer(True), lambda: credentials[0])
    watch.watch(client)
    watch.watch(gone)
    del gone
    watch(KafkaError(KafkaError._AUTHENTICATION, "no"))
    wait_for(lambda: not watch._asking, "the end")
    assert client.given is None
    credentials[0] = ("user", "after")
    watch(KafkaError(KafkaError._AUTHENTICATION, "no"))
    wait_for(lambda: client.given == ("user", "after"), "the new password")
