"""Builds the service from its settings, runs the loop, and ends it.

Composition stands here and nowhere else. What is quick to find wrong is looked at first: settings, broker and topics before
the model is compiled, and the group is joined last, when the first record could be answered.
"""

import functools
import hashlib
import json
import math
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog

from processor.checkpoint.directory import Directory
from processor.checkpoint.policy import Present
from processor.checkpoint.restore import Restore
from processor.checkpoint.topic import TopicStore, TopicWriter, row_bytes_max
from processor.checkpoint.writer import CheckpointWriter, Writer
from processor.codec.dead_letters import BadShare
from processor.codec.decode import KEY_BYTES_MAX, Decoder, Format
from processor.codec.encode import Encoder, output_bytes_max
from processor.codec.float32_records import Float32Format
from processor.codec.json_records import JsonFormat
from processor.engine import Engine, Shapes, Stepper
from processor.errors import ConfigurationError, Fenced, NotPermitted, SlotstreamError
from processor.figures import Figures
from processor.instance_lock import InstanceLock
from processor.kafka import findings
from processor.kafka.at_least_once import AtLeastOnce
from processor.kafka.delivery import Delivery
from processor.kafka.refusals import RefusalWatch
from processor.kafka.session_limits import session_limits
from processor.kafka.topic_errors import partitions_added
from processor.kafka.topic_watch import TopicWatch
from processor.kafka.topics import Looker, Topics, describe
from processor.kafka.transaction import Transaction
from processor.loop.checkpoints import Checkpoints
from processor.loop.committer import Committer
from processor.loop.loop import Loop, Pace
from processor.loop.membership import CONFIRM_S, Membership, Name
from processor.loop.outputs import Outputs
from processor.loop.rebalance import Rebalance
from processor.loop.restorer import Restorer
from processor.metrics import Metrics
from processor.partitions import Partition, Partitions
from processor.pipeline import Codec, Pipeline
from processor.rules import Jumps, Rules
from processor.settings import Settings, format_duration, keys
from processor.slots.parking import Parking, StateFile
from processor.split_sensors import SplitSensors
from processor.stream import admin, group, permissions
from processor.stream.clients import librdkafka_version, output_producer, session_ms, shows_mark, watch_of
from processor.stream.consumer import Reader
from processor.stream.orphans import Orphans
from processor.systemd import Systemd

if TYPE_CHECKING:
    from processor.model.load import ServableModel

_log = structlog.get_logger(__name__)

SLOTS_AUTO_BYTES = 256_000_000
SLOTS_AUTO_MAX = 65_536
TILE_ROWS_MAX = 4096
HUNG_S = 60.0
PERMITTED_S = 2.0  # between two looks at a permission that is missing
TELL_S = 60.0
RESTORES_AT_ONCE = 8
# Another number where a version reads records, or lets time pass, otherwise than the one before.
RECORD_RULES = 2


@dataclass(frozen=True, slots=True)
class Served:
    """The model as it is served, for whoever asks. window: steps, None where the state is carried; state_bytes: of one sensor."""

    fingerprint: str
    mode: str
    why: str
    features: int
    outputs: int
    window: int | None
    state_bytes: int


