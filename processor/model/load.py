"""From a Keras file to a model that can be served, or to the reason why it cannot.

Responsible for what a file may hold, for choosing between carried and windowed, and for turning everything Keras raises into one
refusal. Not responsible for telling files apart (file/admission.py), for how a step is made (step.py) nor for compiling it
(tiles.py).
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from processor.errors import ModelRefused
from processor.model.advice import past_window, trial
from processor.model.backend import keras
from processor.model.file import contents, formats, h5, weight_limit
from processor.model.file.admission import (
    A_MODEL_FILE,
    broken,
    check_bytes,
    check_file,
    check_version,
    first_line,
    kind_of,
    no_model_in_zip,
)
from processor.model.file.formats import SAVE_AGAIN
from processor.model.fingerprint import digest
from processor.model.names import in_file, make_usable
from processor.model.rungs import memory_bytes
from processor.model.step import CannotStepError, Step, Stepped, carried, leaf_layers, state_widths
from processor.model.windows import windowed, without_batch

ROW_NUMBERS_MAX = 1 << 20  # the reference rung's 512 rows then take 2 GB
MODES = ("auto", "carried", "windowed")
OUTPUTS = ("last", "all")
CONFIG_BYTES_MAX = 16 << 20
WEIGHTS = "model.weights.h5"


@dataclass(frozen=True)
class ServableModel:
    """A model and its step.

    mode: "carried" or "windowed"; why: the mode, the reason and the way to the other, in one line. features: F. outputs: O, numbers a
    step. per_step: a prediction holds the outputs of each of its steps, not the last one alone; never so when windowed. output_steps: T
    where one prediction of a windowed model is T rows, flat in y, so that O = T * numbers a row; else None. window: the steps of the
    window; carried: the number of steps the file fixes, if any. trained_window: that number where it was the length of every sequence
    in training, so that a state carried past it is something the model has not seen; None when windowed, stateful or free.
    row_numbers: the most numbers that one row has on its way, which bounds the rows of a tile.
    widths: of the states, in graph order. step: (x float32 [B, 1, F], states float32 [B, w]) -> (y float32 [B, O], new states).
    digest: sha256 of architecture (without names) and weights. A sensor's states are zeros at first.
    """

    path: Path
    mode: str
    why: str
    features: int
    outputs: int
    per_step: bool
    output_steps: int | None
    window: int | None
    trained_window: int | None
    row_numbers: int
    widths: tuple[int, ...]
    step: Step
    digest: str
    keras_model: Any

    @property
    def width(self) -> int:
        """W, the numbers of a state row."""
        return sum(self.widths)

    @property
    def state_bytes(self) -> int:
        return 4 * self.width


def load(path: Path, *, mode: str = "auto", window: int | None = None, output: str = "last") -> ServableModel:
    """Loads and judges a model file. Raises ModelRefused, naming what was found, for every file that cannot be served."""
    _check_options(mode, window, output)
    file = _read(path)
    model = _load_keras(path, file.kind, file.weight_bytes)
    _check_shapes(model)
    make_usable(model)
    _check_weights(model)
    stateful = contents.is_stateful(file.config)
    chosen = _Choice(model, stateful=stateful, mode=mode, window=window, output=output).choose()
    stepped = chosen.stepped
    _check_size(stepped)
    return ServableModel(
        path=path,
        mode=chosen.mode,
        why=chosen.why,
        features=int(model.inputs[0].shape[2]),
        outputs=stepped.outputs,
        per_step=stepped.per_step and chosen.mode == "carried",
        output_steps=stepped.output_steps,
        window=chosen.window,
        trained_window=chosen.window if chosen.mode == "carried" and not stateful else None,
        row_numbers=max(stepped.row_numbers, stepped.outputs, sum(stepped.widths)),
        widths=stepped.widths,
        step=stepped.step,
        digest=digest(model),
        keras_model=model,
    )


def describe(model: ServableModel) -> dict[str, Any]:
    """What `model show --json` prints of a servable model."""
    return {
        "servable": True,
        "mode": model.mode,
        "why": model.why,
        "features": model.features,
        "outputs": model.outputs,
        "per_step": model.per_step,
        "output_steps": model.output_steps,
        "window": model.window,
        "trained_window": model.trained_window,
        "past_window": advice.text if (advice := past_window(model)) else None,
        "state_bytes": model.state_bytes,
        "tried": trial(model),
        "memory_mb": round(memory_bytes(model.row_numbers) / 1e6) if model.mode == "windowed" else None,
        "fingerprint": model.digest,
        "layers": [_describe_layer(layer, model.mode) for layer in leaf_layers(model.keras_model)],
    }


def describe_file(path: Path, **options: Any) -> dict[str, Any]:
    """As describe, for a file that may not be servable; options as for load."""
    try:
        return describe(load(path, **options))
    except ModelRefused as refused:
        return {"servable": False, "why": str(refused)}


def _describe_layer(layer: Any, mode: str) -> dict[str, Any]:
    outputs = keras.tree.flatten(layer._inbound_nodes[0].outputs) if layer._inbound_nodes else []
    return {
        "name": in_file(layer),
        "type": type(layer).__name__,
        "output_shape": list(outputs[0].shape) if outputs else None,
        "state_width": sum(state_widths(layer)) if mode == "carried" else 0,
    }


def _check_options(mode: str, window: int | None, output: str) -> None:
    if mode not in MODES:
        raise ModelRefused(f"model.mode is {mode!r}", expected=f"one of {', '.join(MODES)}", do="correct model.mode")
    if output not in OUTPUTS:
        raise ModelRefused(f"model.output is {output!r}", expected=f"one of {', '.join(OUTPUTS)}", do="correct model.output")
    if window is not None and window < 1:
        raise ModelRefused(f"model.window is {window}", expected="at least 1 step", do="correct model.window")
    if window is not None and mode == "carried":
        raise ModelRefused(
            f"model.window is {window} with model.mode carried", expected="a window only for windowed", do="remove one of the two"
        )


# --- what a file may hold


@dataclass(frozen=True)
class _File:
    """What a model file says before anything is built.

    kind: ".keras" or ".h5"; config: the architecture; weight_bytes: what its weights take in memory.
    """

    kind: str
    config: dict[str, Any]
    weight_bytes: int


def _read(path: Path) -> _File:
    """Reads a file as far as it can be judged without building anything of it."""
    check_file(path)
    kind = kind_of(path)
    try:
        file = _read_h5(path) if kind == ".h5" else _read_zip(path)
        contents.check(file.config)
    except ModelRefused:
        raise
    except RecursionError as error:
        raise ModelRefused(
            f"{path} is nested too deep to be read", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN
        ) from error
    except Exception as error:  # zipfile, zlib, h5py and json each have their own ways to say that bytes are broken
        raise broken(path, error) from error
    check_bytes(f"the weights in {path} take", file.weight_bytes)
    return file


def _read_zip(path: Path) -> _File:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise no_model_in_zip(path, names)
        check_bytes(f"{path}, unpacked, has", sum(member.file_size for member in archive.infolist()))
        check_bytes("its config.json has", archive.getinfo("config.json").file_size, bytes_max=CONFIG_BYTES_MAX)
        if damaged := archive.testzip():
            raise ModelRefused(f"{path} is damaged in its {damaged}", expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN)
        if "metadata.json" in names:
            check_version(path, json.loads(archive.read("metadata.json")).get("keras_version"))
        config = json.loads(archive.read("config.json"))
        if WEIGHTS not in names:
            raise ModelRefused(f"{path} holds an architecture without weights", expected=A_MODEL_FILE, do=SAVE_AGAIN)
        with h5py.File(io.BytesIO(archive.read(WEIGHTS)), "r") as file:
            return _File(".keras", config, h5.declared_bytes(file))


def _read_h5(path: Path) -> _File:
    head = h5.read_apart(path)
    if head.config is None:
        raise ModelRefused(f"{path} holds weights only, no model", expected=A_MODEL_FILE, do=formats.TWO_HALVES)
    check_version(path, head.version)
    check_bytes("its architecture has", len(head.config), bytes_max=CONFIG_BYTES_MAX)
    return _File(".h5", json.loads(head.config), head.weight_bytes)


# --- what Keras makes of it


@contextmanager
def _under_its_kind(path: Path, kind: str) -> Iterator[Path]:
    """A name for the file that ends in its kind: Keras goes by the name and not by what is in a file."""
    if path.suffix == kind:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{kind}"
        link.symlink_to(path.resolve())
        yield link


def _load_keras(path: Path, kind: str, weight_bytes: int) -> Any:
    """The model, built by Keras without custom objects; the one place where what Keras raises becomes a refusal."""
    limit = weight_limit.Limit(weight_bytes)
    try:
        with warnings.catch_warnings(), limit.held():
            warnings.simplefilter("ignore")
            with _under_its_kind(path, kind) as named:
                return keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as error:
        found = f"Keras cannot load {path}: {first_line(error)}"
        if limit.exceeded:
            found = f"the layers in {path} are larger than the weights in it, which have {weight_bytes:,} bytes"
        raise ModelRefused(found, expected=A_MODEL_FILE, do="copy the file again, or " + SAVE_AGAIN) from error


def _check_shapes(model: Any) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelRefused(
            f"the file holds a {type(model).__name__} without inputs",
            expected="a Sequential or Functional model",
            do="give it an Input and save it again",
        )
    for what, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            shapes = ", ".join(f"{t.name} {t.shape}" for t in tensors)
            raise ModelRefused(
                f"the model has {len(tensors)} {what}s ({shapes})", expected=f"one {what}", do=f"save a model with one {what}"
            )
    _check_input(model.inputs[0])
    _check_output(model.outputs[0])


def _check_input(tensor: Any) -> None:
    shape = tuple(tensor.shape)
    if tensor.dtype != "float32":
        raise ModelRefused(f"the input's numbers are {tensor.dtype}", expected="float32", do="rebuild the model with a float32 input")
    if len(shape) == 2:
        raise ModelRefused(
            f"the input {shape} has no time axis", expected="an input of [batch, steps, features]", do="serve a model of sequences"
        )
    if len(shape) != 3:
        raise ModelRefused(
            f"the input {shape} has {len(shape)} axes",
            expected="an input of [batch, steps, features]",
            do="serve a model of such sequences",
        )
    if shape[2] is None:
        raise ModelRefused(
            f"the input {shape} does not say how many features it has",
            expected="a known number of features",
            do="give its Input a number of features",
        )


def _check_output(tensor: Any) -> None:
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3):
        raise ModelRefused(
            f"the output {shape} has {len(shape)} axes", expected="[batch, outputs] or [batch, steps, outputs]", do="flatten the output"
        )
    if shape[-1] is None:
        raise ModelRefused(
            f"the output {shape} does not say how many numbers it has", expected="a known number of outputs", do="give it a known shape"
        )
    if tensor.dtype != "float32":
        raise ModelRefused(f"the output's numbers are {tensor.dtype}", expected="float32", do="rebuild the model with a float32 output")


def _check_weights(model: Any) -> None:
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ModelRefused(f"the weights {weight.path} hold NaN or infinity", expected="finite weights", do="train the model again")


def _check_size(stepped: Stepped) -> None:
    found = max(stepped.row_numbers, stepped.outputs, sum(stepped.widths))
    if found > ROW_NUMBERS_MAX:
        raise ModelRefused(
            f"one sensor takes {found:,} numbers at once on its way through the model",
            expected=f"at most {ROW_NUMBERS_MAX:,}",
            do="set a shorter model.window, or serve a model of fewer units",
        )


# --- carried or windowed


@dataclass(frozen=True)
class _Chosen:
    mode: str
    why: str
    window: int | None
    stepped: Stepped


class _Choice:
    """The table of modes: which one a file gets, the reason, and how to get the other, in one line."""

    def __init__(self, model: Any, *, stateful: bool, mode: str, window: int | None, output: str) -> None:
        self.model, self.stateful, self.mode, self.window, self.output = model, stateful, mode, window, output
        steps = model.inputs[0].shape[1]
        self.steps: int | None = None if steps is None else int(steps)

    def choose(self) -> _Chosen:
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

    def _automatic(self) -> _Chosen:
        if self.steps and not self.stateful:
            return self._windowed(f"the file fixes {_steps(self.steps)} and is not stateful", self._to_carried())
        try:
            carried(self.model)
        except CannotStepError as reason:
            return self._windowed(f"it cannot be stepped: {reason}", "")
        return self._carried("the file is stateful" if self.stateful else "the file leaves the number of steps free")

    def _carried(self, why: str) -> _Chosen:
        try:
            stepped = carried(self.model)
        except CannotStepError as reason:
            raise ModelRefused(
                str(reason), expected="a model that can be fed one step at a time", do="set model.mode to auto or windowed"
            ) from reason
        note = "model.output all changes nothing: each step's output is given anyway" if self.output == "all" else ""
        parts = f"carried, because {why}: a sensor's state goes on from reading to reading", stepped.note, note, self._to_windowed()
        return _Chosen("carried", _line(*parts), self.steps, stepped)

    def _windowed(self, why: str, other: str) -> _Chosen:
        window = self.steps or self.window
        if window is None:
            raise ModelRefused(
                f"{why}, and the file leaves the number of steps free",
                expected="a number of steps",
                do="set model.window to the steps it was trained on",
            )
        try:
            free = without_batch(self.model, stateful=self.stateful)
            stepped = windowed(free, window, every_step=self.output == "all")
        except Exception as error:
            raise ModelRefused(
                f"the model cannot be run on {_steps(window)}: {first_line(error)}",
                expected="a window it accepts",
                do="set model.window to the steps it was trained on",
            ) from error
        what = f"the model is run on each sensor's last {window} readings" if window > 1 else ONE_READING
        states = "its states begin at zeros in every window, though the file is stateful" if self.stateful else ""
        return _Chosen("windowed", _line(f"windowed, because {why}: {what}", states, stepped.note, other), window, stepped)

    def _to_carried(self) -> str:
        try:
            carried(self.model)
        except CannotStepError as reason:
            return f"it cannot be carried: {reason}"
        return "to keep a state from reading to reading instead, set model.mode: carried"

    def _to_windowed(self) -> str:
        how = "model.mode: windowed" if self.steps else "model.window: N"
        return f"to run it on a sensor's last {self.steps or 'N'} readings instead, set {how}"


ONE_READING = "the model is run on each reading alone, from a state of zeros, and nothing is remembered"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _line(*parts: str) -> str:
    return "; ".join(filter(None, parts))
