"""What `slotstream rekey` needs before it copies: settings of its own, topics that exist, and a word when it is to stop."""

import signal
from collections.abc import Sequence
from types import FrameType

from processor.errors import ConfigurationError
from processor.kafka import admin
from processor.kafka.topics import Topic, describe_topic
from processor.rekey.rekey import Copied, Rekey
from processor.settings import Settings


def options(source: str, target: str, key: str | None, words: Sequence[str]) -> list[str]:
    """The command line of the settings: the topics, a group of the copy's own unless the words name one, and transactions.

    key: None, where the sensor is what the settings say, by default the record's own key.
    """
    group = [] if any(word.startswith("--group") for word in words) else [f"--group=slotstream.rekey.{source}.{target}"]
    keyed = [] if key is None else [f"--input.key={key}"]
    return [f"--input.topic={source}", f"--output.topic={target}", *keyed, "--delivery=exactly_once", *group, *words]


def copy(settings: Settings, *, to_end: bool) -> Copied:
    """Copies until SIGTERM or Ctrl-C, or to the end. Raises SlotstreamError."""
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    return Rekey(settings, *_topics(settings)).run(lambda: bool(stopped), to_end=to_end)


def _topics(settings: Settings) -> tuple[Topic, Topic, Topic]:
    client, _ = admin.connected(settings)
    names = (settings.input.topic, settings.output.topic, settings.dead_letter_topic)
    found = [describe_topic(client, name) for name in names]
    source, target, dead_letters = found
    if source is None or target is None or dead_letters is None:
        missing = ", ".join(name for name, topic in zip(names, found, strict=True) if topic is None)
        raise ConfigurationError(
            f"the broker at {admin.bootstrap(settings)} has no topic {missing}",
            expected="the topic that is copied, the one to copy to, and one for records that name no sensor (dead_letter.topic)",
            do="create what is missing, the target with as many partitions as the service is to have",
            see="a-topic-is-missing",
        )
    return source, target, dead_letters
