"""Diagnoses certificates: the client's, the broker's, and why either is refused."""

import contextlib
import datetime
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from processor.errors import ConfigurationError, SlotstreamError
from processor.kafka.refusals.listener import connected, trusting_all

SEE = "the-broker-does-not-let-the-client-in"
# OpenSSL's codes, as in ssl.SSLCertVerificationError.verify_code.
NOT_YET_VALID, EXPIRED, HOST_MISMATCH, IP_MISMATCH = 9, 10, 62, 64


def certificates(config: Mapping[str, str]) -> list[tuple[str, x509.Certificate]]:
    """The client's certificate and the property that it comes from. Empty if none is set or it cannot be read."""
    sources: list[tuple[str, Any]] = [
        ("ssl.certificate.location", lambda where: x509.load_pem_x509_certificate(Path(where).read_bytes())),
        ("ssl.certificate.pem", lambda pem: x509.load_pem_x509_certificate(pem.encode())),
        ("ssl.keystore.location", lambda where: _of_keystore(where, config.get("ssl.keystore.password", ""))),
    ]
    found = []
    for key, read in sources:
        if key in config:
            with contextlib.suppress(OSError, ValueError):  # the client itself reports what is wrong with the file
                found += [(key, certificate)] if (certificate := read(config[key])) is not None else []
    return found


def _of_keystore(where: str, password: str) -> x509.Certificate | None:
    return pkcs12.load_key_and_certificates(Path(where).read_bytes(), password.encode() or None)[1]


def expiry(certificate: x509.Certificate) -> datetime.datetime:
    return certificate.not_valid_after_utc


def is_expired(certificate: x509.Certificate) -> bool:
    return expiry(certificate) < datetime.datetime.now(datetime.UTC)


def of_the_client(config: Mapping[str, str], address: str, heard: Sequence[KafkaError]) -> SlotstreamError | None:
    """The client's certificate is missing, expired, or not trusted. The broker ends the connection with an alert after the handshake."""
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


def of_the_broker(config: Mapping[str, str], host: str, port: int) -> SlotstreamError | None:
    """The broker's certificate is expired, for another host, or from an untrusted authority."""
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


def _trusting(config: Mapping[str, str], *, check_host: bool) -> ssl.SSLContext:
    """A context with the same trusted authorities as librdkafka."""
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
    """OpenSSL's code for the problem with the certificate; None if it is valid."""
    try:
        with connected(host, port, context):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_code


def _shown(host: str, port: int) -> x509.Certificate | None:
    with contextlib.suppress(OSError, ValueError), connected(host, port, trusting_all()) as connection:
        if isinstance(connection, ssl.SSLSocket) and (der := connection.getpeercert(binary_form=True)):
            return x509.load_der_x509_certificate(der)
    return None
