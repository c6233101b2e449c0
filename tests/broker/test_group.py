"""Asking the group's coordinator while it is away: by a process of its own, since what must not happen ends the process."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from processor.testbed.embedded_kafka import EmbeddedKafka

ASKER = """
import sys, time
from confluent_kafka import KafkaException
from processor.settings import load_settings
from processor.kafka import group

settings = load_settings(None, ["--kafka=bootstrap.servers=" + sys.argv[1], "--kafka=log_level=0"], {})
while True:
    try:
        group.described(settings, 0.5)
    except (KafkaException, TimeoutError):
        print("nobody", flush=True)
    else:
        print("answered", flush=True)
        time.sleep(0.1)
"""


@pytest.mark.long
def test_a_question_outlives_outages_longer_than_it_waits(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with EmbeddedKafka(tmp_path / "kafka", heap_mb=256) as broker, said.open("w") as out:
        asker = subprocess.Popen([sys.executable, "-c", ASKER, broker.bootstrap], stdout=out, stderr=subprocess.STDOUT)

        def wait_until_said(words: str) -> None:
            """At the end, by an asker that lives."""

            def there() -> bool:
                assert asker.poll() is None, (asker.returncode, said.read_text()[-2000:])
                return said.read_text().endswith(words)

            wait_for(there, lambda: f"{words}: {said.read_text()[-2000:]}")

        try:
            for _ in range(2):
                wait_until_said("answered\n")
                broker.kill()
                wait_until_said("nobody\n" * 4)
                broker.start()
            wait_until_said("answered\n")
        finally:
            asker.kill()
            asker.wait(10)
