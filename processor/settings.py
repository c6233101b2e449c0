"""Every setting: its name, its default, what it may be, and where its value comes from.

Responsible for reading the YAML file, the environment and the command line, for putting them over each other, and for
refusing what is wrong: all of it at once, each with its source. Not responsible for what lies outside the settings:
whether the model can be served or the topics exist is asked by `slotstream check` and at the start.

pydantic-settings holds the model and its own sources are not used: its environment source turns a kafka value such as
1e5 into a number and drops unknown variables, its command line splits bootstrap.servers at the commas, and each ends at
the first mistake without saying which source made it.

Durations are float seconds here; in a source they are text with a unit, because a bare number is read wrongly by half
of its readers.
"""

import difflib
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from processor.errors import ConfigurationError

ENV_PREFIX = "SLOTSTREAM_"
ENV_CONFIG = "SLOTSTREAM_CONFIG"
CONFIG_DEFAULT = Path("config/slotstream.yaml")
BOOTSTRAP_DEFAULT = "localhost:9092"
TRANSACTION_TIMEOUT_S = 10.0

# What the service itself decides in every client, and what to do instead.
KAFKA_REFUSED: Mapping[str, str] = {
    "group.id": "set the key group",
    "group.instance.id": "set the key instance (it is <group>.<instance>)",
    "transactional.id": "set the keys group and instance (it is <group>.<instance>)",
    "enable.auto.commit": "it is fixed, offsets are committed as the key delivery says",
    "enable.auto.offset.store": "it is fixed, offsets are committed as the key delivery says",
    "isolation.level": "it is fixed, aborted records are never read",
    "auto.offset.reset": "set the keys input.start, on_gap and on_lost_input",
    "partition.assignment.strategy": "it is fixed to cooperative-sticky",
    "group.protocol": "it is fixed to classic",
    "enable.idempotence": "set the key delivery",
    "transaction.timeout.ms": f"it is fixed to {TRANSACTION_TIMEOUT_S:.0f} s, commit_interval is the time between commits",
    "enable.partition.eof": "it is fixed, the end of a partition tells when it is ready",
    "metadata.broker.list": "set bootstrap.servers under kafka, the same thing by its usual name",
}

