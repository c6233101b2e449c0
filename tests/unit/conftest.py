"""The unit tier: no TensorFlow, no broker, no waiting for another process."""

import sys
from collections.abc import Iterator

import pytest

from processor.testbed.embedded_kafka import EmbeddedKafka


@pytest.fixture(scope="session")
def kafka() -> None:
    pytest.fail("a unit test asks for no broker; tests that need one are in tests/broker")


@pytest.fixture(autouse=True)
def stays_in_the_unit_tier(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that starts a broker, or that is the first in its process to import TensorFlow."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a unit test starts no broker; tests that need one are in tests/broker")

    monkeypatch.setattr(EmbeddedKafka, "__init__", refuse)
    before = "tensorflow" in sys.modules
    yield
    assert before or "tensorflow" not in sys.modules, "a unit test imports no TensorFlow; tests that need it are in tests/model"
