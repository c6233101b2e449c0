"""Composition only: the service's parts made from its settings, in the order in which a mistake is quickly found.

Settings, broker and topics come before the model is compiled, and the group is joined last, when the first record could be answered.
"""

import functools
import gc
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from processor.app.announce import announce
from processor.app.fit import (
    TILE_ROWS_MAX,
    ModelFile,
    codec_of,
    deciding_of,
    fingerprint_of,
    load_model,
    model_file,
    open_folder,
    open_parking,
    policies_of,
    record_bytes_of,
    rules_of,
    shapes_of,
    slots_of,
)
from processor.app.forms import may_miss, names_of
from processor.app.health import Health, Served
from processor.app.schema_source import KeptSchemas
from processor.app.watching import Watching
from processor.checkpoint.directory import Directory
from processor.checkpoint.policy import Present
from processor.checkpoint.restore import Restore
from processor.checkpoint.topic import TopicStore, TopicWriter
from processor.checkpoint.writer import CheckpointWriter, Writer
from processor.codec.dead_letters import BadShare
from processor.codec.key_source import sensor_of
from processor.engine import Engine, Shapes
from processor.instance_lock import InstanceLock
from processor.kafka import findings, group
from processor.kafka.at_least_once import AtLeastOnce
from processor.kafka.clients import output_producer, session_ms, shows_mark
from processor.kafka.consumer import GroupConsumer
from processor.kafka.delivery import Delivery
from processor.kafka.findings import Finding
from processor.kafka.partition_log import PartitionLog, newest, read_to_end
from processor.kafka.session_limits import session_limits
from processor.kafka.topic_errors import partitions_added
from processor.kafka.topic_watch import TopicWatch
from processor.kafka.topics import Looker, Topic, Topics, describe
from processor.kafka.transaction import Transaction
from processor.loop.checkpoints import Checkpoints
from processor.loop.committer import Committer
from processor.loop.loop import Loop, Pace
from processor.loop.membership import CONFIRM_S, Membership, Name
from processor.loop.orphans import Orphans
from processor.loop.outputs import Outputs
from processor.loop.progress import Progress
from processor.loop.rebalance import Rebalance
from processor.loop.restorer import Restorer
from processor.metrics import Metrics
from processor.partitions import Partitions
from processor.pipeline import Codec, Pipeline
from processor.recorder import Recorder
from processor.remote.moved import MovedWatch
from processor.rules import Jumps
from processor.settings import Settings
from processor.slots.parking import Parking
from processor.split_sensors import SplitSensors

if TYPE_CHECKING:
    from processor.model.tiles import Tiles

_log = structlog.get_logger(__name__)

RESTORES_AT_ONCE = 8


