"""`slotstream check`: everything that would keep `run` from working, found before it runs, each with what to do.

Changes nothing: a transaction is begun and aborted under a name of its own, so that no running instance is fenced.
"""

import stat
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from processor.app.drift_profile import drift_counts
from processor.app.fit import codec_of, load_model, open_folder, open_parking, record_bytes_of, shapes_of
from processor.app.schema_fit import asked_schemas
from processor.app.sensor_form import sensor_form
from processor.doctor.topic_records import records
from processor.errors import SlotstreamError
from processor.kafka import admin, findings, permissions
from processor.kafka.clients import restore_consumer
from processor.kafka.findings import Finding, RecordBytes
from processor.kafka.permissions import NO_COORDINATOR
from processor.kafka.refusals.certificates import certificates, expiry, is_expired
from processor.kafka.session_limits import session_limits
from processor.kafka.topics import Topic, Topics, describe_sampled, describe_topic, names
from processor.kafka.transaction import try_transaction
from processor.metrics import Metrics
from processor.settings import Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel


def check(settings: Settings) -> list[Finding]:
    """Goes on past whatever is wrong."""
    model, record_bytes, found = _model(settings)
    found += _secrets(settings)
    if settings.checkpoint_store == "directory":
        found.append(_tried("checkpoints", f"{settings.checkpoint.path} can be written to", lambda: open_folder(settings)))
    if settings.parking.path is not None:
        found.append(_tried("parking", f"{settings.parking.path} can be written to", lambda: open_parking(settings)))
    of_broker = on_broker(settings, record_bytes)
    found += of_broker
    if of_broker[0].good:
        found += _records(settings, model)
    return found


def on_broker(settings: Settings, record_bytes: RecordBytes | None = None) -> list[Finding]:
    """The broker's side: reachable, topics, permissions, session, offsets, transactions. record_bytes: None where no model is known."""
    try:
        client, cluster = admin.connected(settings)
    except SlotstreamError as error:
        return [_bad("broker", error)]
    found = [Finding("ok", "broker", f"{admin.bootstrap(settings)} answers, cluster {cluster}")]
    topics = _topics(client, settings, found)
    found += _permissions(client, settings)
    found += findings.of_session(settings, session_limits(settings))
    if (whole := _whole(cluster, topics)) is not None:
        found += findings.of_topics(settings, whole)
        if record_bytes is not None:
            found += findings.of_sizes(whole, record_bytes) or [Finding("ok", "sizes", "settings, model and topics agree")]
    source = topics.get("input.topic")
    if source is not None and not any(f"on group {settings.group_id} is missing" in finding.found for finding in found):
        found.append(_group(settings, source.partitions))
    if settings.delivery == "exactly_once":
        with_record = topics.get("checkpoint.topic") is not None
        found.append(_tried("transactions", "the broker takes them", lambda: try_transaction(settings, with_record=with_record)))
    return found


def _model(settings: Settings) -> tuple["ServableModel | None", RecordBytes | None, list[Finding]]:
    """The model and its largest records, None where it or its columns will not do, and what is to be said of it."""
    try:
        model = load_model(settings)
    except SlotstreamError as error:
        return None, None, [_bad("model", error)]
    found = f"{model.path}: {model.mode}, {model.features} features, {model.outputs} outputs; {model.why}"
    loaded = Finding("ok", "model", found)
    try:
        shapes = shapes_of(model, settings)
        if settings.drift.profile is not None:
            drift_counts(settings.drift.profile, sensor_form(settings, model, shapes), Metrics())
        return model, record_bytes_of(settings, model, shapes), [loaded]
    except SlotstreamError as error:
        return None, None, [loaded, _bad("columns", error)]


def _records(settings: Settings, model: "ServableModel | None") -> Iterator[Finding]:
    try:
        topic = describe_sampled(settings)
    except SlotstreamError:
        return  # the broker's findings say so
    yield from records(settings, topic, codec_of(settings, model, "check", asked_schemas(settings)) if model is not None else None)


