"""Why a broker that is there does not let this client in: TLS, certificates, mechanism, password.

librdkafka tries a refused connection again without end, and its words are the same for an expired certificate, a foreign one and one
for another host. So once it has failed for a while, the broker's ports are looked at here: what they speak, which certificate they
show, how they ask for a login. Responsible for the one message that comes of it. Not responsible for connecting: nothing is sent but
one request that every broker answers before a login, and no secret leaves the process.
"""

import contextlib
import datetime
import math
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import KafkaError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from processor.errors import ConfigurationError, SlotstreamError
from processor.settings import Settings

_log = structlog.get_logger(__name__)

SEE = "the-broker-does-not-let-the-client-in"
TELL_S = 60.0
LOOK_S = 3.0
LOOKED_AT_MAX = 3
ANSWER_BYTES_MAX = 65_536
SASL_HANDSHAKE, NO_MECHANISM, ILLEGAL_SASL_STATE = 17, "none", 34
# OpenSSL's, as ssl.SSLCertVerificationError.verify_code has them.
NOT_YET_VALID, EXPIRED, HOST_MISMATCH, IP_MISMATCH = 9, 10, 62, 64


@dataclass(frozen=True, slots=True)
class Port:
    """What a listener asks for. mechanisms: of its login; empty where it asks for none, or lets nobody see them without a certificate."""

    tls: bool
    sasl: bool | None  # None: it did not say
    mechanisms: tuple[str, ...] = ()