class Probes:
    """What /healthz, /readyz and the status page are told. Written by the loop's thread, read by the web's."""

    def __init__(self, systemd: Systemd | None = None) -> None:
        self._loop: Loop | None = None
        self._systemd = systemd or Systemd()
        self._turned_at_s: float | None = None  # None until the loop runs: compiling is no hang
        self._start_step: str | None = "reading its settings"
        self.served: Served | None = None
        self.topics: TopicWatch | None = None
        self.refusals: RefusalWatch | None = None
        self.not_permitted: NotPermitted | None = None  # what the loop waits for

    def beat(self) -> None:
        """The loop turns, or waits for the broker: /healthz and systemd's watchdog rest on this alone."""
        self._turned_at_s = time.monotonic()
        if self._loop is not None and self._systemd.listens:
            self._systemd.beat(f"{len(self._loop.partitions)} partitions: {self.ready()[1]}", joined=self.joined)

    def watch(self, loop: Loop) -> None:
        self._loop, self._start_step = loop, None

    @property
    def start_step(self) -> str | None:
        """None when the loop is there."""
        return self._start_step

    @start_step.setter
    def start_step(self, step: str) -> None:
        self._start_step = step
        self._systemd.starting(step)

    def stopping(self, drain_timeout_s: float) -> None:
        """The service ends, and may take that long for its last commit and checkpoint."""
        self._systemd.stopping(drain_timeout_s)

    def alive(self) -> tuple[bool, str]:
        since_s = 0.0 if self._turned_at_s is None else time.monotonic() - self._turned_at_s
        if since_s > HUNG_S:
            return False, f"the loop has not turned for {since_s:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        loop = self._loop
        if (trouble := self.trouble) is not None:
            return False, trouble
        if loop is None:
            return False, "starting"
        if not loop.ready:
            return False, f"restoring {loop.restoring} partitions" if loop.restoring else "joining, or catching up with the backlog"
        return True, "ready"

    @property
    def trouble(self) -> str | None:
        """What the service waits for that somebody has to mend; None if there is nothing."""
        if self.topics is not None and (gone := self.topics.trouble) is not None:
            return gone
        refused = self.not_permitted or (None if self.refusals is None else self.refusals.reason)
        return None if refused is None else f"{refused.found}; to do: {refused.do}"

    @property
    def joined(self) -> bool:
        """The group has answered with an assignment, be it empty."""
        return self._loop is not None and self._loop.joined

    def partitions(self) -> list[Partition]:
        """Those of this instance, to be looked at only: they are the loop's, and go on changing."""
        return [] if self._loop is None else list(self._loop.partitions.values())


