"""Reads what lies in the topics, hands it to the judge, and knows how long nothing has come out.

Responsible for one phase: the input from where the judge stands, both output topics from their beginning, all read committed. A
thread of its own, on which the judge's oracle runs too. Not responsible for what is right.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from processor.errors import SlotstreamError
from processor.kafka.clients import restore_consumer
from processor.settings import Settings
from processor.verify import judge
from processor.verify.judge import Judge
from processor.verify.oracle_records import InputRecord

BATCH_MAX = 2000
WAIT_S = 0.05
JUDGE_S = 0.1  # at a time, so that what comes out is seen when it does

READ: dict[judge.Kind, Callable[[bytes | None, bytes | None, int, judge.Headers], tuple[int, judge.Answer]]]
READ = {"prediction": judge.prediction, "dead letter": judge.dead_letter, "alarm": judge.alarm}


class Stalls:
    """How long nothing came out while something should have: the longest time, and the longest since the last call of taken()."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._since_s = now_s()
        self._recent_s = 0.0
        self.longest_s = 0.0

    @property
    def current_s(self) -> float:
        return self._now_s() - self._since_s

    def note(self, *, came: bool, pending: bool) -> None:
        if came or pending:
            self._recent_s = max(self._recent_s, self.current_s)
            self.longest_s = max(self.longest_s, self.current_s)
        if came or not pending:
            self._since_s = self._now_s()

    def taken(self) -> float:
        recent_s, self._recent_s = self._recent_s, 0.0
        return recent_s

    def forget(self) -> None:
        """As if nothing had been waited for so far."""
        self._since_s, self._recent_s, self.longest_s = self._now_s(), 0.0, 0.0


class Watch(threading.Thread):
    """due: by partition, the offset of the last record that must be answered, as its sender knows it."""

    def __init__(self, settings: Settings, judge_: Judge, partitions: int, due: Callable[[], dict[int, int]]) -> None:
        super().__init__(name="watch", daemon=True)
        self._judge, self._due = judge_, due
        self._input, self._output, self._dead = settings.input.topic, settings.output.topic, settings.dead_letter_topic
        self._consumer = restore_consumer(settings)
        self._next = {(self._input, p): judge_.next_offset[p] for p in range(partitions)}
        self._alarms = settings.alarm_topic
        answered = [topic for topic in (self._output, self._dead, self._alarms) if topic is not None]
        self._next |= {(topic, p): 0 for topic in answered for p in range(partitions)}
        self._ended: set[tuple[str, int]] = set()
        self._again = True  # the partitions are to be assigned anew, so that each tells of its end once more
        self._over = threading.Event()
        self.answered_to: defaultdict[int, int] = defaultdict(lambda: -1)  # the highest offset that was answered, by partition
        self.answers = 0
        self.stalls = Stalls()
        self.failure: BaseException | None = None

    @property
    def pending(self) -> bool:
        """A record waits for its answer."""
        return any(self.answered_to[p] < offset for p, offset in list(self._due().items()))

    def answered(self, due: dict[int, int]) -> bool:
        """In every partition the record at this offset, or a later one, is answered."""
        return all(self.answered_to[p] >= offset for p, offset in due.items())

    @property
    def at_end(self) -> bool:
        """Everything that lay in the topics at the call of read_to_end() has been taken."""
        return not self._again and len(self._ended) == len(self._next)

    def read_to_end(self) -> None:
        self._again = True

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._turn()
        except Exception as error:  # noqa: BLE001 - raised again where the run waits
            self.failure = error
        finally:
            self._consumer.close()

    def end(self) -> None:
        """Ends the thread."""
        self._over.set()
        if self.ident is not None:
            self.join()

    def _turn(self) -> None:
        if self._again:
            self._consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in self._next.items()])
            self._ended.clear()
            self._again = False
        messages = self._consumer.consume(BATCH_MAX, WAIT_S)
        before = self.answers
        for message in messages:
            self._take(message)
        self.stalls.note(came=self.answers > before, pending=self.pending)
        until_s = time.monotonic() + JUDGE_S
        self._judge.work(lambda: time.monotonic() > until_s)

    def _take(self, message: Message) -> None:
        if message.error() is not None:
            self._note(message)
            return
        self._next[message.topic(), message.partition()] = message.offset() + 1
        topic, record_ms = message.topic(), message.timestamp()[1]
        key, value, headers = message.key(), message.value(), tuple(message.headers() or ())
        if topic == self._input:
            self._judge.record(InputRecord(message.partition(), message.offset(), key, value, record_ms, headers))
            return
        kind: judge.Kind = "prediction" if topic == self._output else "alarm" if topic == self._alarms else "dead letter"
        partition, answer = READ[kind](key, value, record_ms, headers)
        if partition != message.partition():
            raise SlotstreamError(
                f"an answer to partition {partition} lies in partition {message.partition()} of {topic}",
                expected="the same partition, since the topics have as many",
                do="look at the partition of what is published",
            )
        if kind != "alarm":  # one answers no record: its prediction does
            self.answers += 1
            self.answered_to[partition] = max(self.answered_to[partition], answer.offset)
        self._judge.answer(kind, partition, answer)

    def _note(self, message: Message) -> None:
        """The end of a partition, or a broker that is away; anything else is an error."""
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            self._ended.add((message.topic(), message.partition()))
        elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise KafkaException(error)
