"""Feeds the input topic at a rate, on a thread of its own, and knows what the broker has acknowledged.

Responsible for when records are sent, and for holding back while those who work on them, or the judge, are far behind. What is sent
is readings.py's.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Producer

from processor.errors import SlotstreamError
from processor.verify.readings import Sent

TICK_S = 0.02
BEHIND_MAX = 20_000


class Feeder(threading.Thread):
    """producer: of feed_producer(). behind: how many records wait for an answer or for the judge."""

    def __init__(self, producer: Producer, topic: str, records: Iterator[Sent], rate: float, behind: Callable[[], int]) -> None:
        super().__init__(name="feeder", daemon=True)
        self._producer, self._topic, self._records, self._behind = producer, topic, records, behind
        self.rate = rate  # records a second
        self.boost = 0.0  # times the rate; 0 until somebody is there to answer
        self._over = threading.Event()
        self.sent = 0
        self.acknowledged = 0  # both are counts of records
        self.last_due: dict[int, int] = {}  # by partition, the offset of the last acknowledged record that must be answered
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # noqa: BLE001 - raised again where the run waits
            self.failure = error

    def abandon(self) -> None:
        """Sends no more, and waits for no acknowledgement."""
        self._over.set()
        if self.ident is not None:
            self.join()
        self._producer.purge()

    def _feed(self) -> None:
        owed, then_s = 0.0, time.monotonic()
        while not self._over.wait(TICK_S):
            now_s = time.monotonic()
            owed, then_s = owed + (now_s - then_s) * self.rate * self.boost, now_s
            if self._behind() + self.sent - self.acknowledged > BEHIND_MAX:
                owed = 0.0
            while owed >= 1.0:
                owed -= 1.0
                self._produce(next(self._records))
            self._producer.poll(0)

    def _produce(self, sent: Sent) -> None:
        def acknowledged(error: Any, message: Any) -> None:
            if error is not None:
                self.failure = self.failure or SlotstreamError(
                    f"a record was not taken by {self._topic} ({error.str()})", expected="a broker that takes it", do="look at its log"
                )
                return
            self.acknowledged += 1
            if sent.due:
                self.last_due[message.partition()] = message.offset()

        self.sent += 1
        self._producer.produce(
            self._topic,
            sent.value,
            sent.key,
            sent.partition,
            timestamp=sent.record_ms,
            headers=list(sent.headers) or None,
            on_delivery=acknowledged,
        )
