"""What follows from settings and a model together: shapes, slots, codec, rules, fingerprint; and what of them does not fit.

Needs no broker. The tools import this and nothing else of the app.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import structlog

from processor.app.alarm_rules import decider_of, silent_ms_of
from processor.app.forms import decoder_of, held_features, may_miss, names_of
from processor.app.named_columns import check_features, fields_of, scales_of
from processor.app.scored_outputs import reconstruction_of, residual_of
from processor.checkpoint.directory import Directory
from processor.checkpoint.policy import Policies
from processor.checkpoint.topic import row_bytes_max
from processor.codec.alarm_records import AlarmEncoder
from processor.codec.carry import Carrier, carried_bytes_max
from processor.codec.columns import KEY_BYTES_MAX
from processor.codec.encode import Encoder, output_bytes_max
from processor.codec.flat_fields import flat_bytes_max
from processor.codec.whole_encode import WholeEncoder, held_bytes_max
from processor.engine import Shapes
from processor.errors import ConfigurationError
from processor.kafka import findings
from processor.pipeline import Codec
from processor.rules import Rules
from processor.settings import Settings, format_duration, keys
from processor.slots.parking import StateFile

if TYPE_CHECKING:
    from processor.model.load import ServableModel

_log = structlog.get_logger(__name__)

SLOTS_AUTO_BYTES = 256_000_000
SLOTS_AUTO_MAX = 65_536
TILE_ROWS_MAX = 4096
# Another number where a version reads records, or lets time pass, otherwise than the one before.
RECORD_RULES = 2


def load_model(settings: Settings) -> "ServableModel":
    """The settings' model. Raises ModelRefused."""
    from processor.model.quiet import import_tensorflow

    import_tensorflow()
    from processor.model.file.own_code import CodeFile
    from processor.model.heartbeat import Heartbeat
    from processor.model.load import load

    wanted, code = settings.model, settings.model.code
    own = None if code is None else CodeFile(code.module, code.path, code.sha256)
    with Heartbeat(lambda doing, seconds: _log.info("still working", doing=doing, seconds=round(seconds))) as heartbeat:
        heartbeat.doing = f"loading {wanted.path}"
        return load(wanted.path.absolute(), mode=wanted.mode, window=wanted.window, output=wanted.output, code=own)


def shapes_of(model: "ServableModel", settings: Settings) -> Shapes:
    """Raises ConfigurationError where features, scales or residuals do not fit the model."""
    check_features(model, settings)
    scales_of(model, settings)
    fields_of(model, settings)
    forecast = residual_of(model, settings)
    hold_max_s = settings.input.hold_max
    return Shapes(
        features=model.features,
        outputs=model.outputs,
        width=model.width,
        window=model.window if model.mode == "windowed" else None,
        residual=tuple(forecast.values()),
        forecasts=tuple(forecast),
        # An alarm tells which features it is of, whether or not predictions do.
        residual_each=settings.output.residual_each or (settings.alarm.raise_ is not None and settings.alarm.score == "residual"),
        reconstruction=reconstruction_of(model, settings),
        warmup_steps=settings.model.warmup_steps,
        hold=held_features(settings, model.features),
        hold_max_ms=None if hold_max_s is None else round(hold_max_s * 1000),
        alarms=decider_of(settings, model),
        silent_ms=silent_ms_of(settings),
    )


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


def record_bytes_of(settings: Settings, model: "ServableModel", shapes: Shapes) -> findings.RecordBytes:
    """The largest records that the service may write: one too large for its topic is ruled out before the first."""
    residuals = len(shapes.residual) if shapes.residual_each else 0
    largest = output_bytes_max(model.named_outputs, settings.input.record_steps_max, residuals=residuals)
    largest += flat_bytes_max(fields_of(model, settings)) + carried_bytes_max(settings.output.carry)
    if may_miss(settings):
        largest += held_bytes_max(names_of(settings, shapes.features))
    return findings.RecordBytes(largest, row_bytes_max(shapes.row_width, KEY_BYTES_MAX), _alarms(settings, shapes.features, "").bytes_max)


def slots_of(settings: Settings, shapes: Shapes) -> int:
    """S, rows of state kept ready for a step."""
    if settings.slots != "auto":
        return int(settings.slots)
    return max(1, min(SLOTS_AUTO_MAX, SLOTS_AUTO_BYTES // max(1, 4 * shapes.row_width)))


def fingerprint_of(settings: Settings, model: "ServableModel") -> str:
    """Hex. Of the model and what else decides."""
    return hashlib.sha256(f"{model.digest} {json.dumps(_deciding(settings, model), sort_keys=True)}".encode()).hexdigest()


def policies_of(settings: Settings) -> Policies:
    return Policies(
        group=settings.group_id,
        topic=settings.input.topic,
        start=settings.input.start,
        on_partitions_added=settings.on_partitions_added,
        on_model_change=settings.on_model_change,
        on_missing_state=settings.on_missing_state,
        on_gap=settings.on_gap,
        on_lost_input=settings.on_lost_input,
    )


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
    chosen: dict[str, Any] = {"model.mode": model.mode, "model.window": model.window}
    if len(model.named_outputs) > 1:
        chosen["the model's outputs"] = [output.name for output in model.named_outputs]
    return {**settings.deciding(), **chosen, "the version's rules for records and time": RECORD_RULES}


def codec_of(settings: Settings, model: "ServableModel", fingerprint: str) -> Codec:
    """Bytes to batches and back, as the settings say. Needs no broker."""
    encoder = Encoder(
        model_id=fingerprint[:8],
        outputs=model.named_outputs,
        scales=scales_of(model, settings),
        residual=bool(settings.output.residual),
        residual_each=settings.output.residual_each,
        reconstruction=settings.output.reconstruction is not False,
        fields=fields_of(model, settings),
        forecasts=tuple(residual_of(model, settings)),
        trained_window=model.trained_window,
    )
    decode = decoder_of(settings, model.features, model.inputs.categories).decode
    carrier = Carrier(settings.output.carry) if settings.output.carry else None
    encode = WholeEncoder(encoder.encode, names_of(settings, model.features)).encode if may_miss(settings) else encoder.encode
    alarms = _alarms(settings, model.features, fingerprint[:8]).encode if settings.alarm.on else None
    return Codec(decode, encode, carrier, alarms)


def _alarms(settings: Settings, features: int, model_id: str) -> AlarmEncoder:
    return AlarmEncoder(settings.input.topic, model_id, names_of(settings, features))


def rules_of(settings: Settings) -> Rules:
    gap_s, expire_s = settings.reset.after_gap, settings.state.expire_after
    return Rules(
        gap_ms=None if gap_s is None else round(gap_s * 1000),
        steps=settings.reset.after_steps,
        late=settings.late == "dead_letter",
        expire_ms=None if expire_s is None else round(expire_s * 1000),
        each_record=settings.reset.each_record,
    )
