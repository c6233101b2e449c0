"""Checks and tries the rules of deploy/prometheus with Prometheus's own promtool: `make test-rules`.

promtool is taken from the path, else out of Debian's package `prometheus`, which is unpacked into .cache and not installed. With
--if-possible it is no failure that neither is there, and the last line says that nothing was tried. `make test` checks without it what
can be checked without it: tests/deploy/test_deploy_prometheus.py.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNPACKED = ROOT / ".cache" / "promtool"
PROMETHEUS = ROOT / "deploy" / "prometheus"
NOT_THERE = "no promtool on the path, and none to be had from Debian's package prometheus (apt-get download)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--if-possible", action="store_true", help="without promtool, say so and succeed")
    if_possible: bool = parser.parse_args().if_possible
    promtool = shutil.which("promtool") or _unpacked()
    if promtool is None:
        sys.stderr.write(f"rules not tried: {NOT_THERE}. To do: install Prometheus, whose archive has promtool beside it\n")
        return 0 if if_possible else 1
    rules, tests = (sorted((PROMETHEUS / folder).glob("*.yml")) for folder in ("rules", "tests"))
    for command in (["check", "rules", *rules], ["test", "rules", *tests]):
        if code := subprocess.run([promtool, *command], check=False).returncode:
            return code
    return 0


def _unpacked() -> str | None:
    """From Debian's package, once; None where there is none."""
    binary = UNPACKED / "usr" / "bin" / "promtool"
    if binary.is_file():
        return str(binary)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        # On a fresh machine the lists are empty, and only root may fetch them.
        for command in (["true"], ["apt-get", "-qq", "update"]):
            if _succeeds(command, folder) and _succeeds(["apt-get", "-qq", "download", "prometheus"], folder):
                break
        else:
            return None
        (package,) = Path(folder).glob("prometheus_*.deb")
        whole = Path(folder) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", package, whole], check=True)
        binary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(whole / "usr" / "bin" / "promtool", binary)
    return str(binary)


def _succeeds(command: list[str], folder: str) -> bool:
    """The package is downloaded into the working directory; a warning about its owner is no failure."""
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
