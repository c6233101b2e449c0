"""The section `kafka`: librdkafka properties, which of them are refused, and which are secret."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticCustomError

from processor.settings import librdkafka
from processor.settings.values import reason_of

BOOTSTRAP = "bootstrap.servers"
BOOTSTRAP_DEFAULT = "localhost:9092"
TRANSACTION_TIMEOUT_S = 10.0

# Properties that the service sets in every client, and what to do instead.
KAFKA_REFUSED: Mapping[str, str] = {
    "group.id": "set the key group",
    "group.instance.id": "set the key instance (it is <group>.<instance>)",
    "transactional.id": "set the keys group and instance (it is <group>.<instance>)",
    "enable.auto.commit": "it is fixed, offsets are committed as the key delivery says",
    "enable.auto.offset.store": "it is fixed, offsets are committed as the key delivery says",
    "isolation.level": "it is fixed, aborted records are never read",
    "auto.offset.reset": "set the keys input.start, on_gap and on_lost_input",
    "partition.assignment.strategy": "it is fixed to cooperative-sticky",
    "group.protocol": "it is fixed to classic",
    "enable.idempotence": "set the key delivery",
    "transaction.timeout.ms": f"it is fixed to {TRANSACTION_TIMEOUT_S:.0f} s, commit_interval is the time between commits",
    "enable.partition.eof": "it is fixed, the end of a partition tells when it is ready",
    "metadata.broker.list": "set bootstrap.servers under kafka, the same thing by its usual name",
}

_SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token(?!\.endpoint\.url)|credential(?!s\.source)|jaas|user\.info|key\.pem|oauthbearer\.config",
    re.IGNORECASE,
)


def kafka_key(key: str) -> str:
    """The canonical spelling of a librdkafka property: dots, lower case."""
    dotted = key.strip().lower().replace("_", ".")
    return "log_level" if dotted == "log.level" else dotted


def is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key.replace("_", ".")) is not None


def kafka_value(key: str, value: Any) -> str | SecretStr:
    """The value as text for librdkafka; values that are secret by name or by source are wrapped, so that nothing prints them."""
    if (instead := KAFKA_REFUSED.get(kafka_key(key))) is not None:
        raise PydanticCustomError("refused", "cannot be set under kafka: {instead}", {"instead": instead})
    if (near := librdkafka.nearest(kafka_key(key))) is not None:
        raise PydanticCustomError("refused", "librdkafka has no such property, the nearest is {near}", {"near": near})
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, Mapping) and set(value) == {"file"} and isinstance(value["file"], str):
        secret = secret_file(value["file"])
        if kafka_key(key) == BOOTSTRAP:
            addresses(secret.get_secret_value())
        return secret
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int | float) or "\0" in str(value):
        raise PydanticCustomError("expected", "expected {words}", {"words": "text, a number, true, false, or {file: PATH}"})
    if kafka_key(key) == BOOTSTRAP:
        addresses(str(value))
    return SecretStr(str(value)) if is_secret(key) else str(value)


PORT_DEFAULT = 9092
_PROTOCOLS = {"plaintext", "ssl", "sasl_plaintext", "sasl_ssl"}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?|\[[0-9a-fA-F:.]+(%[\w.-]+)?\]")


def addresses(servers: str) -> list[tuple[str, int]]:
    """Host and port of each server in bootstrap.servers, an IPv6 address without its brackets. Raises PydanticCustomError."""
    return [_address(server.strip()) for server in servers.split(",")]


def _address(server: str) -> tuple[str, int]:
    protocol, separator, rest = server.rpartition("://")
    if separator and protocol.lower() not in _PROTOCOLS:
        raise _no_address(f"{protocol}:// is no protocol of a Kafka listener")
    host, colon, port = (rest, "", "") if rest.endswith("]") else rest.rpartition(":")
    if not colon:
        host, port = rest, str(PORT_DEFAULT)
    if not rest:
        raise _no_address("an address is empty")
    if not host:
        raise _no_address(f"{rest} has no host")
    if not port:
        raise _no_address(f"{rest} has no port after the colon")
    if "/" in rest:
        raise _no_address(f"{rest} has a path")
    if ":" in host and not host.startswith("["):
        raise _no_address(f"{rest} has several colons: an IPv6 address is written in brackets, [::1]:9092")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise _no_address(f"{port} is no port from 1 to 65535")
    if host.isdecimal():
        raise _no_address(f"{rest} has a port and no host")
    if not _HOST.fullmatch(host):
        raise _no_address(f"{host} is no host name")
    return host.strip("[]"), int(port)


def _no_address(fault: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "expected HOST:PORT, several separated by commas; {fault}", {"fault": fault})


class FileSecret(SecretStr):
    """A secret and the file that it was read from."""

    def __init__(self, path: Path) -> None:
        super().__init__(_secret_in(path))
        self.path = path

    def now(self) -> str:
        """The file's current content; the content at startup if the file is missing, empty or being written."""
        try:
            return _secret_in(self.path) or self.get_secret_value()
        except (OSError, ValueError):
            return self.get_secret_value()


def _secret_in(path: Path) -> str:
    return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")


def secret_file(path: str) -> FileSecret:
    try:
        secret = FileSecret(Path(path))
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise PydanticCustomError("expected", "expected a readable file ({reason})", {"reason": reason}) from None
    if not secret.get_secret_value():
        raise PydanticCustomError("expected", "expected a file with the value in it (it is empty)")
    return secret