class Service:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.probes = Probes()
        self.probes.refusals = watch_of(settings)
        self._joined = self._stopping = False
        self._loop: Loop | None = None
        self._lock: InstanceLock | None = None
        self._told = "", -math.inf
        self._parked: StateFile | None = None

    def run(self) -> int:
        """Runs until stopped; returns the exit code. Raises SlotstreamError for whatever ends it otherwise."""
        self._catch_signals()
        try:
            return self._run()
        finally:
            self.probes.stopping(self._settings.drain_timeout)
            self._release()

    def _run(self) -> int:
        try:
            loop, watch = self._build()
        except NotPermitted as refused:
            raise admin.what_is_missing(self._settings, refused) from refused
        self._joined = True
        try:
            while not self._stopping:
                try:
                    loop.turn()
                except NotPermitted as refused:
                    self._wait_until_permitted(loop, refused)
            _log.info("stopping: last commit, last checkpoint")
            watch.close()
            loop.stop(leave=self._settings.leave_on_stop)
        except Fenced:
            watch.close()
            loop.abandon(leave=False, abort=False)  # the name is another process's now
            raise
        except NotPermitted as refused:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise admin.what_is_missing(self._settings, refused) from refused
        except SlotstreamError as error:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise watch.explained(error) from error
        except BaseException:
            watch.close()
            loop.abandon(leave=self._settings.leave_on_stop)
            raise
        _log.info("stopped")
        return 0

    def _wait_until_permitted(self, loop: Loop, refused: NotPermitted) -> None:
        """A permission that was taken away may be given back: a restart would do no more than wait for it."""
        loop.suspend()
        while not self._stopping:
            missing = admin.what_is_missing(self._settings, refused)
            self.probes.not_permitted = missing
            self._tell_once_a_minute(missing)
            time.sleep(PERMITTED_S)
            self.probes.beat()
            # What the broker does not tell is tried: the use of a transactional id, or what has been given back meanwhile.
            if missing is refused or missing.kind == permissions.OF_TRANSACTIONS:
                try:
                    loop.resume()
                except NotPermitted as again:
                    refused = again
                else:
                    self.probes.not_permitted = None
                    _log.info("joining again: no permission is missing")
                    return

    def _tell_once_a_minute(self, missing: NotPermitted) -> None:
        found, told_at_s = self._told
        if missing.found != found or time.monotonic() - told_at_s > TELL_S:
            self._told = missing.found, time.monotonic()
            _log.error("a permission is missing, waiting for it", found=missing.found, expected=missing.expected, to_do=missing.do)

    def _build(self) -> tuple[Loop, TopicWatch]:
        settings = self._settings
        self.probes.start_step = "asking the broker for its topics"
        topics = describe(settings)
        found = [*findings.of_session(settings, session_limits(settings)), *findings.of_topics(settings, topics)]
        findings.require(found)
        self._lock = InstanceLock(topics.cluster, settings.transactional_id)
        folder = open_folder(settings) if topics.checkpoint is None else None
        self._parked = open_parking(settings)
        # TensorFlow takes seconds to import: only now that the rest is known to be in order.
        self.probes.start_step = "loading the model"
        from processor.model.quiet import import_tensorflow

        import_tensorflow()
        from processor.model.advice import past_window
        from processor.model.tiles import Tiles

        model = load_model(settings)
        shapes = shapes_of(model, settings)
        record_bytes = record_bytes_of(settings, shapes, per_step=model.per_step)
        found = [*found, *findings.of_sizes(topics, record_bytes)]
        findings.require(found)
        for finding in found:
            if finding.level == "warning":
                _log.warning(finding.found, expected=finding.expected, to_do=finding.do)
        store, writer = _checkpoints(folder, settings, topics, shapes)
        slots = slots_of(settings, shapes)
        fingerprint = fingerprint_of(settings, model)
        self._metrics.set("input_partitions", topics.input.partitions)
        self._metrics.set("checkpoint_interval_seconds", settings.checkpoint.interval)
        served = Served(
            fingerprint[:8], model.mode, model.why, shapes.features, shapes.outputs, shapes.window, state_bytes=4 * shapes.row_width
        )
        self._announce(served, slots)
        if advice := past_window(model):
            _log.warning(advice.text, trained_window=advice.window, deviation_percent=round(advice.deviation_percent, 2))
        self.probes.start_step = "compiling the model"
        engine = self._engine(Tiles(model, rows_max=min(slots, settings.batch.readings_max, TILE_ROWS_MAX)), shapes, slots=slots)
        watch = TopicWatch(
            settings,
            topics,
            Looker(settings, topics),
            self._metrics,
            record_bytes=record_bytes,
            told=found,
            adopt=lambda key: self._take_up(key, topics, writer),
        )
        self.probes.topics = watch

        def beat() -> None:
            self.probes.beat()
            watch.check(self.probes.beat, lambda: self._stopping)

        gate = threading.BoundedSemaphore(RESTORES_AT_ONCE)
        present = Present(fingerprint, topics.input.id, topics.input.partitions, deciding_of(settings, model))

        def restore(partition: int) -> Restore:
            watch.ask()
            return Restore(settings, store, present, partition, gate)

        limits = [topic.bytes_max for topic in topics.written]
        producer = functools.partial(output_producer, settings, record_bytes_max=max(limits), batch_bytes_max=min(limits))
        delivery = Transaction if settings.delivery == "exactly_once" else AtLeastOnce
        loop = self._compose(
            topics, engine, codec_of(settings, model, fingerprint), delivery(producer, beat, watch.suspect), writer, restore, watch, beat
        )
        self.probes.watch(loop)
        self._loop = loop
        watch.start()
        return loop, watch

    def _take_up(self, key: str, topics: Topics, writer: CheckpointWriter) -> None:
        """On the loop's thread: a topic was replaced by another of its name."""
        if key == "checkpoint.topic" and topics.checkpoint is not None and isinstance(writer, TopicWriter):
            writer.moved(topics.checkpoint)
            if self._loop is not None:
                self._loop.checkpoints_lost()

    def _compose(
        self,
        topics: Topics,
        engine: Engine,
        codec: Codec,
        delivery: Delivery,
        writer: CheckpointWriter,
        restore: Callable[[int], Restore],
        watch: TopicWatch,
        beat: Callable[[], None],
    ) -> Loop:
        from processor.model.machine import made_by

        settings, here, there = self._settings, made_by(), topics.input.partitions
        partitions, figures, split = Partitions(), Figures(self._metrics), SplitSensors(self._metrics)
        split.look_into(settings, there)
        pipeline = Pipeline(codec, engine, rules_of(settings).expire_ms, timed=figures.timed, jumps=Jumps())
        bad_share = BadShare(settings.dead_letter.max_ratio, topics.dead_letter.name)
        membership = self._membership(topics, beat, watch.suspect)

        def check_assigned(numbers: list[int]) -> None:
            if max(numbers, default=0) >= there:
                raise partitions_added(settings, there, max(numbers) + 1)

        committer = Committer(
            delivery,
            membership,
            topics.input.name,
            partitions=partitions,
            writer=writer,
            participants=[engine, bad_share],
            figures=figures,
        )
        restorer = Restorer(restore, partitions=partitions, engine=engine, pipeline=pipeline, writer=writer, figures=figures, made_by=here)
        checkpoints = Checkpoints(
            writer,
            settings.checkpoint.interval,
            partitions=partitions,
            engine=engine,
            split=split,
            figures=figures,
            made_by=here,
        )
        rebalance = Rebalance(
            partitions=partitions,
            engine=engine,
            committer=committer,
            restorer=restorer,
            checkpoints=checkpoints,
            membership=membership,
            figures=figures,
            check_assigned=check_assigned,
            drain_s=settings.drain_timeout,
        )
        loop = Loop(
            Pace(settings.batch.readings_max, settings.batch.linger, settings.commit_interval),
            partitions=partitions,
            engine=engine,
            pipeline=pipeline,
            outputs=Outputs(topics),
            bad_share=bad_share,
            committer=committer,
            restorer=restorer,
            checkpoints=checkpoints,
            rebalance=rebalance,
            membership=membership,
            figures=figures,
            beat=beat,
        )
        membership.join(rebalance)
        return loop

    def _membership(self, topics: Topics, beat: Callable[[], None], suspect: Callable[[], None]) -> Membership:
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
        return Membership(lambda listener: Reader(settings, listener, mark, suspect), name, orphans, beat)

    def _engine(self, stepper: Stepper, shapes: Shapes, *, slots: int) -> Engine:
        # A method of its own, so that the bench can put an echo in its place.
        return Engine(stepper, shapes, rules_of(self._settings), slots=slots, parking=Parking(shapes.row_width, self._parked))

    def _announce(self, served: Served, slots: int) -> None:
        settings = self._settings
        self.probes.served = served
        _log.info(
            "slotstream",
            version=version("slotstream"),
            model=str(settings.model.path),
            fingerprint=served.fingerprint,
            mode=served.mode,
            why=served.why,
            features=served.features,
            outputs=served.outputs,
            group=settings.group_id,
            instance=settings.instance_name,
            slots=slots,
            slots_mb=round(slots * served.state_bytes / 1e6, 1),
            checkpoints=settings.checkpoint_topic or str(settings.checkpoint.path),
        )
        from processor.model.machine import tensorflow_version

        self._metrics.set("slots", slots)
        self._metrics.set(
            "model_info",
            1,
            fingerprint=served.fingerprint,
            mode=served.mode,
            features=served.features,
            outputs=served.outputs,
            state_bytes=served.state_bytes,
        )
        self._metrics.set(
            "build_info",
            1,
            version=version("slotstream"),
            python=platform.python_version(),
            tensorflow=tensorflow_version(),
            librdkafka=librdkafka_version(),
        )

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _catch_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopping:
                self._release()
                os._exit(128 + number)  # asked twice: at once, as if killed; the next start finds everything
            if not self._joined:
                self.probes.stopping(0.0)
                self._release()
                os._exit(0)  # nothing was consumed, and compiling a model does not listen
            self._stopping = True
            self.probes.stopping(self._settings.drain_timeout)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)


