"""A way to a broker that sees which requests pass, so that a test can act at an exact step of a protocol."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

JOIN_GROUP, SYNC_GROUP = 11, 14


class Wire:
    """Listens on 127.0.0.1:`port` and passes everything on to `target_port`. A context manager.

    at(api_key, client_id, act, answered=...): `act` is called once, when the next request of that kind of that client has been passed on,
    or its answer has. Kafka's framing: a size in four bytes, then api key, version, correlation id and client id of a request, and the
    correlation id of an answer.
    """

    def __init__(self, port: int, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", port))
        self._armed: tuple[int, bytes, bool, Callable[[], None]] | None = None
        self._lock = threading.Lock()

    def at(self, api_key: int, client_id: str, act: Callable[[], None], *, answered: bool = False) -> None:
        with self._lock:
            self._armed = (api_key, client_id.encode(), answered, act)

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target_port)) as broker:
            waited_for = set[int]()  # correlation ids of requests whose answer is to be acted at
            answers = threading.Thread(target=self._pass, args=(broker, client, lambda frame: self._answer(frame, waited_for)), daemon=True)
            answers.start()
            self._pass(client, broker, lambda frame: self._request(frame, waited_for))
            answers.join()

    def _pass(self, source: socket.socket, target: socket.socket, seen: Callable[[bytes], Callable[[], None] | None]) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                frame = _read(source, struct.unpack(">i", _read(source, 4))[0])
                act = seen(frame)
                target.sendall(struct.pack(">i", len(frame)) + frame)
                if act is not None:
                    act()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _request(self, frame: bytes, waited_for: set[int]) -> Callable[[], None] | None:
        api_key, _, correlation, length = struct.unpack_from(">hhih", frame)
        with self._lock:
            if self._armed is None or self._armed[:2] != (api_key, frame[10 : 10 + max(0, length)]):
                return None
            if self._armed[2]:
                waited_for.add(correlation)
                return None
            act, self._armed = self._armed[3], None
            return act

    def _answer(self, frame: bytes, waited_for: set[int]) -> Callable[[], None] | None:
        with self._lock:
            if self._armed is None or struct.unpack_from(">i", frame)[0] not in waited_for:
                return None
            act, self._armed = self._armed[3], None
            return act


def _read(source: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = source.recv(count - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content
