"""What the values of settings may be that describe records: where a field lies, and what it holds.

As values.py, which has those of every other kind: no key, no source, no default.
"""

from collections.abc import Iterable
from typing import Any

from processor.settings.values import Allowed, path_parts


def path() -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        path_parts(value)
        return value

    return Allowed("a field's name (time, meta.time: the key as it is written, else dots descend; in quotes they do not)", parse)


def clashes(name: str, others: Iterable[str]) -> bool:
    """Whether a field is one of the others, holds one, or lies in one."""
    mine = path_parts(name)
    return any(mine[: len(theirs)] == theirs[: len(mine)] for theirs in map(path_parts, others))
