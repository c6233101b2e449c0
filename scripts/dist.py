"""Builds wheel and source archive, installs the wheel into an empty environment, and runs the demo from there.

`python scripts/dist.py`: the archives are in dist/, the environment in build/dist-venv. The demo runs in a folder outside of the
checkout, so that nothing but what the wheel holds can be imported.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST, VENV = ROOT / "dist", ROOT / "build" / "dist-venv"


def build() -> Path:
    """The wheel, with the source archive beside it; older ones are removed."""
    DIST.mkdir(exist_ok=True)
    for old in [*DIST.glob("slotstream-*.whl"), *DIST.glob("slotstream-*.tar.gz")]:
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], check=True)
    wheels = list(DIST.glob("slotstream-*.whl"))
    if len(wheels) != 1 or not list(DIST.glob("slotstream-*.tar.gz")):
        sys.exit(f"found {[path.name for path in DIST.iterdir()]} in dist. Expected: one wheel and one source archive. To do: see above.")
    return wheels[0]


def install(wheel: Path) -> Path:
    """The command `slotstream` of an environment that holds the wheel and what it asks for."""
    shutil.rmtree(VENV, ignore_errors=True)
    venv.create(VENV, with_pip=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"{wheel}[sandbox]"], check=True)
    return VENV / "bin" / "slotstream"


def run_demo(command: Path, seconds: float) -> None:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory(prefix="slotstream-dist-") as outside:
        subprocess.run([str(command), "--version"], cwd=outside, env=own, check=True)
        subprocess.run([str(command), "demo", "--seconds", f"{seconds:g}"], cwd=outside, env=own, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the archives, installs the wheel apart, and runs the demo from it.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the demo runs (10)")
    parser.add_argument("--build-only", action="store_true", help="neither install nor run it")
    arguments = parser.parse_args()
    wheel = build()
    if not arguments.build_only:
        run_demo(install(wheel), arguments.seconds)
    sys.stdout.write(f"{wheel.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
