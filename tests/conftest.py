"""What several tests share: one real Kafka a session, and names that no other test uses."""

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from processor.testbed.embedded_kafka import EmbeddedKafka

# In these files each test takes long and shares nothing, so any process may take the next one. The tests of any other file share what
# is made once for it, so one process takes the whole file.
ALONE = {"test_crashes", "test_faults", "test_oracle", "test_recipes"}
# Waiting for processes and brokers comes first: begun last, it would be waited for by all.
ORDER = ("broker", "deploy", "model", "docs", "unit")


class Scheduling(LoadScopeScheduling):
    """For `pytest -n 3`: what one process does as a whole, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if Path(file).stem in ALONE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if item.path.stem == "test_verify":  # minutes
        return -1
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return ORDER.index(folder) if folder in ORDER else 0


def pytest_configure() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and so would be every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker for the whole session. Tests that stop or kill a broker start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=512) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("readings")` gives a name for a topic, group or instance that nothing else on the session's broker has."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:8]}"