def load_model(settings: Settings) -> "ServableModel":
    """The settings' model. Raises ModelRefused."""
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.heartbeat import Heartbeat
    from processor.model.load import load

    wanted = settings.model
    with Heartbeat(lambda doing, seconds: _log.info("still working", doing=doing, seconds=round(seconds))) as heartbeat:
        heartbeat.doing = f"loading {wanted.path}"
        return load(wanted.path.absolute(), mode=wanted.mode, window=wanted.window, output=wanted.output)


def shapes_of(model: "ServableModel", settings: Settings) -> Shapes:
    """Raises ConfigurationError where features, scales or residuals do not fit the model."""
    _check_columns(model, settings)
    return Shapes(
        features=model.features,
        outputs=model.outputs,
        width=model.width,
        window=model.window if model.mode == "windowed" else None,
        residual=_residual(settings, model.features, model.outputs, model.output_steps),
        warmup_steps=settings.model.warmup_steps,
    )


def _checkpoints(
    folder: Directory | None, settings: Settings, topics: Topics, shapes: Shapes
) -> tuple[Directory | TopicStore, CheckpointWriter]:
    if folder is not None:
        return folder, Writer(folder)
    if topics.checkpoint is None:
        raise ValueError("checkpoints are in a folder or in a topic")
    store = TopicStore(settings, topics.checkpoint, shapes.row_width)
    return store, TopicWriter(store)