class Watch:
    """A client's error callback while the service runs: an outage that is a refusal is told by its reason, now and then.

    The client goes on trying, since a login that was taken away may be given back; nothing is lost meanwhile.
    """

    def __init__(self, settings: Settings, now_s: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._now_s = settings, now_s
        self._told_at_s = -math.inf

    def __call__(self, error: KafkaError) -> None:
        """Called by the client inside whatever call is running: nothing is raised, and nothing is waited for."""
        refused = error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or " alert " in error.str()
        if refused and self._now_s() - self._told_at_s > TELL_S:
            self._told_at_s = self._now_s()
            threading.Thread(target=self._tell, args=(error,), name="refusal", daemon=True).start()

    def _tell(self, error: KafkaError) -> None:
        found = refusal(self._settings, [error])
        if found is not None:
            _log.error("the broker refuses this client; it goes on trying", found=found.found, expected=found.expected, do=found.do)


def refusal(settings: Settings, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    """What keeps this client out, if a broker answers at all. heard: the client's errors so far."""
    config = settings.kafka_config()
    for host, port in _addresses(config["bootstrap.servers"]):
        found = _look(host, port)
        if found is not None:
            address = f"{host}:{port}"
            return (
                _compared(config, address, found)
                or (_certificate(config, host, port) or _own_certificate(config, address, heard) if found.tls else None)
                or _login(config, address, heard)
            )
    return None


def certificates(config: Mapping[str, str]) -> list[tuple[str, x509.Certificate]]:
    """The client's own certificate and the property that it comes from. Nothing where none is set or none can be read."""
    sources: list[tuple[str, Any]] = [
        ("ssl.certificate.location", lambda where: x509.load_pem_x509_certificate(Path(where).read_bytes())),
        ("ssl.certificate.pem", lambda pem: x509.load_pem_x509_certificate(pem.encode())),
        ("ssl.keystore.location", lambda where: _of_keystore(where, config.get("ssl.keystore.password", ""))),
    ]
    found = []
    for key, read in sources:
        if key in config:
            with contextlib.suppress(OSError, ValueError):  # the client itself says what is wrong with a file
                found += [(key, certificate)] if (certificate := read(config[key])) is not None else []
    return found


def _of_keystore(where: str, password: str) -> x509.Certificate | None:
    return pkcs12.load_key_and_certificates(Path(where).read_bytes(), password.encode() or None)[1]


def expiry(certificate: x509.Certificate) -> datetime.datetime:
    return certificate.not_valid_after_utc


def is_expired(certificate: x509.Certificate) -> bool:
    return expiry(certificate) < datetime.datetime.now(datetime.UTC)


# The message.


def _compared(config: Mapping[str, str], address: str, found: Port) -> SlotstreamError | None:
    protocol = config.get("security.protocol", "plaintext").upper()
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL")
    wanted_sasl = sasl if found.sasl is None else found.sasl
    fits = ("SASL_" if wanted_sasl else "") + ("SSL" if found.tls else "PLAINTEXT")
    if tls != found.tls or sasl != wanted_sasl:
        how = "TLS" if found.tls else "no TLS"
        login = "" if found.sasl is None else " and asks for no login"
        if found.mechanisms:
            login = f" and asks for a login ({', '.join(found.mechanisms)})"
        return ConfigurationError(
            f"the broker at {address} speaks {how}{login}, and security.protocol is {protocol}",
            expected="the protocol of the listener at that port",
            do=f"set security.protocol under kafka to {fits}, or take the port of the broker's {protocol} listener",
            see=SEE,
        )
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", "GSSAPI"))
    if sasl and found.mechanisms and mechanism not in found.mechanisms:
        return ConfigurationError(
            f"the broker at {address} takes logins by {', '.join(found.mechanisms)}, and sasl.mechanism is {mechanism}",
            expected="one of the broker's mechanisms",
            do="set sasl.mechanism under kafka to one of them, or enable it at the broker (sasl.enabled.mechanisms)",
            see=SEE,
        )
    return None


def _own_certificate(config: Mapping[str, str], address: str, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    """Of the client: missing, expired, or not trusted. The broker ends the connection with an alert, after the handshake."""
    alerts = [error.str() for error in heard if " alert " in error.str()]
    own = certificates(config)
    for key, certificate in own:
        if alerts and is_expired(certificate):
            return ConfigurationError(
                f"the client's certificate ({key}: {_subject(certificate)}) expired on {_day(certificate)}, and the broker at {address} "
                "refuses it",
                expected="a certificate that is valid",
                do=f"have it renewed, and set {key} under kafka to the new one",
                see=SEE,
            )
    if alerts and not own:
        return ConfigurationError(
            f"the broker at {address} asks for a client certificate, and none is set",
            expected="ssl.certificate.location and ssl.key.location under kafka, of a certificate that the broker trusts",
            do="set them (ssl.key.password too if the key has one), or take the port of a listener that asks for none",
            see=SEE,
        )
    if alerts:
        key, certificate = own[0]
        return ConfigurationError(
            f"the broker at {address} does not take the client's certificate ({key}: {_subject(certificate)}, issued by "
            f"{certificate.issuer.rfc4514_string()})",
            expected="a certificate of an authority in the broker's trust store (ssl.truststore.location there)",
            do=f"set {key} under kafka to such a one, or have its authority added at the broker",
            see=SEE,
        )
    return None


def _certificate(config: Mapping[str, str], host: str, port: int) -> SlotstreamError | None:
    """Of the broker: expired, for another host, or of an authority that is not trusted."""
    if config.get("enable.ssl.certificate.verification", "true") == "false":
        return None
    address, check_host = f"{host}:{port}", config.get("ssl.endpoint.identification.algorithm", "https") != "none"
    try:
        code = _verification(host, port, _trusting(config, check_host=check_host))
    except (OSError, ValueError):
        return None
    shown = _shown(host, port)
    if code is None or shown is None:
        return None
    if code in (EXPIRED, NOT_YET_VALID):
        when = f"expired on {_day(shown)}" if code == EXPIRED else f"is valid from {shown.not_valid_before_utc:%Y-%m-%d} on"
        return SlotstreamError(
            f"the certificate of the broker at {address} ({_subject(shown)}) {when}",
            expected="a certificate that is valid today",
            do="have it renewed at the broker (ssl.keystore.location there); look at this machine's clock if it should be valid",
            see=SEE,
        )
    if code in (HOST_MISMATCH, IP_MISMATCH):
        return ConfigurationError(
            f"the certificate of the broker at {address} is for {', '.join(_hosts(shown)) or _subject(shown)}, and not for {host}",
            expected="a certificate for the host that bootstrap.servers names",
            do="name the broker in bootstrap.servers as its certificate does, or have a certificate made for this name too",
            see=SEE,
        )
    given = next((key for key in ("ssl.ca.location", "ssl.ca.pem") if key in config), None)
    trusted = f"the authority in {given} does not vouch for it" if given else "no authority of this machine vouches for it"
    return ConfigurationError(
        f"the certificate of the broker at {address} was issued by {shown.issuer.rfc4514_string()}, and {trusted}",
        expected="the certificate of that authority, in PEM format",
        do=f"set ssl.ca.location under kafka to {'the right' if given else 'a'} file with it",
        see=SEE,
    )


def _login(config: Mapping[str, str], address: str, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    said = next((error.str() for error in reversed(heard) if error.code() == KafkaError._AUTHENTICATION), None)
    if said is None:
        return None
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", ""))
    reason = said.partition(" (after ")[0].rpartition("bootstrap: ")[2]
    if mechanism == "OAUTHBEARER":
        return ConfigurationError(
            f"the broker at {address} was given no token that it takes ({reason})",
            expected="a token that the broker's OAUTHBEARER listener accepts",
            do="look at the sasl.oauthbearer properties under kafka, and at what the token's issuer says",
            see=SEE,
        )
    return ConfigurationError(
        f"the broker at {address} refuses the login of {config.get('sasl.username')} by {mechanism} ({reason})",
        expected="a user and a password that the broker knows for this mechanism",
        do="correct sasl.username and sasl.password under kafka, or have the user created at the broker",
        see=SEE,
    )


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "without a subject"


def _day(certificate: x509.Certificate) -> str:
    return f"{expiry(certificate):%Y-%m-%d}"


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


# Looking at a port.


def _addresses(bootstrap: str) -> Iterator[tuple[str, int]]:
    for server in bootstrap.split(",")[:LOOKED_AT_MAX]:
        host, _, port = server.strip().rpartition("://")[2].rpartition(":")
        host, port = (host, port) if host and port.isdecimal() else (server.strip(), "9092")
        yield host.strip("[]"), int(port)


def _look(host: str, port: int) -> Port | None:
    """None where nobody answers, or not as a broker does."""
    for context in (None, _trusting_all()):
        with contextlib.suppress(OSError, ValueError), _connected(host, port, context) as connection:
            try:
                return Port(context is not None, *_ask_for_login(connection))
            except (OSError, ValueError, struct.error):
                if context is not None:  # a listener that wants a certificate speaks TLS and ends here
                    return Port(True, None)
    return None


@contextlib.contextmanager
def _connected(host: str, port: int, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), LOOK_S) as plain:
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain, server_hostname=host) as secure:
            yield secure


def _ask_for_login(connection: socket.socket) -> tuple[bool, tuple[str, ...]]:
    """Whether the listener wants a login, and by which mechanisms: it lists them when it is asked for one that it does not have."""
    asked = NO_MECHANISM.encode()
    request = struct.pack(">hhih", SASL_HANDSHAKE, 1, 0, -1) + struct.pack(">h", len(asked)) + asked
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4))
    if not 10 <= size <= ANSWER_BYTES_MAX:
        raise ValueError("no answer of a broker")
    answer = _read(connection, size)
    _, error, count = struct.unpack_from(">ihi", answer)
    at, names = 10, list[str]()
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        names.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return error != ILLEGAL_SASL_STATE, tuple(sorted(names))


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            raise ValueError("the connection was closed")
        content += more
    return content


def _trusting_all() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only looked at, and nothing secret is sent
    return context


def _trusting(config: Mapping[str, str], *, check_host: bool) -> ssl.SSLContext:
    """As librdkafka trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_host
    where, pem = config.get("ssl.ca.location"), config.get("ssl.ca.pem")
    if pem is not None:
        context.load_verify_locations(cadata=pem)
    elif where not in (None, "probe"):
        context.load_verify_locations(**{"capath" if Path(where).is_dir() else "cafile": where})
    else:
        context.load_default_certs()
    return context


def _verification(host: str, port: int, context: ssl.SSLContext) -> int | None:
    """OpenSSL's code for what is wrong with the certificate; None if nothing is."""
    try:
        with _connected(host, port, context):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_code


def _shown(host: str, port: int) -> x509.Certificate | None:
    with contextlib.suppress(OSError, ValueError), _connected(host, port, _trusting_all()) as connection:
        if isinstance(connection, ssl.SSLSocket) and (der := connection.getpeercert(binary_form=True)):
            return x509.load_der_x509_certificate(der)
    return None
