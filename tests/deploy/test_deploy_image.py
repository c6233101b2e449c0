"""What can be said of deploy/Dockerfile and docker-compose.yml without an engine; `make test-stack` runs them on one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from processor.settings import load_settings

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
STACK = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OURS = ("init", "service", "plant")
GB = 1 << 30


def tool(name: str) -> str:
    """A program that came from pip, else one of the machine's."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"no {name}: it is in the extra test"
    return found


def composed(**environment: str) -> Any:
    """docker-compose.yml as Compose understands it; it fails for what Compose refuses."""
    command = [tool("docker-compose"), "config", "--format", "json"]
    found = subprocess.run(command, cwd=ROOT, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return json.loads(found.stdout)["services"]


def test_the_dockerfile_has_no_known_fault() -> None:
    found = subprocess.run([tool("hadolint"), "--no-color", "deploy/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_dockerfile_is_understood_by_engines_without_a_frontend_from_a_registry() -> None:
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#") or re.match(r"#\s*syntax\s*=", line)]
    assert [line for line in lines if re.search(r"^#|<<|--link|--start-interval", line)] == []


def test_only_what_the_dockerfile_copies_is_sent_to_the_engine() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    assert sent == copied
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_every_image_has_a_tag_that_does_not_move() -> None:
    images = [service["image"] for service in composed().values()] + re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if not re.search(r":(v?\d|local$)", image)] == []


def test_every_service_is_limited_and_all_of_them_fit_a_laptop() -> None:
    limits = {name: int(service["mem_limit"]) for name, service in composed().items()}
    assert sum(limits.values()) <= 4 * GB
    assert sum(limits.values()) + 2 * limits["service"] <= 6 * GB  # --scale service=3


def test_every_service_that_stays_has_a_health_check_and_comes_back_by_itself() -> None:
    for name, service in composed().items():
        if name == "init":
            continue
        assert service["restart"] == "unless-stopped"
        assert "healthcheck" in service


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_do_little(name: str) -> None:
    service = composed()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


def test_only_pages_have_ports_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in composed().items() if service.get("ports")}
    assert set(published) == {"service", "prometheus", "grafana"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_a_path_that_is_not_there_is_an_error_and_not_an_empty_folder() -> None:
    binds = [mount for service in composed().values() for mount in service.get("volumes", []) if mount["type"] == "bind"]
    assert binds
    assert all(not mount["bind"].get("create_host_path") and mount["read_only"] for mount in binds)
    assert [mount["source"] for mount in binds if not Path(mount["source"]).exists()] == []


def test_another_model_is_one_variable_away() -> None:
    def model(services: Any) -> str:
        return next(mount["source"] for mount in services["service"]["volumes"] if mount["target"] == "/model/model.keras")

    assert model(composed()) == str(ROOT / "processor/demo/demo.keras")
    assert model(composed(MODEL="/models/mine.keras")) == "/models/mine.keras"


def test_the_settings_of_the_stack_are_taken_and_its_service_has_time_to_stop() -> None:
    image = dict(re.findall(r"(SLOTSTREAM_\w+)=(\S+)", DOCKERFILE))
    settings = load_settings(ROOT / "deploy/compose/slotstream.yaml", [], image)
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8080)
    assert str(settings.model.path) == "/model/model.keras"
    assert settings.instance is None
    assert settings.leave_on_stop
    assert int(STACK["services"]["service"]["stop_grace_period"].removesuffix("s")) > settings.drain_timeout


def test_prometheus_asks_at_the_port_that_the_image_serves_and_grafana_knows_how_often() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = prometheus["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["service"], 8080)
    source = yaml.safe_load(next((ROOT / "deploy/grafana/provisioning/datasources").glob("*.y*ml")).read_text(encoding="utf-8"))[
        "datasources"
    ][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert all(path.startswith("/etc/prometheus/") for path in prometheus["rule_files"])
