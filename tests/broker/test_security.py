"""A broker that asks who comes: the service behind TLS and logins, what it may do there, and what it says when it is refused."""

import base64
import contextlib
import json
import queue
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import structlog
import yaml
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AclBinding, AclBindingFilter, AclPermissionType, AdminClient, ResourcePatternType, ResourceType
from harness import L, Service, Topics, answers_due, assert_same, readings, save_model
from places import ROOT
from tiers import few
from waiting import wait_for

from processor import cli, logs
from processor.app import build as build_module
from processor.app import fit
from processor.app import service as service_module
from processor.cli import given
from processor.doctor import check as check_module
from processor.errors import NotPermitted, SlotstreamError
from processor.kafka import admin, clients, permissions
from processor.kafka.create_topics import init
from processor.kafka.findings import Finding
from processor.kafka.refusals import refusal_watch
from processor.kafka.topics import describe
from processor.metrics import Metrics
from processor.model import tiles
from processor.settings import Settings, load_settings
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.kafka_security import Authority, Listener, Security
from processor.testbed.ports import free_port
from processor.verify.oracle import Reference

USER, PASSWORD = "plant", "made-up-word-1f0c9a"
LISTENERS = {
    "TLS": Listener("SSL"),
    "MUTUAL": Listener("SSL", client_certificates="required"),
    "SASL_SSL": Listener("SASL_SSL"),
    "SASL_PLAINTEXT": Listener("SASL_PLAINTEXT"),
    "SCRAM_ONLY": Listener("SASL_PLAINTEXT", mechanisms=("SCRAM-SHA-256", "SCRAM-SHA-512")),
    "EXPIRED": Listener("SSL", expired=True),
    "ELSEWHERE": Listener("SSL", identities=("elsewhere.example",)),
    "SHORT": Listener("SASL_PLAINTEXT", mechanisms=("SCRAM-SHA-512",), session_ms=1000),
    "NOWHERE": Listener("SSL", advertised="broker.invalid:19192"),
    "CLOSED": Listener("SSL", advertised=f"127.0.0.1:{free_port()}"),
}


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


@pytest.fixture(scope="module")
def compiled(model):
    return tiles.Tiles(fit.load_model(Settings(model={"path": str(model)})), rows_max=8)


@pytest.fixture(autouse=True)
def _one_model_for_all(compiled, monkeypatch):
    """Loaded and compiled once: here it is asked how the service comes in, not what it answers with."""
    monkeypatch.setattr(tiles, "Tiles", lambda *_, **__: compiled)
    for module in (build_module, check_module):
        monkeypatch.setattr(module, "load_model", lambda *_: compiled._model)
    monkeypatch.setattr(admin, "REFUSED_S", 0.5)
    monkeypatch.setattr(logs, "configure", lambda *_: None)


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
    worker, watch = service._build()
    try:
        yield worker
        watch.close()
        worker.stop(leave=True)
    except BaseException:
        watch.close()
        worker.abandon(leave=True)
        raise
    finally:
        service._release()


