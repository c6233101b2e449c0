"""Notifies systemd: that the service has started, its status, that its loop runs, and that it is stopping.

The protocol is sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names. Without that variable nothing is sent.
No failure here ends the service: systemd then misses a message, and acts according to the unit.

Only the loop feeds the watchdog. No thread may do so, because it would continue while the loop hangs.
"""

import os
import socket
import time
import weakref
from collections.abc import Callable, Mapping

# The time limit of each step of the start: TensorFlow compiles a large model for minutes, and cannot report progress.
START_STEP_S = 900.0
# In addition to drain_timeout: for the last checkpoints of a revoke, and the broker's answers.
STOP_MARGIN_S = 30.0
# The share of the watchdog's time between two pings; systemd recommends half.
PING_SHARE = 0.25
EXTEND_EVERY_S = 5.0


class Systemd:
    """The state of this process as its supervisor sees it. Only the main thread calls the methods, except the constructor."""

    def __init__(self, environment: Mapping[str, str] = os.environ, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._socket = _connected(environment.get("NOTIFY_SOCKET", ""))
        if self._socket is not None:
            weakref.finalize(self, self._socket.close)
        self._watchdog_s = _watchdog_s(environment)
        self._ready = self._stopping = False
        self._status = ""
        self._sent_at_s = float("-inf")  # the last ping, or the last extension of the start timeout

    @property
    def listens(self) -> bool:
        return self._socket is not None

    def starting(self, step: str) -> None:
        """A step of the start begins, before the loop runs: sends STATUS, and extends the timeout for it."""
        self._send(self._changed(f"starting: {step}"), f"EXTEND_TIMEOUT_USEC={_usec(START_STEP_S)}")

    def beat(self, status: str, *, joined: bool) -> None:
        """The loop has completed a turn. The first time that joined is true, the start is complete: sends READY.

        Until then each beat extends the start timeout, for example while a broker is away; afterwards each beat feeds the watchdog.
        """
        lines = [] if self._stopping else [self._changed(status)]
        if joined and not self._ready and not self._stopping:
            self._sent_at_s = self._now_s()
            self._ready = self._send(*lines, "READY=1")
            return
        if self._due():
            self._sent_at_s = self._now_s()
            lines.append("WATCHDOG=1" if self._ready else f"EXTEND_TIMEOUT_USEC={_usec(START_STEP_S)}")
        self._send(*lines)

    def stopping(self, drain_timeout_s: float) -> None:
        """The service is stopping, normally or after a failure, and may take drain_timeout_s for the last commit and checkpoint."""
        if not self._stopping:
            self._stopping = True
            time_s = drain_timeout_s + STOP_MARGIN_S
            # The loop does not turn while the service waits for the last checkpoint.
            watchdog = f"WATCHDOG_USEC={_usec(max(time_s, self._watchdog_s))}" if self._watchdog_s else ""
            self._send("STOPPING=1", self._changed("stopping"), f"EXTEND_TIMEOUT_USEC={_usec(time_s)}", watchdog)

    def _due(self) -> bool:
        every_s = PING_SHARE * self._watchdog_s if self._ready else EXTEND_EVERY_S
        return every_s > 0 and self._now_s() - self._sent_at_s >= every_s

    def _changed(self, status: str) -> str:
        """The STATUS line, empty if systemd already has it."""
        if status == self._status:
            return ""
        self._status = status
        return f"STATUS={status}"

    def _send(self, *lines: str) -> bool:
        """Whether systemd has received it."""
        message = "\n".join(line for line in lines if line)
        if self._socket is None or not message:
            return False
        try:
            self._socket.send(message.encode())
        except OSError:  # its queue is full, or it no longer reads: the next message is attempted again
            self._status = ""
            return False
        return True


def _connected(address: str) -> socket.socket | None:
    """address: a path, or @name for an abstract socket of Linux. Other kinds (vsock) are for virtual machines, not services."""
    if not address.startswith(("/", "@")):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """0 if there is no watchdog, or if it is meant for another process."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(usec) / 1e6


def _usec(seconds: float) -> int:
    return round(seconds * 1e6)
