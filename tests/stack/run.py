"""Builds the image and brings docker-compose.yml up on a real Docker engine, then runs the tests of this folder on it.

    python tests/stack/run.py [pytest's options]        what `make test-stack` runs
    python tests/stack/run.py --if-possible             the same, but where it cannot run it says so and has not failed

With a daemon that can pull images it uses that daemon and the official images. Without one, as root on Debian, it starts Debian's
own engine (engine.py) and stand-ins for the images (standins.py), and says so. Everything is made in a temporary folder and goes
with it; only downloads stay, in .cache/stack. Exit codes: pytest's, or 2 if it cannot run here.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import engine
import standins
from engine import CannotRun
from stack import COMPOSE, IMAGE, PROJECT, ROOT, SBOM, STANDINS, base_image

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "stack"
INSIDE = "--inside"
IF_POSSIBLE = "--if-possible"
BEGAN_S = float(os.environ.setdefault("STACK_BEGAN_S", str(time.monotonic())))  # of the whole run, its processes share it


def main(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if_possible = words[:1] == [IF_POSSIBLE]
    words = words[if_possible:]
    try:
        if words[:1] == [INSIDE]:
            return inside(Path(words[1]), words[2:])
        if has_daemon():
            tell("a Docker daemon answers and can pull images: the official images are used")
            return on_daemon(words)
        engine.refuse_elsewhere()
        tell("no Docker daemon that can pull images: Debian's engine is used, and STAND-INS for the official images")
        return on_debian(words)
    except CannotRun as error:
        tell(
            f"the stack was NOT tested: {error}. To do: start Docker with a registry within reach, or run as root on Debian {engine.DEBIAN}"
        )
        return 0 if if_possible else 2


def has_daemon() -> bool:
    """Whether a daemon answers that has the image's base, or can get it."""
    if shutil.which("docker") is None:
        return False
    quiet = {"capture_output": True, "check": False}
    there = subprocess.run(["docker", "image", "inspect", base_image()], **quiet).returncode == 0
    return there or subprocess.run(["docker", "pull", "-q", base_image()], **quiet).returncode == 0


def on_daemon(words: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="slotstream-stack-") as folder:
        env = {**os.environ, "DOCKER_BUILDKIT": "1", STANDINS: ""}
        build_image(Path(folder), env)
        try:
            return run_tests(words, env, Path(folder))
        finally:
            subprocess.run([*COMPOSE, "-p", PROJECT, "down", "--volumes", "--remove-orphans"], cwd=ROOT, env=env, capture_output=True)


def on_debian(words: Sequence[str]) -> int:
    work = Path(tempfile.mkdtemp(prefix="slotstream-stack-"))
    try:
        packages = work / "packages"
        engine.unpack(packages, CACHE / "packages")
        tell("the engine is unpacked")
        again = [sys.executable, str(Path(__file__)), INSIDE, str(work), *words]
        return engine.in_namespaces(again, packages, work / "network.log")
    finally:
        engine.remove_cgroups(work)
        shutil.rmtree(work, ignore_errors=True)


def inside(work: Path, words: Sequence[str]) -> int:
    """In the namespaces, as their first process."""
    with engine.daemon(work, work / "packages") as env:
        tell("the engine runs")
        made = standins.build_all(work, CACHE, env, partial(engine.program, env=env))
        tell(f"STAND-INS for {', '.join(made)}; without {', '.join(standins.LEFT_OUT)}")
        here = {**env, STANDINS: ",".join(standins.LEFT_OUT)}
        build_image(work, here)
        return run_tests(words, here, work)


def build_image(work: Path, env: Mapping[str, str]) -> None:
    """As `make image` does, with this machine's way to a package index."""
    (work / "pip.conf").write_text(pip_settings(), encoding="utf-8")
    command = ["docker", "build", "-f", "deploy/Dockerfile", "-t", IMAGE, *secrets(work), "."]
    found = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(f"deploy/Dockerfile could not be built:\n{found.stdout[-6000:]}")
    bill = ["docker", "build", "-f", "deploy/Dockerfile", "--target", "sbom", "--output", str(work / "sbom"), *secrets(work), "."]
    found = subprocess.run(bill, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(f"the bill of materials could not be made:\n{found.stdout[-6000:]}")
    tell(f"{IMAGE} and its bill of materials are built")


def secrets(work: Path) -> list[str]:
    authority = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    given = ["--secret", f"id=pip.conf,src={work / 'pip.conf'}"]
    return given + (["--secret", f"id=ca.pem,src={authority}"] if authority else [])


def pip_settings() -> str:
    """pip's own settings on this machine, as far as they say how an index is reached."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^(?:global|:env:)\.(index-url|extra-index-url|trusted-host|proxy|timeout)='(.*)'$", listed, re.MULTILINE))
    if os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        found["cert"] = "/run/secrets/ca.pem"
    return "".join(["[global]\n", *(f"{key} = {value}\n" for key, value in found.items())])


def run_tests(words: Sequence[str], env: Mapping[str, str], work: Path) -> int:
    """The tests of this folder, each with time for a slow machine. Nothing of the caller's own stack gets in."""
    kept = {
        key: value for key, value in env.items() if not key.startswith(("SLOTSTREAM_", "COMPOSE_")) and key not in ("MODEL", "PLANT_RATE")
    }
    command = [sys.executable, "-m", "pytest", str(HERE), "-o", "timeout=900", *words]
    return subprocess.run(command, cwd=ROOT, env={**kept, SBOM: str(work / "sbom/slotstream.cdx.json")}, check=False).returncode


def tell(line: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - BEGAN_S:4.0f} s] {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
