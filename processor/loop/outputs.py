"""The outputs of a processed batch: predictions, alarms and dead letters, in their record's partition if the topics have it."""

from collections.abc import Iterator, Sequence

from processor.codec.columns import Message
from processor.codec.dead_letters import dead_letter
from processor.kafka.topics import Topics
from processor.pipeline import Processed
from processor.records import Out, Outs


class Outputs:
    def __init__(self, topics: Topics) -> None:
        self._topics = topics

    def predictions(self, done: Processed) -> Outs:
        topic, batch = self._topics.output, done.batch
        along = topic.partitions == self._topics.input.partitions
        return Outs(topic.name, batch.partition if along else None, batch.key, done.values, batch.record_ms.tolist(), done.headers)

    def alarms(self, done: Processed) -> list[Out]:
        topic, batch = self._topics.alarm, done.batch
        if topic is None:
            return []
        along = topic.partitions == self._topics.input.partitions
        return [
            Out(topic.name, batch.partition[i] if along else None, sensor, value, int(batch.record_ms[i]))
            for i, sensor, value in done.alarms
        ]

    def dead_letters(self, messages: Sequence[Message], done: Processed) -> Iterator[Out]:
        topic, source = self._topics.dead_letter, self._topics.input
        along = topic.partitions == source.partitions
        for i, reason in done.rejected:
            partition = reason.partition if along else None
            yield dead_letter(
                messages[i], reason, source_topic=source.name, topic=topic.name, partition=partition, bytes_max=topic.bytes_max
            )