def turn_until(worker, condition, timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "not in time"
        worker.turn()


def assert_exact(settings: Settings, topics: Topics) -> None:
    served = fit.load_model(settings)
    assert topics.read(topics.output), "nothing was predicted"
    model_id = json.loads(topics.read(topics.output)[0].value())["model"]
    assert_same(topics.answers(), Reference(served, settings, model_id).expect(topics.inputs()))


@contextlib.contextmanager
def token_issuer(secret: str):
    """Answers with an unsigned token for whoever knows the secret, as an issuer's endpoint does."""

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


@pytest.mark.parametrize("way", few(WAYS, "TLS", "SCRAM-SHA-256 over TLS", "OAUTHBEARER, made by the client"))
def test_the_service_answers_every_reading_by_each_way_in(secure, unique, model, tmp_path, monkeypatch, way):
    """Its consumers, its producer and its questions all come in: it answers, and one that comes after it finds its checkpoints."""
    topics = Topics(secure.kafka.bootstrap, unique("way"), partitions=2)
    records = readings(np.random.default_rng(5), 60, features=3, sensors=6, partitions=2)
    with token_issuer(PASSWORD) as endpoint:
        kafka, user = WAYS[way](secure, endpoint)
        settings = settings_of(tmp_path, kafka, topics, model)
        secure.permit(user, *permissions.of_run(settings))
        for half in (records[:30], records[30:]) if "512" in way else (records,):
            topics.produce(half)
            with working(settings, monkeypatch) as worker:
                turn_until(worker, lambda: worker.ready)
    assert len(topics.answers()) == answers_due(records)
    assert topics.read(topics.checkpoint)
    assert_exact(settings, topics)


# -- refused ------------------------------------------------------------------------------------------------------------------


def without(kafka: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in kafka.items() if key not in keys}


REFUSED = {
    "wrong password, SCRAM": (lambda s: {**s.login(), "sasl.password": "wrong-word"}, 2, f"refuses the login of {USER} by SCRAM-SHA-512"),
    "wrong password, PLAIN": (
        lambda s: {**s.login(mechanism="PLAIN"), "sasl.password": "wrong-word"},
        2,
        "Invalid username or password",
    ),
    "unknown user": (lambda s: {**s.login(), "sasl.username": "nobody"}, 2, "refuses the login of nobody by SCRAM-SHA-512"),
    "a mechanism that the listener has not": (
        lambda s: {**s.login("SCRAM_ONLY"), "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"},
        2,
        "takes logins by SCRAM-SHA-256, SCRAM-SHA-512, and sasl.mechanism is PLAIN",
    ),
    "a mechanism that the client has not": (lambda s: without(s.login(), "sasl.mechanism"), 2, "set sasl.mechanism under kafka"),
    "no password": (lambda s: without(s.login(), "sasl.password"), 2, "sasl.username and sasl.password must be set"),
    "no token": (
        lambda s: {
            **without(s.login(mechanism="OAUTHBEARER"), "sasl.username", "sasl.password"),
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": "plant",
            "sasl.oauthbearer.client.secret": "wrong-word",
            "sasl.oauthbearer.token.endpoint.url": f"http://127.0.0.1:{free_port()}/token",
        },
        2,
        "was given no token",
    ),
    "expired certificate of the broker": (lambda s: s.tls("EXPIRED"), 1, "expired on 20"),
    "certificate for another host": (lambda s: s.tls("ELSEWHERE"), 2, "is for elsewhere.example, and not for 127.0.0.1"),
    "foreign authority": (
        lambda s: {**s.tls(), "ssl.ca.location": str(s.foreign.ca)},
        2,
        "the authority in ssl.ca.location does not vouch for it",
    ),
    "no authority": (lambda s: without(s.tls(), "ssl.ca.location"), 2, "no authority of this machine vouches for it"),
    "authority's file missing": (lambda s: {**s.tls(), "ssl.ca.location": "/nowhere/ca.pem"}, 2, "ssl.ca.location failed"),
    "no client certificate": (lambda s: s.tls("MUTUAL"), 2, "asks for a client certificate, and none is set"),
    "expired client certificate": (
        lambda s: {**s.tls("MUTUAL"), **s.certificate("old", expired=True)},
        2,
        "the client's certificate (ssl.certificate.location: CN=old",
    ),
    "foreign client certificate": (
        lambda s: {**s.tls("MUTUAL"), **s.certificate("stranger", s.foreign)},
        2,
        "does not take the client's certificate (ssl.certificate.location: CN=stranger",
    ),
    "no TLS to TLS": (
        lambda s: {"bootstrap.servers": s.security.address("TLS")},
        2,
        "speaks TLS and asks for no login, and security.protocol is PLAINTEXT",
    ),
    "TLS to no TLS": (lambda s: {**s.tls(), "bootstrap.servers": s.kafka.bootstrap}, 2, "speaks no TLS and asks for no login"),
    "no login where one is asked for": (lambda s: s.tls("SASL_SSL"), 2, "set security.protocol under kafka to SASL_SSL"),
    "a login where none is asked for": (
        lambda s: {**s.login(), "bootstrap.servers": s.security.address("TLS")},
        2,
        "asks for no login, and security.protocol is SASL_SSL",
    ),
    "an advertised name that does not resolve": (
        lambda s: s.tls("NOWHERE"),
        1,
        "answers and sends clients to broker.invalid:19192, which does not resolve (advertised.listeners)",
    ),
    "an advertised address where nothing listens": (lambda s: s.tls("CLOSED"), 1, "answers and sends clients to 127.0.0.1:"),
    "no TLS to a login behind TLS": (
        lambda s: {**s.login(), "security.protocol": "SASL_PLAINTEXT"},
        2,
        "speaks TLS and asks for a login (OAUTHBEARER, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_whoever_is_refused_is_told_once_why_and_what_to_do(secure, tmp_path, case):
    kafka, code, says = REFUSED[case]
    settings = load_settings(write(tmp_path, kafka(secure)), [], {})
    with pytest.raises(SlotstreamError) as refused:
        describe(settings)
    assert refused.value.exit_code == code, refused.value
    assert says in str(refused.value)
    assert "wrong-word" not in str(refused.value)
    assert says in next(str(found) for found in check_module.on_broker(settings) if not found.good)
    assert not re.search(r"after \d+ms|might be|verify that|brokers are down", str(refused.value))


class Heard:
    """What a client's refusals come to, asked in quick succession, and what the log holds of them."""

    def __init__(self, settings: Settings, monkeypatch) -> None:
        monkeypatch.setattr(refusal_watch, "ASK_AGAIN_S", 0.2)
        self.watch, self._consumer = clients.watch_of(settings), clients.restore_consumer(settings)
        self._consumer.assign([TopicPartition("heard", 0)])

    def __enter__(self):
        self._capturing = structlog.testing.capture_logs()
        self._lines = self._capturing.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._capturing.__exit__(*raised)
        self._consumer.close()

    def reason(self) -> SlotstreamError | None:
        self._consumer.poll(0.05)
        return self.watch.reason

    def told(self, event: str) -> list[dict[str, object]]:
        return [line for line in self._lines if line["event"] == event]


@contextlib.contextmanager
def forwarded(target_port: int):
    """A port whose new connections go to another port, and a function that sets that one."""
    target = [target_port]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target[0])) as there:
                ends = [self.request, there]
                while True:
                    for end in select.select(ends, [], [])[0]:
                        piece = end.recv(65_536)
                        if not piece:
                            return
                        ends[1 - ends.index(end)].sendall(piece)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], lambda port: target.__setitem__(0, port)
        server.shutdown()


