"""What follows from looks at the topics: with looks made up, on a clock that is turned by hand."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from waiting import wait_for

from processor.errors import PolicyStop, SlotstreamError, TopicGone
from processor.kafka import topic_watch
from processor.kafka.findings import RecordBytes, of_topics
from processor.kafka.topic_watch import AGAIN_S, GRACE_S, SOON_S, STUCK_S, TopicWatch
from processor.kafka.topics import Look, Topic, Topics
from processor.metrics import Metrics
from processor.settings import Settings

KEYS = ("input.topic", "output.topic", "dead_letter.topic", "checkpoint.topic")
WRITTEN = KEYS[1:]


def topic(key: str, **changes: object) -> Topic:
    cleanup = "compact" if key == "checkpoint.topic" else "delete"
    return replace(Topic(f"the-{key}", f"{key}-1", 4, 1_000_000, cleanup, 604_800_000, None, 1, 1), **changes)


class Broker:
    """Answers looks as the test says."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic | None] = {key: topic(key) for key in KEYS}
        self.away, self.knows_others = False, True
        self.looks: list[bool] = []

    def __call__(self, *, configs: bool) -> Look | None:
        self.looks.append(configs)
        return None if self.away else Look(dict(self.topics), self.knows_others or any(self.topics.values()))


class Watched:
    def __init__(self, **settings: object) -> None:
        self.now_s, self.broker, self.metrics = 1000.0, Broker(), Metrics()
        self.topics = Topics("cluster", *(topic(key) for key in KEYS))
        self.adopted: list[str] = []
        self.stopping = False
        self.watch = TopicWatch(
            Settings(**settings),
            self.topics,
            self.broker,
            self.metrics,
            record_bytes=RecordBytes(1000, 1000),
            told=[],
            adopt=self.adopted.append,
            now_s=lambda: self.now_s,
        )

    def look(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.watch.look(configs=True)

    def check(self) -> int:
        """How often the loop's beat was called while it waited; it waits once and is then told to stop."""
        beats = []

        def beat() -> None:
            beats.append(1)
            self.stopping = True

        self.watch.check(beat, lambda: self.stopping)
        self.stopping = False
        return len(beats)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_watch, "WAIT_S", 0.0)


def test_topics_that_are_there_hold_nobody_up():
    watched = Watched()
    with capture_logs() as log:
        watched.look()
    assert (watched.check(), watched.watch.trouble, log) == (0, None, [])


@pytest.mark.parametrize("key", KEYS)
def test_a_topic_that_is_gone_is_waited_for_told_once_and_ends_the_service_after_the_grace(key):
    watched = Watched()
    watched.broker.topics[key] = None
    with capture_logs() as log:
        watched.look()
        assert (watched.check(), watched.watch.trouble) == (0, None), "one answer proves nothing"
        watched.look(AGAIN_S)
        assert watched.check() == 1
        assert watched.watch.trouble == f"waiting for a topic that is gone from the broker: the-{key} ({key})"
        assert watched.metrics.value("topic_gone", topic=key.removesuffix(".topic")) == 1
        watched.look(GRACE_S - AGAIN_S - 1)
        assert watched.check() == 1
    assert [(line["log_level"], line["topic"]) for line in log] == [("error", f"the-{key}")]
    watched.look(1)
    with pytest.raises(TopicGone, match=f"the topic the-{key} .{key}. has been gone") as caught:
        watched.check()
    assert (caught.value.exit_code, caught.value.see) == (3, "a-topic-is-gone")


@pytest.mark.parametrize("key", KEYS)
def test_a_topic_that_comes_back_under_its_id_is_as_if_nothing_had_been(key):
    """No client can make a topic with a given id: on a broker this is metadata that lagged behind."""
    watched = Watched()
    there, watched.broker.topics[key] = watched.broker.topics[key], None
    watched.look()
    watched.look(GRACE_S - 1)
    assert watched.check() == 1
    watched.broker.topics[key] = there
    watched.look(GRACE_S)
    assert (watched.check(), watched.watch.trouble, watched.adopted) == (0, None, [])
    assert watched.metrics.value("topic_gone", topic=key.removesuffix(".topic")) == 0
    watched.broker.topics[key] = None
    watched.look(GRACE_S)
    watched.look(1)
    assert watched.check() == 1, "its grace begins anew"