_SECRET_KEY = re.compile(r"passw|passphrase|secret|token|credential|jaas|key\.pem|oauthbearer\.config", re.IGNORECASE)
# A Kubernetes Service named slotstream puts these into every pod beside it: they are addresses, not settings.
_SERVICE_LINK = re.compile(r"SLOTSTREAM_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_FILE_TEXT = re.compile(r"\{\s*file:\s*(?P<path>[^{}]+?)\s*\}")

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_MAX_S = 36_500 * _SECONDS["d"]


# What a value may be.


class _NotAvailableError(Exception):
    """The value is a word of the settings that nothing implements."""


class _FaultError(ValueError):
    """Says which part of a value is not allowed, and why."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Reads one value. `words` stand in the error, in --help and in docs/configuration.md alike."""

    words: str
    parse: Callable[[Any], Any]  # raises ValueError or TypeError for what is not allowed, _NotAvailableError for what is not there

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def read(self, value: Any) -> Any:
        try:
            return self.parse(value)
        except _FaultError as fault:
            context = {"words": self.words, "fault": str(fault)}
            raise PydanticCustomError("expected", "expected {words}; {fault}", context) from None
        except _NotAvailableError:
            raise PydanticCustomError("not_available", "not available in this version; expected {words}", {"words": self.words}) from None
        except (ValueError, TypeError):
            raise PydanticCustomError("expected", "expected {words}", {"words": self.words}) from None


def _choice(*available: str, planned: tuple[str, ...] = ()) -> Allowed:
    def parse(value: Any) -> Any:
        if isinstance(value, str) and value in planned:
            raise _NotAvailableError
        if not isinstance(value, str) or value not in available:
            raise ValueError
        return value

    return Allowed(_either(available), parse)


def _only_null() -> Allowed:
    def parse(value: Any) -> None:
        if value is not None:
            raise _NotAvailableError

    return Allowed("null", parse)


def _or_null(allowed: Allowed) -> Allowed:
    return Allowed(f"{allowed.words}, or null", lambda value: None if value is None else allowed.parse(value))


def _integer(low: int, high: int | None = None) -> Allowed:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError
        number = int(value)
        if number < low or (high is not None and number > high):
            raise ValueError
        return number

    return Allowed(f"a whole number from {low} to {high:,}" if high is not None else f"a whole number, {low} or more", parse)


def _slots() -> Allowed:
    number = _integer(1)
    return Allowed(f"auto, or {number.words}", lambda value: value if value == "auto" else number.parse(value))


def _ratio() -> Allowed:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        number = float(value)
        if not 0.0 <= number <= 1.0:
            raise ValueError
        return number

    return Allowed("a number from 0 to 1", parse)


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    if not isinstance(value, bool):
        raise TypeError
    return value


def _flag() -> Allowed:
    return Allowed("true or false", _truth)


def _listed(value: Any) -> Any:
    """A list or mapping as YAML has it; an option or a variable writes it as YAML in one line, a list of names also with commas alone."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError):
            raise ValueError from None
    elif isinstance(value, str) and "," in value:
        value = [item.strip() for item in value.split(",")]
    return list(value) if isinstance(value, tuple) else value


def _features() -> Allowed:
    def parse(value: Any) -> tuple[str, ...]:
        names = _listed(value)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_path(name) for name in names):
            raise ValueError
        paths = [tuple(name.split(".")) for name in names]
        if any(a == b[: len(a)] for i, a in enumerate(paths) for j, b in enumerate(paths) if i != j):
            raise ValueError  # twice the same, or a field that holds another one
        return tuple(names)

    words = "a list of different field names ([temperature, motor.current]: dots descend), none of them timestamp, without quotes in them"
    return Allowed(words, parse)


def _is_path(name: str) -> bool:
    return all(name.split(".")) and name != "timestamp" and not re.search(r'["\\\x00-\x1f]', name)


def _residual() -> Allowed:
    def parse(value: Any) -> bool | tuple[str | int, ...]:
        found = _listed(value)
        if not isinstance(found, list):
            return _truth(found)
        if not found or len({str(item) for item in found}) < len(found) or not all(isinstance(i, str | int) for i in found):
            raise ValueError
        return tuple(int(item) if isinstance(item, str) and item.isdecimal() else item for item in found)

    return Allowed("true, false, or a list of features by name (input.features) or number (0 is the first)", parse)


@dataclass(frozen=True, slots=True)
class Scale:
    """value = (measured - offset) / divisor; both one number for all columns, or both one for each."""

    offset: tuple[float, ...]
    divisor: tuple[float, ...]


def _scale() -> Allowed:
    def parse(value: Any) -> Scale:
        if isinstance(value, Scale):
            return value
        found = _listed(value)
        if not isinstance(found, Mapping) or set(found) not in ({"mean", "std"}, {"min", "max"}):
            raise ValueError
        first, second = (_numbers(found[key]) for key in (("mean", "std") if "mean" in found else ("min", "max")))
        if len(first) != len(second) and 1 not in (len(first), len(second)):
            raise _FaultError(f"the lists hold {len(first)} and {len(second)} numbers")
        n = max(len(first), len(second))
        first, second = (numbers * n if len(numbers) == 1 else numbers for numbers in (first, second))
        divisor = second if "mean" in found else tuple(high - low for low, high in zip(first, second, strict=True))
        for column, width in enumerate(divisor, 1):
            if not (math.isfinite(width) and width > 0):
                what = f"std is {width:g}" if "mean" in found else f"max is not above min, {first[column - 1]:g}"
                raise _FaultError(f"in column {column} {what}: a column that never changed takes std: 1, or max: min + 1")
        return Scale(first, divisor)

    return Allowed("{mean: M, std: S} or {min: A, max: B}, each a number or one a column; std above 0, max above min", parse)


def _numbers(value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, list) else [value]
    # 1e-5 is text in YAML.
    numbers = tuple(float(item) for item in items if isinstance(item, int | float | str) and not isinstance(item, bool))
    if not items or len(numbers) < len(items) or not all(map(math.isfinite, numbers)):
        raise ValueError
    return numbers


def _name(limit: int = 249) -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(rf"[a-zA-Z0-9._-]{{1,{limit}}}", value) or value in {".", ".."}:
            raise ValueError
        return value

    return Allowed(f"1 to {limit} letters, digits, dots, underscores or hyphens (all digits: in quotes)", parse)


def _text(words: str) -> Allowed:
    def parse(value: Any) -> str:
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            raise ValueError
        return str(value)

    return Allowed(words, parse)


def parse_duration(value: object) -> float:
    """'100ms', '30s', '15m', '1h', '2d' as seconds. ValueError for anything else, a bare number too."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) <= 32 else None
    if match is None:
        raise ValueError(f"found {value!r}, expected a duration such as 100ms, 30s, 15m, 1h or 2d")
    return float(match["number"]) * _SECONDS[match["unit"]]


def format_duration(seconds: float) -> str:
    """The shortest text that reads back as `seconds`: 0.1 is '100ms', 3600.0 is '1h'."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def _duration(low: str = "1ms", high: str | None = None) -> Allowed:
    low_s, high_s = parse_duration(low), parse_duration(high) if high else _DURATION_MAX_S

    def parse(value: Any) -> float:
        seconds = parse_duration(value)
        if not low_s <= seconds <= high_s:
            raise ValueError
        return seconds

    limits = f"from {low} to {high}" if high else f"of {low} or more"
    return Allowed(f"a duration {limits}, with its unit (100ms, 30s, 15m, 1h, 2d)", parse)


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


# The settings.


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Section):
    topic: Annotated[str, _name()] = Field(default="readings", description="the topic whose records carry the readings")
    format: Annotated[Literal["json", "float32"], _choice("json", "float32")] = Field(
        default="json", description="how a record's value is written; float32: little-endian, the numbers of one step after another"
    )
    features: Annotated[tuple[str, ...] | None, _or_null(_features())] = Field(
        default=None,
        description="the fields of a JSON record that are the features, in the model's order; null: the field values holds a list",
    )
    scale: Annotated[Scale | None, _or_null(_scale())] = Field(
        default=None,
        description="how features were scaled in training, (x - mean) / std or (x - min) / (max - min); null: fed as they are",
    )
    start: Annotated[Literal["earliest", "latest"], _choice("earliest", "latest")] = Field(
        default="earliest",
        description="where a group without offsets begins, decided once; latest leaves out what the topic already holds",
    )
    ahead_max: Annotated[float, _duration()] = Field(
        default=3600.0, description="a timestamp further ahead of its record's own than this makes the record a dead letter"
    )
    record_steps_max: Annotated[int, _integer(1, 1_000_000)] = Field(
        default=1024, description="steps that one record may hold; more makes it a dead letter; raise it for long batches in one record"
    )


class Output(Section):
    topic: Annotated[str, _name()] = Field(default="predictions", description="the topic that predictions are written to")
    scale: Annotated[Scale | None, _or_null(_scale())] = Field(
        default=None, description="how the targets were scaled in training: predictions are written in their own units; null: as they are"
    )
    residual: Annotated[bool | tuple[str | int, ...], _residual()] = Field(
        default=False,
        description="add to each prediction how far the sensor's previous one was from this reading, in the model's scale; for models that "
        "forecast their input, or those of its features that are listed",
    )


class DeadLetter(Section):
    topic: Annotated[str | None, _or_null(_name())] = Field(
        default=None, description="the topic for records that cannot be used; null: <input.topic>.dead-letter"
    )
    max_ratio: Annotated[float, _ratio()] = Field(
        default=0.5, description="share of bad records among the last 10,000 that ends the service; 1 never ends it"
    )


class Batch(Section):
    readings_max: Annotated[int, _integer(1, 1_000_000)] = Field(
        default=4096, description="records taken from Kafka in one turn; more gives throughput, fewer a steadier latency"
    )
    linger: Annotated[float, _duration("0ms", "1s")] = Field(
        default=0.005, description="how long a turn waits for more records once it has some; 0ms for the least latency"
    )


class Model(Section):
    path: Annotated[Path, _text("the path of a Keras model file")] = Field(default=Path("model.keras"), description="the model file")
    mode: Annotated[Literal["auto", "carried", "windowed"], _choice("auto", "carried", "windowed")] = Field(
        default="auto",
        description="carried: the recurrent state goes on from reading to reading; windowed: the last readings are kept and stepped anew; "
        "auto: what the file was trained for (`slotstream model show` says which and why)",
    )
    window: Annotated[int | None, _or_null(_integer(1, 1_000_000))] = Field(
        default=None, description="steps of the window of a windowed model; null: the file's own"
    )
    output: Annotated[Literal["last", "all"], _choice("last", "all")] = Field(
        default="last", description="which steps of a windowed model's output are the prediction"
    )
    warmup_steps: Annotated[int, _integer(0, 1_000_000_000)] = Field(
        default=0, description="predictions of a sensor's first steps are marked warming_up"
    )


class Parking(Section):
    path: Annotated[None, _only_null()] = Field(
        default=None, description="where the rows of sensors without a slot are kept; null: in memory"
    )


class Checkpoint(Section):
    store: Annotated[Literal["auto", "topic", "directory"], _choice("auto", "topic", "directory")] = Field(
        default="auto", description="where the state of the sensors is kept; auto: the topic, and the directory with at_least_once"
    )
    path: Annotated[Path, _text("a folder")] = Field(
        default=Path("checkpoints"), description="the folder of the store directory; on a disk that outlives the process"
    )
    topic: Annotated[str | None, _or_null(_name())] = Field(
        default=None, description="the topic of the store topic, compacted, of as many partitions as the input; null: <group>.checkpoints"
    )
    interval: Annotated[float, _duration("100ms")] = Field(
        default=30.0, description="time between checkpoints; a shorter one makes a restart replay less"
    )
    keep: Annotated[int, _integer(2, 1000)] = Field(default=2, description="verified checkpoints kept for each partition")


class Reset(Section):
    after_gap: Annotated[float | None, _or_null(_duration())] = Field(
        default=None, description="a sensor starts anew with a record that is this much later than its latest one, by their timestamps"
    )
    after_steps: Annotated[int | None, _or_null(_integer(1, 1_000_000_000))] = Field(
        default=None, description="a sensor starts anew with the record after this many steps; a record of several is never cut"
    )
    each_record: Annotated[bool, _flag()] = Field(
        default=False, description="every record is a whole sequence of its own: the sensor starts anew at each"
    )


class State(Section):
    expire_after: Annotated[float | None, _or_null(_duration())] = Field(
        default=None,
        description="a sensor whose latest record lies more than this before its partition's greatest timestamp is forgotten; null: never",
    )


class Http(Section):
    host: Annotated[str, _text("a host name or address")] = Field(
        default="127.0.0.1", description="where metrics and health are served; 0.0.0.0 in a container"
    )
    port: Annotated[int, _integer(0, 65535)] = Field(default=8080, description="its port; 0: a free one, printed at start")


class Log(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], _choice("debug", "info", "warning", "error")] = Field(
        default="info", description="the least important messages that are written"
    )
    format: Annotated[Literal["auto", "console", "json"], _choice("auto", "console", "json")] = Field(
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
    group: Annotated[str | None, _or_null(_name())] = Field(
        default=None, description="the consumer group, which owns offsets and checkpoints; null: slotstream.<output.topic>"
    )
    instance: Annotated[str | None, _or_null(_name())] = Field(
        default=None, description="this process among those of the group, the same after a restart; null: the host name"
    )
    leave_on_stop: Annotated[bool, _flag()] = Field(
        default=True,
        description="hand the partitions over when stopped; false where the same instance comes back at once (a StatefulSet)",
    )
    delivery: Annotated[Literal["exactly_once", "at_least_once"], _choice("exactly_once", "at_least_once")] = Field(
        default="exactly_once",
        description="exactly_once: predictions and offsets in one transaction; at_least_once: no transactions, after a crash "
        "some predictions come twice",
    )
    commit_interval: Annotated[float, _duration("10ms", "5s")] = Field(
        default=0.1, description="time between commits, which is most of the latency; longer means fewer and larger transactions"
    )
    drain_timeout: Annotated[float, _duration("0ms", "1h")] = Field(
        default=10.0, description="time for the last commit and checkpoint when stopped or when partitions are taken away"
    )
    batch: Batch = Field(default=Batch(), description="how much is worked on at once")
    model: Model = Field(default=Model(), description="the Keras model")
    slots: Annotated[int | Literal["auto"], _slots()] = Field(
        default="auto", description="rows of state kept ready for a step; auto: 256 MB of rows, at most 65,536 (printed at start)"
    )
    parking: Parking = Field(default=Parking(), description="sensors without a slot")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="the state kept outside the process")
    reset: Reset = Field(default=Reset(), description="when a sensor starts anew")
    state: State = Field(default=State(), description="how long a sensor is remembered")
    late: Annotated[Literal["accept", "dead_letter"], _choice("accept", "dead_letter")] = Field(
        default="accept", description="what becomes of a record with a timestamp before the sensor's latest one"
    )
    on_missing_state: Annotated[Literal["rebuild", "cold", "fail"], _choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="offsets but no usable checkpoint: rebuild replays the topic, cold starts every sensor anew, fail ends the service",
    )
    on_gap: Annotated[Literal["rebuild", "cold", "fail"], _choice("rebuild", "cold", "fail")] = Field(
        default="rebuild",
        description="all was processed, but the topic no longer reaches back to where a replay must begin: rebuild replays what is left, "
        "cold starts every sensor anew, and both mark a sensor's predictions warming_up until its reset; fail ends the service",
    )
    on_lost_input: Annotated[Literal["fail", "continue"], _choice("fail", "continue")] = Field(
        default="fail",
        description="readings were deleted from the topic before they were processed: continue goes on with the first that is left, every "
        "sensor anew and marked warming_up until its reset",
    )
    on_model_change: Annotated[Literal["fail", "cold", "rebuild"], _choice("fail", "cold", "rebuild")] = Field(
        default="fail",
        description="the state belongs to another model or to other settings that decide: cold starts every sensor anew, rebuild replays "
        "the topic through the new model",
    )
    on_partitions_added: Annotated[Literal["fail", "cold"], _choice("fail", "cold")] = Field(
        default="fail",
        description="the input topic has more partitions than before, or is another topic of the same name: cold starts every sensor anew",
    )
    http: Http = Field(default=Http(), description="metrics and health")
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
                read[kafka_key(key)] = _kafka_value(key, value)
            except PydanticCustomError as problem:
                problems.append({"type": problem, "loc": (kafka_key(key),), "input": value})
        if problems:
            raise ValidationError.from_exception_data("kafka", problems)
        return read

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
        """The properties for librdkafka, secrets in clear: for a client's constructor, never for a log."""
        return {key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in self.kafka.items()}

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what a prediction is: JSON-able, in a fixed order, part of the fingerprint."""
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


def dead_letter_of(topic: str) -> str:
    return f"{topic}.dead-letter"


def _topic(info: ValidationInfo, section: str) -> str | None:
    given = info.data.get(section)  # missing when the section itself was refused
    return given.topic if given is not None else None


def _refuse_clash(key: str, topic: str, others: Mapping[str, str | None]) -> None:
    for other, name in others.items():
        if topic == name:
            context = {"words": f"another topic than {other}", "key": key, "found": topic}
            raise PydanticCustomError("expected", "expected {words}", context)


# librdkafka's properties.


def kafka_key(key: str) -> str:
    """The one spelling of a librdkafka property: dots, lower case."""
    dotted = key.strip().lower().replace("_", ".")
    return "log_level" if dotted == "log.level" else dotted


def is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key.replace("_", ".")) is not None


def _kafka_value(key: str, value: Any) -> str | SecretStr:
    """Text for librdkafka; what is secret by its name or its place is wrapped, so that nothing prints it."""
    if (instead := KAFKA_REFUSED.get(kafka_key(key))) is not None:
        raise PydanticCustomError("refused", "cannot be set under kafka: {instead}", {"instead": instead})
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, Mapping) and set(value) == {"file"} and isinstance(value["file"], str):
        return SecretStr(_secret_file(value["file"]))
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int | float) or "\0" in str(value):
        raise PydanticCustomError("expected", "expected {words}", {"words": "text, a number, true, false, or {file: PATH}"})
    return SecretStr(str(value)) if is_secret(key) else str(value)


def _secret_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        reason = _reason(error)
        raise PydanticCustomError("expected", "expected a readable file ({reason})", {"reason": reason}) from None


# What can be set, for the sources below, --help and docs/configuration.md.


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `default` and `allowed` are written as in YAML."""

    name: str
    default: str
    allowed: str
    meaning: str


def sections() -> dict[str, type[Section]]:
    """The keys that hold other keys."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def keys() -> Iterator[Key]:
    """Every setting in the order of the configuration file."""
    parts = sections()
    for name, field in Settings.model_fields.items():
        if name in parts:
            yield from (_described(f"{name}.{inner}", part) for inner, part in parts[name].model_fields.items())
        else:
            yield _described(name, field)


def _described(name: str, field: FieldInfo) -> Key:
    allowed = next((extra for extra in field.metadata if isinstance(extra, Allowed)), None)
    words = allowed.words if allowed else "text, a number, true, false, or {file: PATH}"
    is_duration = words.startswith("a duration") and field.default is not None
    default = format_duration(field.default) if is_duration else _as_yaml(field.default)
    return Key(name, default, words, field.description or "")


def _as_yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'{key}: "{inner}"' for key, inner in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# The sources.


@dataclass(frozen=True, slots=True)
class _Given:
    where: str  # the source, and the key as that source spells it
    value: Any


class _Sources:
    """Flattens each source to dotted keys, and collects every problem on the way."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._sections = set(sections())
        self._known = [key.name for key in keys()]

    def yaml_file(self, path: Path) -> dict[str, _Given]:
        def walk(prefix: str, mapping: Mapping[Any, Any]) -> Iterator[tuple[str, str, Any]]:
            for name, value in mapping.items():
                key = f"{prefix}{name}"
                if not prefix and (name in self._sections or name == "kafka") and (isinstance(value, Mapping) or value is None):
                    yield from walk(f"{name}.", value or {})
                else:
                    yield key, f"{path}: {key}", value

        try:
            return self._collect(walk("", _read_yaml(path)), str, once=True)
        except _UnreadableError as error:
            self.problems.append(f"{path}: {error}")
            return {}

    def environment(self, environ: Mapping[str, str]) -> dict[str, _Given]:
        def walk() -> Iterator[tuple[str, str, Any]]:
            for name, text in environ.items():
                if name.upper().startswith(ENV_PREFIX) and name.upper() != ENV_CONFIG and not _SERVICE_LINK.fullmatch(name):
                    key = name[len(ENV_PREFIX) :].lower().replace("__", ".", 1)
                    yield key, f"environment: {name}", _from_text(key, text)

        return self._collect(walk(), lambda key: ENV_PREFIX + key.upper().replace(".", "__"), once=True)

    def options(self, words: Sequence[str]) -> dict[str, _Given]:
        return self._collect(self._options(list(words)), lambda key: f"--{key}", once=False)

    def _options(self, words: list[str]) -> Iterator[tuple[str, str, Any]]:
        while words:
            option, equals, text = words.pop(0).partition("=")
            if not option.startswith("--") or option == "--":
                self.problems.append(f"command line: found {option}, expected an option such as --input.topic")
                continue
            if not equals and (not words or words[0].startswith("--")):
                self.problems.append(f"command line: {option}: found no value, expected {option} VALUE")
                continue
            key, text = option[2:], text if equals else words.pop(0)
            if key == "kafka":
                name, equals, text = text.partition("=")
                if not equals:
                    self.problems.append("command line: --kafka: found no equals sign, expected --kafka KEY=VALUE")
                    continue
                key, option = f"kafka.{name}", f"--kafka {name}"
            yield key, f"command line: {option}", _from_text(key, text)

    def _collect(self, found: Iterable[tuple[str, str, Any]], spell: Callable[[str], str], *, once: bool) -> dict[str, _Given]:
        given: dict[str, _Given] = {}
        for key, where, value in found:
            section, _, rest = key.partition(".")
            if section == "kafka" and rest:
                key = f"kafka.{kafka_key(rest)}"
            elif key in self._sections or key == "kafka":
                self.problems.append(f"{where}: found {_kind(value)}, expected {key} to hold keys: {spell(self._first_in(key))} and others")
                continue
            elif key not in self._known:
                self.problems.append(f"{where}: unknown key{self._nearest(key, spell)}")
                continue
            if once and key in given:
                self.problems.append(f"{where}: the key was given already, as {given[key].where.partition(': ')[2]}, expected it once")
            given[key] = _Given(where, value)
        return given

    def _first_in(self, section: str) -> str:
        return next((known for known in self._known if known.startswith(f"{section}.")), "kafka.bootstrap.servers")

    def _nearest(self, key: str, spell: Callable[[str], str]) -> str:
        last = key.rpartition(".")[2]
        near = difflib.get_close_matches(key, self._known, 1, 0.75) or [known for known in self._known if known.rpartition(".")[2] == last]
        near = near or difflib.get_close_matches(key, self._known, 1, 0.5)
        return f", the nearest is {spell(near[0])}" if near else ", expected one that `slotstream run --help` lists"


class _UnreadableError(Exception):
    """Says why a file cannot be used, without quoting it."""


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"found {_reason(error)}, expected a readable YAML file") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _UnreadableError(_yaml_problem(error)) from None
    if content is not None and not isinstance(content, Mapping):
        raise _UnreadableError(f"found {_kind(content)}, expected keys and values")
    return content or {}


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror).lower() if isinstance(error, OSError) else "text that is not UTF-8"


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win; half a section lost without a word is refused here."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: Exception) -> str:
    """The parser's own message quotes the file, secrets too: only its place is told, and which key stands twice."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = str(getattr(error, "problem", ""))
    if problem.endswith("stands twice"):
        return f"{place}{problem}, expected it once"
    return f"{place}found something that is not YAML, expected `key: value` (values with : # * & ! % @ or braces need quotes)"


def _from_text(key: str, text: str) -> Any:
    """What the environment and the command line can say beyond text: null, and a secret's file."""
    if key.startswith("kafka."):
        match = _FILE_TEXT.fullmatch(text)
        return {"file": match["path"]} if match else text
    return None if text == "null" else text


