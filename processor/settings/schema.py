"""Every setting: its name, its default, its allowed values and its description; and the constraints between settings."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from processor.logs import SECRETS
from processor.settings.alarm import Alarm
from processor.settings.kafka import BOOTSTRAP_DEFAULT, FileSecret, kafka_key, kafka_value
from processor.settings.model_code import ModelCode, model_code
from processor.settings.model_path import Location, model_path, store_options
from processor.settings.output_values import (
    EACH,
    HEADER,
    FieldNames,
    Forecast,
    carried,
    field_names,
    forecast_of,
    reconstruction_setting,
    residual_setting,
)
from processor.settings.record_values import Missing, Quality, clashes, key_source, no_values, path_name, qualities, stand_in
from processor.settings.registry import client_properties, registry_properties
from processor.settings.schema_file import SchemaFile, schema_file
from processor.settings.section import Section
from processor.settings.values import (
    Features,
    Scale,
    choice,
    duration,
    feature_names,
    flag,
    integer,
    kafka_name,
    or_null,
    output_scaling,
    ratio,
    scaling,
    slots_number,
    text,
)


class Input(Section):
    topic: Annotated[str, kafka_name()] = Field(default="readings", description="the topic that contains the readings")
    format: Annotated[
        Literal["json", "float32", "avro", "protobuf", "json_schema"],
        choice("json", "float32", "avro", "protobuf", "json_schema"),
    ] = Field(
        default="json",
        description="the format of a record's value; float32: little-endian, one step, or as many steps as the header steps gives; avro, "
        "protobuf and json_schema: by the schema that its frame names (schema_registry.url), or by input.schema",
    )
    value_schema: Annotated[SchemaFile | None, or_null(schema_file())] = Field(
        default=None,
        alias="schema",
        description="the schema of all records, for avro, protobuf and json_schema without a registry's frame; of a .proto file, the first "
        "message that no other message of it holds",
    )
    features: Annotated[Features | None, or_null(feature_names())] = Field(
        default=None,
        description="the fields of a JSON record that are the features, in the model's order; for a model with several inputs also by "
        "input name; null: the field values contains a list",
    )
    scale: Annotated[Scale | None, or_null(scaling())] = Field(
        default=None,
        description="how features were scaled in training, (x - mean) / std or (x - min) / (max - min); null: not scaled",
    )
    key: Annotated[str | None, or_null(key_source())] = Field(
        default=None,
        description="the field or header that contains the sensor's name; null: the record's key. All records of a sensor must still be in "
        "one partition",
    )
    timestamp: Annotated[str | None, or_null(path_name())] = Field(
        default="timestamp",
        description="the field of a JSON record that contains the reading's time; null: the record's Kafka timestamp, whatever its "
        "value contains",
    )
    timestamp_unit: Annotated[Literal["auto", "s", "ms", "us", "ns"], choice("auto", "s", "ms", "us", "ns")] = Field(
        default="auto", description="the unit of numeric Unix times; auto: ms. ISO 8601 text is always accepted"
    )
    missing: Annotated[Missing | dict[str, Missing], stand_in()] = Field(
        default="dead_letter",
        description="the replacement of a missing value (null, an absent field, NaN, one of missing_values, of bad quality): hold: the "
        "sensor's last value since its reset; mean: that of input.scale; a number, in the feature's own unit; dead_letter: none",
    )
    missing_values: Annotated[tuple[float | str, ...], no_values()] = Field(
        default=(), description="what the sender writes for a missing value, in a CSV as well"
    )
    hold_max: Annotated[float | None, or_null(duration())] = Field(
        default=None, description="the maximum age of a held value, by the records' times; null: no limit"
    )
    quality: Annotated[Quality | None, or_null(qualities())] = Field(
        default=None,
        description="the field that contains a record's quality, and its good values: a value of any other quality is missing, and a value "
        "without a quality is good. The field contains one quality for all features, a list in their order, or an object by their names",
    )
    start: Annotated[Literal["earliest", "latest"], choice("earliest", "latest")] = Field(
        default="earliest",
        description="where a group without offsets begins, decided once; latest skips the records that the topic already contains",
    )
    ahead_max: Annotated[float, duration()] = Field(
        default=3600.0, description="a record whose time is further ahead of its Kafka timestamp than this becomes a dead letter"
    )
    record_steps_max: Annotated[int, integer(1, 1_000_000)] = Field(
        default=1024,
        description="the maximum number of steps in one record, which becomes a dead letter if it has more; raise it for long batches",
    )


class Output(Section):
    topic: Annotated[str, kafka_name()] = Field(default="predictions", description="the topic for the predictions")
    scale: Annotated[Scale | dict[str, Scale] | None, or_null(output_scaling())] = Field(
        default=None,
        description="how the targets were scaled in training, to publish predictions in the targets' units; for a model with several "
        "outputs, by output name; null: not scaled",
    )
    residual: Annotated[Forecast | Literal["each"] | dict[Literal["each"], Forecast], residual_setting()] = Field(
        default=False,
        description="add to each prediction the mean absolute difference between this reading and the sensor's previous prediction, in the "
        "model's scale; for models that forecast the next reading, or the listed features of it; each: add one difference for each feature "
        "too; for a model with several outputs, name those that forecast; not for autoencoders, which do not",
    )
    reconstruction: Annotated[bool | str, reconstruction_setting()] = Field(
        default=False,
        description="for autoencoders: add to each prediction the mean absolute difference between the prediction and the readings that it "
        "reconstructs, in the model's scale: with model.output: all those of the whole window, otherwise this reading",
    )

    fields: Annotated[FieldNames | None, or_null(field_names())] = Field(
        default=None,
        description="names of a prediction's numbers: outputs have flat fields predicted_NAME in place of prediction, and residual_NAME in "
        "place of residuals, as databases take them; null: a list, or for a model with several outputs an object of lists",
    )

    carry: Annotated[tuple[str, ...], carried()] = Field(
        default=(),
        description="fields and headers of a record that its output has too, as they were: a field by the last part of its path, and "
        "header:NAME or header:* as headers",
    )

    @property
    def forecast(self) -> Forecast:
        """What output.residual says of features and outputs."""
        return forecast_of(self.residual)

    @property
    def residual_each(self) -> bool:
        """Whether outputs have one residual for each feature."""
        return self.residual == EACH or (isinstance(self.residual, dict) and list(self.residual) == [EACH])


class DeadLetter(Section):
    topic: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the topic for records that cannot be used; null: <input.topic>.dead-letter"
    )
    max_ratio: Annotated[float, ratio()] = Field(
        default=0.5,
        description="the share of bad records among the last 10,000 above which the service ends; 1: it never ends for this reason",
    )


class Batch(Section):
    readings_max: Annotated[int, integer(1, 1_000_000)] = Field(
        default=4096, description="the maximum number of records per turn; higher values increase throughput, lower ones steady the latency"
    )
    linger: Annotated[float, duration("0ms", "1s")] = Field(
        default=0.005, description="how long a turn waits for more records once it has some; 0ms for the lowest latency"
    )


class Model(Section):
    path: Annotated[Path | Location, model_path()] = Field(
        default=Path("model.keras"),
        description="the model file; one that lies elsewhere is resolved once, at the start, and copied to model.cache",
    )
    store: Annotated[dict[str, str | SecretStr], store_options()] = Field(
        default={},
        description="how to read a model that lies elsewhere; for s3 and gs the options of obstore (region, endpoint, access_key_id, "
        "secret_access_key, ...); for https and mlflow token, or username and password; for mlflow also tracking_uri",
    )
    cache: Annotated[Path, text("a folder")] = Field(
        default=Path("models"), description="the folder for copies of models that lie elsewhere, each under its digest"
    )
    mode: Annotated[Literal["auto", "carried", "windowed"], choice("auto", "carried", "windowed")] = Field(
        default="auto",
        description="carried: the recurrent state is carried from reading to reading; windowed: the model runs on the sensor's last "
        "readings each time; auto: the mode that the file was trained for (`slotstream model show` prints the mode and "
        "the reason)",
    )
    window: Annotated[int | None, or_null(integer(1, 1_000_000))] = Field(
        default=None, description="the number of steps in the window of a windowed model; null: from the file"
    )
    output: Annotated[Literal["last", "all"], choice("last", "all")] = Field(
        default="last", description="which steps of a windowed model's output form the prediction"
    )
    code: Annotated[ModelCode | None, or_null(model_code())] = Field(
        default=None,
        description="the Python file that defines the model's own layers, with its digest; it runs with the rights of the service, so "
        "name only a file that you trust; null: a model with layers other than those of Keras is refused",
    )
    warmup_steps: Annotated[int, integer(0, 1_000_000_000)] = Field(
        default=0, description="the number of first steps of a sensor whose predictions are flagged warming_up"
    )


class Parking(Section):
    path: Annotated[Path | None, or_null(text("a folder"))] = Field(
        default=None,
        description="a folder on a fast disk for the states of sensors without a slot; its content need not outlive the process; "
        "null: in memory",
    )


class Checkpoint(Section):
    store: Annotated[Literal["auto", "topic", "directory"], choice("auto", "topic", "directory")] = Field(
        default="auto", description="where checkpoints are stored; auto: in the topic, or with at_least_once in the directory"
    )
    path: Annotated[Path, text("a folder")] = Field(
        default=Path("checkpoints"), description="the folder for the store directory, on a disk that outlives the process"
    )
    topic: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None,
        description="the topic for the store topic: compacted, with as many partitions as the input; null: <group>.checkpoints",
    )
    interval: Annotated[float, duration("100ms")] = Field(
        default=30.0, description="the time between checkpoints; with a shorter time, a restart replays less"
    )
    keep: Annotated[int, integer(2, 1000)] = Field(
        default=2,
        description="the number of verified whole checkpoint files to keep for each partition, with the increments that build on "
        "them; only for the store directory",
    )


class Reset(Section):
    after_gap: Annotated[float | None, or_null(duration())] = Field(
        default=None,
        description="a record that is more than this later than its sensor's latest record, by their timestamps, resets the sensor",
    )
    after_steps: Annotated[int | None, or_null(integer(1, 1_000_000_000))] = Field(
        default=None, description="the next record after this many steps resets its sensor; a record of several steps is never split"
    )
    each_record: Annotated[bool, flag()] = Field(
        default=False, description="every record is a separate sequence: each record resets its sensor"
    )


class State(Section):
    expire_after: Annotated[float | None, or_null(duration())] = Field(
        default=None,
        description="a sensor expires when its latest record is more than this before its partition's time; a single sensor moves "
        "that time by no more than this; null: never",
    )


class Http(Section):
    host: Annotated[str, text("a host name or address")] = Field(
        default="127.0.0.1", description="the address that serves metrics, health and the status page; 0.0.0.0 in a container"
    )
    port: Annotated[int, integer(0, 65535)] = Field(
        default=8080, description="the port of this address; 0: a free one, which is logged at startup"
    )
    sensors: Annotated[bool, flag()] = Field(
        default=False,
        description="show single sensors: their readings, predictions and states, at /sensors and on the status page, to everybody who can "
        "reach the port",
    )


class Drift(Section):
    profile: Annotated[Path | None, or_null(text("a file"))] = Field(
        default=None,
        description="the bins of the training data, written by `slotstream profile`: readings and predictions are counted by them in the "
        "metrics; null: they are not counted",
    )


class Log(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], choice("debug", "info", "warning", "error")] = Field(
        default="info", description="the lowest level of messages that are logged"
    )
    format: Annotated[Literal["auto", "console", "json"], choice("auto", "console", "json")] = Field(
        default="auto", description="auto: console on a terminal, otherwise one JSON object per line"
    )


class Settings(BaseSettings):
    """All settings, checked. Durations are in seconds. Immutable."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=False, protected_namespaces=())

    kafka: dict[str, str | SecretStr] = Field(
        default={"bootstrap.servers": BOOTSTRAP_DEFAULT},
        description="librdkafka properties, for every client; dots and underscores are equivalent; a value may be {file: PATH}",
        validate_default=True,
    )
    input: Input = Field(default=Input(), description="the readings")
    output: Output = Field(default=Output(), description="the predictions", validate_default=True)
    dead_letter: DeadLetter = Field(default=DeadLetter(), description="records that cannot be used", validate_default=True)
    alarm: Alarm = Field(default=Alarm(), description="when a sensor's score raises an alarm, and when it clears it", validate_default=True)
    schema_registry: dict[str, str | SecretStr] = Field(
        default={}, description="properties of confluent-kafka's SchemaRegistryClient; a value may be {file: PATH}", validate_default=True
    )
    on_unknown_schema: Annotated[Literal["fail", "dead_letter"], choice("fail", "dead_letter")] = Field(
        default="fail",
        description="a record whose schema id the registry does not know: fail ends the service; dead_letter makes the record a dead "
        "letter, and the id stays unknown to its partition from then on",
    )
    group: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the consumer group, which owns offsets and checkpoints; null: slotstream.<output.topic>"
    )
    instance: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the name of this process in the group, which must stay the same after a restart; null: the host name"
    )
    leave_on_stop: Annotated[bool, flag()] = Field(
        default=True,
        description="hand over the partitions when stopped; set false if the same instance comes back at once (a StatefulSet)",
    )
    delivery: Annotated[Literal["exactly_once", "at_least_once"], choice("exactly_once", "at_least_once")] = Field(
        default="exactly_once",
        description="exactly_once: predictions and offsets in one transaction; at_least_once: no transactions, so a crash can publish "
        "some predictions twice",
    )
    commit_interval: Annotated[float, duration("10ms", "5s")] = Field(
        default=0.1,
        description="the time between commits, which accounts for most of the latency; a longer time means fewer, larger transactions",
    )
    drain_timeout: Annotated[float, duration("0ms", "1h")] = Field(
        default=10.0, description="the time for the last commit and checkpoint at a stop or when partitions are revoked"
    )
    batch: Batch = Field(default=Batch(), description="the size of a batch")
    model: Model = Field(default=Model(), description="the Keras model")
    slots: Annotated[int | Literal["auto"], slots_number()] = Field(
        default="auto",
        description="the number of rows in the state matrix, which are ready for a step; auto: 256 MB of rows, at most 65,536 (logged "
        "at startup)",
    )
    parking: Parking = Field(default=Parking(), description="sensors without a slot")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="the state kept outside the process")
    reset: Reset = Field(default=Reset(), description="when a sensor is reset")
    state: State = Field(default=State(), description="when a sensor expires")
    late: Annotated[Literal["accept", "dead_letter"], choice("accept", "dead_letter")] = Field(
        default="accept", description="how to handle a record that is older than its sensor's latest record"
    )
    on_missing_state: Annotated[Literal["rebuild", "cold", "fail"], choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="for offsets without a usable checkpoint: rebuild replays the topic, cold restarts every sensor from zero state, "
        "fail ends the service",
    )
    on_gap: Annotated[Literal["rebuild", "cold", "fail"], choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="everything was processed, but the topic no longer reaches back to where a replay must begin: rebuild replays the "
        "readings that are left, cold restarts every sensor from zero state, and both flag a sensor's predictions "
        "warming_up until its reset; fail ends the service",
    )
    on_lost_input: Annotated[Literal["fail", "continue"], choice("fail", "continue")] = Field(
        default="fail",
        description="readings were deleted from the topic before they were processed: continue resumes at the first reading that is "
        "left, with every sensor restarted from zero state and flagged warming_up until its reset; fail ends the service",
    )
    on_model_change: Annotated[Literal["fail", "cold", "rebuild"], choice("fail", "cold", "rebuild")] = Field(
        default="fail",
        description="the state belongs to a different model or to different settings that affect predictions: cold restarts every "
        "sensor from zero state, rebuild replays the topic through the new model, fail ends the service",
    )
    on_partitions_added: Annotated[Literal["fail", "cold"], choice("fail", "cold")] = Field(
        default="fail",
        description="the input topic has more partitions than before, or is a different topic with the same name: cold restarts every "
        "sensor from zero state, fail ends the service",
    )
    http: Http = Field(default=Http(), description="metrics, health and the status page")
    drift: Drift = Field(default=Drift(), description="how far readings and predictions are from the training data")
    log: Log = Field(default=Log(), description="messages on standard error")

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, *_settings_cls: Any, init_settings: PydanticBaseSettingsSource, **_others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # only what load_settings merged: nothing is read from the environment implicitly

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

    @field_validator("schema_registry", mode="wrap")
    @classmethod
    def _read_schema_registry(cls, given: Any, _inner: Any, info: ValidationInfo) -> dict[str, str | SecretStr]:
        return registry_properties(given, info.data.get("input"))

    @field_validator("input", mode="after")
    @classmethod
    def _input_fits_its_format(cls, source: Input) -> Input:
        _check_input(source)
        return source

    @field_validator("output", mode="after")
    @classmethod
    def _output_is_another_topic(cls, output: Output, info: ValidationInfo) -> Output:
        _refuse_clash("output.topic", output.topic, {"input.topic": _topic(info, "input")})
        source = info.data.get("input")
        fields = [name for name in output.carry if not name.startswith(HEADER)]
        if source is not None and source.format != "json" and fields:
            _refuse_without_json("output.carry", fields, source.format)
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

    @field_validator("alarm", mode="after")
    @classmethod
    def _alarms_fit_together(cls, alarm: Alarm, info: ValidationInfo) -> Alarm:
        _check_alarms(alarm, info)
        return alarm

    @field_validator("checkpoint", mode="after")
    @classmethod
    def _checkpoints_fit_the_delivery(cls, checkpoint: Checkpoint, info: ValidationInfo) -> Checkpoint:
        if checkpoint.store == "topic" and info.data.get("delivery") == "at_least_once":
            words = "directory or auto with delivery: at_least_once (without transactions nothing keeps a stale process from the topic)"
            raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "checkpoint.store", "found": "topic"})
        if checkpoint.topic is not None:
            alarm = info.data.get("alarm")
            topics = {"input.topic": _topic(info, "input"), "output.topic": _topic(info, "output"), "alarm.topic": alarm and alarm.topic}
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
        """None if checkpoints are files."""
        return (self.checkpoint.topic or f"{self.group_id}.checkpoints") if self.checkpoint_store == "topic" else None

    @property
    def dead_letter_topic(self) -> str:
        return self.dead_letter.topic or dead_letter_of(self.input.topic)

    @property
    def alarm_topic(self) -> str | None:
        """None if there are no alarms."""
        return (self.alarm.topic or alarms_of(self.output.topic)) if self.alarm.on else None

    def kafka_config(self) -> dict[str, str]:
        """The properties for librdkafka, with secrets in clear text: for a client's constructor, never for a log.

        A secret that comes from a file is read again, because it can be renewed while the service is running.
        """
        return {key: _in_clear(value) for key, value in self.kafka.items()}

    def registry_config(self) -> dict[str, Any]:
        """The properties for the registry's client, as kafka_config() has those for librdkafka."""
        return client_properties({key: _in_clear(value) for key, value in self.schema_registry.items()})

    def kafka_at_start(self) -> tuple[tuple[str, str], ...]:
        """The properties as read at startup, with secrets in clear text: equal for equal settings, whatever was renewed since.

        A secret from a file is paired with the file's path, because two files may have the same content now and different content later.
        """
        properties = [(key, value.get_secret_value() if isinstance(value, SecretStr) else value) for key, value in self.kafka.items()]
        return (*properties, *((key, str(path)) for key, path in self.secret_files().items()))

    def secrets(self) -> list[str]:
        """All values that must never be printed."""
        values = (*self.kafka.values(), *self.model.store.values(), *self.schema_registry.values())
        return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]

    def model_store(self) -> dict[str, str]:
        """model.store with secrets in clear text: for whoever reads the model, never for a log."""
        return {key: _in_clear(value) for key, value in self.model.store.items()}

    def secret_files(self) -> dict[str, Path]:
        """The properties whose value was read from a file, and that file."""
        return {key: value.path for key, value in self.kafka.items() if isinstance(value, FileSecret)}

    def deciding(self) -> dict[str, Any]:
        """The settings that affect predictions: JSON-serialisable, in a fixed order, part of the fingerprint.

        Those in _OF_RECORDS and _OF_OUTPUTS, and of alarms, are included only if they differ from their defaults, so that older
        fingerprints stay valid.
        """
        return {
            **_plain_deciding(self),
            **_changed(self.input, "input", _OF_RECORDS),
            **_changed(self.output, "output", _OF_OUTPUTS),
            **_of_schemas(self),
            **self.alarm.deciding(),
            **({} if self.model.code is None else {"model.code": self.model.code.sha256}),
        }


