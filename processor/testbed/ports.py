"""TCP ports of this machine that nothing uses."""

import random
import socket

from processor.errors import SlotstreamError


def free_port() -> int:
    """A free TCP port on 127.0.0.1, below the range from which outgoing connections take theirs.

    From that range a client that tries to reach a stopped broker can connect to itself, and then the broker cannot come back.
    """
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many free ports, no two alike. Raises SlotstreamError."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200 + count):
        if is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise SlotstreamError(
        f"{len(found)} of {200 + count} ports tried between 20000 and 32000 are free", expected=f"{count}", do="end what holds them"
    )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
