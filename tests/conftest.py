"""What several tests share: one real Kafka a session, and names that no other test uses."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from processor.sandbox.kafka import EmbeddedKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker for the whole session. Tests that stop or kill a broker start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=512) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("readings")` gives a name for a topic, group or instance that nothing else on the session's broker has."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:8]}"
