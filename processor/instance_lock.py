"""One process a name on a host: a second one is refused before it joins and fences the first.

The lock is the kernel's, so it goes with the process however that ends. Processes of one name on different hosts are told
apart by the group's coordinator instead.
"""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from processor.errors import ConfigurationError


class InstanceLock:
    """Held from the constructor until the process ends. Raises ConfigurationError if another process holds it."""

    def __init__(self, cluster: str, name: str, folder: Path | None = None) -> None:
        digest = hashlib.sha256(f"{cluster} {name}".encode()).hexdigest()[:16]
        path = (folder or Path(tempfile.gettempdir())) / f"slotstream-{digest}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "?"
            os.close(self._descriptor)
            raise ConfigurationError(
                f"{name} already runs on this host, as pid {holder}",
                expected="one process a name",
                do="stop that one, or set `instance` to another name",
                see="the-name-already-runs-on-this-host",
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)