def test_a_login_that_is_refused_while_the_client_runs_is_told_once_until_the_file_holds_a_password_that_is_taken(
    secure, tmp_path, monkeypatch
):
    password = tmp_path / "password"
    password.write_text("wrong-word\n")
    settings = load_settings(write(tmp_path, {**secure.login(), "sasl.password": {"file": str(password)}}), ["--group=left-out"], {})
    with Heard(settings, monkeypatch) as heard:
        assert f"refuses the login of {USER}" in wait_for(heard.reason, "the refusal", 180).found
        for _ in range(40):  # and not again at each attempt
            heard.reason()
        assert [line["log_level"] for line in heard.told("the broker rejected this client, retrying")] == ["error"]
        password.write_text(f"{PASSWORD}\n")
        wait_for(lambda: heard.reason() is None and heard.told("the broker accepts this client again"), "access", 180)
        assert heard.told("read renewed credentials from their files")
        assert not [line for line in heard._lines if PASSWORD in str(line)]


@pytest.mark.failure("a name does not resolve, an advertised address does not, or a certificate has expired")
def test_an_expired_certificate_of_the_broker_is_told_until_it_was_renewed(secure, tmp_path, monkeypatch):
    """One address: first of a listener whose certificate has expired, then of one whose certificate is valid."""
    with forwarded(secure.security.port("EXPIRED")) as (port, send_to):
        kafka = {**secure.tls(), "bootstrap.servers": f"127.0.0.1:{port}"}
        with Heard(load_settings(write(tmp_path, kafka), [], {}), monkeypatch) as heard:
            assert "expired on 20" in wait_for(heard.reason, "the refusal", 180).found
            send_to(secure.security.port("TLS"))
            wait_for(lambda: heard.reason() is None and heard.told("the broker accepts this client again"), "access", 180)