def test_a_broker_that_is_away_ends_nothing_however_long():
    watched = Watched()
    watched.broker.topics["input.topic"] = None
    watched.look()
    watched.look(1)
    watched.broker.away = True
    for _ in range(10):
        watched.look(GRACE_S)
        assert watched.check() == 1
    watched.broker.away = False
    watched.broker.topics["input.topic"] = topic("input.topic")
    watched.look()
    assert watched.check() == 0


def test_a_client_that_waits_is_stuck_once_the_broker_has_answered_others_for_as_long():
    watched = Watched()
    assert not watched.watch.stuck(10**6), "nothing was asked yet"
    watched.look()
    watched.look(STUCK_S - 1)
    assert not watched.watch.stuck(10**6), "a client needs time to find a broker that is back"
    watched.now_s += 2
    assert not watched.watch.stuck(STUCK_S)
    assert watched.watch.stuck(STUCK_S + 1)
    assert not watched.watch.stuck(10**6), "a new client has longer"
    watched.now_s += STUCK_S
    assert watched.watch.stuck(2 * STUCK_S + 1)
    watched.broker.away = True
    watched.look()
    assert not watched.watch.stuck(10**6), "the broker answers nobody"
    watched.broker.away = False
    watched.look(10**6)
    assert not watched.watch.stuck(10**6)


def test_a_broker_that_knows_no_topic_at_all_makes_it_wait_and_never_ends_it():
    """It may be starting up."""
    watched = Watched()
    watched.broker.topics, watched.broker.knows_others = dict.fromkeys(KEYS), False
    for _ in range(10):
        watched.look(GRACE_S / 5)
    assert watched.watch.trouble is not None
    for _ in range(10):
        watched.look(GRACE_S)
        assert watched.check() == 1
    watched.broker.knows_others = True
    watched.look()
    with pytest.raises(TopicGone):
        watched.check()


def test_what_a_broker_does_not_show_to_this_user_is_no_finding():
    watched = Watched()
    del watched.broker.topics["dead_letter.topic"]
    with capture_logs() as log:
        for _ in range(5):
            watched.look(GRACE_S)
    assert (watched.check(), log) == (0, [])


@pytest.mark.parametrize(("policy", "kind", "code"), [("fail", PolicyStop, 3), ("cold", SlotstreamError, 1)])
@pytest.mark.parametrize("gone_before", [False, True])
def test_another_input_of_the_same_name_ends_it_as_the_policy_says(policy, kind, code, gone_before):
    watched = Watched(on_partitions_added=policy)
    if gone_before:
        watched.broker.topics["input.topic"] = None
        watched.look()
        watched.look(1)
    watched.broker.topics["input.topic"] = topic("input.topic", id="another")
    watched.look(1)
    with pytest.raises(kind, match=r"another topic of the same name.*input.topic-1, now another") as caught:
        watched.check()
    assert caught.value.exit_code == code
    assert "offset" not in caught.value.do.partition(";")[0], "what helps comes first"


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("cold", 1)])
def test_partitions_added_to_the_input_end_it_as_the_policy_says(policy, code):
    watched = Watched(on_partitions_added=policy)
    watched.broker.topics["input.topic"] = topic("input.topic", partitions=6)
    watched.look()
    with pytest.raises(SlotstreamError, match="had 4 partitions and has 6") as caught:
        watched.check()
    assert caught.value.exit_code == code


def test_fewer_partitions_than_before_are_metadata_that_lags():
    watched = Watched()
    watched.broker.topics["input.topic"] = topic("input.topic", partitions=2)
    watched.look()
    assert watched.check() == 0


@pytest.mark.parametrize("key", WRITTEN)
def test_another_topic_that_is_written_to_is_taken_up(key):
    watched = Watched()
    watched.broker.topics[key] = None
    watched.look()
    watched.look(1)
    new = topic(key, id="another", partitions=6)
    watched.broker.topics[key] = new
    with capture_logs() as log:
        watched.look(1)
        assert watched.topics.by_key[key].id == f"{key}-1", "until the loop comes by"
        assert watched.check() == 0
        watched.look(1)
        assert watched.check() == 0
    assert watched.topics.by_key[key] == new
    assert watched.adopted == [key]
    assert [line["topic"] for line in log if "continuing with the new one" in line["event"]] == [f"the-{key}"]