def _plain_deciding(settings: Settings) -> dict[str, Any]:
    return {
        "input.format": settings.input.format,
        "input.features": settings.input.features,
        "input.scale": settings.input.scale and asdict(settings.input.scale),
        "output.scale": _scales(settings.output.scale),
        "model.mode": settings.model.mode,
        "model.window": settings.model.window,
        "model.output": settings.model.output,
        "output.residual": settings.output.residual,
        "reset.after_gap": settings.reset.after_gap,
        "reset.after_steps": settings.reset.after_steps,
        "reset.each_record": settings.reset.each_record,
        "late": settings.late,
        "state.expire_after": settings.state.expire_after,
        "input.ahead_max": settings.input.ahead_max,
        "input.record_steps_max": settings.input.record_steps_max,
    }


def _of_schemas(settings: Settings) -> dict[str, Any]:
    found = {} if settings.on_unknown_schema == "fail" else {"on_unknown_schema": settings.on_unknown_schema}
    return found if settings.input.value_schema is None else {**found, "input.schema": settings.input.value_schema.digest}


def _scales(given: Scale | dict[str, Scale] | None) -> Any:
    if isinstance(given, dict):
        return {name: asdict(scale) for name, scale in given.items()}
    return given and asdict(given)


# Keys of input that decide.
_OF_RECORDS = ("key", "timestamp", "timestamp_unit", "missing", "missing_values", "hold_max", "quality")
# The same of output.
_OF_OUTPUTS = ("reconstruction", "fields", "carry")


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


