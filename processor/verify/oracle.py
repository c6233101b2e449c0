"""The two judges of what the service publishes, made to share as little as possible with it.

Reference: the model's step, one reading a call, in the reference rung, the states in a dict. What it expects must be equal
bit for bit. Keras: the model itself on a whole sequence; what it gives must agree within 1e-5.

Neither imports the engine, the slots or the codec: records are parsed here with the standard library. The rules that decide
are written out once more, from the contract.
"""

import datetime
import json
import math
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.model.rungs import REFERENCE, Run
from processor.settings import Scale, Settings

if TYPE_CHECKING:  # loading a model imports TensorFlow, and the rules can be tried without it
    from processor.model.load import ServableModel

FLOAT32_MAX = float(np.finfo(np.float32).max)
KEY_BYTES_MAX = 1024
NESTING_MAX = 100
_MS_OF = {"s": Fraction(1000), "us": Fraction(1, 1000), "ns": Fraction(1, 1_000_000)}
_NOTHING: Any = object()  # where a record has no field
TEN_YEARS_MS = 3652.5 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record of the input topic as a consumer sees it. record_ms: its Kafka timestamp, Unix milliseconds."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    record_ms: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(slots=True)
class _Sensor:
    state: NDArray[np.float32]
    steps: int = 0
    previous: NDArray[np.float32] | None = None
    latest_ms: int = 0
    incomplete: bool = False
    seen: NDArray[np.float32] | None = None  # its last reading as it was fed, and when each number of it was measured
    seen_ms: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Ahead:
    """The one sensor of a partition whose time lies too far ahead to count.

    alone_since_ms: its own time when another sensor was last heard, or where its times jumped.
    """

    key: bytes
    at_ms: int
    alone_since_ms: int


class _BadError(Exception):
    pass


