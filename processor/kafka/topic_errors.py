"""The errors for topics that were deleted, replaced or extended: the same messages at a start and while the service runs."""

from processor.errors import PolicyStop, SlotstreamError, TopicGone


def gone(key: str, name: str, absent_s: float) -> TopicGone:
    """key: the setting that names the topic."""
    return TopicGone(
        f"the topic {name} ({key}) has been gone from the broker for {absent_s:.0f} s",
        expected="the topic that was there at the start",
        do="find out who deleted it; create it again with `slotstream init` (which brings none of its records back), then start again",
        see="a-topic-is-gone",
    )


def another_input(topic: str, on_partitions_added: str, before: str, now: str) -> SlotstreamError:
    """before, now: the topics' ids. Found at a start or while running: in the latter case a restart helps, if the policy permits it."""
    found = f"{topic} is another topic of the same name: it was deleted and created again (topic id {before}, now {now})"
    if on_partitions_added == "cold":
        return SlotstreamError(
            found,
            expected="the topic that was there at the start",
            do="start again: the service then begins with the new topic, at input.start (on_partitions_added: cold)",
            see="the-input-is-another-topic-of-the-same-name",
        )
    return PolicyStop(
        found,
        expected="the topic that the states and offsets belong to (on_partitions_added: fail)",
        do="set on_partitions_added to cold (begins with the new topic, at input.start), or start under another `group`; offsets "
        "and checkpoints of the old topic mean nothing in the new one",
        see="the-input-is-another-topic-of-the-same-name",
    )


def partitions_added(topic: str, on_partitions_added: str, before: int, now: int) -> SlotstreamError:
    """Found at a start or while running: in the latter case a restart helps, if the policy permits it."""
    found = f"{topic} had {before} partitions and has {now}: keys went to other partitions"
    if on_partitions_added == "cold":
        return SlotstreamError(
            found,
            expected="the partitions that were there at the start",
            do="start again: every partition then restarts from zero state (on_partitions_added: cold)",
            see="partitions-were-added",
        )
    return PolicyStop(
        found,
        expected="the partitions that the state was made from (on_partitions_added: fail)",
        do="set on_partitions_added to cold (every sensor restarts from zero state), or start under another `group`; and give the "
        "output topic as many partitions",
        see="partitions-were-added",
    )


def does_not_fit(key: str, name: str, why: str) -> SlotstreamError:
    """A recreated topic that this process cannot continue with: the next start checks all of its settings."""
    return SlotstreamError(
        f"the topic {name} ({key}) was deleted and created again, and {why}",
        expected="a topic like the one before",
        do="start again: a start takes the topic as it is, or says what is wrong with it",
        see="a-topic-is-gone",
    )