def open_folder(settings: Settings) -> Directory:
    """The checkpoint folder, proved to be writable. Raises ConfigurationError."""
    checkpoint = settings.checkpoint
    store = Directory(checkpoint.path, settings.group_id, settings.input.topic, keep=checkpoint.keep)
    try:
        store.prepare()
    except OSError as error:
        raise ConfigurationError(
            f"checkpoints cannot be written below {checkpoint.path} ({error.strerror})",
            expected="a folder with room that this process may write to (checkpoint.path)",
            do="create it, make room, or correct its owner",
            see="the-checkpoint-folder-cannot-be-written",
        ) from error
    return store


def open_parking(settings: Settings) -> StateFile | None:
    """Where states are parked, None in memory. Raises ConfigurationError."""
    return None if settings.parking.path is None else StateFile(settings.parking.path)


def _check_columns(model: "ServableModel", settings: Settings) -> None:
    """Names and scales are one a feature of the model, or one an output."""
    outputs = model.outputs // (model.output_steps or 1)
    features, given = settings.input.features, settings.input.scale
    wanted = settings.output.scale
    for key, found, expected, of in (
        ("input.features", len(features) if features else None, (model.features,), "features"),
        ("input.scale", len(given.offset) if given else None, (1, model.features), "features"),
        ("output.scale", len(wanted.offset) if wanted else None, (1, outputs), "outputs"),
    ):
        if found is not None and found not in expected:
            raise ConfigurationError(
                f"{key} is for {found}, and the model has {expected[-1]} {of}",
                expected=f"one for each of the model's {of}" + (", or one number for all" if len(expected) > 1 else ""),
                do=f"correct {key}, or model.path",
                see="settings-and-model-do-not-fit",
            )


