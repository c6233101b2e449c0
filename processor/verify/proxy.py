"""A TCP proxy on loopback between clients and brokers, or between two brokers, whose connections can be cut, slowed and left hanging.

Responsible for passing bytes on, both ways, and for passing them on badly when told to. Knows nothing of what they mean. Runs an
event loop on a thread of its own; all methods are for other threads.
"""

import asyncio
import contextlib
import functools
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 16_384
POLL_S = 0.05


@dataclass(frozen=True)
class Route:
    """What is sent to host:port goes to 127.0.0.1:target_port."""

    port: int
    target_port: int
    host: str = "127.0.0.1"


class Proxy:
    """All its routes are cut, slowed and mended together. A context manager."""

    def __init__(self, *routes: Route) -> None:
        self.routes = routes
        self._delay_s = 0.0
        self._hanging = self._refusing = False
        self._open: list[list[asyncio.StreamWriter]] = []  # of each connection the end here and, once it is there, the broker's
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._listening = threading.Event()
        self._failure: OSError | None = None
        self.harm: Counter[str] = Counter()  # what was cut, refused, slowed and held so far

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def slow(self, delay_s: float) -> None:
        """Every piece of up to 16 kB waits so long before it is passed on."""
        self._delay_s = delay_s

    def hang(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._hanging = True

    def refuse(self) -> None:
        """Cuts what is open, and every new connection at once."""
        self._refusing = True
        self.cut()

    def mend(self) -> None:
        """Passes everything on at once again."""
        self._delay_s, self._hanging, self._refusing = 0.0, False, False

    def cut(self) -> None:
        """Resets all open connections; new ones are let in."""
        self._loop.call_soon_threadsafe(self._cut)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = []
        try:
            for route in self.routes:
                accept = functools.partial(self._accept, route.target_port)
                servers.append(self._loop.run_until_complete(asyncio.start_server(accept, route.host, route.port)))
        except OSError as error:
            self._failure = error
        finally:
            self._listening.set()
        if self._failure is None:
            self._loop.run_forever()
        for server in servers:
            server.close()
        self._cut()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._open.append(ends)
        try:
            if self._refusing:
                self.harm["connections refused"] += 1
            else:
                there, back = await asyncio.open_connection("127.0.0.1", target_port)
                ends.append(back)
                ways = [asyncio.ensure_future(self._pass(*way)) for way in ((reader, back), (there, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # the broker is away, or the proxy ends, and the other side sees its connection end
        finally:
            self._open.remove(ends)
            _abort(ends)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the end of a connection, however it comes
            while piece := await reader.read(CHUNK_BYTES):
                if self._delay_s:
                    self.harm["pieces slowed"] += 1
                    await asyncio.sleep(self._delay_s)
                if self._hanging:
                    self.harm["pieces held"] += 1
                while self._hanging:
                    await asyncio.sleep(POLL_S)
                writer.write(piece)
                await writer.drain()

    def _cut(self) -> None:
        self.harm["connections cut"] += len(self._open)
        for ends in self._open:
            _abort(ends)


def _abort(ends: list[asyncio.StreamWriter]) -> None:
    for end in ends:
        end.transport.abort()
