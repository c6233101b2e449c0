"""Watches the topics of a running service: a thread checks them, and the loop reacts to the results.

    thread    checks every EVERY_S, soon after the client has reported an unknown topic, and every AGAIN_S while one is gone
    loop      calls check() wherever it would wait or begin a turn: while a topic is gone it waits there, and it ends in the
              cases of the failure table

Presence decides, without a clock, thread or broker. A broker that is away is not a finding: the loop waits for it elsewhere.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from processor.errors import SlotstreamError
from processor.kafka import topic_errors
from processor.kafka.findings import Finding, RecordBytes, of_sizes, of_topics
from processor.kafka.topics import Look, Topic, Topics
from processor.metrics import Metrics
from processor.settings import Settings

_log = structlog.get_logger(__name__)

EVERY_S = 30.0
AGAIN_S = 2.0
SOON_S = 5.0  # between two checks that the client has requested: while a broker is away, the client requests them constantly
GRACE_S = 60.0
STUCK_S = 45.0  # longer than a client needs to find a broker that answers, and than a coordinator needs to load
STUCK_MAX_S = 600.0
WAIT_S = 0.02


class Looker(Protocol):
    def __call__(self, *, configs: bool) -> Look | None: ...


@dataclass(frozen=True, slots=True)
class Absence:
    """since_s: time of the first answer without the topic; confirmed: a second answer was without it too."""

    since_s: float
    confirmed: bool = False


class Presence:
    """Which topics exist, which are gone, which were replaced by others with the same name, and the consequences.

    One answer proves little: a broker that is starting, or whose metadata is stale, may briefly not know a topic. So a topic counts as
    gone when two answers from brokers that know other topics lack it, and it ends the service when another answer after GRACE_S lacks it
    too. A broker that knows no topics at all makes the service wait but never ends it. A new id or a new partition is conclusive by
    itself.
    """

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self._settings, self._topics = settings, topics
        self._policy = settings.input.topic, settings.on_partitions_added
        self._absences: dict[str, Absence] = {}
        self.replaced: dict[str, Topic] = {}  # by others with the same name, for the loop to adopt
        self.end: SlotstreamError | None = None  # the error that ends the service

    @property
    def gone(self) -> list[str]:
        """The keys of the topics that are gone."""
        return [key for key, absence in self._absences.items() if absence.confirmed]

    @property
    def suspects(self) -> bool:
        """Whether a topic was missing in the last answer."""
        return bool(self._absences)

    def saw(self, look: Look, now_s: float) -> None:
        for key, topic in look.topics.items():
            known = self.replaced.get(key) or self._topics.by_key[key]
            if topic is None:
                self._missed(key, known, now_s, credible=look.credible)
                continue
            if self._absences.pop(key, Absence(now_s)).confirmed:
                _log.info("the topic is back", topic=topic.name, setting=key, same=topic.id == known.id)
            if topic.id != known.id:
                self._is_another(key, known, topic)
            elif key == "input.topic" and topic.partitions > known.partitions:
                self.end = self.end or topic_errors.partitions_added(*self._policy, known.partitions, topic.partitions)

    def _missed(self, key: str, known: Topic, now_s: float, *, credible: bool) -> None:
        absence = self._absences.get(key)
        if absence is None:
            self._absences[key] = Absence(now_s)
            return
        if not absence.confirmed:
            if not credible and now_s - absence.since_s < GRACE_S:
                return
            _log.error(
                "a topic no longer exists on the broker: the service waits, and ends if it does not come back",
                topic=known.name,
                setting=key,
                ends_in_s=GRACE_S,
                to_do="find out who deleted it; create it again: slotstream init",
            )
            self._absences[key] = Absence(absence.since_s, confirmed=True)
        elif credible and now_s - absence.since_s >= GRACE_S:
            self.end = self.end or topic_errors.gone(key, known.name, now_s - absence.since_s)

    def _is_another(self, key: str, known: Topic, topic: Topic) -> None:
        if key == "input.topic":
            self.end = self.end or topic_errors.another_input(*self._policy, known.id, topic.id)
        elif topic.bytes_max < known.bytes_max:
            why = f"takes records up to {topic.bytes_max:,} bytes instead of {known.bytes_max:,}"
            self.end = self.end or topic_errors.does_not_fit(key, topic.name, why)
        elif key == "checkpoint.topic" and topic.partitions < self._topics.input.partitions:
            why = f"has {topic.partitions} partitions instead of {known.partitions}"
            self.end = self.end or topic_errors.does_not_fit(key, topic.name, why)
        else:
            self.replaced[key] = topic


class TopicWatch:
    """looker, now_s: used on the thread. adopt(): called on the loop's thread with the key of a topic that was replaced.

    Any thread may call the methods, except check().
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        looker: Looker,
        metrics: Metrics,
        *,
        record_bytes: RecordBytes,
        told: list[Finding],
        adopt: Callable[[str], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """told: findings that the start has already reported."""
        self._settings, self._topics, self._looker, self._metrics = settings, topics, looker, metrics
        self._record_bytes, self._adopt, self._now_s = record_bytes, adopt, now_s
        self._seen = topics.by_key
        of_now = {finding.found for finding in self._judged(topics)}
        self._findings = {finding.found: finding for finding in told if finding.found in of_now}
        self._lock = threading.Lock()
        self._presence = Presence(settings, topics)
        self._wake, self._closed = threading.Event(), threading.Event()
        self._urgent = threading.Event()  # the loop is waiting for an answer
        self._looked_s = now_s()
        self._stuck_s = STUCK_S
        self._answered_since_s: float | None = None  # every look since then was answered
        self._looking = threading.Lock()
        self._failure: BaseException | None = None
        self._tell()

    def start(self) -> None:
        threading.Thread(target=self._run, name="topics", daemon=True).start()

    def close(self) -> None:
        """Stops checking; check() then returns at once."""
        self._closed.set()
        self._wake.set()

    def suspect(self) -> None:
        """The client has reported an unknown topic, or waits for longer than usual: check soon."""
        if self._now_s() - self._looked_s >= SOON_S:
            self._wake.set()

    def stuck(self, waited_s: float) -> bool:
        """Whether a client that has waited for so long should have found a broker: each look has been answered meanwhile.

        Each time it says so, a client has longer: where even new ones are too slow, the machine or the broker is.
        """
        since_s = self._answered_since_s
        found = since_s is not None and min(waited_s, self._now_s() - since_s) > self._stuck_s
        if found:
            self._stuck_s = min(2 * self._stuck_s, STUCK_MAX_S)
        return found

    def ask(self) -> None:
        """Makes the loop wait until a broker has confirmed which topics exist.

        Used before a partition is restored, because its offset and checkpoints would be wrong for another topic with the same name.
        """
        self._urgent.set()
        self._wake.set()

    @property
    def trouble(self) -> str | None:
        """Why the loop is waiting, None if it is not."""
        with self._lock:
            told = [f"{self._topics.by_key[key].name} ({key})" for key in self._presence.gone]
        return f"waiting for a topic that is gone from the broker: {', '.join(told)}" if told else None

    def check(self, beat: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """Call on the loop's thread. Waits while a topic is gone, calling beat regularly, unless the service is stopping.

        Raises the error that ends the service.
        """
        while not self._closed.is_set():
            with self._lock:
                end, gone = self._presence.end or self._failure, bool(self._presence.gone)
                replaced, self._presence.replaced = self._presence.replaced, {}
                for key, topic in replaced.items():
                    self._topics.put(key, topic)
            for key, topic in replaced.items():
                self._took_up(key, topic)
            if end is not None:
                raise end
            if not (gone or self._urgent.is_set()) or stopping():
                return
            if gone:
                self._metrics.set("ready", 0.0)  # overrides the value of the loop's last turn
            beat()
            time.sleep(WAIT_S)

    def explained(self, error: SlotstreamError) -> SlotstreamError:
        """The error, or its cause if a topic is gone or was replaced. Checks once more if necessary."""
        if self._presence.end is not None:
            return self._presence.end
        with self._looking:
            look = self._looker(configs=False)
        with self._lock:
            if look is not None:
                self._presence.saw(look, self._now_s())
            return self._presence.end or error

    def _took_up(self, key: str, topic: Topic) -> None:
        _log.warning(
            "a topic was deleted and created again: continuing with the new one",
            topic=topic.name,
            setting=key,
            id=topic.id,
            partitions=topic.partitions,
            gone="its checkpoints: all of them are written again" if key == "checkpoint.topic" else "the records that it held",
        )
        self._adopt(key)

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                suspects = self._presence.suspects or self._urgent.is_set()
            self._wake.wait(AGAIN_S if suspects else EVERY_S)
            if self._closed.is_set():
                return
            self._wake.clear()
            try:
                self.look(configs=not suspects)
            except Exception as failure:  # noqa: BLE001 - raised on the loop's thread
                self._failure = failure
                return

    def look(self, *, configs: bool) -> None:
        """Checks once, and processes the result."""
        urgent = self._urgent.is_set()  # a request that arrives meanwhile triggers another check
        with self._looking:
            look = self._looker(configs=configs)
        self._looked_s = self._now_s()
        if look is None:
            self._answered_since_s = None
            return
        if self._answered_since_s is None:
            self._answered_since_s = self._looked_s
        with self._lock:
            self._presence.saw(look, self._looked_s)
            gone = self._presence.gone
        if urgent:
            self._urgent.clear()
        self._seen |= {key: topic for key, topic in look.topics.items() if topic is not None}
        self._judge(self._seen)
        for key in self._seen:
            self._metrics.set("topic_gone", float(key in gone), topic=key.removesuffix(".topic"))

    def _judge(self, seen: Mapping[str, Topic]) -> None:
        """Logs each new finding once, and each finding that has been resolved."""
        topics = replace(self._topics)
        for key, topic in seen.items():
            topics.put(key, topic)
        found = {finding.found: finding for finding in self._judged(topics)}
        for text in found.keys() - self._findings.keys():
            finding = found[text]
            tell = _log.warning if finding.good else _log.error
            words = {} if finding.good else {"then": "the next start ends by this"}
            tell(finding.found, expected=finding.expected, to_do=finding.do, **words)
        for text in self._findings.keys() - found.keys():
            _log.info("the finding is resolved", was=text)
        self._findings = found
        self._tell()

    def _judged(self, topics: Topics) -> list[Finding]:
        found = [*of_topics(self._settings, topics), *of_sizes(topics, self._record_bytes)]
        return [finding for finding in found if finding.level != "ok"]

    def _tell(self) -> None:
        for level in ("warning", "error"):
            count = sum(finding.level == level for finding in self._findings.values())
            self._metrics.set("topic_findings", count, level=level)
