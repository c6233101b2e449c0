"""Models that lie elsewhere: fetched once, kept under their digest, never followed; each way to fail is one clear error.

S3 is moto's server, the web server is a real one with TLS, MLflow's registry speaks its REST API.
"""

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import obstore
import pytest
import trustme
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from processor.errors import ConfigurationError, SlotstreamError
from processor.remote import web
from processor.remote.fetch import fetch, place_of
from processor.remote.moved import MovedWatch
from processor.settings import Location

MODEL = b"PK\x03\x04" + bytes(range(256)) * 20
DIGEST = hashlib.sha256(MODEL).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@contextmanager
def served(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A web server on this machine; yields HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # each is waited for

        def handle_error(self, *_: Any) -> None:
            """The service closes an answer of which it needs the headers only."""

        def shutdown_request(self, request: Any) -> None:
            with suppress(OSError):
                super().shutdown_request(request)
            request.close()

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context, whose authority the service trusts."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    monkeypatch.setattr(web, "_opener", web.build_opener(web._Redirects, web.HTTPSHandler(context=trusting)))
    return context


def plain(body: bytes = MODEL, status: int = 200, **headers: str) -> Answer:
    return lambda _: (status, {"ETag": '"1"', **headers}, body)


def from_web(host: str, folder: Path, options: dict[str, str] | None = None, path: str = "/m/model.keras?sig=abc", **more: Any) -> Any:
    return fetch(place_of(Location(f"https://{host}{path}"), options or {}), folder, **more)


def test_a_file_of_a_web_server_is_kept_under_its_digest(tls: ssl.SSLContext, tmp_path: Path) -> None:
    with served(plain(), tls) as host:
        fetched = from_web(host, tmp_path / "models")
    assert (fetched.path, fetched.sha256) == (tmp_path / "models" / f"{DIGEST}.model", DIGEST)
    assert fetched.path.read_bytes() == MODEL
    assert not [path for path in fetched.path.parent.iterdir() if path.name.startswith(".")]


def test_a_version_that_is_here_is_not_read_again_and_a_spoilt_copy_is(tls: ssl.SSLContext, tmp_path: Path) -> None:
    bodies = [MODEL, MODEL, b"never read", MODEL, MODEL]
    with served(lambda _: (200, {"ETag": '"1"'}, bodies.pop(0)), tls) as host:
        first = from_web(host, tmp_path)
        assert from_web(host, tmp_path).path == first.path
        first.path.write_bytes(b"spoilt")
        assert from_web(host, tmp_path).path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("options", "header"),
    [({"token": "abc"}, "Bearer abc"), ({"username": "me", "password": "pw"}, "Basic bWU6cHc="), ({}, None)],
)
def test_credentials_go_with_each_request(options: dict[str, str], header: str | None, tls: ssl.SSLContext, tmp_path: Path) -> None:
    seen = set()

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        seen.add(request.headers.get("Authorization"))
        return 200, {}, MODEL

    with served(answer, tls) as host:
        from_web(host, tmp_path, options)
    assert seen == {header}


