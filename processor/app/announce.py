"""What a start tells of what it serves: one line in the log, and the metrics that do not change while it runs."""

import platform
from importlib.metadata import version

import structlog

from processor.app.fit import ModelFile
from processor.app.health import Served
from processor.kafka.clients import librdkafka_version
from processor.metrics import Metrics
from processor.settings import Settings

_log = structlog.get_logger(__name__)


def announce(settings: Settings, metrics: Metrics, served: Served, slots: int, file: ModelFile) -> None:
    """slots: rows of the state matrix. file: the model, as it was found. Imports TensorFlow for its version."""
    _log.info(
        "slotstream",
        version=version("slotstream"),
        model=file.shown,
        sha256=file.sha256,
        pinned=None if file.pinned is None else file.pinned.words,
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

    metrics.set("slots", slots)
    metrics.set(
        "model_info",
        1,
        fingerprint=served.fingerprint,
        model=file.shown,
        sha256=file.sha256,
        mode=served.mode,
        features=served.features,
        outputs=served.outputs,
        state_bytes=served.state_bytes,
    )
    metrics.set(
        "build_info",
        1,
        version=version("slotstream"),
        python=platform.python_version(),
        tensorflow=tensorflow_version(),
        librdkafka=librdkafka_version(),
    )
