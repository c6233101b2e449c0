"""Which of many alike are run by which tier."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def few(names: Iterable[str], *kept: str, long: Container[str] = ()) -> list[Any]:
    """All names as parameters. `make test` runs those kept, `make long` those in `long`, and `make soak` the rest."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        if name in kept:
            return []
        return [pytest.mark.long if name in long else pytest.mark.soak]

    return [pytest.param(name, id=name, marks=marks(name)) for name in names]