def _secrets(settings: Settings) -> Iterator[Finding]:
    """The files that secrets came from, and how long the client's own certificate is valid."""
    for key, path in settings.secret_files().items():
        open_to = " (every user of this machine may read it: chmod o-r)" if path.stat().st_mode & stat.S_IROTH else ""
        yield Finding("ok", key, f"read from {path}{open_to}")
    for key, certificate in certificates(settings.kafka_config()):
        expired = is_expired(certificate)
        found = f"{certificate.subject.rfc4514_string()}, {'expired on' if expired else 'valid until'} {expiry(certificate):%Y-%m-%d}"
        yield Finding("error" if expired else "ok", key, found, "have it renewed" if expired else "")


def _topics(client: AdminClient, settings: Settings, found: list[Finding]) -> dict[str, Topic | None]:
    """By the setting that names each, None for one that is missing; without those that the broker does not tell of."""
    topics = dict[str, Topic | None]()
    for key, name in names(settings).items():
        try:
            topics[key] = topic = describe_topic(client, name)
        except SlotstreamError as error:
            found.append(_bad(key, error))
            continue
        if topic is None:
            found.append(Finding("error", key, f"there is no topic {name}", "slotstream init"))
        else:
            found.append(Finding("ok", key, f"{name}: {topic.partitions} partitions, records up to {topic.bytes_max:,} bytes"))
    return topics


def _whole(cluster: str, topics: dict[str, Topic | None]) -> Topics | None:
    """None unless input, output and dead letters are there. Without a checkpoint topic nothing is said of it: its own line does."""
    source, output, dead_letter = topics.get("input.topic"), topics.get("output.topic"), topics.get("dead_letter.topic")
    if source is None or output is None or dead_letter is None:
        return None
    return Topics(cluster, source, output, dead_letter, topics.get("checkpoint.topic"), topics.get("alarm.topic"))


def _permissions(client: AdminClient, settings: Settings) -> Iterator[Finding]:
    """A line for each that is missing, and one for those that are there."""
    needs = [need for need in permissions.of_run(settings) if need.kind in ("topic", "group")]
    try:
        lacks = permissions.missing(client, settings, needs)
    except KafkaException as error:
        yield Finding("error", "permissions", f"the broker does not tell them ({error.args[0].str()})", "look at the broker's log")
        return
    for need in lacks:
        yield Finding("error", "permission", f"{need.operation} on {need.resource} is missing", permissions.grant(settings, need))
    if len(lacks) < len(needs):
        there = f"{len(needs) - len(lacks)} of the {len(needs)} on topics and group are there, for {permissions.principal(settings)}"
        yield Finding("ok", "permissions", there)


def _group(settings: Settings, partitions: int) -> Finding:
    name = settings.group_id
    consumer = restore_consumer(settings)
    try:
        wanted = [TopicPartition(settings.input.topic, partition) for partition in range(partitions)]
        offsets = [tp.offset for tp in _committed(consumer, wanted) if tp.offset >= 0]
    except KafkaException as error:
        return Finding("error", "group", f"{name}: {error.args[0].str()}", "look at the permissions on the group, and at the broker's log")
    finally:
        consumer.close()
    said = f"{name} has offsets in {len(offsets)} partitions" if offsets else f"{name} is new: it begins at {settings.input.start}"
    return Finding("ok", "group", said)


def _committed(consumer: Consumer, wanted: list[TopicPartition]) -> list[TopicPartition]:
    """Asks again for a while where there is no coordinator yet: a new group's is found as it is asked for."""
    until_s = time.monotonic() + admin.BROKER_TIMEOUT_S
    while True:
        try:
            return list(consumer.committed(wanted, admin.BROKER_TIMEOUT_S))
        except KafkaException as error:
            if not (error.args[0].retriable() or error.args[0].code() in NO_COORDINATOR) or time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def _tried(what: str, good: str, run: Callable[[], object]) -> Finding:
    try:
        run()
    except SlotstreamError as error:
        return _bad(what, error)
    return Finding("ok", what, good)


def _bad(what: str, error: SlotstreamError) -> Finding:
    return Finding("error", what, error.found, error.do)
