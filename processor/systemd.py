"""What systemd is told of the service: that it started, how it is, that its loop turns, and that it ends.

The protocol is sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names. Without that variable nothing happens,
and nothing that goes wrong here ends the service: systemd then misses a message, and acts as its unit says.

The watchdog is fed by the loop alone. No thread here sends anything by itself: it would go on while the loop hangs.
"""

import os
import socket
import time
import weakref
from collections.abc import Callable, Mapping

# While the service starts, each step may take this long: TensorFlow compiles a large model for minutes, and cannot report in between.
START_STEP_S = 900.0
# Beyond drain_timeout: the last checkpoints of a revoke, and the broker's answers.
STOP_MARGIN_S = 30.0
# Of the watchdog's time; systemd recommends half.
PING_SHARE = 0.25
EXTEND_EVERY_S = 5.0


class Systemd:
    """The state of this process as its supervisor sees it. All methods but the constructor are the main thread's."""

    def __init__(self, environment: Mapping[str, str] = os.environ, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._socket = _connected(environment.get("NOTIFY_SOCKET", ""))
        if self._socket is not None:
            weakref.finalize(self, self._socket.close)
        self._watchdog_s = _watchdog_s(environment)
        self._ready = self._stopping = False
        self._status = ""
        self._sent_at_s = float("-inf")  # of the last ping, or the last extension of the start

    @property
    def listens(self) -> bool:
        return self._socket is not None

    def starting(self, step: str) -> None:
        """A step of the start begins, before the loop runs: STATUS, and time for it."""
        self._send(self._changed(f"starting: {step}"), f"EXTEND_TIMEOUT_USEC={_usec(START_STEP_S)}")

    def beat(self, status: str, *, joined: bool) -> None:
        """The loop has turned. The first time that joined is true the start is over: READY.

        Until then each beat extends the time of the start, as for a broker that is away; after it each beat feeds the watchdog.
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
        """The service ends, in good order or not, and may take drain_timeout_s for the last commit and checkpoint."""
        if not self._stopping:
            self._stopping = True
            time_s = drain_timeout_s + STOP_MARGIN_S
            # The loop does not turn while the last checkpoint is waited for.
            watchdog = f"WATCHDOG_USEC={_usec(max(time_s, self._watchdog_s))}" if self._watchdog_s else ""
            self._send("STOPPING=1", self._changed("stopping"), f"EXTEND_TIMEOUT_USEC={_usec(time_s)}", watchdog)

    def _due(self) -> bool:
        every_s = PING_SHARE * self._watchdog_s if self._ready else EXTEND_EVERY_S
        return every_s > 0 and self._now_s() - self._sent_at_s >= every_s

    def _changed(self, status: str) -> str:
        """The STATUS line, empty where systemd knows it."""
        if status == self._status:
            return ""
        self._status = status
        return f"STATUS={status}"

    def _send(self, *lines: str) -> bool:
        """Whether systemd has it."""
        message = "\n".join(line for line in lines if line)
        if self._socket is None or not message:
            return False
        try:
            self._socket.send(message.encode())
        except OSError:  # its queue is full, or nobody reads it any more: the next message is tried again
            self._status = ""
            return False
        return True


def _connected(address: str) -> socket.socket | None:
    """address: a path, or @name of Linux's abstract ones. Others (vsock) are a virtual machine's, and none of a service's."""
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
    """0 where there is none, or where it is another process's."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(usec) / 1e6


def _usec(seconds: float) -> int:
    return round(seconds * 1e6)