def alarms_of(topic: str) -> str:
    return f"{topic}.alarms"


def _check_alarms(alarm: Alarm, info: ValidationInfo) -> None:
    if (fault := alarm.fault()) is not None:
        key, found, words = fault
        raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": key, "found": found})
    output = _topic(info, "output")
    if alarm.on and output is not None:
        topic = alarm.topic or alarms_of(output)
        dead_letter, source = info.data.get("dead_letter"), _topic(info, "input")
        others = {"input.topic": source, "output.topic": output}
        if dead_letter is not None and source is not None:
            others["dead_letter.topic"] = dead_letter.topic or dead_letter_of(source)
        _refuse_clash("alarm.topic", topic, others)
        if len(topic) > 249:
            words = "a topic of 249 characters at most: set alarm.topic"
            raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "alarm.topic", "found": topic})


def _topic(info: ValidationInfo, section: str) -> str | None:
    given = info.data.get(section)  # missing when the section itself was refused
    return given.topic if given is not None else None


def _check_input(source: Input) -> None:
    if source.format in ("json", "float32") and source.value_schema is not None:
        words = f"input.format: avro, protobuf or json_schema with it: {source.format} has no schema"
        context = {"words": words, "key": "input.schema", "found": str(source.value_schema)}
        raise PydanticCustomError("expected", "expected {words}", context)
    if source.format == "float32" and source.timestamp not in (None, "timestamp"):
        _refuse_for_float32("input.timestamp", source.timestamp)
    if source.format == "float32" and source.key is not None and source.key.startswith("value:"):
        _refuse_for_float32("input.key", source.key)
    if source.format == "float32" and source.quality is not None:
        _refuse_for_float32("input.quality", source.quality.field)
    if source.timestamp is not None and clashes(source.timestamp, source.features or ()):
        words = "a field of its own for the time: one that is no feature, holds none and lies in none"
        raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": "input.timestamp", "found": source.timestamp})


def _refuse_for_float32(key: str, found: object) -> None:
    _refuse_without_json(key, found, "float32")


def _refuse_without_json(key: str, found: object, format_: str) -> None:
    why = "a float32 record has no fields" if format_ == "float32" else f"of {format_} records only headers are carried"
    words = f"input.format: json with it: {why}"
    raise PydanticCustomError("expected", "expected {words}", {"words": words, "key": key, "found": found})


def _refuse_clash(key: str, topic: str, others: Mapping[str, str | None]) -> None:
    for other, name in others.items():
        if topic == name:
            context = {"words": f"another topic than {other}", "key": key, "found": topic}
            raise PydanticCustomError("expected", "expected {words}", context)
