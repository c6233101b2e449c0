"""Builds the service from its settings, runs the loop, and ends it.

Composition stands here and nowhere else. What is quick to find wrong is looked at first: settings, broker and topics before
the model is compiled, and the group is joined last, when the first record could be answered.
"""

import functools
import hashlib
import json
import os
import platform
import signal
import threading
import time
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from processor.checkpoint.directory import Directory
from processor.checkpoint.restore import Present, Restore
from processor.checkpoint.writer import Writer
from processor.codec.json_records import JsonRecords, output_bytes_max
from processor.engine import Engine, Shapes, Stepper
from processor.errors import ConfigurationError, Fenced
from processor.figures import Figures
from processor.instance_lock import InstanceLock
from processor.metrics import Metrics
from processor.settings import Settings
from processor.stream import admin
from processor.stream.clients import librdkafka_version, transactional_producer
from processor.stream.consumer import Reader
from processor.stream.transaction import Transaction
from processor.worker import Worker

if TYPE_CHECKING:
    from processor.model.load import ServableModel

_log = structlog.get_logger(__name__)

SLOTS_AUTO_BYTES = 256_000_000
SLOTS_AUTO_MAX = 65_536
TILE_ROWS_MAX = 4096
HUNG_S = 60.0
RESTORES_AT_ONCE = 8


class Probes:
    """What /healthz and /readyz answer. Written by the loop's thread, read by the web's."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._turned_at_s: float | None = None  # None until the loop runs: compiling is no hang

    def beat(self) -> None:
        self._turned_at_s = time.monotonic()

    def watch(self, worker: Worker) -> None:
        self._worker = worker

    def alive(self) -> tuple[bool, str]:
        since_s = 0.0 if self._turned_at_s is None else time.monotonic() - self._turned_at_s
        if since_s > HUNG_S:
            return False, f"the loop has not turned for {since_s:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        worker = self._worker
        if worker is None:
            return False, "starting"
        if not worker.ready:
            return False, f"restoring {worker.restoring} partitions" if worker.restoring else "joining, or catching up with the backlog"
        return True, "ready"


class Service:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.probes = Probes()
        self._joined = self._stopping = False

    def run(self) -> int:
        """Runs until stopped; returns the exit code. Raises SlotstreamError for whatever ends it otherwise."""
        self._catch_signals()
        worker, lock = self._build()
        self._joined = True
        try:
            while not self._stopping:
                worker.turn()
            _log.info("stopping: last commit, last checkpoint")
            worker.stop(leave=self._settings.leave_on_stop)
        except Fenced:
            worker.abandon(leave=False)  # the name is another process's now
            raise
        except BaseException:
            worker.abandon(leave=self._settings.leave_on_stop)
            raise
        finally:
            lock.release()
        _log.info("stopped")
        return 0

    def _build(self) -> tuple[Worker, InstanceLock]:
        settings = self._settings
        topics = admin.describe(settings)
        lock = InstanceLock(topics.cluster, settings.transactional_id)
        store = open_store(settings)

        # TensorFlow takes seconds to import: only now that the rest is known to be in order.
        from processor.model.advice import past_window
        from processor.model.machine import made_by
        from processor.model.tiles import Tiles

        model = load_model(settings)
        shapes = shapes_of(model, settings)
        check_shapes(settings, topics, shapes, per_step=model.per_step)
        slots = slots_of(settings, shapes)
        fingerprint = fingerprint_of(settings, model)
        self._announce(fingerprint, model.mode, model.why, shapes, slots)
        if advice := past_window(model):
            _log.warning(advice.text, trained_window=advice.window, deviation_percent=round(advice.deviation_percent, 2))
        engine = self._engine(Tiles(model, rows_max=min(slots, settings.batch.readings_max, TILE_ROWS_MAX)), shapes, slots=slots)
        codec = codec_of(settings, model, fingerprint)
        limits = (topics.output.bytes_max, topics.dead_letter.bytes_max)
        producer = functools.partial(transactional_producer, settings, record_bytes_max=max(limits), batch_bytes_max=min(limits))
        gate = threading.BoundedSemaphore(RESTORES_AT_ONCE)
        present = Present(fingerprint, topics.input.id, topics.input.partitions)
        worker = Worker(
            settings,
            topics=topics,
            present=present,
            made_by=made_by(),
            engine=engine,
            codec=codec,
            transaction=Transaction(producer, self.probes.beat),
            start_reader=lambda listener: Reader(settings, listener),
            restore=lambda partition: Restore(settings, store, present, partition, gate),
            writer=Writer(store),
            member_of=lambda: admin.member_of(settings, self.probes.beat),
            figures=Figures(self._metrics),
            beat=self.probes.beat,
        )
        self.probes.watch(worker)
        return worker, lock

    def _engine(self, stepper: Stepper, shapes: Shapes, *, slots: int) -> Engine:
        return Engine(stepper, shapes, slots=slots)  # a method of its own, so that the bench can put an echo in its place

    def _announce(self, fingerprint: str, mode: str, why: str, shapes: Shapes, slots: int) -> None:
        settings = self._settings
        row_bytes = 4 * shapes.row_width
        _log.info(
            "slotstream",
            version=version("slotstream"),
            model=str(settings.model.path),
            fingerprint=fingerprint[:8],
            mode=mode,
            why=why,
            features=shapes.features,
            outputs=shapes.outputs,
            group=settings.group_id,
            instance=settings.instance_name,
            slots=slots,
            slots_mb=round(slots * row_bytes / 1e6, 1),
            checkpoints=str(settings.checkpoint.path),
        )
        from processor.model.machine import tensorflow_version

        self._metrics.set("slots", slots)
        self._metrics.set(
            "model_info",
            1,
            fingerprint=fingerprint[:8],
            mode=mode,
            features=shapes.features,
            outputs=shapes.outputs,
            state_bytes=row_bytes,
        )
        self._metrics.set(
            "build_info",
            1,
            version=version("slotstream"),
            python=platform.python_version(),
            tensorflow=tensorflow_version(),
            librdkafka=librdkafka_version(),
        )

    def _catch_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopping:
                os._exit(128 + number)  # asked twice: at once, as if killed; the next start finds everything
            if not self._joined:
                os._exit(0)  # nothing was consumed, and compiling a model does not listen
            self._stopping = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)


def load_model(settings: Settings) -> "ServableModel":
    """The settings' model. Raises ModelRefused."""
    from processor.model.load import load

    wanted = settings.model
    return load(wanted.path, mode=wanted.mode, window=wanted.window, output=wanted.output)


