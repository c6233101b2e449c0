"""processor.app.service: what it does with errors that a turn of the loop raises; the loop is made up."""

import os
import signal

import pytest
from structlog.testing import capture_logs

from processor.app import health
from processor.app.service import Service
from processor.kafka.delivery import ClientStuckError
from processor.metrics import Metrics
from processor.settings import Settings


class Loop:
    """Notes what it is asked for; each turn and each resume does the next thing of `script`, which ends with a stop of the service."""

    def __init__(self, *script: Exception | None) -> None:
        self.script, self.done = list(script), list[str]()

    def _next(self, what: str) -> None:
        self.done.append(what)
        if not self.script:
            os.kill(os.getpid(), signal.SIGTERM)
        elif (error := self.script.pop(0)) is not None:
            raise error

    def turn(self) -> None:
        self._next("turn")

    def resume(self) -> None:
        self._next("resume")

    def suspend(self) -> None:
        self.done.append("suspend")

    def stop(self, *, leave: bool) -> None:
        self.done.append("stop")

    def abandon(self, *, leave: bool, abort: bool = True) -> None:
        self.done.append("abandon")


class Watch:
    def close(self) -> None:
        pass


def run(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> int:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    service = Service(Settings(), Metrics())
    monkeypatch.setattr(service, "_build", lambda: (loop, Watch()))
    try:
        return service.run()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_a_service_that_waits_for_the_broker_for_long_is_not_ready_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: now_s[0])
    probes = health.Health()
    probes._start_step, probes.view = None, health.LoopView(joined=True, ready=True)
    now_s[0] += 100
    assert probes.ready() == (True, "ready"), "its first turn may take long"
    probes.turned()
    now_s[0] += health.WAITING_S
    assert probes.ready() == (True, "ready")
    now_s[0] += 1
    assert probes.ready() == (False, "waiting for the broker for 16 s")
    assert probes.alive()[0]
    probes.turned()
    assert probes.ready() == (True, "ready")


STUCK = ClientStuckError("commit_transaction has waited for 46 s, and the broker answers other clients")


@pytest.mark.failure("a client does not find the broker again after an outage")
def test_clients_that_find_no_broker_are_replaced_until_new_ones_do_and_the_service_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(None, STUCK, STUCK, STUCK, None, None)
    with capture_logs() as log:
        assert run(loop, monkeypatch) == 0
    assert loop.done[:8] == ["turn", "turn", "suspend", "resume", "resume", "resume", "turn", "turn"]
    assert [line["reason"] for line in log if "does not find the broker" in line["event"]] == [str(STUCK)] * 3


def test_a_stop_with_a_client_that_finds_no_broker_ends_with_0_and_says_what_was_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(None)

    def stop(*, leave: bool) -> None:
        raise STUCK

    monkeypatch.setattr(loop, "stop", stop)
    with capture_logs() as log:
        assert run(loop, monkeypatch) == 0
    assert loop.done[-1] == "abandon"
    assert [line["log_level"] for line in log if "without a last commit" in line["event"]] == ["warning"]