def _residual(settings: Settings, features: int, outputs: int, steps: int | None) -> tuple[int, ...]:
    """The features that the outputs forecast, in the outputs' order. Raises ConfigurationError."""
    wanted = settings.output.residual
    if wanted is False:
        return ()
    if steps is not None:
        raise ConfigurationError(
            f"output.residual is set, and a prediction is a list of {steps} steps (model.output: all)",
            expected="a prediction of one step, to compare the next reading with",
            do="set model.output to last, or output.residual to false",
            see="settings-and-model-do-not-fit",
        )
    if wanted is True:
        found: tuple[int, ...] = tuple(range(features))
    else:
        names = settings.input.features or ()
        unknown = [w for w in wanted if (w not in names if isinstance(w, str) else not 0 <= w < features)]
        if unknown:
            known = f"the names {', '.join(names)}, or " if names else ""
            raise ConfigurationError(
                f"output.residual names {', '.join(map(str, unknown))}, which is no feature",
                expected=f"{known}numbers from 0 to {features - 1}",
                do="correct output.residual, or name the features in input.features",
                see="settings-and-model-do-not-fit",
            )
        found = tuple(names.index(w) if isinstance(w, str) else w for w in wanted)
        if len(set(found)) < len(found):
            raise ConfigurationError(
                "output.residual names a feature twice",
                expected="each once",
                do="correct output.residual",
                see="settings-and-model-do-not-fit",
            )
    if len(found) != outputs:
        raise ConfigurationError(
            f"output.residual is for {len(found)} features, and the model gives {outputs} outputs",
            expected="as many: each output is the forecast of a feature",
            do="list the features that the outputs forecast, in their order (output.residual: [0, 3]), or set it to false",
            see="settings-and-model-do-not-fit",
        )
    return found


def record_bytes_of(settings: Settings, shapes: Shapes, *, per_step: bool) -> findings.RecordBytes:
    """The largest records that the service may write: one too large for its topic is ruled out before the first."""
    largest = output_bytes_max(shapes.outputs, settings.input.record_steps_max if per_step else 1)
    return findings.RecordBytes(largest, row_bytes_max(shapes.row_width, KEY_BYTES_MAX))


def slots_of(settings: Settings, shapes: Shapes) -> int:
    """S, rows of state kept ready for a step."""
    if settings.slots != "auto":
        return int(settings.slots)
    return max(1, min(SLOTS_AUTO_MAX, SLOTS_AUTO_BYTES // max(1, 4 * shapes.row_width)))


def fingerprint_of(settings: Settings, model: "ServableModel") -> str:
    """Hex. Of the model and what else decides."""
    return hashlib.sha256(f"{model.digest} {json.dumps(_deciding(settings, model), sort_keys=True)}".encode()).hexdigest()


def deciding_of(settings: Settings, model: "ServableModel") -> dict[str, str]:
    """What the fingerprint is made of, each in words, by name: to say what has changed."""
    durations = {key.name for key in keys() if key.allowed.startswith("a duration")}
    told = {
        name: format_duration(value) if name in durations and value is not None else json.dumps(value, ensure_ascii=False)
        for name, value in _deciding(settings, model).items()
    }
    return {"the model file": model.digest[:8], **told}


def _deciding(settings: Settings, model: "ServableModel") -> dict[str, Any]:
    """The mode as it was chosen rather than as it was asked for."""
    chosen = {"model.mode": model.mode, "model.window": model.window}
    return {**settings.deciding(), **chosen, "the version's rules for records and time": RECORD_RULES}


def codec_of(settings: Settings, model: "ServableModel", fingerprint: str) -> Codec:
    """Bytes to batches and back, as the settings say. Needs no broker."""
    source = settings.input
    sizes = {"features": model.features, "record_steps_max": source.record_steps_max}
    float32 = source.format == "float32"
    values: Format = Float32Format(**sizes) if float32 else JsonFormat(**sizes, names=source.features)
    decoder = Decoder(values, scale=source.scale, ahead_max_s=source.ahead_max, each_record=settings.reset.each_record)
    encoder = Encoder(
        model_id=fingerprint[:8],
        per_step=model.per_step,
        residual=bool(settings.output.residual),
        output_steps=model.output_steps,
        scale=settings.output.scale,
        trained_window=model.trained_window,
    )
    return Codec(decoder.decode, encoder.encode)


def rules_of(settings: Settings) -> Rules:
    gap_s, expire_s = settings.reset.after_gap, settings.state.expire_after
    return Rules(
        gap_ms=None if gap_s is None else round(gap_s * 1000),
        steps=settings.reset.after_steps,
        late=settings.late == "dead_letter",
        expire_ms=None if expire_s is None else round(expire_s * 1000),
        each_record=settings.reset.each_record,
    )