@pytest.mark.parametrize(
    ("answer", "kind", "found"),
    [
        (plain(status=404), ConfigurationError, r"there is no model at https://localhost:\d+/m/model.keras \(HTTP 404\)"),
        (plain(status=403), ConfigurationError, r"not permitted \(HTTP 403\).*model.store: \{token"),
        (plain(status=503), SlotstreamError, "cannot be reached .HTTP 503"),
        (plain(bytes(2000)), ConfigurationError, "has 2,000 bytes or more. Expected: a model of at most 1,000"),
        (plain(status=302, Location="http://localhost:1/"), SlotstreamError, "redirects to a place without TLS"),
    ],
    ids=["missing", "refused", "unavailable", "too large", "without TLS"],
)
def test_what_a_web_server_refuses_is_one_error(
    answer: Answer, kind: type[SlotstreamError], found: str, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    with served(answer, tls) as host, pytest.raises(kind, match=found) as error:
        from_web(host, tmp_path, bytes_max=1000)
    assert "sig=abc" not in str(error.value)
    assert error.value.exit_code == kind.exit_code


def test_a_certificate_that_is_not_trusted_is_said(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with served(plain(), context) as host, pytest.raises(SlotstreamError, match="CERTIFICATE_VERIFY_FAILED"):
        from_web(host, tmp_path)


def test_a_host_that_is_not_there_is_an_outage() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = place_of(Location(f"https://127.0.0.1:{taken.getsockname()[1]}/model.keras"), {})
        with pytest.raises(SlotstreamError, match=r"cannot be reached .*refused") as error:
            place.look()
    assert error.value.exit_code == 1


def test_a_folder_that_cannot_be_written_is_said(tls: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with served(plain(), tls) as host, pytest.raises(ConfigurationError, match=r"cannot be kept in .*models .*model\.cache"):
        from_web(host, tmp_path / "models")


def test_a_moved_location_is_told_once_and_not_followed(tls: ssl.SSLContext, tmp_path: Path) -> None:
    versions, told = ["1"], list[str | None]()
    with served(lambda _: (200, {"ETag": versions[-1]}, MODEL), tls) as host:
        place = place_of(Location(f"https://{host}/model.keras"), {})
        watch = MovedWatch(place, fetch(place, tmp_path).pinned, told.append)
        for version in ("1", "2", "2", "1"):
            versions.append(version)
            watch.look()
    watch.look()  # the server is gone: nothing has moved
    assert told == ["2", None]


# --- S3


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def keys(s3: str) -> dict[str, str]:
    return {"endpoint": s3, "region": "us-east-1", "access_key_id": "a", "secret_access_key": "b"}


def put(s3: str, bucket: str, body: bytes) -> None:

    urlopen(Request(f"{s3}/{bucket}", method="PUT")).close()
    store = S3Store(bucket, config=keys(s3), client_options={"allow_http": True})
    obstore.put(store, "a/model.keras", body)


def test_an_object_of_s3_is_fetched_and_its_replacement_told(s3: str, tmp_path: Path) -> None:
    put(s3, "one", MODEL)
    place, told = place_of(Location("s3://one/a/model.keras"), keys(s3)), list[str | None]()
    fetched = fetch(place, tmp_path)
    assert (fetched.sha256, fetched.path.read_bytes()) == (DIGEST, MODEL)
    assert fetch(place, tmp_path) == fetched
    put(s3, "one", MODEL + b"2")
    MovedWatch(place, fetched.pinned, told.append).look()
    assert len(told) == 1


def test_an_object_or_a_bucket_that_is_not_there_is_named(s3: str, tmp_path: Path) -> None:
    put(s3, "two", MODEL)
    for location in ("s3://two/b/model.keras", "s3://three/a/model.keras"):
        with pytest.raises(ConfigurationError, match=f"there is no model at {location}"):
            fetch(place_of(Location(location), keys(s3)), tmp_path)


def test_a_store_that_refuses_says_what_to_set(tmp_path: Path) -> None:
    with served(lambda _: (403, {}, b"")) as host, pytest.raises(ConfigurationError, match=r"not permitted.*AWS_ACCESS_KEY_ID"):
        place_of(Location("s3://one/a"), keys(f"http://{host}")).look()


def test_an_option_that_a_store_does_not_know_is_said() -> None:
    with pytest.raises(ConfigurationError, match=r"model.store does not fit s3://one/a"):
        place_of(Location("s3://one/a"), {"regoin": "eu"})


# --- MLflow


def registry(versions: dict[str, str], artifacts: dict[str, bytes], root: str = "mlflow-artifacts:/1/models/m-1/artifacts") -> Answer:
    """MLflow's server as far as it is asked. versions: of each alias."""

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(request.path)
        asked = {key: value for key, (value,) in parse_qs(url.query).items()}
        if url.path == "/api/2.0/mlflow/registered-models/alias":
            version = versions.get(asked["alias"])
        elif url.path == "/api/2.0/mlflow/model-versions/get":
            version = asked["version"]
        elif url.path == "/api/2.0/mlflow/model-versions/get-download-uri":
            return 200, {}, json.dumps({"artifact_uri": root}).encode()
        elif url.path == "/api/2.0/mlflow-artifacts/artifacts":
            return 200, {}, json.dumps({"files": listing(artifacts, asked["path"])}).encode()
        else:
            body = artifacts.get(url.path.partition("/artifacts/")[2])
            return (404, {}, b"") if body is None else (200, {}, body)
        found = {"model_version": {"name": asked["name"], "version": version}}
        return (200, {}, json.dumps(found).encode()) if version else (404, {}, b"{}")

    return answer


def listing(artifacts: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    below = {path.removeprefix(f"{folder}/").partition("/") for path in artifacts if path.startswith(f"{folder}/")}
    return [{"path": name, "is_dir": bool(rest)} for name, rest in sorted({(name, bool(rest)) for name, rest, _ in below})]


FILES = {"1/models/m-1/artifacts/MLmodel": b"flavors", "1/models/m-1/artifacts/data/model.keras": MODEL}


def test_an_alias_of_a_registry_is_pinned_and_a_moved_one_told(tmp_path: Path) -> None:
    versions, told = {"live": "3"}, list[str | None]()
    with served(registry(versions, FILES)) as host:
        place = place_of(Location("mlflow:models:/pump@live"), {"tracking_uri": f"http://{host}"})
        fetched = fetch(place, tmp_path)
        versions["live"] = "4"
        MovedWatch(place, fetched.pinned, told.append).look()
    assert (fetched.sha256, fetched.pinned.words) == (DIGEST, "version 3 of pump")
    assert told == ["version 4 of pump"]


def test_a_version_of_a_registry_is_taken(tmp_path: Path) -> None:
    with served(registry({}, FILES)) as host:
        assert fetch(place_of(Location("mlflow:models:/pump/7"), {"tracking_uri": f"http://{host}"}), tmp_path).sha256 == DIGEST


@pytest.mark.parametrize(
    ("versions", "artifacts", "root", "found"),
    [
        ({}, FILES, "mlflow-artifacts:/1/models/m-1/artifacts", "there is no model at mlflow:models:/pump@live .HTTP 404"),
        ({"live": "1"}, {"1/a/MLmodel": b""}, "mlflow-artifacts:/1/a", "it holds no .keras or .h5 file"),
        ({"live": "1"}, {"1/a/b.h5": b"", "1/a/c.h5": b""}, "mlflow-artifacts:/1/a", "it holds 2 Keras files: 1/a/b.h5, 1/a/c.h5"),
        ({"live": "1"}, FILES, "/mlruns/1", "which only the MLflow server itself can read.*--serve-artifacts"),
    ],
    ids=["no alias", "no file", "two files", "a folder of the server's"],
)
def test_what_a_registry_does_not_have_is_one_error(
    versions: dict[str, str], artifacts: dict[str, bytes], root: str, found: str, tmp_path: Path
) -> None:
    with served(registry(versions, artifacts, root)) as host, pytest.raises(ConfigurationError, match=found):
        fetch(place_of(Location("mlflow:models:/pump@live"), {"tracking_uri": f"http://{host}"}), tmp_path)


def test_a_registry_without_an_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigurationError, match=r"the MLflow server is not named.*tracking_uri"):
        place_of(Location("mlflow:models:/pump@live"), {})
