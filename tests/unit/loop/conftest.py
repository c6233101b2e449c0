"""The simulation restarts processes hundreds of times, and each of them logs what is done to it."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from processor.checkpoint import topic


@pytest.fixture(autouse=True)
def small_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(topic, "PIECE_ROWS", 4)  # what a restore reads into: megabytes, each time
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()
