"""Carried or windowed: which of the two a model gets, the reason, and how to get the other.

Responsible for the table of modes and its words. Not responsible for how a step is made (step.py, windows.py).
"""

from dataclasses import dataclass
from typing import Any

from processor.errors import ModelRefused
from processor.model.file.admission import first_line
from processor.model.inputs import Inputs
from processor.model.names import output_names
from processor.model.pointwise import CannotStepError
from processor.model.step import Stepped, carried
from processor.model.windows import windowed, without_batch

ONE_READING = "the model is run on each reading alone, from a state of zeros, and nothing is remembered"


@dataclass(frozen=True)
class Chosen:
    mode: str
    why: str
    window: int | None
    stepped: Stepped


class Choice:
    """The table of modes: which one a file gets, the reason, and how to get the other, in one line."""

    def __init__(self, model: Any, inputs: Inputs, *, stateful: bool, mode: str, window: int | None, output: str) -> None:
        self.model, self.inputs, self.stateful, self.mode, self.window, self.output = model, inputs, stateful, mode, window, output
        self.steps = inputs.steps

    def choose(self) -> Chosen:
        if self.steps and self.window not in (None, self.steps):
            raise ModelRefused(
                f"model.window is {self.window}, the file fixes {self.steps} steps", expected="the same number", do="remove model.window"
            )
        if self.mode == "carried":
            return self._carried("model.mode is carried")
        if self.mode == "windowed":
            return self._windowed("model.mode is windowed", self._to_carried())
        if self.window is not None:
            return self._windowed("model.window is set", self._to_carried())
        return self._automatic()

    def _automatic(self) -> Chosen:
        if self.steps and not self.stateful and not self.inputs.returned:
            return self._windowed(f"the file fixes {_steps(self.steps)} and is not stateful", self._to_carried())
        try:
            carried(self.model, self.inputs)
        except CannotStepError as reason:
            return self._windowed(f"it cannot be stepped: {reason}", "")
        if self.inputs.returned:
            return self._carried("the model takes its states and gives them back")
        return self._carried("the file is stateful" if self.stateful else "the file leaves the number of steps free")

    def _carried(self, why: str) -> Chosen:
        try:
            stepped = carried(self.model, self.inputs)
        except CannotStepError as reason:
            raise ModelRefused(
                str(reason), expected="a model that can be fed one step at a time", do="set model.mode to auto or windowed"
            ) from reason
        note = "model.output all changes nothing: each step's output is given anyway" if self.output == "all" else ""
        carries = f"carried, because {why}: a sensor's state goes on from reading to reading"
        parts = carries, self.inputs.note, stepped.note, note, self._to_windowed()
        return Chosen("carried", _line(*parts), self.steps, stepped)

    def _windowed(self, why: str, other: str) -> Chosen:
        window = self.steps or self.window
        if window is None:
            raise ModelRefused(
                f"{why}, and the file leaves the number of steps free",
                expected="a number of steps",
                do="set model.window to the steps it was trained on",
            )
        try:
            free = without_batch(self.model, stateful=self.stateful)
            stepped = windowed(free, self.inputs, window, every_step=self.output == "all", names=output_names(self.model))
        except Exception as error:
            raise ModelRefused(
                f"the model cannot be run on {_steps(window)}: {first_line(error)}",
                expected="a window it accepts",
                do="set model.window to the steps it was trained on",
            ) from error
        what = f"the model is run on each sensor's last {window} readings" if window > 1 else ONE_READING
        states = "its states begin at zeros in every window, though the file is stateful" if self.stateful else ""
        return Chosen("windowed", _line(f"windowed, because {why}: {what}", states, self.inputs.note, stepped.note, other), window, stepped)

    def _to_carried(self) -> str:
        try:
            carried(self.model, self.inputs)
        except CannotStepError as reason:
            return f"it cannot be carried: {reason}"
        return "to keep a state from reading to reading instead, set model.mode: carried"

    def _to_windowed(self) -> str:
        how = "model.mode: windowed" if self.steps else "model.window: N"
        return f"to run it on a sensor's last {self.steps or 'N'} readings instead, set {how}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _line(*parts: str) -> str:
    return "; ".join(filter(None, parts))
