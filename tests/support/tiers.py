"""Which of many alike `make test` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(names: Iterable[str], *kept: str) -> list[Any]:
    """All names as parameters; those not kept are run by `make long` alone."""
    return [pytest.param(name, id=name, marks=[] if name in kept else pytest.mark.long) for name in names]
