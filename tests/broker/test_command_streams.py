"""Every command that prints and ends, at work: its output closed, full, or with a reader that has read enough."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from harness import L, save_model

COMMAND = [sys.executable, "-m", "processor.cli"]


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Of a pipe, the exit code is that of its first command."""
    return subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False)


def commands(folder: Path, model: Path, bootstrap: str, topic: str) -> dict[str, list[str]]:
    """Each command that prints and ends, as it succeeds."""
    readings = folder / "readings.csv"
    readings.write_text("pump,a,b,c\n" + "".join(f"pump-{i % 3},1,2,3\n" for i in range(5000)))
    settings = [f"--kafka=bootstrap.servers={bootstrap}", f"--input.topic={topic}", f"--output.topic={topic}.out", f"--model.path={model}"]
    return {
        "init": ["init", *settings],
        "check": ["check", *settings],
        "feed": ["feed", str(readings), "--key=pump", *settings],
        "plan": ["plan", "--sensors=100", "--rate=10", *settings],
        "try": ["try", str(model), str(readings), "--key=pump"],
        "model show": ["model", "show", str(model)],
    }


@pytest.mark.soak
def test_every_command_at_work_ends_quietly_without_its_reader_and_says_that_the_disk_is_full(kafka, unique, tmp_path):
    model = save_model(tmp_path / "model.keras", L.LSTM(4), L.Dense(2))
    for name, words in commands(tmp_path, model, kafka.bootstrap, unique("streams")).items():
        command = shlex.join([*COMMAND, *words])
        found = shell(f"cd {tmp_path}; {command}")
        assert found.returncode == 0, (name, found.stderr)
        for redirected in ("| true", ">&-"):
            found = shell(f"cd {tmp_path}; {command} {redirected}")
            assert found.returncode == 0, (name, redirected, found.stderr)
            assert "Traceback" not in found.stderr, name
            assert "Exception ignored" not in found.stderr, name
        found = shell(f"cd {tmp_path}; {command} >/dev/full")
        assert (found.returncode, "Traceback" in found.stderr) == (1, False), (name, found.stderr)
        assert found.stderr.splitlines()[-1].startswith("slotstream: standard output cannot be written"), name
