"""Temporary folders go with their process: at its end, and after kill -9 at the next start. Those of others stay."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processor.testbed import own_folder
from processor.testbed.own_folder import OWNER, OwnFolder, remove_leftovers

OWNING = """
import sys
from processor.testbed.own_folder import OwnFolder
folder = OwnFolder("test")
(folder.path / "deep").mkdir()
(folder.path / "deep" / "data").write_text("states")
print(folder.path, flush=True)
sys.stdin.read()
folder.close()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@contextmanager
def owner(temporary: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another process with a folder of its own, until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_is_gone_with_the_process_that_made_it(temporary: Path) -> None:
    with owner(temporary) as (process, folder):
        assert (folder / OWNER).read_text() == f"{process.pid}\n"
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one_of_its_kind_and_by_no_other(temporary: Path) -> None:
    with owner(temporary) as (process, folder):
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with OwnFolder("other"):
        assert (folder / "deep" / "data").exists()
    with OwnFolder("test") as mine:
        assert list(temporary.iterdir()) == [mine.path]
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_process_that_runs_stays(temporary: Path) -> None:
    with owner(temporary) as (process, folder):
        with OwnFolder("test"):
            assert (folder / "deep" / "data").exists()
        # Asleep is not ended.
        process.send_signal(signal.SIGSTOP)
        with OwnFolder("test"):
            assert (folder / "deep" / "data").exists()
        process.send_signal(signal.SIGCONT)


def test_the_folder_of_another_user_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner(temporary) as (process, folder):
        process.kill()
        process.wait(30)
    me = os.geteuid()
    monkeypatch.setattr(own_folder.os, "geteuid", lambda: me + 1)
    remove_leftovers(temporary, "slotstream-test-")
    assert (folder / "deep" / "data").exists()


def test_a_kept_folder_stays_after_its_process_and_after_every_later_start(temporary: Path) -> None:
    with OwnFolder("test") as kept:
        (kept.path / "log").write_text("why")
        kept.keep()
    with OwnFolder("test"):
        pass
    assert [path.name for path in kept.path.iterdir()] == ["log"]


def test_a_folder_that_nobody_has_locked_yet_stays_and_so_does_what_a_link_leads_to(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (temporary / "slotstream-test-new").mkdir()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / OWNER).write_text("")
    (temporary / "slotstream-test-link").symlink_to(elsewhere)
    with OwnFolder("test"):
        pass
    assert (temporary / "slotstream-test-new").exists()
    assert (elsewhere / OWNER).exists()


def test_a_removal_that_was_cut_short_is_continued_by_the_next_start(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner(temporary) as (process, folder):
        process.kill()
        process.wait(30)
    with monkeypatch.context() as patched:
        patched.setattr(own_folder.shutil, "rmtree", lambda *_args, **_options: None)
        remove_leftovers(temporary, "slotstream-test-")
    assert (folder / OWNER).exists()
    remove_leftovers(temporary, "slotstream-test-")
    assert not folder.exists()
