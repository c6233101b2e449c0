"""One stack for all tests of this folder, which run in the order of the files: each leaves it up and healthy."""

from collections.abc import Iterator

import pytest
from stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    one = Stack()
    one.up()
    yield one
    one.compose("down", "--volumes", "--timeout", "5")
