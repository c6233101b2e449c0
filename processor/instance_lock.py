"""Allows one process per name on a host: a second one is refused before it can join and fence the first.

The lock is a kernel lock (flock), so it is released when its process ends, however it ends. The file is removed at release; a file left
by a killed process is removed at the next start of any instance. The group's coordinator distinguishes processes with the same name on
different hosts.

The file is in the first folder of RUNTIME_DIRECTORY, or else in the temporary folder. systemd sets RUNTIME_DIRECTORY, so that units with
a private /tmp share their locks.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

from processor.errors import ConfigurationError

NAME = re.compile(r"slotstream-[0-9a-f]{16}\.lock")
# How long to retry a lock whose holder cannot be named: it is just being acquired, or its file is being removed.
UNNAMED_S = 5.0
RETRY_S = 0.02


class InstanceLock:
    """Held from the constructor until release() or the end of the process. Raises ConfigurationError if another process holds it."""

    def __init__(self, cluster: str, name: str, folder: Path | None = None) -> None:
        folder = folder or default_folder()
        digest = hashlib.sha256(f"{cluster} {name}".encode()).hexdigest()[:16]
        self._path = folder / f"slotstream-{digest}.lock"
        remove_stale(folder)
        try:
            self._descriptor = _acquire(self._path, name)
        except OSError as error:
            raise ConfigurationError(
                f"the lock of {name} cannot be written in {folder} ({error.strerror})",
                expected="a folder with room that this process may write to (TMPDIR, or RUNTIME_DIRECTORY)",
                do="create it, make room, or correct its owner",
                see="the-name-already-runs-on-this-host",
            ) from error

    def release(self) -> None:
        """Removes the file before unlocking: a process that has opened it finds, once it has the lock, that the path has another file."""
        if _is_at(self._descriptor, self._path):
            with contextlib.suppress(OSError):  # another user's file, or a failing disk: the lock is released nevertheless
                self._path.unlink()
        os.close(self._descriptor)


def default_folder() -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or tempfile.gettempdir())


def remove_stale(folder: Path) -> None:
    """Removes lock files whose process has ended without releasing them. Files of other users are kept."""
    with contextlib.suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if NAME.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_if_free(path)


def _remove_if_free(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Skip the pid of a running process: while this function holds the lock, that process would be refused.
        if _lives(_holder(descriptor)):
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink()
    finally:
        os.close(descriptor)


def _acquire(path: Path, name: str) -> int:
    """The descriptor of the locked file at the path, with this process's pid in it."""
    until_s = time.monotonic() + UNNAMED_S
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if _lives(holder) or time.monotonic() > until_s:
                raise _taken(name, holder) from None
            time.sleep(RETRY_S)
            continue
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # the pid is only informative: the lock works without it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)  # the file was removed between the two calls


def _open(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        return os.open(path, os.O_RDONLY | flags)  # another user's file, which can be locked but not written


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip()


def _lives(pid: str) -> bool:
    """Whether a process with this pid is running."""
    if not pid.isdecimal() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _taken(name: str, holder: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} already runs on this host, as pid {holder or '?'}",
        expected="one process a name",
        do="stop that one, or set `instance` to another name",
        see="the-name-already-runs-on-this-host",
    )
