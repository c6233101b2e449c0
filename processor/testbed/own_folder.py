"""Temporary folders that are removed with the process that made them, after kill -9 too: the next start removes what is left.

Owns the question whether the owner of such a folder still runs. The owner holds a lock on a file in the folder; the kernel releases
the lock when the process ends, however it ends. Knows nothing about what lies in a folder.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

OWNER = "owner.lock"


class OwnFolder:
    """A new folder `slotstream-PURPOSE-...` in the system's folder for temporary files. A context manager.

    The constructor first removes the folders of the same purpose whose owners have ended. Folders of running processes and of other
    users stay.
    """

    def __init__(self, purpose: str) -> None:
        prefix, parent = f"slotstream-{purpose}-", Path(tempfile.gettempdir())
        remove_leftovers(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock: int | None = _own(self.path)

    def keep(self) -> None:
        """Leaves the folder to the user: neither close() nor a later start removes it."""
        (self.path / OWNER).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the folder unless it is kept."""
        if self._lock is None:
            return
        if (self.path / OWNER).exists():
            _remove(self.path)
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Removes this user's folders with this prefix whose owners have ended. What cannot be removed stays for the next call."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            # One folder that vanishes under the scan, or belongs to somebody else, must not end a start.
            with contextlib.suppress(OSError):
                mine = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
                if mine and entry.name.startswith(prefix):
                    _remove_if_left(Path(entry.path))


def _own(folder: Path) -> int:
    """The descriptor of the lock. The file appears under its name only when it is locked, so no other start can find it unlocked."""
    fresh = folder / f"{OWNER}.new"
    lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, f"{os.getpid()}\n".encode())  # for people: the lock decides, since process ids are used again
    fresh.rename(folder / OWNER)
    return lock


def _remove_if_left(folder: Path) -> None:
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # OSError without one: kept, or just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while the owner runs
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """The lock's file last, so that a removal that is cut short is continued by a later start."""
    for path in folder.iterdir():
        if path.name == OWNER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    if [path.name for path in folder.iterdir()] == [OWNER]:
        shutil.rmtree(folder, ignore_errors=True)
