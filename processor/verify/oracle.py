"""The first judge of what the service publishes, made to share as little as possible with it.

Reference: the model's step, one reading a call, in the reference rung, the states in a dict. What it expects must be equal
bit for bit. The second judge is Keras (keras_judge).

Imports neither the engine, the slots nor the codec: what a record says is read by oracle_records with the standard library. The rules that
decide are written out once more, from the contract.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from processor.model.rungs import REFERENCE, Run
from processor.settings import Scale, Settings
from processor.verify.oracle_alarms import AlarmReference, Past, Record
from processor.verify.oracle_carry import Carry
from processor.verify.oracle_records import KEY_BYTES_MAX, BadError, InputRecord, RecordReader, column
from processor.verify.oracle_scores import FLAT, SCORES, Fields, Scores

if TYPE_CHECKING:  # loading a model imports TensorFlow, and the rules can be tried without it
    from processor.model.load import ServableModel

NUMBERS = ("prediction", *SCORES, "score")
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(slots=True)
class _Sensor:
    state: NDArray[np.float32]
    steps: int = 0
    previous: NDArray[np.float32] | None = None
    latest_ms: int = 0
    incomplete: bool = False
    recent: tuple[NDArray[np.float32], ...] = ()  # its last readings, as many as a prediction reconstructs
    seen: NDArray[np.float32] | None = None  # its last reading as it was fed, and when each number of it was measured
    seen_ms: list[int] = field(default_factory=list)
    past: Past = field(default_factory=Past)


@dataclass(slots=True)
class _Ahead:
    """The one sensor of a partition whose time lies too far ahead to count.

    alone_since_ms: its own time when another sensor was last heard, or where its times jumped.
    """

    key: bytes
    at_ms: int
    alone_since_ms: int


class Reference:
    """Feeds records one after another; each gives an output object, the name of a dead letter's error, or None.

    gap_partitions: those whose readings before the first one fed were lost, so that a sensor may lack some of its own.
    schemas: the text of each schema that framed records name, by id; None: the registry does not know it.
    run: the step for tiles of REFERENCE's shape; without one the model's own is compiled.
    """

    def __init__(
        self, model: "ServableModel", settings: Settings, model_id: str, *, gap_partitions: Collection[int] = (), run: Run | None = None,
        schemas: Mapping[str, str | None] | None = None,
    ) -> None:
        self._model, self._settings, self._model_id = model, settings, model_id
        self._run = _reference_rung(model) if run is None else run
        self._sensors: dict[tuple[int, bytes], _Sensor] = {}
        self._time_ms: dict[int, int] = {}  # each partition's time, and the first that it had
        self._first_ms: dict[int, int] = {}
        self._ahead: dict[int, _Ahead] = {}
        self._gap_partitions = gap_partitions
        self._scores, self._fields, self._carry = Scores(model, settings), Fields(model, settings), Carry(settings)
        self._records = RecordReader(settings, model.features, model.inputs.categories, schemas or {})
        self._alarms = AlarmReference(settings, model_id) if settings.alarm.on else None
        self._event_ms: int | None = None  # of the record that is fed, once it has moved its partition's time
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
        answer: dict[str, Any] | str | None
        self._event_ms = None
        try:
            answer = self._feed(record)
        except BadError as error:
            answer = str(error)
        if self._alarms is not None and self._event_ms is not None:
            pasts = [(key, sensor.past) for (partition, key), sensor in self._sensors.items() if partition == record.partition]
            self._alarms.passed(pasts, record, self._event_ms, self._time_ms.get(record.partition, self._event_ms))
        return answer

    def take_alarms(self) -> list[tuple[bytes, dict[str, Any]]]:
        """What is published of alarms with the records that were fed since the last call, in their order, each with its sensor."""
        return [] if self._alarms is None else self._alarms.take()

    def key_of(self, record: InputRecord) -> bytes | None:
        """As RecordReader.key_of."""
        return self._records.key_of(record)

    def headers_of(self, record: InputRecord) -> list[tuple[str, bytes | None]]:
        """Those that a record's output has."""
        return self._carry.headers(record)

    def _feed(self, record: InputRecord) -> dict[str, Any] | None:
        key = self.key_of(record)
        if key is None:
            raise BadError("no_key")
        if len(key) > KEY_BYTES_MAX:
            raise BadError("too_large")
        sensor_id = (record.partition, key)
        if record.value is None:
            known = self._sensors.pop(sensor_id, None)
            if self._alarms is not None and known is not None:
                self._alarms.forgotten(known.past, Record(record, key, record.record_ms))
            self._forgotten.add(sensor_id)
            return None
        before, after = self._records.resets(record)
        readings, holes, event_ms = self._records.parse(record)
        self._pass_time(*sensor_id, event_ms)
        self._event_ms = event_ms
        time_ms = max(event_ms, self._time_ms.get(record.partition, event_ms))  # for itself its own time counts
        sensor = None if before else self._go_on(self._sensors.get(sensor_id), event_ms, time_ms)
        incomplete = sensor.incomplete if sensor else not before and self._may_lack(sensor_id)
        begun = sensor or _Sensor(self._zeros(), 0, None, event_ms, incomplete, (), None, [])
        state, steps, previous, recent = begun.state, begun.steps, begun.previous, begun.recent
        latest_ms, seen, seen_ms = max(event_ms, begun.latest_ms), begun.seen, begun.seen_ms
        for x, missing in zip(readings, holes, strict=True):
            seen_ms = self._hold(x, missing, seen, seen_ms, event_ms)
            seen = x
        window = self._model.window if self._model.mode == "windowed" else None
        ys, scores, parts = [], dict[str, Any](), list[tuple[Any, float]]()
        for x in readings:
            y, state = self._step(x, state, unseen=window is not None and steps + 1 < window)
            steps += 1
            recent = self._scores.last([*recent, x])
            parts = self._scores.parts(x, previous) if self._alarms is not None else []
            scores = self._scores.of(x, previous, y if steps >= (window or 1) else None, recent)
            previous = y if steps >= (window or 1) else None
            ys.append(self._written(y))
        filling = window is not None and steps < window
        prediction: Any = None if filling else self._prediction(ys)
        warming = filling or incomplete or steps < self._settings.model.warmup_steps
        out = self._output(record, key, event_ms, prediction, steps, scores, warming=warming)
        self._fields.flatten(out, ys[-1])
        past = Past()
        if self._alarms is not None:
            known, at_ms = self._sensors.get(sensor_id), self._time_ms.get(record.partition, event_ms)
            judged, of = None if warming else self._judged(scores, ys[-1]), Record(record, key, event_ms)
            past = self._alarms.follow(known.past if known else None, of, at_ms, judged, parts, goes_on=sensor is not None)
            out |= self._alarms.said(past, ends=after)
        out |= self._carry.fields(record)
        if after:
            self._sensors.pop(sensor_id, None)
            self._forgotten.add(sensor_id)
        else:
            self._sensors[sensor_id] = _Sensor(state, steps, previous, latest_ms, incomplete, recent, seen, seen_ms, past)
        if holes.any():
            names = self._settings.input.features or range(self._model.features)
            out["held"] = [name for i, name in enumerate(names) if holes[:, i].any()]
        return out

    def _judged(self, scores: dict[str, Any], written: list[Any]) -> float | None:
        """The number that alarm.score names. written: what is published of a step, output by output."""
        wanted, outputs = self._settings.alarm.score, self._model.named_outputs
        if wanted in SCORES:
            return scores.get(wanted)
        if (name := wanted.removeprefix("predicted_")) != wanted and name in self._fields.names:
            return float([number for of in written for number in of][self._fields.names.index(name)])
        name, _, number = wanted.removesuffix("]").rpartition("[") if wanted.endswith("]") else (wanted, "", "0")
        of = [output.name for output in outputs].index(name.removeprefix("predicted_")) if name != "prediction" else 0
        return float(written[of][int(number)])

    def _hold(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], seen: NDArray[np.float32] | None, seen_ms: list[int], event_ms: int
    ) -> list[int]:
        """Writes what is held into a reading. Returns when each of its numbers was measured."""
        hold_max_s, times = self._settings.input.hold_max, [event_ms] * len(x)
        for i, policy in enumerate(self._records.policies):
            if missing[i] and policy == "hold":
                if seen is None or (hold_max_s is not None and event_ms - seen_ms[i] > round(hold_max_s * 1000)):
                    raise BadError("missing")
                x[i], times[i] = seen[i], seen_ms[i]
        return times

    def _output(
        self, record: InputRecord, key: bytes, event_ms: int, prediction: Any, steps: int, scores: dict[str, Any], *, warming: bool
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
            **scores,
        }
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
            raise BadError("late")
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
        given = [float(y) * column(scale.divisor, i) + column(scale.offset, i) for i, y in enumerate(row)]
        return [float(np.float32(min(max(number, -FLOAT32_MAX), FLOAT32_MAX))) for number in given]

    def _zeros(self) -> NDArray[np.float32]:
        return np.zeros(self._model.width, np.float32)

    def _step(self, x: NDArray[np.float32], state: NDArray[np.float32], *, unseen: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One reading of one sensor in an otherwise empty reference tile. unseen: its window is not full, so nobody sees the output."""
        self._x[0, 0], self._state[0] = x, state
        y, after, _ = self._run(self._x, self._counts, 1, self._state)
        if not (unseen or np.isfinite(y[0, 0]).all()) or not np.isfinite(after[0]).all():
            raise BadError("non_finite_state")
        return y[0, 0].copy(), after[0].copy()


def as_published(value: bytes) -> dict[str, Any]:
    """An output as expect() writes one: every number of the prediction and of the scores the float32 that it stands for."""
    found: dict[str, Any] = json.loads(value)
    return {name: _float32(of) if name in NUMBERS or name.startswith(FLAT) else of for name, of in dict(found).items()}


def _reference_rung(model: "ServableModel") -> Run:
    from processor.model.tiles import reference_rung  # TensorFlow

    return reference_rung(model)


def _float32(numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [_float32(number) for number in numbers]
    if isinstance(numbers, dict):
        return {name: _float32(of) for name, of in numbers.items()}
    return None if numbers is None else float(np.float32(numbers))
