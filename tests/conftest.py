"""What several tests share: one real Kafka a session, and names that no other test uses."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from processor.sandbox.kafka import EmbeddedKafka

# Of these files each test stands alone and takes long: any process may take the next one. Of all others the tests share what is made once.
ALONE = {"test_crashes", "test_faults", "test_oracle", "test_recipes"}


# Minutes of waiting for processes and brokers: begun last it would be waited for by all.
FIRST = "tests/test_verify.py"


class Scheduling(LoadScopeScheduling):
    """For `pytest -n 4`: what one process does as a whole. After the first, files of many tests come early, those that stand alone last."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if Path(file).stem in ALONE else file

    def _assign_work_unit(self, node: Any) -> None:
        if FIRST in self.workqueue:
            self.workqueue.move_to_end(FIRST, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker for the whole session. Tests that stop or kill a broker start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=512) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("readings")` gives a name for a topic, group or instance that nothing else on the session's broker has."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:8]}"