class Reference:
    """Feeds records one after another; each gives an output object, the name of a dead letter's error, or None.

    gap_partitions: those whose readings before the first one fed were lost, so that a sensor may lack some of its own.
    run: the step for tiles of REFERENCE's shape; without one the model's own is compiled.
    """

    def __init__(
        self, model: "ServableModel", settings: Settings, model_id: str, *, gap_partitions: Collection[int] = (), run: Run | None = None
    ) -> None:
        self._model, self._settings, self._model_id = model, settings, model_id
        self._run = _reference_rung(model) if run is None else run
        self._sensors: dict[tuple[int, bytes], _Sensor] = {}
        self._time_ms: dict[int, int] = {}  # each partition's time, and the first that it had
        self._first_ms: dict[int, int] = {}
        self._ahead: dict[int, _Ahead] = {}
        self._gap_partitions = gap_partitions
        self._policies = _policies(settings, model.features)
        source = settings.input
        self._may_miss = source.missing != "dead_letter" or len(source.missing_values) > 0 or source.quality is not None
        self._forgotten: set[tuple[int, bytes]] = set()  # by a null value or `end`: these lack nothing
        self._x = np.zeros((REFERENCE.steps_max, REFERENCE.rows, model.features), np.float32)
        self._state = np.zeros((REFERENCE.rows, model.width), np.float32)
        self._counts = np.zeros(REFERENCE.rows, np.int32)
        self._counts[0] = 1

    def expect(self, records: Iterable[InputRecord]) -> dict[tuple[int, int], dict[str, Any] | str]:
        """By partition and offset: the output's fields, or the dead letter's error."""
        found = ((record, self.feed(record)) for record in records)
        return {(record.partition, record.offset): answer for record, answer in found if answer is not None}

    def feed(self, record: InputRecord) -> dict[str, Any] | str | None:
        try:
            return self._feed(record)
        except _BadError as error:
            return str(error)

    def key_of(self, record: InputRecord) -> bytes | None:
        """The sensor that a record names, None for none. Raises _BadError where its value must be read for it and cannot be."""
        kind, _, name = (self._settings.input.key or "").partition(":")
        if kind == "header":
            named = [value for header, value in record.headers if header == name]
            if named or record.value is not None:
                return named[-1] if named else None
        if kind == "value" and record.value is not None:
            found = _at(name, self._object(record.value))
            if isinstance(found, str):
                return found.encode()
            return b"%d" % found if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 10**300 else None
        return record.key

    def _feed(self, record: InputRecord) -> dict[str, Any] | None:
        key = self.key_of(record)
        if key is None:
            raise _BadError("no_key")
        if len(key) > KEY_BYTES_MAX:
            raise _BadError("too_large")
        sensor_id = (record.partition, key)
        if record.value is None:
            self._sensors.pop(sensor_id, None)
            self._forgotten.add(sensor_id)
            return None
        before, after = self._sequence(record)
        unit_given = self._unit_given(record)
        readings, holes, event_ms = self._parse(record, unit_given=unit_given)
        self._pass_time(*sensor_id, event_ms)
        time_ms = max(event_ms, self._time_ms.get(record.partition, event_ms))  # for itself its own time counts
        sensor = None if before else self._go_on(self._sensors.get(sensor_id), event_ms, time_ms)
        incomplete = sensor.incomplete if sensor else not before and self._may_lack(sensor_id)
        state, steps, previous = (sensor.state, sensor.steps, sensor.previous) if sensor else (self._zeros(), 0, None)
        latest_ms = max(event_ms, sensor.latest_ms) if sensor else event_ms
        seen, seen_ms = (sensor.seen, sensor.seen_ms) if sensor else (None, [])
        for x, missing in zip(readings, holes, strict=True):
            seen_ms = self._hold(x, missing, seen, seen_ms, event_ms)
            seen = x
        window = self._model.window if self._model.mode == "windowed" else None
        ys, residual = [], None
        for x in readings:
            y, state = self._step(x, state, unseen=window is not None and steps + 1 < window)
            residual = None
            if previous is not None:
                differences = [abs(float(x[feature]) - float(previous[i])) for i, feature in self._forecast()]
                residual = float(np.float32(min(sum(differences) / len(differences), FLOAT32_MAX)))
            steps += 1
            previous = y if self._settings.output.residual and steps >= (window or 1) else None
            ys.append(self._written(y))
        if after:
            self._sensors.pop(sensor_id, None)
            self._forgotten.add(sensor_id)
        else:
            self._sensors[sensor_id] = _Sensor(state, steps, previous, latest_ms, incomplete, seen, seen_ms)
        filling = window is not None and steps < window
        prediction: Any = None if filling else self._prediction(ys)
        warming = filling or incomplete or steps < self._settings.model.warmup_steps
        out = self._output(record, key, event_ms, prediction, steps, residual, warming=warming)
        if holes.any():
            names = self._settings.input.features or range(self._model.features)
            out["held"] = [name for i, name in enumerate(names) if holes[:, i].any()]
        return out

    def _hold(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], seen: NDArray[np.float32] | None, seen_ms: list[int], event_ms: int
    ) -> list[int]:
        """Writes what is held into a reading. Returns when each of its numbers was measured."""
        hold_max_s, times = self._settings.input.hold_max, [event_ms] * len(x)
        for i, policy in enumerate(self._policies):
            if missing[i] and policy == "hold":
                if seen is None or (hold_max_s is not None and event_ms - seen_ms[i] > round(hold_max_s * 1000)):
                    raise _BadError("missing")
                x[i], times[i] = seen[i], seen_ms[i]
        return times

    def _output(
        self, record: InputRecord, key: bytes, event_ms: int, prediction: Any, steps: int, residual: float | None, *, warming: bool
    ) -> dict[str, Any]:
        try:
            name = key.decode()
        except UnicodeDecodeError:
            name = "0x" + key.hex()
        out = {
            "sensor": name,
            "timestamp": event_ms,
            "prediction": prediction,
            "steps": steps,
            "partition": record.partition,
            "offset": record.offset,
            "model": self._model_id,
        }
        if self._settings.output.residual:
            out["residual"] = residual
        if warming:
            out["warming_up"] = True
        if self._model.trained_window is not None and steps > self._model.trained_window:
            out["past_window"] = True
        return out

    def _go_on(self, sensor: _Sensor | None, event_ms: int, time_ms: int) -> _Sensor | None:
        """The sensor as the record finds it, None where it begins anew."""
        expire_s = self._settings.state.expire_after
        if sensor is None or (expire_s is not None and time_ms - sensor.latest_ms > round(expire_s * 1000)):
            return None
        if self._settings.late == "dead_letter" and event_ms < sensor.latest_ms:
            raise _BadError("late")
        gap_s, steps = self._settings.reset.after_gap, self._settings.reset.after_steps
        if gap_s is not None and event_ms - sensor.latest_ms > round(gap_s * 1000):
            return None
        return None if steps is not None and sensor.steps >= steps else sensor

    def _pass_time(self, partition: int, key: bytes, event_ms: int) -> None:
        """Partition time goes to the record's, but with an expiry no further ahead than two sensors have been."""
        expire_s = self._settings.state.expire_after
        reach_ms = math.inf if expire_s is None else round(expire_s * 1000)
        other = self._ahead.get(partition)
        if expire_s is None or (partition in self._time_ms and event_ms - self._time_ms[partition] <= reach_ms):
            self._go_to(partition, event_ms)
            if other is not None:
                other.alone_since_ms = other.at_ms
                if other.key == key or other.at_ms - self._time_ms[partition] <= reach_ms:
                    del self._ahead[partition]
        elif other is None:
            self._ahead[partition] = _Ahead(key, event_ms, event_ms)
        elif other.key == key:
            if abs(event_ms - other.at_ms) > reach_ms or event_ms < other.alone_since_ms:
                other.alone_since_ms = event_ms
            other.at_ms = event_ms
            if event_ms - other.alone_since_ms > reach_ms:
                self._go_to(partition, event_ms)
                del self._ahead[partition]
        else:
            # Both are ahead: time goes to the nearer one, and on to the other if that is within reach from there.
            (near_ms, _), (far_ms, far) = sorted([(other.at_ms, other.key), (event_ms, key)])
            self._go_to(partition, near_ms)
            self._ahead[partition] = _Ahead(far, far_ms, far_ms)
            if far_ms - near_ms <= reach_ms:
                self._go_to(partition, far_ms)
                del self._ahead[partition]

    def _go_to(self, partition: int, time_ms: int) -> None:
        self._time_ms[partition] = max(time_ms, self._time_ms.get(partition, time_ms))
        self._first_ms.setdefault(partition, self._time_ms[partition])

    def _may_lack(self, sensor_id: tuple[int, bytes]) -> bool:
        """Whether a sensor that begins here without a word may have had readings that were lost, and that would still count."""
        if sensor_id[0] not in self._gap_partitions or sensor_id in self._sensors or sensor_id in self._forgotten:
            return False
        expire_s = self._settings.state.expire_after
        partition = sensor_id[0]
        if expire_s is None or partition not in self._time_ms:
            return True
        return self._time_ms[partition] - self._first_ms[partition] <= round(expire_s * 1000)

    def _forecast(self) -> list[tuple[int, int]]:
        """The numbers of a prediction that forecast features, each with its feature."""
        wanted, first = self._settings.output.residual, 0
        if isinstance(wanted, dict):
            ((of, wanted),) = wanted.items()
            first = next(output.first for output in self._model.named_outputs if output.name == of)
        names = self._settings.input.features or ()
        features = range(self._model.features) if isinstance(wanted, bool) else wanted
        return [(first + i, names.index(f) if isinstance(f, str) else f) for i, f in enumerate(features)]

    def _written(self, y: NDArray[np.float32]) -> list[Any]:
        """A step's numbers as they are published, output by output."""
        written = list[Any]()
        for output in self._model.named_outputs:
            given = self._settings.output.scale
            scale = given.get(output.name) if isinstance(given, dict) else given
            numbers = y[output.first : output.last]
            rows = [self._unscaled(row, scale) for row in numbers.reshape(output.rows or 1, -1)]
            written.append(rows[0] if output.rows is None else rows)
        return written

    def _prediction(self, steps: list[list[Any]]) -> Any:
        """steps: of each step, what is written of each output."""
        outputs = self._model.named_outputs
        found = [[step[i] for step in steps] if output.per_step and len(steps) > 1 else steps[-1][i] for i, output in enumerate(outputs)]
        return found[0] if len(outputs) == 1 else {output.name: of for output, of in zip(outputs, found, strict=True)}

    def _unscaled(self, row: NDArray[np.float32], scale: Scale | None) -> list[float]:
        if scale is None:
            return [float(number) for number in row]
        given = [float(y) * _column(scale.divisor, i) + _column(scale.offset, i) for i, y in enumerate(row)]
        return [float(np.float32(min(max(number, -FLOAT32_MAX), FLOAT32_MAX))) for number in given]

    def _zeros(self) -> NDArray[np.float32]:
        return np.zeros(self._model.width, np.float32)

    def _step(self, x: NDArray[np.float32], state: NDArray[np.float32], *, unseen: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One reading of one sensor in an otherwise empty reference tile. unseen: its window is not full, so nobody sees the output."""
        self._x[0, 0], self._state[0] = x, state
        y, after, _ = self._run(self._x, self._counts, 1, self._state)
        if not (unseen or np.isfinite(y[0, 0]).all()) or not np.isfinite(after[0]).all():
            raise _BadError("non_finite_state")
        return y[0, 0].copy(), after[0].copy()

    def _sequence(self, record: InputRecord) -> tuple[bool, bool]:
        before = after = self._settings.reset.each_record
        for name, value in record.headers:
            if name == "sequence":
                if value not in (b"start", b"end", b"single"):
                    raise _BadError("bad_schema")
                before, after = before or value != b"end", after or value != b"start"
        return before, after

    def _unit_given(self, record: InputRecord) -> str | None:
        """The unit that the sender names."""
        texts = [text for name, text in record.headers if name == "timestamp_unit"]
        if any(text not in (b"ms", self._settings.input.timestamp_unit.replace("auto", "ms").encode()) for text in texts):
            raise _BadError("bad_schema")
        return (texts[-1] or b"").decode() if texts else None

    def _parse(self, record: InputRecord, *, unit_given: str | None) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
        """The record's readings, scaled, float32 [steps, F], which of their numbers are missing, and its time."""
        value, floats = record.value or b"", self._settings.input.format == "float32"
        asked = self._steps_asked(record) if floats else None
        steps, timestamp = self._float32(value) if floats else self._json(value)
        event_ms = self._event_ms(timestamp, record.record_ms, unit_given=unit_given)
        if (len(steps) if asked is None else asked) > self._settings.input.record_steps_max:
            raise _BadError("too_large")
        if asked is not None and len(steps) != asked:
            raise _BadError("wrong_feature_count")
        if any(len(step) != self._model.features for step in steps):
            raise _BadError("wrong_feature_count")
        holes = np.array([[n is None for n in step] for step in steps], np.bool_)
        for step in steps:
            for i, n in enumerate(step):
                if n is None:
                    step[i] = self._stand_in(i)
        numbers = [abs(n) for step, missing in zip(steps, holes, strict=True) for n, hole in zip(step, missing, strict=True) if not hole]
        expected = self._model.features * len(steps)
        if floats and 2 * sum(0 < n < 2.0**-126 or 1e30 < n < math.inf for n in numbers) > expected:
            raise _BadError("bad_encoding")
        scale = self._settings.input.scale
        if scale is not None:
            steps = [[self._scaled(scale, i, n) for i, n in enumerate(step)] for step in steps]
        with np.errstate(over="ignore"):
            readings = np.array(steps, np.float64).astype(np.float32)
        if not np.isfinite(readings).all():
            raise _BadError("not_finite")
        for column, categories in enumerate(self._model.inputs.categories):
            if categories is not None and any(number not in range(categories) for number in readings[:, column].tolist()):
                raise _BadError("unknown_category")
        return readings, holes, event_ms

    def _stand_in(self, feature: int) -> float:
        """What stands for a missing number before it is scaled; for a held one anything that fits will do, it is written over."""
        policy, scale = self._policies[feature], self._settings.input.scale
        if policy == "dead_letter":
            raise _BadError("missing")
        if policy in ("mean", "hold"):
            return 0.0 if scale is None or self._is_category(feature) else _column(scale.offset, feature)
        return float(policy)

    def _is_category(self, feature: int) -> bool:
        categories = self._model.inputs.categories
        return feature < len(categories) and categories[feature] is not None

    def _scaled(self, scale: Scale, i: int, number: float) -> float:
        """A feature's number as the model takes it; a category is taken as it is."""
        if self._is_category(i):
            return number
        return (number - _column(scale.offset, i)) / _column(scale.divisor, i)

    def _steps_asked(self, record: InputRecord) -> int:
        """How many steps the last header `steps` says that a float32 record has."""
        asked = 1
        for name, text in record.headers:
            if name == "steps":
                if text is None or len(text) > 9 or not text.isdigit() or int(text) == 0:
                    raise _BadError("bad_schema")
                asked = int(text)
        return asked

    def _float32(self, value: bytes) -> tuple[list[list[Any]], None]:
        if not value or len(value) % 4:
            raise _BadError("bad_encoding")
        numbers: list[Any] = list(struct.unpack(f"<{len(value) // 4}f", value))
        features = self._model.features
        if self._may_miss:
            absent = [float(np.float32(n)) for n in self._settings.input.missing_values if isinstance(n, float)]
            numbers = [None if math.isnan(n) or n in absent else n for n in numbers]
        return [numbers[i : i + features] for i in range(0, len(numbers), features)], None

    def _object(self, value: bytes) -> Any:
        """What a JSON value holds."""
        def constant(name: str) -> None:
            if not (self._may_miss and name == "NaN"):
                raise _BadError("bad_encoding")

        def integer(digits: str) -> int | float:
            return int(digits) if len(digits) <= 300 else float(digits)

        try:
            found = json.loads(value.decode(), parse_constant=constant, parse_int=integer, object_pairs_hook=_Object)
            json.dumps(found, ensure_ascii=False).encode()
            if _levels(found) > NESTING_MAX:
                raise ValueError
        except (ValueError, RecursionError):
            raise _BadError("bad_encoding") from None
        return found

    def _json(self, value: bytes) -> tuple[list[Any], Any]:
        found = self._object(value)
        bad = self._bad_quality(found)
        steps = self._fields(found) if self._settings.input.features else [list(s) if isinstance(s, list) else s for s in _values(found)]
        for step in steps:
            if not isinstance(step, list):
                raise _BadError("bad_schema")
            for i, n in enumerate(step):
                if self._may_miss and (n is None or n is _NOTHING or bad[i : i + 1] == [True] or self._stands_for_none(n)):
                    step[i] = None
                elif not isinstance(n, int | float) or isinstance(n, bool):
                    raise _BadError("bad_schema")
        if any(isinstance(n, float) and math.isinf(n) for step in steps for n in step):
            raise _BadError("not_finite")
        where = self._settings.input.timestamp
        timestamp = None if where is None else _at(where, found)
        return steps, None if timestamp is _NOTHING else timestamp

    def _fields(self, found: Any) -> list[Any]:
        """The one step of a record whose features are fields."""
        step = [_at(name, found) for name in self._settings.input.features or ()]
        if all(n is _NOTHING for n in step):
            raise _BadError("bad_schema")
        return [step]

    def _stands_for_none(self, n: Any) -> bool:
        return not isinstance(n, bool) and isinstance(n, int | float | str) and n in self._settings.input.missing_values

    def _bad_quality(self, found: Any) -> list[bool]:
        """Of each feature, whether its quality is none of the good ones."""
        quality = self._settings.input.quality
        names = [str(name) for name in self._settings.input.features or range(self._model.features)]
        if quality is None:
            return [False] * len(names)
        if isinstance(quality.field, str):
            said = _at(quality.field, found)
            each = [said.get(name) for name in names] if isinstance(said, dict) else said if isinstance(said, list) else [said] * len(names)
            if len(each) != len(names):
                raise _BadError("bad_schema")
        else:
            each = [_at(quality.field[name], found) if name in quality.field else None for name in names]

        def good(one: Any) -> bool:
            return one is None or one is _NOTHING or any(isinstance(one, bool) == isinstance(g, bool) and one == g for g in quality.good)

        return [not good(one) for one in each]

    def _event_ms(self, timestamp: Any, record_ms: int, *, unit_given: str | None) -> int:
        if timestamp is None:
            return record_ms
        if isinstance(timestamp, str):
            digits = timestamp.lstrip("+-") if timestamp[:2] not in ("++", "--", "+-", "-+") else ""
            whole, point, rest = digits.partition(".")
            if all(part.isascii() and part.isdecimal() for part in ([whole, rest] if point else [whole])):
                timestamp = math.inf if len(timestamp) > 40 else float(timestamp) if point else int(timestamp)
        if isinstance(timestamp, str):
            try:
                when = datetime.datetime.fromisoformat(timestamp)
            except ValueError:
                raise _BadError("bad_timestamp") from None
            when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
            event_ms = (when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
        elif isinstance(timestamp, int | float) and not isinstance(timestamp, bool) and abs(timestamp) <= 1e300:
            unit = unit_given or self._settings.input.timestamp_unit
            exact = Fraction(timestamp if isinstance(timestamp, int) else repr(timestamp)) * _MS_OF.get(unit, 1)
            if unit != "auto" and unit != "ms":
                exact = Fraction(math.floor(exact))
            if abs(exact) > 2**53:
                raise _BadError("bad_timestamp")
            event_ms = math.floor(exact)
        else:
            raise _BadError("bad_timestamp")
        if unit_given is None and abs(event_ms - record_ms) > TEN_YEARS_MS:
            raise _BadError("bad_timestamp")
        if event_ms > record_ms + round(self._settings.input.ahead_max * 1000):
            raise _BadError("bad_timestamp")
        return event_ms


def _at(name: str, found: Any) -> Any:
    """What a record has at a path; _NOTHING if it has nothing there, and None if something on the way is null."""
    whole = '"' not in name and isinstance(found, dict) and name in found
    for part in [name] if whole else _keys(name):
        if not isinstance(found, dict) or part not in found:
            return _NOTHING
        found = found[part]
        if found is None:
            return None
    return found


def _keys(name: str) -> list[str]:
    """The keys of a field's name, between dots that stand outside quotes."""
    keys, quoted = [""], False
    for character in name:
        if character == '"':
            quoted = not quoted
        elif character == "." and not quoted:
            keys.append("")
        else:
            keys[-1] += character
    return keys


def _values(found: Any) -> list[Any]:
    if not isinstance(found, dict) or not isinstance(found.get("values"), list):
        raise _BadError("bad_schema")
    values: list[Any] = found["values"]
    return values if values and isinstance(values[0], list) else [values]


def _column(numbers: tuple[float, ...], i: int) -> float:
    return numbers[i] if len(numbers) > 1 else numbers[0]


def as_published(value: bytes) -> dict[str, Any]:
    """An output as expect() writes one: every number of the prediction and the residual the float32 that it stands for."""
    found: dict[str, Any] = json.loads(value)
    found["prediction"] = _float32(found["prediction"])
    if found.get("residual") is not None:
        found["residual"] = float(np.float32(found["residual"]))
    return found


def _reference_rung(model: "ServableModel") -> Run:
    from processor.model.tiles import reference_rung  # TensorFlow

    return reference_rung(model)


def keras_last(model: "ServableModel", x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keras's prediction after a whole sequence, float32 [T, F] -> [O]; a windowed model sees the last of it."""
    x = x[-model.window :] if model.mode == "windowed" and model.window else x
    keras_model = model.keras_model
    for layer in keras_model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state() if hasattr(layer, "reset_state") else layer.reset_states()
    if model.inputs.returned:
        return _handed_back(model, x)
    inputs = zip(model.inputs.each, keras_model.inputs, strict=True)
    taken = [_taken(x, given.first, given.last, tuple(tensor.shape)) for given, tensor in inputs]
    ys = [y[0] for y in _outputs(_called(keras_model, taken))]
    return np.concatenate([(y[-1] if y.ndim > 1 and len(y) == len(x) else y).reshape(-1) for y in ys])


def _called(keras_model: Any, taken: list[NDArray[np.float32]]) -> Any:
    """A Keras model on what its inputs take, as it wants them: one, a list, a dict, or lists in a list."""
    left = iter(taken)

    def packed(structure: Any) -> Any:
        if isinstance(structure, dict):
            return {key: packed(structure[key]) for key in sorted(structure)}
        return [packed(item) for item in structure] if isinstance(structure, (list, tuple)) else next(left)

    structure = getattr(keras_model, "_inputs_struct", None)
    return keras_model(taken[0] if len(taken) == 1 and not isinstance(structure, dict) else packed(structure), training=False)


def _outputs(given: Any) -> list[NDArray[np.float32]]:
    """What a Keras model gives, in the order of its outputs: of a dict, that of its keys."""
    given = [given[key] for key in sorted(given)] if isinstance(given, dict) else given
    if isinstance(given, (list, tuple)):
        return [y for inner in given for y in _outputs(inner)]
    return [np.asarray(given, np.float32)]


def _handed_back(model: "ServableModel", x: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a program runs a model that takes its states: one step a call, each with the states of the one before."""
    keras_model, ys = model.keras_model, list[NDArray[np.float32]]()
    states = [np.zeros((1, *tensor.shape[1:]), np.float32) for tensor in keras_model.inputs[1:]]
    for step in x:
        ys = _outputs(_called(keras_model, [step[None, None], *states]))
        states = ys[len(ys) - len(states) :]
    return np.concatenate([y.reshape(-1) for y in ys[: len(ys) - len(states)]])


def _taken(x: NDArray[np.float32], first: int, last: int, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """What one input of this shape takes of a sequence [T, F]: a batch of one."""
    own = x[:, first:last]
    if len(shape) > 2 or shape[1] is None:
        return own[-(shape[1] or len(own)) :].reshape(1, -1, *(size or 1 for size in shape[2:]))
    steps = (shape[1] or 1) // own.shape[1]
    return own[-steps:].reshape(1, -1)


def _float32(numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [_float32(number) for number in numbers]
    if isinstance(numbers, dict):
        return {name: _float32(of) for name, of in numbers.items()}
    return None if numbers is None else float(np.float32(numbers))


def _policies(settings: Settings, features: int) -> list[Any]:
    """What stands for a missing number of each feature: dead_letter, hold, mean or a number."""
    given = settings.input.missing
    if not isinstance(given, dict):
        return [given] * features
    names = settings.input.features or range(features)
    return [given[str(name)] if str(name) in given else given.get(str(i), "dead_letter") for i, name in enumerate(names)]


class _Object(dict[str, Any]):
    """levels: how deep it nests, with what stands under a name that comes again later and is in the dict no more."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.levels = 1 + max((_levels(value) for _, value in pairs), default=0)


def _levels(found: Any) -> int:
    if isinstance(found, _Object):
        return found.levels
    return 1 + max(map(_levels, found), default=0) if isinstance(found, list) else 0