# Everything together.


def config_file(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """--config, else SLOTSTREAM_CONFIG, else config/slotstream.yaml in the working directory if it is there."""
    if explicit is not None:
        return explicit
    if named := environ.get(ENV_CONFIG):
        return Path(named)
    return CONFIG_DEFAULT if CONFIG_DEFAULT.is_file() else None


def load_settings(config: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """YAML file < environment < command line. Every problem of all three in one ConfigurationError."""
    sources = _Sources()
    given = (sources.yaml_file(config) if config else {}) | sources.environment(environ) | sources.options(overrides)
    settings, problems = None, sources.problems
    try:
        settings = Settings(**_nested(given))
    except ValidationError as error:
        problems = problems + [_sentence(details, given) for details in error.errors(include_url=False)]
    if settings is None or problems:
        raise _as_error(problems)
    return settings


def _nested(given: Mapping[str, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, one in given.items():
        section, _, rest = key.partition(".")
        if rest:
            tree.setdefault(section, {})[rest] = one.value
        else:
            tree[key] = one.value
    return tree


def _sentence(details: ErrorDetails, given: Mapping[str, _Given]) -> str:
    context = details.get("ctx", {})
    key = context.get("key") or ".".join(str(part) for part in details["loc"])
    source = given.get(key)
    where = source.where if source else f"default: {key}"
    return f"{where}: found {_shown(key, context.get('found', details['input']))}, {details['msg']}"


def _shown(key: str, value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"file"}:
        return f"{{file: {value['file']}}}"
    if isinstance(value, Mapping | list):
        return _kind(value)
    if is_secret(key) or isinstance(value, SecretStr):
        return "a value (hidden)"
    text = repr(value) if isinstance(value, str) else _as_yaml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "keys and values"
    return "a list" if isinstance(value, list) else "a single value" if value is not None else "nothing"


def _as_error(problems: Sequence[str]) -> ConfigurationError:
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return ConfigurationError(
        "\n  - ".join([f"{count} in the settings:", *problems]),
        expected="the keys and values that docs/configuration.md and `slotstream run --help` list",
        do="correct them and start again",
        see="the-settings-are-wrong",
    )
