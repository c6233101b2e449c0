"""What the settings on records make of a model's features: the decoder, and what stands for each missing value.

Needs no broker and no model file, only the number of features. Judges what of these settings does not fit together.
"""

from collections.abc import Sequence
from typing import Any

from processor.app.schema_fit import check_fields, readers_of
from processor.codec.decode import Decoder
from processor.codec.float32_records import Float32Format
from processor.codec.json_records import JsonFormat
from processor.codec.key_source import KeySource
from processor.codec.missing import Absent, Holes, Policy, Qualities
from processor.codec.schemas.schema_format import SchemaDecoder, SchemaFormat
from processor.codec.schemas.whole_schemas import WholeSchemas
from processor.codec.whole import WholeDecoder
from processor.codec.whole_float32 import WholeFloat32
from processor.codec.whole_json import WholeJson
from processor.errors import ConfigurationError
from processor.settings import Missing, Quality, RangeScale, Scale, Settings
from processor.written_schema import SchemaSource

Categories = Sequence[int | None]  # of each feature how many categories it has; None: it is a measurement


def decoder_of(settings: Settings, features: int, categories: Categories = (), *, schemas: SchemaSource | None = None) -> Decoder:
    """The fast one for plain records, the one that reads them whole for all others. Raises ConfigurationError.

    schemas: of records with a registry's frame.
    """
    source = settings.input
    sizes = {"features": features, "record_steps_max": source.record_steps_max}
    scale = _measured(source.scale, features, categories)
    scaled: dict[str, Any] = {
        "scale": scale,
        "ahead_max_s": source.ahead_max,
        "each_record": settings.reset.each_record,
        "categories": categories,
    }
    holes, absent, key = _holes(settings, scale, features, categories), _absent(settings), KeySource(source.key)
    if source.format == "float32":
        floats = Float32Format(**sizes)
        if holes is None and source.key is None:
            return Decoder(floats, **scaled)
        read = WholeFloat32(floats, absent)
        return WholeDecoder(floats, read, features=features, steps_max=source.record_steps_max, holes=holes, key=key, **scaled)
    unit = None if source.timestamp_unit == "auto" else source.timestamp_unit
    told: dict[str, Any] = {
        "features": features,
        "names": source.features,
        "timestamp": source.timestamp,
        "absent": absent,
        "qualities": _qualities(source.quality, [str(name) for name in names_of(settings, features)]),
    }
    whole_sizes: dict[str, Any] = {"features": features, "steps_max": source.record_steps_max, "unit": unit, "holes": holes, "key": key}
    if source.format != "json":
        readers = readers_of(settings, schemas, nan=absent is not None)
        check_fields(settings, readers)
        schemas_of = WholeSchemas(readers, **told, unit=source.timestamp_unit)
        as_json = source.timestamp == "timestamp" and source.timestamp_unit in ("auto", "ms")
        json = JsonFormat(**sizes, names=source.features) if source.format == "json_schema" else None
        plain_of = SchemaFormat(
            readers, json=json, names=source.features, features=features, timestamp=source.timestamp, unit=source.timestamp_unit
        )
        plain_too = holes is None and source.key is None and (json is None or as_json)
        return SchemaDecoder(plain_of, schemas_of, plain=plain_too, **whole_sizes, **scaled)
    plain = JsonFormat(**sizes, names=source.features)
    if source.timestamp == "timestamp" and source.timestamp_unit in ("auto", "ms") and holes is None and source.key is None:
        return Decoder(plain, **scaled)
    return WholeDecoder(plain, WholeJson(**told), **whole_sizes, **scaled)


def names_of(settings: Settings, features: int) -> Sequence[str | int]:
    """The features' names, or their numbers from 0."""
    return tuple(settings.input.features or range(features))


def may_miss(settings: Settings) -> bool:
    """Whether a value may be missing: else a record without one is no reading."""
    source = settings.input
    return source.missing != "dead_letter" or bool(source.missing_values) or source.quality is not None


def missing_policies(settings: Settings, features: int, categories: Categories = ()) -> list[Policy]:
    """What stands for a missing value of each feature; a number is in its own unit. Raises ConfigurationError."""
    given, names = settings.input.missing, names_of(settings, features)
    if not isinstance(given, dict):
        chosen = [given] * features
    else:
        _check_names("input.missing", given, settings, features)
        chosen = [given.get(str(name), given.get(str(i), "dead_letter")) for i, name in enumerate(names)]
    for name, wanted, count in zip(names, chosen, categories, strict=False):
        if wanted == "mean" and count is not None:
            raise ConfigurationError(
                f"input.missing is mean for {name}, which is a category",
                expected="a category's number, hold or dead_letter",
                do=f"set input.missing: {{{name}: ...}}",
                see="settings-and-model-do-not-fit",
            )
    return [_policy(settings, wanted, feature) for feature, wanted in enumerate(chosen)]


def held_features(settings: Settings, features: int) -> tuple[int, ...]:
    """Those whose last value stands for a missing one. Raises ConfigurationError."""
    return tuple(feature for feature, policy in enumerate(missing_policies(settings, features)) if policy == "hold")


def _policy(settings: Settings, wanted: Missing, feature: int) -> Policy:
    if wanted != "mean":
        return wanted
    scale = settings.input.scale
    if scale is None or isinstance(scale, RangeScale):
        raise ConfigurationError(
            f"input.missing is mean, and input.scale is {'null' if scale is None else 'of min and max'}",
            expected="the features' means",
            do="set input.scale: {mean: ..., std: ...}, or give a number in place of mean",
            see="settings-and-model-do-not-fit",
        )
    return scale.offset[feature] if len(scale.offset) > 1 else scale.offset[0]


def _measured(scale: Scale | None, features: int, categories: Categories) -> Scale | None:
    """input.scale, as far as it is of measurements: a category is no quantity."""
    if scale is None or not any(categories):
        return scale
    offsets, divisors = (numbers * features if len(numbers) == 1 else numbers for numbers in (scale.offset, scale.divisor))
    offset = tuple(0.0 if count else number for number, count in zip(offsets, categories, strict=True))
    return Scale(offset, tuple(1.0 if count else number for number, count in zip(divisors, categories, strict=True)))


def _holes(settings: Settings, scale: Scale | None, features: int, categories: Categories) -> Holes | None:
    if not may_miss(settings):
        return None
    neutral = [0.0] * features if scale is None else list(scale.offset) if len(scale.offset) > 1 else [scale.offset[0]] * features
    return Holes([str(name) for name in names_of(settings, features)], missing_policies(settings, features, categories), neutral)


def _absent(settings: Settings) -> Absent | None:
    if not may_miss(settings):
        return None
    values = settings.input.missing_values
    return Absent(
        frozenset(value for value in values if not isinstance(value, str)), frozenset(value for value in values if isinstance(value, str))
    )


def _qualities(quality: Quality | None, names: Sequence[str]) -> Qualities | None:
    return None if quality is None else Qualities(quality.field, quality.good, names)


def _check_names(key: str, found: Any, settings: Settings, features: int) -> None:
    """Each is a feature's name or number."""
    names = settings.input.features or ()
    unknown = [name for name in found if name not in names and not (name.isdecimal() and int(name) < features)]
    if unknown:
        known = f"the names {', '.join(names)}, or " if names else ""
        raise ConfigurationError(
            f"{key} names {', '.join(unknown)}, which is no feature",
            expected=f"{known}numbers from 0 to {features - 1}",
            do=f"correct {key}, or name the features in input.features",
            see="settings-and-model-do-not-fit",
        )
