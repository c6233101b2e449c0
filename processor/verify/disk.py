"""A small disk of one's own for the checkpoint folder, which can be filled up and made read-only.

A tmpfs in a mount namespace of this process: only it and its children see it, and it goes with them, however they end. Both need the
right to mount (Linux, root); without it there is none, and why is said. Knows nothing of what is written there.
"""

import ctypes
import errno
import os
import time
from pathlib import Path

from processor.testbed.patience import patience_s

SIZE_MB = 48
BLOCK_BYTES = 65_536
BUSY_S = 20.0

_CLONE_NEWNS = 0x0002_0000
_MNT_DETACH = 0x2
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x1, 0x20, 0x4000, 0x4_0000


class Disk:
    """Mounted on `folder`. Call it from the main thread, before threads and children are started. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / ".filler"
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "unshare"):
            raise OSError(errno.ENOSYS, "no mount namespaces here")
        self._check(self._libc.unshare(_CLONE_NEWNS))
        self._check(self._libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        self._mount(0)

    def fill(self) -> int:
        """Writes until no byte is free. Returns how many bytes were written."""
        written = 0
        with self._filler.open("ab", buffering=0) as file:
            for size in (BLOCK_BYTES, 1):
                try:
                    while count := file.write(b"\0" * size):
                        written += count
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return written

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def read_only(self) -> None:
        self._remount(_MS_RDONLY)

    def writable(self) -> None:
        self._remount(0)

    def close(self) -> None:
        """The folder is an ordinary one again, and empty."""
        self._check(self._libc.umount2(os.fsencode(self._folder), _MNT_DETACH))

    def _remount(self, flags: int) -> None:
        """Refused while a file is open for writing, so it is tried again."""
        until_s = time.monotonic() + patience_s(BUSY_S)
        while True:
            try:
                self._mount(_MS_REMOUNT | flags)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until_s:
                    raise
                time.sleep(0.01)
            else:
                return

    def _mount(self, flags: int) -> None:
        self._check(self._libc.mount(b"tmpfs", os.fsencode(self._folder), b"tmpfs", flags, f"size={SIZE_MB}m".encode()))

    def _check(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
