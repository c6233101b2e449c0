"""What follows from settings and a model together: shapes, slots, codec, rules, fingerprint; and what of them does not fit.

Needs no broker. The tools import this and nothing else of the app.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import structlog

from processor.app.forms import decoder_of, held_features, may_miss, names_of
from processor.checkpoint.directory import Directory
from processor.checkpoint.topic import row_bytes_max
from processor.codec.decode import KEY_BYTES_MAX
from processor.codec.encode import Encoder, output_bytes_max
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
    from processor.model.heartbeat import Heartbeat
    from processor.model.load import load

    wanted = settings.model
    with Heartbeat(lambda doing, seconds: _log.info("still working", doing=doing, seconds=round(seconds))) as heartbeat:
        heartbeat.doing = f"loading {wanted.path}"
        return load(wanted.path.absolute(), mode=wanted.mode, window=wanted.window, output=wanted.output)


def shapes_of(model: "ServableModel", settings: Settings) -> Shapes:
    """Raises ConfigurationError where features, scales or residuals do not fit the model."""
    _check_columns(model, settings)
    hold_max_s = settings.input.hold_max
    return Shapes(
        features=model.features,
        outputs=model.outputs,
        width=model.width,
        window=model.window if model.mode == "windowed" else None,
        residual=_residual(settings, model.features, model.outputs, model.output_steps),
        warmup_steps=settings.model.warmup_steps,
        hold=held_features(settings, model.features),
        hold_max_ms=None if hold_max_s is None else round(hold_max_s * 1000),
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
    if may_miss(settings):
        largest += held_bytes_max(names_of(settings, shapes.features))
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
    encoder = Encoder(
        model_id=fingerprint[:8],
        per_step=model.per_step,
        residual=bool(settings.output.residual),
        output_steps=model.output_steps,
        scale=settings.output.scale,
        trained_window=model.trained_window,
    )
    decode = decoder_of(settings, model.features).decode
    if not may_miss(settings):
        return Codec(decode, encoder.encode)
    return Codec(decode, WholeEncoder(encoder.encode, names_of(settings, model.features)).encode)


def rules_of(settings: Settings) -> Rules:
    gap_s, expire_s = settings.reset.after_gap, settings.state.expire_after
    return Rules(
        gap_ms=None if gap_s is None else round(gap_s * 1000),
        steps=settings.reset.after_steps,
        late=settings.late == "dead_letter",
        expire_ms=None if expire_s is None else round(expire_s * 1000),
        each_record=settings.reset.each_record,
    )
