"""From a Keras file to a model that can be served, or to the reason why it cannot.

Responsible for what a file may hold, for choosing between carried and windowed, and for turning everything Keras raises into one
refusal. Not responsible for telling files apart (file/admission.py), for how a step is made (step.py) nor for compiling it
(tiles.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from processor.errors import ModelRefused
from processor.model.advice import past_window, trial
from processor.model.backend import keras
from processor.model.file import contents, own_code
from processor.model.file.own_code import CodeFile
from processor.model.file.reading import build, read
from processor.model.fingerprint import digest
from processor.model.inputs import Input, Inputs, inputs_of
from processor.model.mode import Choice
from processor.model.names import in_file, make_usable
from processor.model.own_layers import as_graph, check_pure
from processor.model.rungs import memory_bytes
from processor.model.step import Step, Stepped, leaf_layers, state_widths
from processor.records import Output

ROW_NUMBERS_MAX = 1 << 20  # the reference rung's 512 rows then take 2 GB
MODES = ("auto", "carried", "windowed")
OUTPUTS = ("last", "all")


@dataclass(frozen=True)
class ServableModel:
    """A model and its step.

    mode: "carried" or "windowed"; why: the mode, the reason and the way to the other, in one line. inputs: what a reading is made of.
    named_outputs: what a prediction is made of, side by side in y; never per_step when windowed. window: the steps of the window; carried:
    the number of steps the file fixes, if any. trained_window: that number where it was the length of every sequence in training, so that
    a state carried past it is something the model has not seen; None when windowed, stateful or free.
    row_numbers: the most numbers that one row has on its way, which bounds the rows of a tile.
    widths: of the states, in graph order. step: (x float32 [B, 1, F], states float32 [B, w]) -> (y float32 [B, O], new states).
    digest: sha256 of architecture (without names) and weights. A sensor's states are zeros at first.
    """

    path: Path
    mode: str
    why: str
    inputs: Inputs
    named_outputs: tuple[Output, ...]
    window: int | None
    trained_window: int | None
    row_numbers: int
    widths: tuple[int, ...]
    step: Step
    digest: str
    keras_model: Any

    @property
    def features(self) -> int:
        """F, the numbers of a reading."""
        return self.inputs.features

    @property
    def outputs(self) -> int:
        """O, the numbers of a prediction's row y."""
        return self.named_outputs[-1].last

    @property
    def per_step(self) -> bool:
        """A record of several steps has several predictions, of one output at least."""
        return any(output.per_step for output in self.named_outputs)

    @property
    def output_steps(self) -> int | None:
        """T where the one output of a windowed model is T rows, flat in y."""
        return self.named_outputs[0].rows if len(self.named_outputs) == 1 else None

    @property
    def width(self) -> int:
        """W, the numbers of a state row."""
        return sum(self.widths)

    @property
    def state_bytes(self) -> int:
        return 4 * self.width


def load(
    path: Path, *, mode: str = "auto", window: int | None = None, output: str = "last", code: CodeFile | None = None
) -> ServableModel:
    """Loads and judges a model file. Raises ModelRefused, naming what was found, for every file that cannot be served.

    code: the Python file that is run for it; without one, nothing is.
    """
    _check_options(mode, window, output)
    own = own_code.run(code) if code is not None else None
    file = read(path, own)
    model = build(path, file, own)
    if own is not None:
        model = as_graph(model, file.config)
    _check_shapes(model)
    make_usable(model)
    _check_weights(model)
    stateful = contents.is_stateful(file.config)
    inputs = inputs_of(model, window)
    if own is not None:
        check_pure(model, inputs)
    chosen = Choice(model, inputs, stateful=stateful, mode=mode, window=window, output=output).choose()
    stepped = chosen.stepped
    _check_size(stepped)
    return ServableModel(
        path=path,
        mode=chosen.mode,
        why=chosen.why if own is None else f"{chosen.why}; {own.path} defines {own.defines}, and is run",
        inputs=inputs,
        named_outputs=stepped.outputs,
        window=chosen.window,
        trained_window=chosen.window if chosen.mode == "carried" and not stateful and not inputs.returned else None,
        row_numbers=_row_numbers(stepped),
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
        "inputs": [_describe_input(given) for given in model.inputs.each] if model.inputs.note else None,
        "outputs": model.outputs,
        "named_outputs": [_describe_output(output) for output in model.named_outputs] if len(model.named_outputs) > 1 else None,
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


def _describe_input(given: Input) -> dict[str, Any]:
    said = {"name": given.name, "kind": given.kind, "numbers": given.last - given.first, "steps": given.steps, "shape": list(given.shape)}
    return {**said, "categories": list(given.categories) if any(given.categories) else None}


def _describe_output(output: Output) -> dict[str, Any]:
    return {"name": output.name, "numbers": output.last - output.first, "per_step": output.per_step, "steps": output.rows}


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


def _check_shapes(model: Any) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelRefused(
            f"the file holds a {type(model).__name__} without inputs",
            expected="a Sequential or Functional model",
            do="give it an Input and save it again; a layer of your own in a TimeDistributed needs a compute_output_shape as well",
        )
    for output in model.outputs:
        _check_output(output)


def _check_output(tensor: Any) -> None:
    shape = tuple(tensor.shape)
    if None in (shape[2:] if len(shape) > 2 else shape[1:]):
        raise ModelRefused(
            f"the output {shape} does not say how many numbers it has", expected="a known number of outputs", do="give it a known shape"
        )


def _check_weights(model: Any) -> None:
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ModelRefused(f"the weights {weight.path} hold NaN or infinity", expected="finite weights", do="train the model again")


def _row_numbers(stepped: Stepped) -> int:
    return max(stepped.row_numbers, stepped.outputs[-1].last, sum(stepped.widths))


def _check_size(stepped: Stepped) -> None:
    found = _row_numbers(stepped)
    if found > ROW_NUMBERS_MAX:
        raise ModelRefused(
            f"one sensor takes {found:,} numbers at once on its way through the model",
            expected=f"at most {ROW_NUMBERS_MAX:,}",
            do="set a shorter model.window, or serve a model of fewer units",
        )
