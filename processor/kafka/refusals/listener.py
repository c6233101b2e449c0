"""Probes an address: a broker's listener and its requirements, something else, or nothing.

Connects and queries, within LOOK_S for each step. Sends one request that every broker answers before a login, and no secrets.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

LOOK_S = 3.0
ANSWER_BYTES_MAX = 65_536
SHOWN_CHARACTERS_MAX = 40
SASL_HANDSHAKE, NO_MECHANISM, ILLEGAL_SASL_STATE = 17, "none", 34
HTTP_REQUEST = b"HEAD / HTTP/1.0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Listener:
    """A broker's listener. mechanisms: for its login; empty without a login, or if it requires a client certificate first."""

    tls: bool
    sasl: bool | None  # None: unknown
    mechanisms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoListener:
    """No broker was found. words: a sentence about the address.

    unresolved  the name does not resolve
    absent      no connection, or one that is closed or silent: a broker may come up
    other       another protocol answers: no broker will come up
    """

    kind: Literal["unresolved", "absent", "other"]
    words: str


class _OtherProtocolError(Exception):
    """The first bytes are not a Kafka response."""


def look(host: str, port: int) -> Listener | NoListener:
    address = f"{host}:{port}"
    if (problem := unreachable(host, port)) is not None:
        return problem
    said = b""
    for context in (None, trusting_all()):
        try:
            with connected(host, port, context) as connection:
                try:
                    return Listener(context is not None, *_ask_for_login(connection))
                except _OtherProtocolError as error:
                    said = said or error.args[0]
                except (OSError, ValueError, struct.error):
                    # A TLS listener that requires a certificate ends here, and so does a web server that waits for a line.
                    if context is not None:
                        return _http(host, port, context) or Listener(True, None)
        except (OSError, ValueError):
            continue
    return _http(host, port, None) or _other(address, said)


def unreachable(host: str, port: int) -> NoListener | None:
    """Why a connection cannot be made; None if it can."""
    try:
        with connected(host, port, None):
            return None
    except socket.gaierror as error:
        return NoListener("unresolved", f"the name {host} does not resolve ({str(error.strerror).lower()})")
    except TimeoutError:
        return NoListener("absent", f"{host}:{port} gives no connection within {LOOK_S:.0f} s")
    except ConnectionRefusedError:
        return NoListener("absent", f"nothing listens at {host}:{port}")
    except (OSError, ValueError) as error:
        return NoListener("absent", f"{host}:{port} cannot be reached ({str(getattr(error, 'strerror', None) or error).lower()})")


@contextlib.contextmanager
def connected(host: str, port: int, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """A connection, with TLS if there is a context. Raises OSError, and ValueError for an invalid host name."""
    with socket.create_connection((host, port), LOOK_S) as plain:
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain, server_hostname=host) as secure:
            yield secure


def trusting_all() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # this only probes the listener, and sends no secrets
    return context


def _http(host: str, port: int, context: ssl.SSLContext | None) -> NoListener | None:
    """Detects a web server, which may have been waiting for the end of a line. None if it is not one."""
    with contextlib.suppress(OSError, ValueError), connected(host, port, context) as connection:
        connection.sendall(HTTP_REQUEST)
        if connection.recv(5).startswith(b"HTTP/"):
            return NoListener("other", f"an {'HTTPS' if context else 'HTTP'} server answers at {host}:{port}")
    return None


def _other(address: str, said: bytes) -> NoListener:
    if said.startswith(b"SSH-"):
        return NoListener("other", f"an SSH server answers at {address}")
    shown = said.decode("ascii", "replace").strip()[:SHOWN_CHARACTERS_MAX]
    if said.isascii() and shown.isprintable() and len(shown) > 3:
        return NoListener("other", f"what answers at {address} is no Kafka broker (it says {shown!r})")
    return NoListener("absent", f"{address} takes connections and does not answer as a Kafka broker does")


def _ask_for_login(connection: socket.socket) -> tuple[bool, tuple[str, ...]]:
    """Whether the listener requires a login, and its mechanisms: it lists them in response to an unknown mechanism."""
    asked = NO_MECHANISM.encode()
    request = struct.pack(">hhih", SASL_HANDSHAKE, 1, 0, -1) + struct.pack(">h", len(asked)) + asked
    connection.sendall(struct.pack(">i", len(request)) + request)
    first = _read(connection, 4)
    (size,) = struct.unpack(">i", first)
    if not 10 <= size <= ANSWER_BYTES_MAX:
        with contextlib.suppress(OSError):
            first += connection.recv(SHOWN_CHARACTERS_MAX)
        raise _OtherProtocolError(first)
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
