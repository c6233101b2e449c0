"""The container's health check, against a real server and none."""

import subprocess
import sys

import pytest

from processor.metrics import Metrics
from processor.testbed.embedded_kafka import free_port
from processor.web import probe
from processor.web.server import serve


class Probes:
    def __init__(self, *, is_ready: bool) -> None:
        self._ready = is_ready

    def alive(self) -> tuple[bool, str]:
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        return self._ready, "ready" if self._ready else "restoring partition 3"


@pytest.mark.parametrize(
    ("path", "code", "said"), [("/healthz", 0, "alive"), ("/readyz", 1, "restoring partition 3"), ("/none", 1, "no such page")]
)
def test_the_answer_and_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, code: int, said: str
) -> None:
    with serve("127.0.0.1", 0, Metrics(), Probes(is_ready=False)) as address:
        monkeypatch.setenv(probe.PORT, str(address.port))
        assert probe.main([path]) == code
    assert said in capsys.readouterr().out


def test_ready_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve("127.0.0.1", 0, Metrics(), Probes(is_ready=True)) as address:
        monkeypatch.setenv(probe.PORT, str(address.port))
        assert probe.main(["/readyz"]) == 0


def test_nobody_there_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(probe.PORT, str(free_port()))
    assert probe.main([]) == 1
    assert "does not answer" in (said := capsys.readouterr().out)
    assert "Expected: " in said
    assert "To do: " in said


def test_it_takes_no_time_to_load() -> None:
    """Run every few seconds in every container: no settings, no client, no TensorFlow."""
    program = (
        "import processor.web.probe, sys; print([m for m in ('pydantic', 'confluent_kafka', 'numpy', 'tensorflow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