@pytest.mark.failure("a name does not resolve, an advertised address does not, or a certificate has expired")
def test_an_advertised_name_that_does_not_resolve_is_told_while_the_client_runs(secure, tmp_path, monkeypatch):
    with Heard(load_settings(write(tmp_path, secure.tls("NOWHERE")), [], {}), monkeypatch) as heard:
        assert "sends clients to broker.invalid:19192" in wait_for(heard.reason, "the reason", 180).found


def test_one_wrong_server_of_several_is_no_reason_to_stay_out(secure, tmp_path):
    several = f"nowhere.invalid:9092,127.0.0.1:{free_port()},{secure.kafka.bootstrap}"
    settings = load_settings(write(tmp_path, {"bootstrap.servers": several}), [], {})
    assert check_module.on_broker(settings)[0].good


# -- permissions --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def permitted(secure, tmp_path_factory, model):
    """Topics of its own, on which the user may do what the documentation lists, and settings for them."""
    topics = Topics(secure.kafka.bootstrap, "permitted", partitions=1)
    settings = settings_of(tmp_path_factory.mktemp("permitted"), secure.login(), topics, model)
    secure.permit(USER, *permissions.of_run(settings))
    return settings


def in_the_documentation(settings: Settings, command: str) -> set[permissions.Need]:
    """The rows of the page's table for a command."""
    page = (ROOT / "docs/operations/security.md").read_text(encoding="utf-8")
    names = {
        "topic `input.topic`": ("topic", settings.input.topic),
        "topic `output.topic`": ("topic", settings.output.topic),
        "topic `dead_letter.topic`": ("topic", settings.dead_letter_topic),
        "topic `checkpoint.topic`": ("topic", settings.checkpoint_topic),
        "group `group`": ("group", settings.group_id),
        "transactional-id, prefixed: `group` and a dot": ("transactional-id", f"{settings.group_id}."),
    }
    found = set()
    for commands, resource, operations in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE):
        if f"`{command}`" in commands and resource in names:
            found |= {permissions.Need(*names[resource], word, "prefixed" in resource) for word in operations.split(", ")}
    return found


def test_the_documentation_lists_the_least(permitted):
    assert in_the_documentation(permitted, "run") == in_the_documentation(permitted, "check") == set(permissions.of_run(permitted))
    assert in_the_documentation(permitted, "feed") == set(permissions.of_feed(permitted))
    assert in_the_documentation(permitted, "state list") == set(permissions.of_state(permitted))
    assert in_the_documentation(permitted, "state reset") == {*permissions.of_feed(permitted), *permissions.of_state(permitted)}


def bad(settings: Settings) -> list[Finding]:
    return [finding for finding in check_module.check(settings) if not finding.good]


def test_with_the_least_all_is_well(secure, permitted):
    wait_for(lambda: not bad(permitted), lambda: bad(permitted))
    found = {finding.what: finding.found for finding in check_module.check(permitted)}
    assert found["permissions"] == f"10 of the 10 on topics and group are there, for User:{USER}"
    assert {"broker", "model", "sizes", "sasl.password", "input.topic", "checkpoint.topic", "group", "transactions"} <= found.keys()
    assert describe(permitted).input.name == permitted.input.topic


