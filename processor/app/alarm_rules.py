"""What the settings on alarms make of a model's numbers: which one is judged, and by which rule. What does not fit is refused.

Needs no broker. Must not judge a record: alarms.Decider does.
"""

import re
from typing import TYPE_CHECKING

from processor.alarms import Decider
from processor.alarms.learn import Deviations, Learner, Quantile
from processor.alarms.rule import Rule
from processor.alarms.score import Score
from processor.app.named_columns import fields_of, of_many_steps, scales_of
from processor.app.scored_outputs import residual_of
from processor.errors import ConfigurationError
from processor.records import Output
from processor.settings import Alarm, Learnt, Raise, Settings

if TYPE_CHECKING:
    from processor.model.load import ServableModel

SEE = "settings-and-model-do-not-fit"


def decider_of(settings: Settings, model: "ServableModel") -> Decider | None:
    """None without alarms. Raises ConfigurationError."""
    raised = settings.alarm.raise_
    if raised is None:
        return None
    return Decider(rule_of(settings.alarm, raised), _score(settings, model))


def silent_ms_of(settings: Settings) -> int | None:
    """How long a sensor may have no record. Raises ConfigurationError."""
    silent_s, expire_s = settings.alarm.silent, settings.state.expire_after
    if silent_s is not None and expire_s is not None:
        raise ConfigurationError(
            "alarm.silent is set, and state.expire_after too",
            expected="sensors that do not expire: a silent one must be remembered until it is heard again",
            do="set state.expire_after to null, and reset.after_gap to begin a sensor anew that was away",
            see=SEE,
        )
    return None if silent_s is None else round(silent_s * 1000)


def rule_of(alarm: Alarm, raised: Raise) -> Rule:
    clear = alarm.clear
    learner = _learner(alarm, raised, raised.at) if isinstance(raised.at, Learnt) else None
    return Rule(
        above=raised.above,
        raise_at=None if isinstance(raised.at, Learnt) else raised.at,
        learner=learner,
        raise_for=raised.readings,
        clear_at=clear.at if clear is not None and isinstance(clear.at, float) else None,
        clear_for=1 if clear is None else clear.readings,
        mean_of=alarm.mean_of,
        repeat_ms=None if alarm.repeat is None else round(alarm.repeat * 1000),
        patterns=[(pattern, of.raise_, of.clear) for pattern, of in alarm.thresholds.items()],
    )


def _learner(alarm: Alarm, raised: Raise, at: Learnt) -> Learner:
    if at.kind == "quantile":
        return Quantile(at.number, at.warmup)
    clear = alarm.clear.at if alarm.clear is not None else None
    return Deviations(raised.above, at.number, at.warmup, clear.number if isinstance(clear, Learnt) else None)


def _score(settings: Settings, model: "ServableModel") -> Score:
    wanted, output = settings.alarm.score, settings.output
    if (wanted == "residual" and not output.residual) or (wanted == "reconstruction" and not output.reconstruction):
        raise ConfigurationError(
            f"alarm.score is {wanted}, and output.{wanted} is false",
            expected=f"a {wanted} to judge",
            do=f"set output.{wanted}, or name a number of the prediction in alarm.score: prediction[0]",
            see=SEE,
        )
    if wanted == "residual":
        return Score("residual", features=tuple(residual_of(model, settings).values()))
    if wanted == "reconstruction":
        return Score("reconstruction")
    named, number = _field(wanted, fields_of(model, settings), model.named_outputs) or _output(wanted, model.named_outputs)
    scale = scales_of(model, settings)[model.named_outputs.index(named)]
    if scale is None:
        return Score("prediction", named.first + number)
    column = scale.column(number)
    return Score("prediction", named.first + number, column.offset[0], column.divisor[0])


def _field(wanted: str, fields: tuple[str, ...], outputs: tuple[Output, ...]) -> tuple[Output, int] | None:
    """The number that output.fields names so: its output, and its place there."""
    name = wanted.removeprefix("predicted_")
    if name == wanted or name not in fields:
        return None
    number = fields.index(name)
    found = next(output for output in outputs if number < output.last)
    return found, number - found.first


def _output(wanted: str, outputs: tuple[Output, ...]) -> tuple[Output, int]:
    """The output that is meant, and the number in it."""
    match = re.fullmatch(r"prediction(?:\[(\d+)\])?", wanted)
    if match is not None:
        if len(outputs) > 1:
            raise _unknown(wanted, outputs)
        found, number = outputs[0], match[1]
    else:
        # An output whose own name ends in brackets is found before one of its numbers is.
        name, number = wanted.removeprefix("predicted_"), None
        by_name = {output.name: output for output in outputs}
        if name not in by_name and (match := re.fullmatch(r"(.*)\[(\d+)\]", name)):
            name, number = match[1], match[2]
        if name not in by_name:
            raise _unknown(wanted, outputs)
        found = by_name[name]
    numbers = found.last - found.first
    if found.rows is not None:
        raise of_many_steps(f"alarm.score is {wanted}", found.rows)
    if (number is None and numbers > 1) or (number is not None and int(number) >= numbers):
        raise _unknown(wanted, outputs)
    return found, int(number or 0)


def _unknown(wanted: str, outputs: tuple[Output, ...]) -> ConfigurationError:
    if len(outputs) == 1:
        numbers = outputs[0].last - outputs[0].first
        known = "prediction[0]" if numbers == 1 else f"prediction[0] to prediction[{numbers - 1}]"
    else:
        known = ", ".join(
            f"predicted_{output.name}{'' if (n := output.last - output.first) == 1 else f'[0] to [{n - 1}]'}" for output in outputs
        )
    return ConfigurationError(
        f"alarm.score is {wanted}, which the model does not give",
        expected=f"residual, or one number of a prediction: {known}",
        do="correct alarm.score",
        see=SEE,
    )
