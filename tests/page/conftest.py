"""What the page is looked at with: a browser, a plant that reports, and the service on a real Kafka."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser
from harness import Service, Topics

from processor.testbed import child_process as process
from processor.testbed.embedded_kafka import EmbeddedKafka, free_port

MODEL = Path(__file__).parents[2] / "processor/demo/demo.keras"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", type=Path, metavar="FOLDER", help="write the documentation's pictures of the page there; takes minutes")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def topics(kafka: EmbeddedKafka) -> Topics:
    return Topics(kafka.bootstrap, "readings", partitions=4)


@pytest.fixture(scope="module")
def service(topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """On a port that it keeps when it is started again, as the page would find it. Once it is ready, 500 machines report to it, 400
    readings a second together."""
    port = free_port()
    options = [f"--http.port={port}", "--checkpoint.interval=5s", "--slots=1024", "--output.residual=true", "--dead_letter.max_ratio=1"]
    options.append("--checkpoint.path=checkpoints")  # in the service's own folder, and no path of this machine in a picture
    service = Service(topics, MODEL, tmp_path_factory.mktemp("service"), *options, instance="plant-1")
    service.page = f"http://127.0.0.1:{port}/"
    plant = ["processor.cli", "plant", "--bootstrap", topics.bootstrap, "--topic", topics.input, "--rate", "400"]
    with service:
        service.wait_ready(180)
        running = process.spawn([sys.executable, "-m", *plant], tmp_path_factory.mktemp("plant") / "plant.log")
        try:
            yield service
        finally:
            process.kill(running)