@pytest.mark.parametrize(
    ("key", "changes", "why"),
    [
        ("output.topic", {"bytes_max": 500_000}, "takes records up to 500,000 bytes"),
        ("checkpoint.topic", {"partitions": 1}, "has 1 partitions"),
    ],
)
def test_another_topic_that_this_process_cannot_write_to_ends_it_so_that_a_start_decides(key, changes, why):
    watched = Watched()
    watched.broker.topics[key] = topic(key, id="another", **changes)
    watched.look()
    with pytest.raises(SlotstreamError, match=why) as caught:
        watched.check()
    assert caught.value.exit_code == 1


def test_an_error_that_a_lost_topic_has_caused_is_told_by_its_cause():
    watched = Watched()
    error = PolicyStop("no offset, but a checkpoint", expected="both", do="set the offset", see="a-checkpoint-without-committed-offset")
    assert watched.watch.explained(error) is error
    watched.broker.topics["input.topic"] = topic("input.topic", id="another")
    assert "another topic of the same name" in watched.watch.explained(error).found


def test_a_stop_is_not_held_up_and_a_closed_watch_neither_waits_nor_raises():
    watched = Watched()
    watched.broker.topics["output.topic"] = None
    watched.look()
    watched.look(GRACE_S)
    watched.stopping = True
    assert watched.check() == 0
    watched.look(GRACE_S)
    watched.watch.close()
    assert watched.check() == 0


def test_before_a_restore_the_loop_waits_for_one_more_answer_of_the_broker():
    watched = Watched()
    watched.watch.ask()
    watched.broker.away = True
    watched.look()
    assert watched.check() == 1
    watched.broker.away = False
    watched.look()
    assert (watched.check(), watched.watch.trouble) == (0, None)
    watched.watch.ask()
    watched.broker.topics["input.topic"] = topic("input.topic", id="another")
    watched.look()
    with pytest.raises(PolicyStop, match="another topic of the same name"):
        watched.check()


def test_findings_are_told_once_and_told_when_they_are_over():
    watched = Watched()
    watched.broker.topics["input.topic"] = topic("input.topic", retention_ms=60_000)
    watched.broker.topics["checkpoint.topic"] = topic("checkpoint.topic", cleanup="delete")
    with capture_logs() as log:
        watched.look()
        watched.look(30)
    assert sorted(line["log_level"] for line in log) == ["error", "warning"]
    assert watched.check() == 0
    assert {level: watched.metrics.value("topic_findings", level=level) for level in ("warning", "error")} == {"warning": 1, "error": 1}
    watched.broker.topics["checkpoint.topic"] = topic("checkpoint.topic")
    with capture_logs() as log:
        watched.look(30)
    assert [line["event"] for line in log] == ["the finding is resolved"]
    assert watched.metrics.value("topic_findings", level="error") == 0


def test_what_the_start_has_told_is_not_told_again():
    watched, short = Watched(), topic("input.topic", retention_ms=60_000)
    watched.topics.put("input.topic", short)
    watched.broker.topics["input.topic"] = short
    told = of_topics(Settings(), watched.topics)
    watch = TopicWatch(Settings(), watched.topics, watched.broker, watched.metrics, record_bytes=RecordBytes(1, 1), told=told)
    assert watched.metrics.value("topic_findings", level="warning") == 1
    with capture_logs() as log:
        watch.look(configs=True)
    assert log == []


def test_the_thread_looks_soon_when_the_client_asks_but_not_all_the_time():
    watched = Watched()
    watched.watch.start()
    watched.watch.suspect()
    assert watched.broker.looks == [], f"it has looked less than {SOON_S} s ago"
    watched.now_s += SOON_S
    watched.watch.suspect()
    wait_for(lambda: watched.broker.looks, "a look")
    watched.watch.close()
