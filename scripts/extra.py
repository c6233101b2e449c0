"""Prints the requirements of an extra of pyproject.toml, to install them without the project: `python scripts/extra.py docs`."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def main(extra: str) -> int:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    if extra not in extras:
        sys.exit(f"found no extra {extra} in pyproject.toml. Expected: one of {', '.join(extras)}. To do: name one of these.")
    sys.stdout.write("\n".join(extras[extra]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
