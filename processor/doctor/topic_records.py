"""What `slotstream check` says of the records in the input topic: what would become of the newest, and which sensors are split.

Reads a sample and decodes it as the service would. Changes nothing and joins no group.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from confluent_kafka import KafkaException, Message

from processor.codec.dead_letters import example
from processor.codec.key_source import sensor_of
from processor.errors import SlotstreamError
from processor.kafka.findings import Finding
from processor.kafka.partition_log import in_several_partitions, newest
from processor.kafka.topics import Topic
from processor.pipeline import Codec
from processor.settings import Settings
from processor.split_sensors import named

RECORDS = 100  # of each partition; the newest so many of all are decoded
TIMEOUT_S = 15.0


def records(settings: Settings, topic: Topic, codec: Codec | None) -> Iterator[Finding]:
    """Findings on the newest records. codec: None where no model says what a reading is."""
    try:
        sample = newest(settings, topic.name, topic.partitions, RECORDS, timeout_s=TIMEOUT_S)
    except (KafkaException, SlotstreamError) as error:
        yield Finding("error", "records", f"the newest records of {topic.name} cannot be read ({error})", "see what the broker says")
        return
    if not sample:
        yield Finding("ok", "records", f"{topic.name} holds none yet")
        return
    if codec is not None:
        latest = sorted(sample, key=lambda record: (record.timestamp()[1], record.offset() or 0))[-RECORDS:]
        try:
            yield from judged(latest, codec, settings.dead_letter.max_ratio, settings.input.features or ())
        except SlotstreamError as error:
            yield Finding("error", "schema registry", error.found, error.do)
    yield from split(sample, settings.input.key)


def judged(sample: Sequence[Message], codec: Codec, max_ratio: float, names: Sequence[str | int] = ()) -> Iterator[Finding]:
    """What would become of these records: a line for each reason, with its latest example. names: of the features; none: numbers."""
    decoded = codec.decode(sample)
    rejected = decoded.rejected
    counts = Counter(reason.error for _, reason in rejected)
    examples = {reason.error: example(sample[i].key(), reason) for i, reason in rejected}
    good = len(rejected) <= max_ratio * len(sample)
    if not rejected:
        yield Finding("ok", "records", f"the newest {len(sample)} are readings, or reset their sensors")
    if (missing := decoded.batch.missing) is not None:
        by_feature = zip(names or range(missing.shape[1]), missing.sum(0).tolist(), strict=True)
        found = ", ".join(f"{name} {count}" for name, count in by_feature if count)
        yield Finding("ok", "missing", f"values missing in the newest {len(sample)}, by feature: {found}; input.missing stands for them")
    for error, count in counts.most_common():
        found = f"{count} of the newest {len(sample)} would become dead letters ({error}), such as {examples[error]}"
        yield Finding("ok" if good else "error", "records", found, "" if good else "fix the sender, or the settings under input")


def split(sample: Sequence[Message], key: str | None = None) -> Iterator[Finding]:
    """Sensors with records in several partitions. key: input.key."""
    sensor = sensor_of(key)
    if without := sum(sensor(record) is None for record in sample):
        yield Finding(
            "warning",
            "keys",
            f"{without} of the newest {len(sample)} records name no sensor by {'their key' if key is None else key}",
            "have the sender set the key; where the sensor is named elsewhere, set input.key, or copy the topic with `slotstream rekey`",
        )
    if found := in_several_partitions(sample, sensor):
        yield Finding(
            "error",
            "sensors",
            f"{len(found)} of {len({sensor(record) for record in sample})} in the newest records lie in several partitions, "
            f"{named(found)}: each has a state in each of them",
            "give every producer the same partitioner (murmur2_random where it is librdkafka's: Java's default is not librdkafka's); "
            "`slotstream rekey` copies the topic so that each sensor lies in one",
        )
