"""Prints results on standard output, and everything else on standard error."""

import json
import sys
from collections.abc import Iterator
from typing import Any


def print_lines(lines: Iterator[str]) -> int:
    """Prints each line as soon as it is available, because there may be a million."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0


def print_pairs(found: dict[str, Any]) -> None:
    width = max(map(len, found)) + 2
    for key, value in found.items():
        lines = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        for line in lines:
            sys.stdout.write(f"{key:{width}}{_readable(line)}\n")
            key = ""


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def tell(line: str) -> None:
    """Prints a message that is not a result."""
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")


def confirmed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