LEAST = permissions.of_run(Settings(input={"topic": "I"}, output={"topic": "O"}, group="G"))


@pytest.mark.parametrize("number", range(len(LEAST)), ids=[f"{need.operation} {need.resource}" for need in LEAST])
def test_each_that_is_taken_away_is_named_with_the_command_that_grants_it(secure, permitted, number):
    need = permissions.of_run(permitted)[number]
    command = permissions.grant(permitted, need)
    assert all(word in command for word in (need.operation, f"--{need.kind}", need.name, f"User:{USER}"))
    secure.permit(USER, need, take=True)
    try:
        named = wait_for(lambda: [found for found in bad(permitted) if found.do.endswith(command)], lambda: f"{need}: {bad(permitted)}")
        assert need.operation in named[0].found
        assert need.resource in named[0].found
        others = {other for other in permissions.of_run(permitted) if other != need}
        assert not [found for found in bad(permitted) for other in others if found.do.endswith(permissions.grant(permitted, other))]
        if need.kind != "transactional-id":
            with pytest.raises(NotPermitted, match=re.escape(f"{need.operation} on {need.resource}")):
                describe(permitted)
    finally:
        secure.permit(USER, need)
        wait_for(lambda: not bad(permitted), lambda: bad(permitted))


def test_check_goes_through_every_line_and_ends_with_1(secure, permitted, tmp_path, capsys):
    needs = permissions.of_run(permitted)[:3]
    secure.permit(USER, *needs, take=True)
    try:
        words = [f"--{key}={value}" for key, value in (("group", permitted.group_id), ("instance", "one"), ("slots", 8))]
        words += [f"--model.path={permitted.model.path}", f"--input.topic={permitted.input.topic}"]
        words += [f"--output.topic={permitted.output.topic}"]
        words += [f"--checkpoint.topic={permitted.checkpoint_topic}", "--config", str(write(tmp_path, secure.login()))]

        def said() -> str:
            code = cli.main(["check", *words])
            out = capsys.readouterr().out
            return out if code == 1 and out.count("is missing") == 3 else ""

        out = wait_for(said, "three missing")
        assert all(f"{need.operation} on {need.resource} is missing" in out for need in needs)
        assert "the broker takes them" in out
        assert PASSWORD not in out
    finally:
        secure.permit(USER, *needs)
        wait_for(lambda: not bad(permitted), lambda: bad(permitted))


TAKEN = {
    "input": lambda s: permissions.Need("topic", s.input.topic, "Read"),
    "output": lambda s: permissions.Need("topic", s.output.topic, "Write"),
    "checkpoints": lambda s: permissions.Need("topic", s.checkpoint_topic, "Write"),
    "group": lambda s: permissions.Need("group", s.group_id, "Read"),
    "transactions": permissions.of_transactions,
}


