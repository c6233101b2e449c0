"""A broker that asks who comes: the service behind TLS and logins, what it may do there, and what it says when it is refused."""

import contextlib
import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from harness import L, Topics, answers_due, assert_same, readings, save_model

from processor import service as service_module
from processor.metrics import Metrics
from processor.sandbox.kafka import EmbeddedKafka
from processor.sandbox.kafka_security import Authority, Listener, Security
from processor.settings import Settings, load_settings
from processor.stream import permissions
from processor.tools.oracle import Reference

USER, PASSWORD = "plant", "made-up-word-1f0c9a"
LISTENERS = {
    "TLS": Listener("SSL"),
    "MUTUAL": Listener("SSL", client_certificates="required"),
    "SASL_SSL": Listener("SASL_SSL"),
    "SASL_PLAINTEXT": Listener("SASL_PLAINTEXT"),
    "EXPIRED": Listener("SSL", expired=True),
    "ELSEWHERE": Listener("SSL", identities=("elsewhere.example",)),
}
ROOT = Path(__file__).parents[1]


class Secure:
    """The broker, its authority, and how a client comes in by each of its listeners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.security = Security(folder / "certificates", LISTENERS, {USER: PASSWORD})
        self.kafka = EmbeddedKafka(folder / "kafka", security=self.security)
        self.ca = str(self.security.authority.ca)
        self.foreign = Authority(folder / "foreign")
        self.password = folder / "password"
        self.password.write_text(f"{PASSWORD}\n")

    def start(self) -> None:
        self.kafka.start()
        self.administrator = AdminClient({"bootstrap.servers": self.kafka.bootstrap})

    def certificate(self, name: str, authority: Authority | None = None, *, expired: bool = False) -> dict[str, str]:
        key, certificate = (authority or self.security.authority).issue(name, expired=expired)
        return {"ssl.key.location": str(key), "ssl.certificate.location": str(certificate)}

    def tls(self, listener: str = "TLS") -> dict[str, object]:
        return {"bootstrap.servers": self.security.address(listener), "security.protocol": "SSL", "ssl.ca.location": self.ca}

    def login(self, listener: str = "SASL_SSL", mechanism: str = "SCRAM-SHA-512") -> dict[str, object]:
        return {
            **self.tls(listener),
            "security.protocol": listener,
            "sasl.mechanism": mechanism,
            "sasl.username": USER,
            "sasl.password": {"file": str(self.password)},
        }

    def permit(self, user: str, *needs: permissions.Need, take: bool = False) -> None:
        """Grants these to a user, or takes them away."""
        for need in needs:
            described = (
                ResourceType[need.kind.upper().replace("-", "_")],
                need.name,
                ResourcePatternType.PREFIXED if need.prefixed else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                permissions._OPERATIONS[need.operation],
                AclPermissionType.ALLOW,
            )
            done = (
                self.administrator.delete_acls([AclBindingFilter(*described)])
                if take
                else self.administrator.create_acls([AclBinding(*described)])
            )
            for future in done.values():
                future.result(30)


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    broker = Secure(tmp_path_factory.mktemp("secure"))
    broker.start()
    yield broker
    broker.kafka.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model.keras", L.LSTM(4), L.Dense(1))


def write(folder: Path, kafka: dict[str, object], **more: object) -> Path:
    path = folder / "secure.yaml"
    path.write_text(yaml.safe_dump({"kafka": kafka, **more}))
    return path


def options_of(topics: Topics, model: Path) -> list[str]:
    return [
        f"--input.topic={topics.input}",
        f"--output.topic={topics.output}",
        f"--dead_letter.topic={topics.dead_letter}",
        f"--checkpoint.topic={topics.checkpoint}",
        f"--group={topics.input}",
        "--instance=one",
        f"--model.path={model}",
        "--slots=8",
        "--batch.readings_max=64",
        "--http.port=0",
        "--checkpoint.interval=100ms",
        "--dead_letter.max_ratio=1",
    ]


def settings_of(folder: Path, kafka: dict[str, object], topics: Topics, model: Path, *options: str) -> Settings:
    return load_settings(write(folder, kafka), [*options_of(topics, model), *options], {})


@contextlib.contextmanager
def working(settings: Settings, monkeypatch):
    """The service's loop in this process, which has TensorFlow already. Turn it by hand."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    service = service_module.Service(settings, Metrics())
    worker, lock = service._build()
    try:
        yield worker
        worker.stop(leave=True)
    finally:
        lock.release()


def turn_until(worker, condition, timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "not in time"
        worker.turn()


def assert_exact(settings: Settings, topics: Topics) -> None:
    served = service_module.load_model(settings)
    model_id = json.loads(topics.read(topics.output)[0].value())["model"]
    assert_same(topics.answers(), Reference(served, settings, model_id).expect(topics.inputs()))


@contextlib.contextmanager
def token_issuer(secret: str):
    """Answers with an unsigned token for whoever knows the secret, as an issuer's endpoint does."""
    import base64

    def part(content: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            known = base64.b64encode(f"plant:{secret}".encode()).decode() in self.headers.get("Authorization", "")
            now = int(time.time())
            token = f"{part({'alg': 'none'})}.{part({'sub': USER, 'iat': now, 'exp': now + 600, 'scope': ''})}."
            body = json.dumps({"access_token": token, "expires_in": 600} if known else {"error": "invalid_client"}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token"
    finally:
        server.shutdown()
        server.server_close()


WAYS = {
    "TLS": lambda secure, _: (secure.tls(), "ANONYMOUS"),
    "client certificate": lambda secure, _: ({**secure.tls("MUTUAL"), **secure.certificate("machine")}, "machine"),
    "SCRAM-SHA-256 over TLS": lambda secure, _: (secure.login("SASL_SSL", "SCRAM-SHA-256"), USER),
    "SCRAM-SHA-512 without TLS": lambda secure, _: (secure.login("SASL_PLAINTEXT", "SCRAM-SHA-512"), USER),
    "PLAIN over TLS": lambda secure, _: (secure.login("SASL_SSL", "PLAIN"), USER),
    "OAUTHBEARER, made by the client": lambda secure, _: (
        {
            **secure.tls("SASL_SSL"),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "OAUTHBEARER",
            "enable.sasl.oauthbearer.unsecure.jwt": True,
            "sasl.oauthbearer.config": f"principal={USER}",
        },
        USER,
    ),
    "OAUTHBEARER, of an issuer": lambda secure, endpoint: (
        {
            **secure.tls("SASL_SSL"),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": "plant",
            "sasl.oauthbearer.client.secret": {"file": str(secure.password)},
            "sasl.oauthbearer.token.endpoint.url": endpoint,
        },
        USER,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_service_answers_every_reading_by_each_way_in(secure, unique, model, tmp_path, monkeypatch, way):
    """Its consumers, its producer and its questions all come in: it answers, and the next one finds its checkpoints and offsets."""
    topics = Topics(secure.kafka.bootstrap, unique("way"), partitions=2)
    records = readings(np.random.default_rng(5), 60, features=3, sensors=6, partitions=2)
    with token_issuer(PASSWORD) as endpoint:
        kafka, user = WAYS[way](secure, endpoint)
        settings = settings_of(tmp_path, kafka, topics, model)
        secure.permit(user, *permissions.of_run(settings))
        for half in (records[:30], records[30:]):
            topics.produce(half)
            with working(settings, monkeypatch) as worker:
                turn_until(worker, lambda: worker.ready and not worker.restoring)
    assert len(topics.answers()) == answers_due(records)
    assert topics.read(topics.checkpoint)
    assert_exact(settings, topics)
