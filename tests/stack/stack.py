"""The stack under test: docker and docker-compose as commands, its containers, its pages.

Responsible for talking to the engine that run.py found or started (it says so in the environment). Not for what must hold.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from processor.testbed.patience import wait_for as ask_until_answered

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
IMAGE = "slotstream:stack-test"
PROJECT = "slotstream-stack-test"
STANDINS = "STACK_STANDINS"  # in the environment: the services that are left out, by a comma
SBOM = "STACK_SBOM"  # in the environment: where the bill of materials is
# The one from PyPI, whose version is pinned; it is not there for every processor, and then docker's own plugin does it.
_PINNED = Path(sys.executable).parent / "docker-compose"
COMPOSE = [str(_PINNED)] if _PINNED.exists() else ["docker", "compose"]
MODEL = ROOT / "processor/demo/demo.keras"

# Each question is a process of docker's, and a container takes its time.
wait_for = partial(ask_until_answered, timeout_s=120.0, every_s=0.5)


def base_image() -> str:
    """What deploy/Dockerfile builds on."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "deploy/Dockerfile names no PYTHON_IMAGE"
    return found[1]


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _run(["docker", *words], os.environ, check=check)


class Stack:
    """One project of docker-compose.yml, with ports that are free."""

    def __init__(self) -> None:
        self.left_out = [name for name in os.environ.get(STANDINS, "").split(",") if name]
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "SLOTSTREAM_IMAGE": IMAGE,
            "SERVICE_PORTS": "",
            "PROMETHEUS_PORT": "",
            "GRAFANA_PORT": "",
            "PLANT_RATE": "100",  # what the referee has to go through in the end
        }

    def compose(self, *words: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return _run([*COMPOSE, *words], {**self.environment, **variables}, check=check)

    def services(self) -> list[str]:
        """All that can be had here."""
        return [name for name in self.compose("config", "--services").stdout.split() if name not in self.left_out]

    def up(self, *words: str, only: str | None = None) -> None:
        """As a user does, but for building: run.py has built what there is."""
        try:
            self.compose("up", "--wait", "--no-build", "--pull", "missing", *words, *([only] if only else self.services()))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '15').stdout}") from None

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What the engine knows of a service's containers, by number."""
        ids = self.compose("ps", "-a", "-q", service).stdout.split()
        found = json.loads(docker("inspect", *ids).stdout) if ids else []
        return sorted(found, key=lambda one: int(one["Config"]["Labels"]["com.docker.compose.container-number"]))

    def wait_healthy(self, service: str, count: int = 1, timeout_s: float = 180.0) -> list[dict[str, Any]]:
        def healthy() -> list[dict[str, Any]]:
            found = self.containers(service)
            return found if len(found) == count and all(health(one) == "healthy" for one in found) else []

        return wait_for(
            healthy, lambda: f"{count} healthy of {service}:\n{self.compose('logs', '--tail', '20', service).stdout}", timeout_s=timeout_s
        )

    def get(self, service: str, port: int, path: str, index: int = 1) -> str:
        """A page, by the port that is published on this machine."""
        where = self.compose("port", "--index", str(index), service, str(port)).stdout.strip()
        with urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
            return answer.read().decode()

    def series(self, name: str, index: int = 1) -> list[float]:
        """A metric's values at one instance; none if it does not answer."""
        try:
            page = self.get("service", 8080, "/metrics", index)
        except (OSError, AssertionError):
            return []
        return [float(value) for value in re.findall(rf"^slotstream_{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)]

    def metric(self, name: str, index: int = 1) -> float:
        """The sum of a metric's series at one instance."""
        return sum(self.series(name, index))

    def prometheus(self, path: str) -> Any:
        answer = json.loads(self.get("prometheus", 9090, f"/api/v1/{path}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def referee(self, *words: str) -> dict[str, Any]:
        """What referee.py says, run beside the broker in the image under test."""
        mount = f"{HERE / 'referee.py'}:/referee.py:ro"
        found = self.compose("run", "--rm", "--no-deps", "-T", "-v", mount, "--entrypoint", "python", "service", "/referee.py", *words)
        said: dict[str, Any] = json.loads(found.stdout.strip().splitlines()[-1])
        return said

    def events(self, container: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What one container of the service has logged."""
        found = docker("logs", container["Id"])
        for line in (found.stdout + found.stderr).splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def health(container: dict[str, Any]) -> str:
    return str(container["State"].get("Health", {}).get("Status", "none"))


def _run(command: list[str], environment: Any, *, check: bool) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and found.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {found.returncode}:\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}")
    return found