@contextlib.contextmanager
def running(settings: Settings, monkeypatch):
    """The service in a thread of this process, and what it logs. Ends with exit code 0."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(service_module, "PERMITTED_S", 0.5)
    monkeypatch.setattr(refusal_watch, "ASK_AGAIN_S", 0.5)
    service = service_module.Service(settings, Metrics())
    ended = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put(service.run())
        except BaseException as error:  # noqa: BLE001 - judged below
            ended.put(error)

    with structlog.testing.capture_logs() as lines:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield service, lines
        finally:
            service._stopping = True
            thread.join(120)
        assert ended.get(timeout=1) == 0


def says(lines: list[dict[str, object]], event: str) -> list[str]:
    return [str(line["found"]) for line in lines if line["event"] == event]


class Feed:
    """Readings for the service, a few at a time, and how many answers are due."""

    def __init__(self, topics: Topics) -> None:
        self._topics, self._rng, self.due = topics, np.random.default_rng(3), 0

    def send(self) -> None:
        records = readings(self._rng, 5, features=3, sensors=3, partitions=1)
        self._topics.produce(records)
        self.due += answers_due(records)

    def send_until(self, condition) -> object:
        def sent_and_holds() -> object:
            self.send()
            return condition()

        return wait_for(sent_and_holds, "the condition", timeout_s=90)

    def wait_answered(self) -> None:
        wait_for(lambda: len(self._answered()) >= self.due, lambda: f"{self.due} answers", timeout_s=90)

    def _answered(self) -> set[tuple[int, int]]:
        """With delivery at_least_once some come twice."""
        outputs = [json.loads(message.value()) for message in self._topics.read(self._topics.output)]
        rejected = [dict(message.headers()) for message in self._topics.read(self._topics.dead_letter)]
        return {(one["partition"], one["offset"]) for one in outputs} | {
            (int(one["source_partition"]), int(one["source_offset"])) for one in rejected
        }


LONGER = [
    pytest.param(what, delivery, marks=pytest.mark.soak)
    for what, delivery in (
        ("input", "exactly_once"),
        ("checkpoints", "exactly_once"),
        ("transactions", "exactly_once"),
        ("output", "at_least_once"),
        ("group", "at_least_once"),
    )
]


@pytest.mark.long
@pytest.mark.failure("a permission is taken away")
@pytest.mark.parametrize(("what", "delivery"), [("output", "exactly_once"), ("group", "exactly_once"), *LONGER])
def test_a_permission_that_is_taken_away_is_named_and_waited_for_and_nothing_is_lost(
    secure, unique, model, tmp_path, monkeypatch, what, delivery
):
    topics = Topics(secure.kafka.bootstrap, unique("taken"), partitions=1)
    settings = settings_of(tmp_path, secure.login(), topics, model, f"--delivery={delivery}")
    need = TAKEN[what](settings)
    named = f"{need.operation} on {need.resource}"
    secure.permit(USER, *permissions.of_run(settings))
    feed = Feed(topics)
    with running(settings, monkeypatch) as (service, lines):
        feed.send()
        wait_for(lambda: service.probes.ready()[0], service.probes.ready, timeout_s=90)
        secure.permit(USER, need, take=True)
        trouble = feed.send_until(lambda: service.probes.trouble)
        wait_for(lambda: named in (service.probes.trouble or ""), lambda: service.probes.trouble)
        assert service.probes.ready() == (False, service.probes.trouble), trouble
        assert permissions.grant(settings, need) in service.probes.ready()[1]
        assert service.probes.alive()[0]
        feed.send()
        secure.permit(USER, need)
        feed.wait_answered()
        wait_for(lambda: service.probes.ready()[0], service.probes.ready, timeout_s=90)
        assert len([found for found in says(lines, "waiting for a missing permission") if named in found]) == 1
    if delivery == "exactly_once":
        assert_exact(settings, topics)


@pytest.mark.long
def test_a_stop_while_a_permission_is_missing_ends_with_0(secure, unique, model, tmp_path, monkeypatch):
    topics = Topics(secure.kafka.bootstrap, unique("stopped"), partitions=1)
    settings = settings_of(tmp_path, secure.login(), topics, model)
    secure.permit(USER, *permissions.of_run(settings))
    feed = Feed(topics)
    with running(settings, monkeypatch) as (service, _):
        feed.send()
        feed.wait_answered()
        secure.permit(USER, TAKEN["output"](settings), take=True)
        feed.send_until(lambda: service.probes.trouble)


@pytest.mark.long
@pytest.mark.failure("a password is changed at the broker")
def test_a_password_that_is_changed_at_the_broker_is_waited_for_and_a_new_one_is_read_from_its_file(
    secure, unique, model, tmp_path, monkeypatch
):
    user, password = unique("user"), tmp_path / "password"
    password.write_text("made-up-word-of-before")
    secure.security.set_passwords(secure.kafka.bootstrap, {user: "made-up-word-of-before"})
    topics = Topics(secure.kafka.bootstrap, unique("changed"), partitions=1)
    login = {**without(secure.login("SHORT"), "ssl.ca.location"), "security.protocol": "SASL_PLAINTEXT", "sasl.username": user}
    settings = settings_of(tmp_path, {**login, "sasl.password": {"file": str(password)}}, topics, model)
    secure.permit(user, *permissions.of_run(settings))
    feed = Feed(topics)
    with running(settings, monkeypatch) as (service, lines):
        feed.send()
        feed.wait_answered()
        secure.security.set_passwords(secure.kafka.bootstrap, {user: "made-up-word-of-after"})
        trouble = feed.send_until(lambda: service.probes.trouble)
        assert f"refuses the login of {user}" in str(trouble)
        assert not service.probes.ready()[0]
        password.write_text("made-up-word-of-after")
        feed.wait_answered()
        secure.security.set_passwords(secure.kafka.bootstrap, {user: "made-up-word-of-before"})
        feed.send_until(lambda: service.probes.trouble)
        secure.security.set_passwords(secure.kafka.bootstrap, {user: "made-up-word-of-after"})
        feed.wait_answered()
        wait_for(lambda: service.probes.ready()[0], service.probes.ready, timeout_s=90)
    assert_exact(settings, topics)
    assert not [line for line in lines if "made-up-word" in str(line)]


def test_init_needs_what_is_listed_and_names_the_topic_that_it_may_not_create(secure, unique, model, tmp_path):
    topics = Topics.__new__(Topics)  # names alone
    name = unique("init")
    topics.input, topics.output, topics.dead_letter, topics.checkpoint = name, f"{name}.out", f"{name}.dead-letter", f"{name}.checkpoints"
    settings = settings_of(tmp_path, secure.login(), topics, model)
    with pytest.raises(NotPermitted, match=f"Describe on topic {name}"):
        init(settings, 1, None)
    secure.permit(USER, *permissions.of_init(settings))

    def refused() -> str:
        with pytest.raises(NotPermitted) as caught:
            init(settings, 1, None)
        return str(caught.value) if "Create" in str(caught.value) else ""

    assert f"Create on topic {name}" in wait_for(refused, "the refusal")
    creates = [permissions.Need("topic", one, "Create") for one in (name, topics.output, topics.dead_letter, topics.checkpoint)]
    secure.permit(USER, *creates)

    def created() -> list[str]:
        with contextlib.suppress(NotPermitted):
            return init(settings, 1, None)
        return []

    assert len(wait_for(created, "the topics")) == 4


# -- secrets ------------------------------------------------------------------------------------------------------------------


def kept(path: str) -> list[str]:
    """What of a key must be seen nowhere: its lines."""
    return [line for line in Path(path).read_text().splitlines() if not line.startswith("-----")]


@pytest.mark.long
def test_no_line_of_a_run_that_is_refused_holds_a_secret(secure, tmp_path):
    """Whatever is set, at every level and in every form, and on the command line neither."""
    own = secure.certificate("quiet")
    key = own.pop("ssl.key.location")
    secrets = {
        "sasl.password": "canary-password-1",
        "ssl.key.password": "canary-password-2",
        "ssl.keystore.password": "canary-password-3",
        "sasl.oauthbearer.client.secret": "canary-password-4",
        "sasl.oauthbearer.config": "principal=canary-5 scope=canary-6",
        "ssl.key.pem": Path(key).read_text(),
        "client.rack": {"file": str(tmp_path / "rack")},
    }
    (tmp_path / "rack").write_text("canary-password-7\n")
    config = write(tmp_path, {**secure.login(), **own, **secrets, "debug": "all"})
    command = [sys.executable, "-m", "processor.cli", "run", "--config", str(config), "--log.level=debug", "--http.port=0"]
    for form in ("json", "console"):
        with subprocess.Popen([*command, f"--log.format={form}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT) as process:
            title = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
            said, _ = process.communicate(timeout=120)
        text = said.decode()
        assert process.returncode == 2, text[-3000:]
        assert f"refuses the login of {USER}" in text
        canaries = ["canary-", "canary\\u002d", *kept(key)]
        assert not [canary for canary in canaries for seen in (text, title) if canary in seen]


@pytest.mark.long
def test_nothing_that_a_running_service_shows_holds_a_secret(secure, unique, model, tmp_path):
    """The password comes from the environment; librdkafka says all that it can."""
    topics = Topics(secure.kafka.bootstrap, unique("shown"), partitions=1)
    records = readings(np.random.default_rng(4), 10, features=3, sensors=2, partitions=1)
    topics.produce(records)
    secure.permit(USER, *permissions.of_run(settings_of(tmp_path, secure.login(), topics, model)))
    service = Service(topics, model, tmp_path, "--checkpoint.store=topic", "--slots=8", "--log.level=debug", instance="one")
    service.options = [option for option in service.options if not option.startswith("--kafka=")]
    kafka = {**without(secure.login(), "sasl.password"), "debug": "security,conf,feature,broker,generic"}
    service.options = ["--config", str(write(tmp_path, kafka)), f"--group={topics.input}", *service.options]
    service.environment = {"SLOTSTREAM_KAFKA__SASL_PASSWORD": PASSWORD, "PYTHONPATH": str(ROOT)}
    with service:
        service.wait_answered(answers_due(records))
        title = Path(f"/proc/{service.process.pid}/cmdline").read_text()
        shown = [service.get(path)[1] for path in ("/", "/status.json", "/metrics", "/healthz", "/readyz")]
        assert service.stop() == 0
    assert all(shown)
    assert "librdkafka" in service.said()
    assert not [text for text in (title, *shown, service.said()) if PASSWORD in text]


def test_a_bugs_traceback_holds_no_secret(capsys):
    logs.SECRETS.keep(["canary-password", "line one\nline-of-a-key\n", 'with "quotes"'])
    try:
        given.uncaught(ValueError, ValueError("canary-password and line-of-a-key and 'with \\\"quotes\\\"'"), None)
    finally:
        logs.SECRETS.keep([])
    assert capsys.readouterr().err == "ValueError: (hidden) and (hidden) and '(hidden)'\n"


# -- the page -----------------------------------------------------------------------------------------------------------------


def snippets() -> list[dict[str, object]]:
    page = (ROOT / "docs/operations/security.md").read_text(encoding="utf-8")
    return [yaml.safe_load(text)["kafka"] for text in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("number", range(4))
def test_each_snippet_of_the_page_leads_in(secure, tmp_path, number):
    """With this broker's address, files and user in place of the page's."""
    assert len(snippets()) == 4
    kafka = snippets()[number]
    with token_issuer(PASSWORD) as endpoint:
        here = {
            "bootstrap.servers": secure.security.address(
                "SASL_SSL" if "sasl.mechanism" in kafka else "MUTUAL" if "ssl.key.location" in kafka else "TLS"
            ),
            "ssl.ca.location": secure.ca,
            **secure.certificate(f"snippet-{number}"),
            "sasl.username": USER,
            "sasl.password": {"file": str(secure.password)},
            "sasl.oauthbearer.client.id": "plant",
            "sasl.oauthbearer.client.secret": {"file": str(secure.password)},
            "sasl.oauthbearer.token.endpoint.url": endpoint,
        }
        settings = load_settings(write(tmp_path, {key: here.get(key, value) for key, value in kafka.items()}), [], {})
        assert check_module.on_broker(settings)[0].good