def shapes_of(model: "ServableModel", settings: Settings) -> Shapes:
    return Shapes(
        features=model.features,
        outputs=model.outputs,
        width=model.width,
        window=model.window if model.mode == "windowed" else None,
        residual=settings.output.residual,
        warmup_steps=settings.model.warmup_steps,
    )


def open_store(settings: Settings) -> Directory:
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
        ) from error
    return store


def check_shapes(settings: Settings, topics: admin.Topics, shapes: Shapes, *, per_step: bool) -> None:
    """What model, settings and topics must agree on. An output too large for its topic is ruled out before the first record."""
    if shapes.residual and shapes.outputs != shapes.features:
        raise ConfigurationError(
            f"output.residual is true, but the model takes {shapes.features} features and gives {shapes.outputs} outputs",
            expected="as many outputs as features: a model that forecasts its input",
            do="set output.residual to false",
        )
    largest = output_bytes_max(shapes.outputs, settings.input.record_steps_max if per_step else 1)
    if largest > topics.output.bytes_max:
        raise ConfigurationError(
            f"an output may take {largest:,} bytes, and {topics.output.name} takes records up to {topics.output.bytes_max:,}",
            expected="a topic that takes the largest output",
            do="raise its max.message.bytes, or lower input.record_steps_max",
        )


def slots_of(settings: Settings, shapes: Shapes) -> int:
    """S, rows of state kept ready for a step."""
    if settings.slots != "auto":
        return int(settings.slots)
    return max(1, min(SLOTS_AUTO_MAX, SLOTS_AUTO_BYTES // max(1, 4 * shapes.row_width)))


def fingerprint_of(settings: Settings, model: "ServableModel") -> str:
    """Hex. Of the model and the settings that decide, the mode as it was chosen rather than as it was asked for."""
    deciding = {**settings.deciding(), "model.mode": model.mode, "model.window": model.window}
    return hashlib.sha256(f"{model.digest} {json.dumps(deciding, sort_keys=True)}".encode()).hexdigest()


def codec_of(settings: Settings, model: "ServableModel", fingerprint: str) -> JsonRecords:
    """Bytes to batches and back, as the settings say. Needs no broker."""
    return JsonRecords(
        features=model.features,
        per_step=model.per_step,
        residual=settings.output.residual,
        model_id=fingerprint[:8],
        record_steps_max=settings.input.record_steps_max,
        ahead_max_s=settings.input.ahead_max,
        each_record=settings.reset.each_record,
    )
