"""What became of alarms to bytes: one JSON object for each time that one is raised, cleared or repeated.

Knows the form of such a record, nothing of what makes an alarm. What it says follows from the log alone: the id is that of the record that
raised the alarm, so it is the same for all that becomes of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from processor.codec.columns import KEY_BYTES_MAX
from processor.codec.encode import shown
from processor.records import ALARM_FEATURES_MAX, CLEARED, RAISED, SILENT, AlarmEvent, Applied, Batch

NORMAL = "normal"
TOPIC_BYTES_MAX = 249
# Names, seven numbers, the topic in the id, and the sensor's name escaped at six bytes for one.
ENVELOPE_BYTES_MAX = 768 + TOPIC_BYTES_MAX + 6 * KEY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class AlarmEncoder:
    """topic: the input's. model_id: which model and settings it is of. names: of the features, or their numbers."""

    topic: str
    model_id: str
    names: Sequence[str | int]

    def encode(self, batch: Batch, applied: Applied) -> list[tuple[int, bytes, bytes]]:
        """The index of the record that it came with, the sensor, and what became of its alarm, in the order of the records."""
        events, option = applied.alarm_events(), orjson.OPT_SERIALIZE_NUMPY
        told = [orjson.dumps(self._told(batch, event), option=option) for event in events]
        return [(event.record, event.sensor or batch.key[event.record], value) for event, value in zip(events, told, strict=True)]

    def _told(self, batch: Batch, event: AlarmEvent) -> dict[str, Any]:
        i = event.record
        partition = batch.partition[i]
        told = {
            "id": f"{self.topic}-{partition}-{event.raised_at}{'-silent' if event.level == SILENT else ''}",
            "sensor": shown(batch.key[i] if event.sensor is None else event.sensor),
            "state": event.state,
            "level": NORMAL if event.state == CLEARED else event.level,
            "previous_level": NORMAL if event.state == RAISED else event.level,
            "since": event.since_ms,
            "timestamp": int(batch.event_ms[i]),
            "score": None if event.score is None else np.float32(event.score),  # the shortest decimals, as in predictions
            "threshold": event.threshold,
            "partition": partition,
            "offset": int(batch.offset[i]),
            "model": self.model_id,
        }
        if event.reason is not None:
            told["reason"] = event.reason
        if event.features:
            told["features"] = [{"feature": self.names[feature], "residual": np.float32(residual)} for feature, residual in event.features]
        return told

    @property
    def bytes_max(self) -> int:
        """The largest record that encode() can write."""
        return ENVELOPE_BYTES_MAX + ALARM_FEATURES_MAX * max((len(orjson.dumps(name)) + 64 for name in self.names), default=0)
