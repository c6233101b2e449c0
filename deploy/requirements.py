"""Prints what slotstream needs to run, from pyproject.toml: deploy/Dockerfile installs it before the package itself.

So the layer with TensorFlow is built again only when a dependency changes, and not with every line of code.
"""

import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]))  # noqa: T201 (its result)