class Build:
    """Makes the loop and the watch over its topics. lock: of the instance's name, once it is held. stopping: the service is to end."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health, stopping: Callable[[], bool]) -> None:
        self._settings, self._metrics, self._health, self._stopping = settings, metrics, health, stopping
        self.lock: InstanceLock | None = None
        self._loop: Loop | None = None
        self._tiles: Tiles | None = None
        self._moved: MovedWatch | None = None
        self._schemas: KeptSchemas | None = None

    def close(self) -> None:
        """Ends the compilation beside the loop, and requests for schemas."""
        if self._schemas is not None:
            self._schemas.close()
        if self._tiles is not None:
            self._tiles.close()
        if self._moved is not None:
            self._moved.close()

    def build(self) -> tuple[Loop, TopicWatch]:
        settings = self._settings
        topics, found = self._look()
        self.lock = InstanceLock(topics.cluster, settings.transactional_id)
        folder = open_folder(settings) if topics.checkpoint is None else None
        parked = open_parking(settings)
        # TensorFlow takes seconds to import: only now that the rest is known to be in order.
        self._health.start_step = "importing TensorFlow"
        from processor.model.quiet import import_tensorflow

        import_tensorflow()
        from processor.model.advice import past_window
        from processor.model.tiles import Tiles

        self._health.start_step = "loading the model"
        file = model_file(settings)
        model = load_model(settings, file)
        shapes = shapes_of(model, settings)
        record_bytes = record_bytes_of(settings, model, shapes)
        found = [*found, *findings.of_sizes(topics, record_bytes)]
        findings.require(found)
        _warn(found)
        watching = Watching(settings, model, shapes, self._metrics)
        schemas = self._schemas = KeptSchemas(settings, folder, self._metrics)
        self._health.schemas = schemas.source
        store, writer = _checkpoints(folder, settings, topics, shapes, schemas)
        slots = slots_of(settings, shapes)
        fingerprint = fingerprint_of(settings, model)
        self._metrics.set("input_partitions", topics.input.partitions)
        self._metrics.set("checkpoint_interval_seconds", settings.checkpoint.interval)
        served = Served(
            fingerprint[:8], model.mode, model.why, shapes.features, shapes.outputs, shapes.window, state_bytes=4 * shapes.row_width
        )
        announce(settings, self._metrics, served, slots, file)
        self._health.served = served
        self._watch_location(file)
        if advice := past_window(model):
            _log.warning(advice.text, trained_window=advice.window, deviation_percent=round(advice.deviation_percent, 2))
        self._health.start_step = "compiling the model"
        tiles = self._tiles = Tiles(model, rows_max=min(slots, settings.batch.readings_max, TILE_ROWS_MAX), beside=True)
        # What TensorFlow has left behind is looked at once and never again: in the loop, a full collection of it takes 0.3 s.
        gc.collect()
        gc.freeze()
        engine = Engine(tiles, shapes, rules_of(settings), slots=slots, parking=Parking(shapes.row_width, parked))
        looker, take_up = Looker(settings, topics), functools.partial(self._take_up, topics, writer)
        watch = TopicWatch(settings, topics, looker, self._metrics, record_bytes=record_bytes, told=found, adopt=take_up)
        self._health.topics = watch
        watch.start()

        def beat() -> None:
            self._health.beat()
            tiles.adopt()
            watch.check(self._health.beat, self._stopping)

        gate = threading.BoundedSemaphore(RESTORES_AT_ONCE)
        present = Present(fingerprint, topics.input.id, topics.input.partitions, deciding_of(settings, model, file))
        membership = self._membership(topics, beat, watch)

        def open_log(partition: int, cancelled: Callable[[], bool]) -> PartitionLog:
            return PartitionLog(settings, partition, cancelled, membership.committed)

        def restore(partition: int) -> Restore:
            watch.ask()
            return Restore(policies_of(settings), store, present, partition, gate, open_log)

        recorder = Recorder(self._metrics, names_of(settings, shapes.features) if may_miss(settings) else ())
        codec, deliver = codec_of(settings, model, fingerprint, schemas.source), self._delivery(topics, beat, watch)
        loop = self._compose(topics, engine, codec, recorder, deliver, writer, restore, membership, beat, watching)
        self._health.book = watching.book
        _log.info("started, joining the group", seconds=self._health.start_seconds())
        self._health.watch(loop)
        self._loop = loop
        return loop, watch

    def _look(self) -> tuple[Topics, list[Finding]]:
        """The topics, and what is to be said of them and of the group's session. Raises SlotstreamError if they will not do."""
        settings = self._settings
        self._health.start_step = "asking the broker for its topics"
        topics = describe(settings)
        found = [*findings.of_session(settings, session_limits(settings)), *findings.of_topics(settings, topics)]
        findings.require(found)
        return topics, found

    def _delivery(self, topics: Topics, beat: Callable[[], None], watch: TopicWatch) -> Delivery:
        limits = [topic.bytes_max for topic in topics.written]
        producer = functools.partial(output_producer, self._settings, record_bytes_max=max(limits), batch_bytes_max=min(limits))
        delivery = Transaction if self._settings.delivery == "exactly_once" else AtLeastOnce
        return delivery(producer, beat, watch.suspect, watch.stuck)

    def _take_up(self, topics: Topics, writer: CheckpointWriter, key: str) -> None:
        """On the loop's thread: a topic was replaced by another of its name."""
        if key == "checkpoint.topic" and topics.checkpoint is not None and isinstance(writer, TopicWriter):
            writer.moved(topics.checkpoint)
            if self._schemas is not None and self._schemas.records is not None:
                self._schemas.records.lost()
            if self._loop is not None:
                self._loop.checkpoints_lost()

    def _compose(
        self,
        topics: Topics,
        engine: Engine,
        codec: Codec,
        recorder: Recorder,
        delivery: Delivery,
        writer: CheckpointWriter,
        restore: Callable[[int], Restore],
        membership: Membership,
        beat: Callable[[], None],
        watching: Watching,
    ) -> Loop:
        from processor.model.machine import made_by

        settings, here, there = self._settings, made_by(), topics.input.partitions
        partitions, split = Partitions(), SplitSensors(self._metrics)
        split.look_into(
            lambda records, timeout_s: newest(settings, topics.input.name, there, records, timeout_s=timeout_s),
            sensor_of(settings.input.key),
        )
        pipeline = Pipeline(codec, engine, rules_of(settings).expire_ms, timed=recorder.timed, jumps=Jumps())
        bad_share = BadShare(settings.dead_letter.max_ratio, topics.dead_letter.name)
        watching.begin(partitions, engine, there)

        records = None if self._schemas is None else self._schemas.records
        committer = Committer(
            delivery,
            membership,
            topics.input.name,
            partitions=partitions,
            writer=writer,
            participants=[engine, bad_share, *watching.observers, *([records] if records is not None else [])],
            recorder=recorder,
        )
        restorer = Restorer(
            restore, partitions=partitions, engine=engine, pipeline=pipeline, writer=writer, recorder=recorder, made_by=here
        )
        checkpoints = Checkpoints(
            writer, settings.checkpoint.interval, partitions=partitions, engine=engine, split=split, recorder=recorder, made_by=here
        )
        rebalance = Rebalance(
            partitions=partitions,
            engine=engine,
            committer=committer,
            restorer=restorer,
            checkpoints=checkpoints,
            membership=membership,
            recorder=recorder,
            check_assigned=functools.partial(_check_assigned, topics.input, settings.on_partitions_added),
            drain_s=settings.drain_timeout,
            observers=watching.observers,
        )
        loop = Loop(
            Pace(settings.batch.readings_max, settings.batch.linger, settings.commit_interval),
            partitions=partitions,
            engine=engine,
            pipeline=pipeline,
            outputs=Outputs(topics, records),
            bad_share=bad_share,
            committer=committer,
            restorer=restorer,
            checkpoints=checkpoints,
            rebalance=rebalance,
            membership=membership,
            recorder=recorder,
            progress=Progress(self._metrics, recorder),
            beat=beat,
            inquiries=watching.inquiries,
            observers=watching.observers,
        )
        membership.join(rebalance)
        return loop

    def _membership(self, topics: Topics, beat: Callable[[], None], watch: TopicWatch) -> Membership:
        settings = self._settings
        mark = f"slotstream#{secrets.token_hex(4)}"  # of this start
        shown = shows_mark(settings)
        name = Name(
            settings.transactional_id,
            mark if shown else None,
            lambda member_id: group.holder(settings, member_id),
            beat,
            confirm_s=CONFIRM_S if shown else 2 * session_ms(settings) / 1000,
        )
        orphans = Orphans(lambda: group.unowned(settings, topics.input.partitions))
        return Membership(lambda listener: GroupConsumer(settings, listener, mark, watch.suspect), name, orphans, beat, watch.stuck)

    def _watch_location(self, file: ModelFile) -> None:
        """Tells when the location of a model that lies elsewhere means another one."""
        self._metrics.set("model_moved", 0)
        if file.place is not None and file.pinned is not None:
            self._moved = MovedWatch(file.place, file.pinned, lambda moved: self._metrics.set("model_moved", int(moved is not None)))
            self._moved.start()


def _check_assigned(topic: Topic, on_partitions_added: str, numbers: list[int]) -> None:
    """Raises SlotstreamError if the group gives out partitions that were not there when this process started."""
    if max(numbers, default=0) >= topic.partitions:
        raise partitions_added(topic.name, on_partitions_added, topic.partitions, max(numbers) + 1)


def _warn(found: list[Finding]) -> None:
    for finding in found:
        if finding.level == "warning":
            _log.warning(finding.found, expected=finding.expected, to_do=finding.do)


def _checkpoints(
    folder: Directory | None, settings: Settings, topics: Topics, shapes: Shapes, schemas: KeptSchemas
) -> tuple[Directory | TopicStore, CheckpointWriter]:
    if folder is not None:
        return folder, Writer(folder)
    if topics.checkpoint is None:
        raise ValueError("checkpoints are in a folder or in a topic")
    learn = None if schemas.records is None else schemas.records.learn
    store = TopicStore(functools.partial(read_to_end, settings), topics.checkpoint, shapes.row_width, learn)
    return store, TopicWriter(store)
