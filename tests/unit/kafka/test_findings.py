"""What is right and wrong with topics and cluster settings: the one list of `check`, of a start and of a running service."""

from dataclasses import replace

import pytest

from processor.errors import ConfigurationError
from processor.kafka.findings import Finding, RecordBytes, SessionLimits, of_session, of_sizes, of_topics, require
from processor.kafka.topics import Topic, Topics
from processor.settings import Settings

KEYS = ("input.topic", "output.topic", "dead_letter.topic", "checkpoint.topic")


def topic(key: str, **changes: object) -> Topic:
    cleanup = "compact" if key == "checkpoint.topic" else "delete"
    return replace(Topic(f"the-{key}", f"{key}-id", 4, 1_000_000, cleanup, 604_800_000, None, 3, 2), **changes)


def with_(key: str, **changes: object) -> Topics:
    topics = Topics("cluster", *map(topic, KEYS))
    topics.put(key, topic(key, **changes))
    return topics


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in findings]


def test_nothing_is_said_of_topics_that_fit():
    assert of_topics(Settings(), with_("input.topic")) == []
    files = Topics("cluster", topic("input.topic"), topic("output.topic"), topic("dead_letter.topic"), None)
    assert of_topics(Settings(), files) == []


def test_nothing_is_said_of_what_the_broker_does_not_tell():
    bare = {"retention_ms": None, "retention_bytes": None, "replicas": None, "insync_min": None}
    topics = Topics("cluster", *(topic(key, **bare) for key in KEYS))
    assert of_topics(Settings(), topics) == []


@pytest.mark.parametrize(
    ("key", "changes", "expected"),
    [
        ("input.topic", {"cleanup": "compact"}, ("error", "input.topic cleanup.policy")),
        ("input.topic", {"cleanup": "compact,delete"}, ("error", "input.topic cleanup.policy")),
        ("input.topic", {"retention_ms": 299_999}, ("warning", "input.topic retention.ms")),
        ("input.topic", {"retention_bytes": 999_999}, ("warning", "input.topic retention.bytes")),
        ("checkpoint.topic", {"cleanup": "delete"}, ("error", "checkpoint.topic cleanup.policy")),
        ("checkpoint.topic", {"cleanup": "compact,delete"}, ("error", "checkpoint.topic cleanup.policy")),
        ("checkpoint.topic", {"partitions": 3}, ("error", "checkpoint.topic partitions")),
        ("checkpoint.topic", {"partitions": 5}, ("error", "checkpoint.topic partitions")),
        ("output.topic", {"partitions": 3}, ("ok", "output.topic partitions")),
        ("dead_letter.topic", {"partitions": 1}, ("ok", "dead_letter.topic partitions")),
        ("dead_letter.topic", {"bytes_max": 999_999}, ("warning", "dead_letter.topic max.message.bytes")),
        *((key, {"insync_min": 4}, ("error", f"{key} min.insync.replicas")) for key in KEYS[1:]),
        ("output.topic", {"insync_min": 3}, ("warning", "output.topic min.insync.replicas")),
        ("output.topic", {"insync_min": 1}, ("warning", "output.topic min.insync.replicas")),
    ],
)
def test_what_does_not_fit_is_found_by_its_setting(key, changes, expected):
    found = of_topics(Settings(), with_(key, **changes))
    assert said(found) == [expected]
    assert found[0].good is (expected[0] != "error")
    if expected[0] != "ok":
        assert f"the-{key}" in found[0].found
        assert found[0].do
        assert found[0].expected


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("input.topic", {"retention_ms": 300_000}),
        ("input.topic", {"retention_bytes": 1_000_000}),
        ("input.topic", {"insync_min": 4}),  # who writes there answers for it
        ("output.topic", {"replicas": 1, "insync_min": 1}),
        ("output.topic", {"replicas": 2, "insync_min": 1}),
        ("output.topic", {"cleanup": "compact"}),
    ],
)
def test_what_is_close_and_fits_is_not_found(key, changes):
    assert of_topics(Settings(), with_(key, **changes)) == []


def test_retention_is_compared_with_the_interval_of_checkpoints():
    short = with_("input.topic", retention_ms=60_000)
    assert said(of_topics(Settings(checkpoint={"interval": "6s"}), short)) == []
    found = of_topics(Settings(checkpoint={"interval": "7s"}), short)
    assert "keeps readings for 60 s, and a checkpoint is made each 7 s" in found[0].found


def test_the_topic_of_alarms_is_looked_at_like_the_one_of_outputs():
    topics = replace(with_("input.topic"), alarm=topic("alarm.topic", partitions=1, insync_min=4))
    assert topics.by_key["alarm.topic"] in topics.written
    assert said(of_topics(Settings(), topics)) == [("error", "alarm.topic min.insync.replicas"), ("ok", "alarm.topic partitions")]
    topics = replace(topics, alarm=topic("alarm.topic", bytes_max=9))
    assert said(of_sizes(topics, RecordBytes(1, 1, 10))) == [("error", "alarm.topic max.message.bytes")]


@pytest.mark.parametrize(
    ("largest", "key"), [(RecordBytes(1_000_001, 1), "output.topic"), (RecordBytes(1, 1_000_001), "checkpoint.topic")]
)
def test_a_record_larger_than_its_topic_takes_is_found(largest, key):
    topics = with_("input.topic")
    assert of_sizes(topics, RecordBytes(1_000_000, 1_000_000)) == []
    found = of_sizes(topics, largest)
    assert said(found) == [("error", f"{key} max.message.bytes")]
    assert found[0].see == "a-topic-takes-too-small-records"


@pytest.mark.parametrize(
    ("config", "limits", "expected"),
    [
        ({}, SessionLimits(6_000, 1_800_000), []),
        ({}, None, []),
        ({}, SessionLimits(45_000, 60_000), [("error", "session.timeout.ms")]),
        ({"session.timeout.ms": 70_000}, SessionLimits(6_000, 60_000), [("error", "session.timeout.ms")]),
        ({"session.timeout.ms": 70_000}, None, []),
        ({"heartbeat.interval.ms": 30_000}, None, [("error", "heartbeat.interval.ms")]),
        ({"heartbeat.interval.ms": 10_001}, None, [("warning", "heartbeat.interval.ms")]),
        ({"heartbeat.interval.ms": 10_000}, None, []),
        ({"session.timeout.ms": 6_000}, None, [("warning", "session.timeout.ms")]),
    ],
)
def test_a_session_is_compared_with_its_heartbeats_and_with_the_brokers_limits(config, limits, expected):
    assert said(of_session(Settings(kafka=config), limits)) == expected


def test_a_start_ends_by_the_first_that_cannot_be_lived_with():
    warning = Finding("warning", "a", "found a", "do a", "expected a")
    error = Finding("error", "b", "found b", "do b", "expected b", "see-b")
    require([warning])
    with pytest.raises(ConfigurationError) as caught:
        require([warning, error, replace(error, what="c")])
    assert (caught.value.found, caught.value.expected, caught.value.do, caught.value.see) == ("found b", "expected b", "do b", "see-b")
