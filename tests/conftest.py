"""What several tests share: one real Kafka a session, and names that no other test uses."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from processor.sandbox.kafka import EmbeddedKafka

# Of these files each test stands alone and takes long: any process may take the next one. Of all others the tests share what is made once.
ALONE = {"test_crashes", "test_faults", "test_oracle", "test_recipes"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `pytest --dist loadgroup`."""
    for item in items:
        file = item.path.stem
        if file not in ALONE:
            item.add_marker(pytest.mark.xdist_group(file))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker for the whole session. Tests that stop or kill a broker start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=512) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("readings")` gives a name for a topic, group or instance that nothing else on the session's broker has."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:8]}"
