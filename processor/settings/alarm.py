"""The section `alarm`: when a sensor's score is an alarm, and when it no longer is."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from processor.settings.alarm_values import Clear, Learnt, Raise, Threshold, clear_rule, raise_rule, score_name, threshold_patterns
from processor.settings.section import Section
from processor.settings.values import duration, integer, kafka_name, or_null

MEAN_OF_MAX = 256
_DECIDING = ("score", "mean_of", "raise_", "clear", "repeat", "silent", "thresholds")


class Alarm(Section):
    model_config = ConfigDict(extra="forbid", frozen=True)

    score: Annotated[str, score_name()] = Field(
        default="residual",
        description="the number that is judged: residual or reconstruction (set output.residual or output.reconstruction), prediction[I], "
        "the I-th number of the prediction from 0, or predicted_NAME, of "
        "output.fields, or the model's output of that name; in the units in which it is published",
    )
    mean_of: Annotated[int, integer(1, MEAN_OF_MAX)] = Field(
        default=1, description="judge the mean of the sensor's last N scores; there is none until there are N"
    )
    raise_: Annotated[Raise | None, or_null(raise_rule())] = Field(
        default=None,
        alias="raise",
        description="raise an alarm when the score is above, or below, a threshold for so many records in a row. The threshold is a "
        "number, or learnt per sensor: so many mean absolute deviations (mad) from its mean, both decayed over warmup scores, or a "
        "quantile of its scores; nothing is raised during the first warmup scores. null: no alarms",
    )
    clear: Annotated[Clear | None, or_null(clear_rule())] = Field(
        default=None,
        description="clear it when the score is back below, or above, this for so many records in a row; without a number: where raise "
        "ends",
    )
    repeat: Annotated[float | None, or_null(duration())] = Field(
        default=None, description="publish an alarm again whenever it has lasted this much longer, by the records' times; null: never"
    )
    silent: Annotated[float | None, or_null(duration())] = Field(
        default=None,
        description="a sensor without a record for longer than this is silent, which is raised as an alarm and cleared by its next record; "
        "by its partition's time, which the records of all its sensors move; null: never",
    )
    thresholds: Annotated[dict[str, Threshold], threshold_patterns()] = Field(
        default={},
        description="thresholds of sensors whose name matches a pattern (* and ? are wildcards), in place of the one of raise: a number, "
        "or one to raise and one to clear; the first pattern that matches counts",
    )
    topic: Annotated[str | None, or_null(kafka_name())] = Field(
        default=None, description="the topic for the alarms; null: <output.topic>.alarms"
    )

    @property
    def on(self) -> bool:
        """Whether there are alarms at all."""
        return self.raise_ is not None or self.silent is not None

    def fault(self) -> tuple[str, Any, str] | None:
        """What does not fit together: the key, what was found, and what was expected. None: everything does."""
        if self.raise_ is None:
            given = [name for name in ("clear", "repeat", "thresholds") if getattr(self, name)]
            words = "alarm.raise with it: without it nothing is raised by a score"
            return (f"alarm.{given[0]}", _plain(getattr(self, given[0])), words) if given else None
        return self._fault_of_clear() or self._fault_of_thresholds()

    def _fault_of_clear(self) -> tuple[str, Any, str] | None:
        raised, clear = self.raise_, self.clear
        if raised is None or clear is None or clear.above is None:
            return None
        if clear.above == raised.above:
            return "alarm.clear", *_both_sides(raised.above)
        if isinstance(clear.at, Learnt):
            fits = isinstance(raised.at, Learnt) and raised.at.kind == "mad" and clear.at.number <= raised.at.number
            return None if fits else ("alarm.clear", "mad", "mad only where raise has mad, with no more deviations than it has")
        if isinstance(raised.at, float) and clear.at is not None and not _ordered(raised.above, raised.at, clear.at):
            return "alarm.clear", clear.at, f"no threshold past that of raise, {raised.at:g}"
        return None

    def _fault_of_thresholds(self) -> tuple[str, Any, str] | None:
        raised = self.raise_
        for name, of in self.thresholds.items():
            if raised is not None and of.clear is not None and not _ordered(raised.above, of.raise_, of.clear):
                return "alarm.thresholds", of.clear, f"for {name} no threshold to clear past the one to raise, {of.raise_:g}"
        return None

    def deciding(self) -> dict[str, Any]:
        """What decides which alarms there are, JSON-serialisable: the values that are not their defaults; nothing without alarms."""
        fields = type(self).model_fields
        values = {key: getattr(self, key) for key in _DECIDING if self.on}
        return {f"alarm.{key.rstrip('_')}": _plain(value) for key, value in values.items() if value != fields[key].default}


def _both_sides(above: bool) -> tuple[str, str]:
    found, expected = ("above", "below") if above else ("below", "above")
    return found, f"{expected}, since an alarm is raised {found} its threshold"


def _ordered(above: bool, raise_at: float, clear_at: float) -> bool:
    return clear_at <= raise_at if above else clear_at >= raise_at


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(of) for name, of in value.items()}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
