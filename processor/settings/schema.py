"""Every setting: its name, its default, what it may be, and what it is for. What they must agree on among themselves."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from processor.logs import SECRETS
from processor.settings.kafka import BOOTSTRAP_DEFAULT, FileSecret, kafka_key, kafka_value
from processor.settings.record_values import Missing, Quality, clashes, key_source, no_values, path_name, qualities, stand_in
from processor.settings.values import (
    Scale,
    choice,
    duration,
    feature_names,
    flag,
    integer,
    kafka_name,
    or_null,
    ratio,
    residual_features,
    scaling,
    slots_number,
    text,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Section):
    topic: Annotated[str, kafka_name()] = Field(default="readings", description="the topic whose records carry the readings")
    format: Annotated[Literal["json", "float32"], choice("json", "float32")] = Field(
        default="json", description="how a record's value is written; float32: little-endian, one step, or as many as the header steps says"
    )
    features: Annotated[tuple[str, ...] | None, or_null(feature_names())] = Field(
        default=None,
        description="the fields of a JSON record that are the features, in the model's order; null: the field values holds a list",
    )
    scale: Annotated[Scale | None, or_null(scaling())] = Field(
        default=None,
        description="how features were scaled in training, (x - mean) / std or (x - min) / (max - min); null: fed as they are",
    )
    key: Annotated[str | None, or_null(key_source())] = Field(
        default=None,
        description="where a record names its sensor; null: its key. A sensor's records must lie in one partition all the same",
    )
    timestamp: Annotated[str | None, or_null(path_name())] = Field(
        default="timestamp",
        description="the field of a JSON record that holds the reading's time; null: the record's own time counts, whatever its value says",
    )
    timestamp_unit: Annotated[Literal["auto", "s", "ms", "us", "ns"], choice("auto", "s", "ms", "us", "ns")] = Field(
        default="auto", description="the unit of times that are numbers, Unix time; auto: ms. ISO 8601 text is read in any case"
    )
    missing: Annotated[Missing | dict[str, Missing], stand_in()] = Field(
        default="dead_letter",
        description="what stands for a value that is missing (null, an absent field, NaN, missing_values, a bad quality): hold takes the "
        "sensor's last one since its reset, mean that of input.scale, a number itself in the feature's unit; dead_letter takes none",
    )
    missing_values: Annotated[tuple[float | str, ...], no_values()] = Field(
        default=(), description="what a sender writes for a value that is missing; in a CSV too"
    )
    hold_max: Annotated[float | None, or_null(duration())] = Field(
        default=None, description="a value that was measured longer ago than this, by the records' times, is not held; null: any is"
    )
    quality: Annotated[Quality | None, or_null(qualities())] = Field(
        default=None,
        description="where a record says how good it is: a value of any other quality than these is missing; one without any is good. "
        "The field holds one for all features, a list in their order, or an object by their names",
    )
    start: Annotated[Literal["earliest", "latest"], choice("earliest", "latest")] = Field(
        default="earliest",
        description="where a group without offsets begins, decided once; latest leaves out what the topic already holds",
    )
    ahead_max: Annotated[float, duration()] = Field(
        default=3600.0, description="a timestamp further ahead of its record's own than this makes the record a dead letter"
    )
    record_steps_max: Annotated[int, integer(1, 1_000_000)] = Field(
        default=1024, description="steps that one record may hold; more makes it a dead letter; raise it for long batches in one record"
    )


class Output(Section):
    topic: Annotated[str, kafka_name()] = Field(default="predictions", description="the topic that predictions are written to")
    scale: Annotated[Scale | None, or_null(scaling())] = Field(
        default=None, description="how the targets were scaled in training: predictions are written in their own units; null: as they are"
    )
    residual: Annotated[bool | tuple[str | int, ...], residual_features()] = Field(
        default=False,
        description="add to each prediction how far the sensor's previous one was from this reading, in the model's scale; for models that "
        "forecast the next reading, or those of its features that are listed; not for autoencoders, which forecast none",
    )


class DeadLetter(Section):
    topic: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the topic for records that cannot be used; null: <input.topic>.dead-letter"
    )
    max_ratio: Annotated[float, ratio()] = Field(
        default=0.5, description="share of bad records among the last 10,000 that ends the service; 1 never ends it"
    )


class Batch(Section):
    readings_max: Annotated[int, integer(1, 1_000_000)] = Field(
        default=4096, description="records taken from Kafka in one turn; more gives throughput, fewer a steadier latency"
    )
    linger: Annotated[float, duration("0ms", "1s")] = Field(
        default=0.005, description="how long a turn waits for more records once it has some; 0ms for the least latency"
    )


class Model(Section):
    path: Annotated[Path, text("the path of a Keras model file")] = Field(default=Path("model.keras"), description="the model file")
    mode: Annotated[Literal["auto", "carried", "windowed"], choice("auto", "carried", "windowed")] = Field(
        default="auto",
        description="carried: the recurrent state goes on from reading to reading; windowed: the last readings are kept and stepped anew; "
        "auto: what the file was trained for (`slotstream model show` says which and why)",
    )
    window: Annotated[int | None, or_null(integer(1, 1_000_000))] = Field(
        default=None, description="steps of the window of a windowed model; null: the file's own"
    )
    output: Annotated[Literal["last", "all"], choice("last", "all")] = Field(
        default="last", description="which steps of a windowed model's output are the prediction"
    )
    warmup_steps: Annotated[int, integer(0, 1_000_000_000)] = Field(
        default=0, description="predictions of a sensor's first steps are marked warming_up"
    )


class Parking(Section):
    path: Annotated[Path | None, or_null(text("a folder"))] = Field(
        default=None,
        description="a folder for the states of sensors without a slot, on a fast disk; what lies there is lost with the process, and need "
        "not outlive it; null: in memory",
    )


class Checkpoint(Section):
    store: Annotated[Literal["auto", "topic", "directory"], choice("auto", "topic", "directory")] = Field(
        default="auto", description="where the state of the sensors is kept; auto: the topic, and the directory with at_least_once"
    )
    path: Annotated[Path, text("a folder")] = Field(
        default=Path("checkpoints"), description="the folder of the store directory; on a disk that outlives the process"
    )
    topic: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the topic of the store topic, compacted, of as many partitions as the input; null: <group>.checkpoints"
    )
    interval: Annotated[float, duration("100ms")] = Field(
        default=30.0, description="time between checkpoints; a shorter one makes a restart replay less"
    )
    keep: Annotated[int, integer(2, 1000)] = Field(
        default=2,
        description="whole checkpoint files kept for each partition, read back and found intact, and with each the files of changes that "
        "build on it; of the store directory alone",
    )


class Reset(Section):
    after_gap: Annotated[float | None, or_null(duration())] = Field(
        default=None, description="a sensor starts anew with a record that is this much later than its latest one, by their timestamps"
    )
    after_steps: Annotated[int | None, or_null(integer(1, 1_000_000_000))] = Field(
        default=None, description="a sensor starts anew with the record after this many steps; a record of several is never cut"
    )
    each_record: Annotated[bool, flag()] = Field(
        default=False, description="every record is a whole sequence of its own: the sensor starts anew at each"
    )


class State(Section):
    expire_after: Annotated[float | None, or_null(duration())] = Field(
        default=None,
        description="a sensor whose latest record lies more than this before its partition's time is forgotten; one sensor alone moves "
        "that time by no more than this; null: never",
    )


class Http(Section):
    host: Annotated[str, text("a host name or address")] = Field(
        default="127.0.0.1", description="where metrics, health and the status page are served; 0.0.0.0 in a container"
    )
    port: Annotated[int, integer(0, 65535)] = Field(default=8080, description="its port; 0: a free one, printed at start")


class Log(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], choice("debug", "info", "warning", "error")] = Field(
        default="info", description="the least important messages that are written"
    )
    format: Annotated[Literal["auto", "console", "json"], choice("auto", "console", "json")] = Field(
        default="auto", description="auto: console on a terminal, else one JSON object a line"
    )


class Settings(BaseSettings):
    """All settings, checked. Durations are in seconds. Immutable."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=False, protected_namespaces=())

    kafka: dict[str, str | SecretStr] = Field(
        default={"bootstrap.servers": BOOTSTRAP_DEFAULT},
        description="any property of librdkafka, for every client; dots and underscores are one; a value may be {file: PATH}",
        validate_default=True,
    )
    input: Input = Field(default=Input(), description="the readings")
    output: Output = Field(default=Output(), description="the predictions", validate_default=True)
    dead_letter: DeadLetter = Field(default=DeadLetter(), description="records that cannot be used", validate_default=True)
    group: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the consumer group, which owns offsets and checkpoints; null: slotstream.<output.topic>"
    )
    instance: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="this process among those of the group, the same after a restart; null: the host name"
    )
    leave_on_stop: Annotated[bool, flag()] = Field(
        default=True,
        description="hand the partitions over when stopped; false where the same instance comes back at once (a StatefulSet)",
    )
    delivery: Annotated[Literal["exactly_once", "at_least_once"], choice("exactly_once", "at_least_once")] = Field(
        default="exactly_once",
        description="exactly_once: predictions and offsets in one transaction; at_least_once: no transactions, after a crash "
        "some predictions come twice",
    )
    commit_interval: Annotated[float, duration("10ms", "5s")] = Field(
        default=0.1, description="time between commits, which is most of the latency; longer means fewer and larger transactions"
    )
    drain_timeout: Annotated[float, duration("0ms", "1h")] = Field(
        default=10.0, description="time for the last commit and checkpoint when stopped or when partitions are taken away"
    )
    batch: Batch = Field(default=Batch(), description="how much is worked on at once")
    model: Model = Field(default=Model(), description="the Keras model")
    slots: Annotated[int | Literal["auto"], slots_number()] = Field(
        default="auto", description="rows of state kept ready for a step; auto: 256 MB of rows, at most 65,536 (printed at start)"
    )
    parking: Parking = Field(default=Parking(), description="sensors without a slot")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="the state kept outside the process")
    reset: Reset = Field(default=Reset(), description="when a sensor starts anew")
    state: State = Field(default=State(), description="how long a sensor is remembered")
    late: Annotated[Literal["accept", "dead_letter"], choice("accept", "dead_letter")] = Field(
        default="accept", description="what becomes of a record with a timestamp before the sensor's latest one"
    )
    on_missing_state: Annotated[Literal["rebuild", "cold", "fail"], choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="offsets but no usable checkpoint: rebuild replays the topic, cold starts every sensor anew, fail ends the service",
    )
    on_gap: Annotated[Literal["rebuild", "cold", "fail"], choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="all was processed, but the topic no longer reaches back to where a replay must begin: rebuild replays what is left, "
        "cold starts every sensor anew, and both mark a sensor's predictions warming_up until its reset; fail ends the service",
    )
    on_lost_input: Annotated[Literal["fail", "continue"], choice("fail", "continue")] = Field(
        default="fail",
        description="readings were deleted from the topic before they were processed: continue goes on with the first that is left, every "
        "sensor anew and marked warming_up until its reset",
    )
    on_model_change: Annotated[Literal["fail", "cold", "rebuild"], choice("fail", "cold", "rebuild")] = Field(
        default="fail",
        description="the state belongs to another model or to other settings that decide: cold starts every sensor anew, rebuild replays "
        "the topic through the new model",
    )
    on_partitions_added: Annotated[Literal["fail", "cold"], choice("fail", "cold")] = Field(
        default="fail",
        description="the input topic has more partitions than before, or is another topic of the same name: cold starts every sensor anew",
    )
    http: Http = Field(default=Http(), description="metrics, health and the status page")
    log: Log = Field(default=Log(), description="messages on standard error")

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, *_settings_cls: Any, init_settings: PydanticBaseSettingsSource, **_others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # what load_settings merged: nothing comes from the process's surroundings unseen

    @field_validator("kafka", mode="wrap")
    @classmethod
    def _read_kafka(cls, given: Any, _inner: Any) -> dict[str, str | SecretStr]:
        if not isinstance(given, Mapping):
            raise PydanticCustomError("expected", "expected {words}", {"words": "librdkafka's properties and their values"})
        read: dict[str, str | SecretStr] = {"bootstrap.servers": BOOTSTRAP_DEFAULT}
        problems: list[InitErrorDetails] = []
        for key, value in given.items():
            try:
                read[kafka_key(key)] = kafka_value(key, value)
            except PydanticCustomError as problem:
                problems.append({"type": problem, "loc": (kafka_key(key),), "input": value})
        if problems:
            raise ValidationError.from_exception_data("kafka", problems)
        return read

    @field_validator("input", mode="after")
    @classmethod
    def _input_fits_its_format(cls, source: Input) -> Input:
        if source.format == "float32" and source.timestamp not in (None, "timestamp"):
            _refuse_for_float32("input.timestamp", source.timestamp)
        if source.format == "float32" and source.key is not None and source.key.startswith("value:"):
            _refuse_for_float32("input.key", source.key)
        if source.format == "float32" and source.quality is not None:
            _refuse_for_float32("input.quality", source.quality.field)
        if source.timestamp is not None and clashes(source.timestamp, source.features or ()):
            words = "a field of its own for the time: one that is no feature, holds none and lies in none"
            raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "input.timestamp", "found": source.timestamp})
        return source

    @field_validator("output", mode="after")
    @classmethod
    def _output_is_another_topic(cls, output: Output, info: ValidationInfo) -> Output:
        _refuse_clash("output.topic", output.topic, {"input.topic": _topic(info, "input")})
        return output

    @field_validator("dead_letter", mode="after")
    @classmethod
    def _dead_letter_is_another_topic(cls, dead_letter: DeadLetter, info: ValidationInfo) -> DeadLetter:
        source = _topic(info, "input")
        topic = dead_letter.topic if dead_letter.topic or source is None else dead_letter_of(source)
        if topic is not None:
            _refuse_clash("dead_letter.topic", topic, {"input.topic": source, "output.topic": _topic(info, "output")})
            if len(topic) > 249:
                words = "a topic of 249 characters at most: set dead_letter.topic"
                raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "dead_letter.topic", "found": topic})
        return dead_letter

    @field_validator("checkpoint", mode="after")
    @classmethod
    def _checkpoints_fit_the_delivery(cls, checkpoint: Checkpoint, info: ValidationInfo) -> Checkpoint:
        if checkpoint.store == "topic" and info.data.get("delivery") == "at_least_once":
            words = "directory or auto with delivery: at_least_once (without transactions nothing keeps a stale process from the topic)"
            raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "checkpoint.store", "found": "topic"})
        if checkpoint.topic is not None:
            topics = {"input.topic": _topic(info, "input"), "output.topic": _topic(info, "output")}
            _refuse_clash("checkpoint.topic", checkpoint.topic, topics)
        return checkpoint

    @property
    def group_id(self) -> str:
        return self.group or f"slotstream.{self.output.topic}"

    @property
    def instance_name(self) -> str:
        return self.instance or socket.gethostname()

    @property
    def transactional_id(self) -> str:
        return f"{self.group_id}.{self.instance_name}"

    @property
    def checkpoint_store(self) -> Literal["topic", "directory"]:
        if self.checkpoint.store == "auto":
            return "topic" if self.delivery == "exactly_once" else "directory"
        return self.checkpoint.store

    @property
    def checkpoint_topic(self) -> str | None:
        """None where checkpoints are files."""
        return (self.checkpoint.topic or f"{self.group_id}.checkpoints") if self.checkpoint_store == "topic" else None

    @property
    def dead_letter_topic(self) -> str:
        return self.dead_letter.topic or dead_letter_of(self.input.topic)

    def kafka_config(self) -> dict[str, str]:
        """The properties for librdkafka, secrets in clear: for a client's constructor, never for a log.

        A secret that has a file is read from it again: whoever renews it does so under a service that runs.
        """
        return {key: _in_clear(value) for key, value in self.kafka.items()}

    def kafka_at_start(self) -> tuple[tuple[str, str], ...]:
        """The properties, secrets in clear, as they were read: two of the same settings are equal whatever was renewed since.

        A secret from a file goes with the file's path: two files may hold the same words now and others later.
        """
        properties = [(key, value.get_secret_value() if isinstance(value, SecretStr) else value) for key, value in self.kafka.items()]
        return (*properties, *((key, str(path)) for key, path in self.secret_files().items()))

    def secrets(self) -> list[str]:
        """Every value that nothing may print."""
        return [value.get_secret_value() for value in self.kafka.values() if isinstance(value, SecretStr)]

    def secret_files(self) -> dict[str, Path]:
        """The properties whose value came from a file, and that file."""
        return {key: value.path for key, value in self.kafka.items() if isinstance(value, FileSecret)}

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what a prediction is: JSON-able, in a fixed order, part of the fingerprint.

        Those of _OF_RECORDS only where they are not at their default: a fingerprint from before they came stays what it was.
        """
        return {**self._plain_deciding(), **_changed(self.input, "input", _OF_RECORDS)}

    def _plain_deciding(self) -> dict[str, Any]:
        return {
            "input.format": self.input.format,
            "input.features": self.input.features,
            "input.scale": self.input.scale and asdict(self.input.scale),
            "output.scale": self.output.scale and asdict(self.output.scale),
            "model.mode": self.model.mode,
            "model.window": self.model.window,
            "model.output": self.model.output,
            "output.residual": self.output.residual,
            "reset.after_gap": self.reset.after_gap,
            "reset.after_steps": self.reset.after_steps,
            "reset.each_record": self.reset.each_record,
            "late": self.late,
            "state.expire_after": self.state.expire_after,
            "input.ahead_max": self.input.ahead_max,
            "input.record_steps_max": self.input.record_steps_max,
        }


# Keys of input that decide.
_OF_RECORDS = ("key", "timestamp", "timestamp_unit", "missing", "missing_values", "hold_max", "quality")


def _changed(section: Section, prefix: str, keys: Sequence[str]) -> dict[str, Any]:
    """The values of these keys that are not their defaults, JSON-able."""
    fields = type(section).model_fields
    values = {key: getattr(section, key) for key in keys}
    return {
        f"{prefix}.{key}": asdict(value) if isinstance(value, Quality) else value
        for key, value in values.items()
        if value != fields[key].default
    }


def _in_clear(value: str | SecretStr) -> str:
    if isinstance(value, FileSecret):
        secret = value.now()
        if secret != value.get_secret_value():
            SECRETS.add(secret)
        return secret
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def dead_letter_of(topic: str) -> str:
    return f"{topic}.dead-letter"


def _topic(info: ValidationInfo, section: str) -> str | None:
    given = info.data.get(section)  # missing when the section itself was refused
    return given.topic if given is not None else None


def _refuse_for_float32(key: str, found: object) -> None:
    words = "input.format: json with it: a float32 record has no fields"
    raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": key, "found": found})


def _refuse_clash(key: str, topic: str, others: Mapping[str, str | None]) -> None:
    for other, name in others.items():
        if topic == name:
            context = {"words": f"another topic than {other}", "key": key, "found": topic}
            raise PydanticCustomError("expected", "expected {words}", context)
