"""A model's inputs as columns of one reading: which numbers go to which input, and in which form.

A reading is one row of numbers: those of the inputs lie side by side, in the file's order, each flattened in row order. Responsible for
telling a sequence from values of the machine (static), and for cutting readings into what the model takes. Not responsible for running it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from processor.errors import ModelRefused
from processor.model.backend import keras, tf
from processor.model.graphs import is_graph
from processor.model.names import in_file
from processor.model.pointwise import whole_key

L = keras.layers
RECURRENT = (L.LSTM, L.GRU, L.SimpleRNN, L.RNN)
Kind = Literal["sequence", "flat", "static", "state"]


@dataclass(frozen=True)
class Input:
    """The numbers first to last of a reading, without last.

    kind: sequence [batch, steps, ...]; flat: a whole window in one row, [batch, steps * numbers]; static [batch, ...]: as of the latest
    reading; state: what a recurrent layer begins with and gives back, no number of a reading. steps: of a window, None where the file
    leaves them free; 1 if static or state. shape: of one step. categories: for each number how many it has, None: any number.
    """

    name: str
    kind: Kind
    first: int
    last: int
    steps: int | None
    shape: tuple[int, ...]
    dtype: str
    categories: tuple[int | None, ...] = ()

    def of(self, readings: Any) -> Any:
        """What the model takes of readings [B, steps, F], the latest last."""
        if self.kind == "state":
            return tf.zeros((tf.shape(readings)[0], *self.shape), self.dtype)
        own = readings[:, :, self.first : self.last]
        if self.kind == "static":
            own = tf.reshape(own[:, -1], (-1, *self.shape))
        elif self.kind == "flat":
            own = tf.reshape(own[:, -(self.steps or 1) :], (-1, (self.steps or 1) * prod(self.shape)))
        else:
            own = own if self.steps is None else own[:, -self.steps :]
            own = tf.reshape(own, (-1, own.shape[1], *self.shape))
        return own if self.dtype == "float32" else tf.cast(own, self.dtype)


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model, in its order. returned: the places of the outputs that are states given back."""

    each: tuple[Input, ...]
    returned: frozenset[int] = frozenset()

    @property
    def features(self) -> int:
        return self.each[-1].last

    @property
    def steps(self) -> int | None:
        """Of the longest window that the file fixes; None where it leaves the steps free."""
        steps = [given.steps for given in self.each if given.kind in ("sequence", "flat")] or [1]
        return None if None in steps else max(count for count in steps if count is not None)

    @property
    def categories(self) -> tuple[int | None, ...]:
        """Of each feature, how many categories it has; None for a measurement."""
        return tuple(count for given in self.each for count in given.categories)

    def of(self, readings: Any) -> list[Any]:
        """What the model takes of readings float32 [B, steps, F]."""
        return [given.of(readings) for given in self.each]

    def plausible(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Made-up readings [..., F] with whole numbers where the model takes categories."""
        made = np.array(x, np.float32)
        for column, count in enumerate(self.categories):
            if count is not None:
                made[..., column] = np.floor(np.abs(made[..., column]) * 1000) % count
        return made

    @property
    def note(self) -> str:
        """What a reading holds, where it is not plainly the features of one sequence; else empty."""
        taken = [given for given in self.each if given.kind != "state"]
        states = [given.name for given in self.each if given.kind == "state"]
        parts = [_said(given, alone=len(taken) == 1) for given in taken]
        said = [f"its states {', '.join(states)} are kept from step to step"] if states else []
        if len(parts) > 1:
            said.append(f"a reading is {self.features} numbers: {', then '.join(parts)}")
        elif parts[0]:
            said.append(f"a reading is {parts[0]}")
        return "; ".join(said)

    def without_states(self, outputs: Sequence[Any]) -> list[Any]:
        """Those of a model's outputs that are no states given back."""
        return [output for place, output in enumerate(outputs) if place not in self.returned]


def inputs_of(model: Any, window: int | None) -> Inputs:
    """window: model.window, by which a flat input without a Reshape is cut. Raises ModelRefused."""
    names = _names(model)
    for name, tensor in zip(names, model.inputs, strict=True):
        _check(name, tensor)
    states, returned = _handed_back(model)
    sequences = [tensor for tensor in model.inputs if len(tensor.shape) > 2 or tensor.shape[1] is None]
    steps = {int(tensor.shape[1]) for tensor in sequences if tensor.shape[1] is not None}
    found, first = list[Input](), 0
    for place, (name, tensor) in enumerate(zip(names, model.inputs, strict=True)):
        if place in states:
            found.append(Input(name, "state", first, first, 1, tuple(tensor.shape[1:]), tensor.dtype))
            continue
        kind, own_steps, shape = _form(name, model, tensor, window, steps, alone=not sequences)
        last = first + prod(shape)
        found.append(Input(name, kind, first, last, own_steps, shape, tensor.dtype, _categories(model, tensor, shape)))
        first = last
    return Inputs(tuple(found), returned)


def _handed_back(model: Any) -> tuple[frozenset[int], frozenset[int]]:
    """The inputs with which recurrent layers begin and the outputs that are their states afterwards, by place, where both are there.

    Whoever runs such a model gives it its states at each call, and takes them from it.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    inputs, outputs = ({id(tensor): place for place, tensor in enumerate(tensors)} for tensors in (model.inputs, model.outputs))
    taken, returned = set[int](), set[int]()
    for layer in graph.operations:
        for node in layer._inbound_nodes if type(layer) in RECURRENT and layer.return_state else ():
            given_to = [node.arguments.args[1:], node.arguments.kwargs.get("initial_state")]
            initial = [tensor for tensor in keras.tree.flatten(given_to) if tensor is not None]
            given, back = [inputs.get(id(tensor)) for tensor in initial], [outputs.get(id(tensor)) for tensor in node.outputs[1:]]
            ours = all(_consumers(model, tensor) == [layer] for tensor in initial if id(tensor) in inputs)
            if initial and ours and len(given) == len(back):
                places = [(i, o) for i, o in zip(given, back, strict=True) if i is not None and o is not None]
                if len(places) == len(given):
                    taken |= {i for i, _ in places}
                    returned |= {o for _, o in places}
    return frozenset(taken), frozenset(returned)


def _names(model: Any) -> list[str]:
    return [in_file(tensor._keras_history.operation) for tensor in model.inputs]


def _check(name: str, tensor: Any) -> None:
    shape = tuple(tensor.shape)
    if len(shape) < 2 or None in (shape[2:] if len(shape) > 2 else ()):
        raise ModelRefused(
            f"the input {name} {shape} does not say how many features it has",
            expected="a known number of features",
            do="give its Input a number of features",
        )
    if not ("float" in tensor.dtype or "int" in tensor.dtype):
        raise ModelRefused(
            f"the numbers of the input {name} are {tensor.dtype}",
            expected="floating point, or whole numbers",
            do="rebuild the model with a float32 input",
        )


def _form(
    name: str, model: Any, tensor: Any, window: int | None, steps: set[int], *, alone: bool
) -> tuple[Kind, int | None, tuple[int, ...]]:
    """Kind, steps and the shape of a step. alone: no input has a time axis beside the batch. steps: those of the inputs that have one."""
    shape = tuple(tensor.shape)
    if len(shape) > 2:
        return "sequence", shape[1], shape[2:]
    size = shape[1]
    if size is None:
        return "sequence", None, ()
    inside = _reshaped_steps(model, tensor)
    if _embedded(model, tensor) and (size in steps or (alone and size > 1)):
        return "sequence", size, ()
    if inside in steps and size % inside == 0:
        return "flat", inside, (size // inside,)
    if not alone or (len(model.inputs) > 1 and inside is None):
        return "static", 1, (size,)
    cut = inside if inside is not None else window
    if cut is None:
        raise ModelRefused(
            f"the input {name} {shape} has no time axis",
            expected="how many steps its numbers are of, the oldest first",
            do=f"set model.window to the steps that the {size} numbers hold; model.window: 1 runs the model on each reading alone",
        )
    if size % cut:
        raise ModelRefused(
            f"model.window is {cut}, and the input {name} takes {size} numbers",
            expected=f"a number of steps that divides {size}",
            do="correct model.window",
        )
    return "flat", cut, (size // cut,)


def _consumers(model: Any, tensor: Any) -> list[Any]:
    """The operations that a tensor of a model's graph goes into, nested models opened."""
    found = list[Any]()
    for operation, node in _calls(model, tensor):
        if is_graph(operation):
            at = next(i for i, given in enumerate(node.input_tensors) if given is tensor)
            found += _consumers(operation, operation.inputs[at])
        else:
            found.append(operation)
    return found


def _calls(model: Any, tensor: Any) -> Iterator[tuple[Any, Any]]:
    """Operations of a model's graph, each with a node of it that takes this tensor."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    for operation in graph.operations:
        for node in operation._inbound_nodes:
            if not node.is_input and any(given is tensor for given in node.input_tensors):
                yield operation, node


def _embedded(model: Any, tensor: Any) -> bool:
    return any(isinstance(operation, L.Embedding) for operation in _consumers(model, tensor))


def _categories(model: Any, tensor: Any, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Of each number of a step, the least number of categories of the Embeddings that it goes into, alone or with all others."""
    sizes = [_embedded_sizes(model, tensor)] * prod(shape)
    for operation, node in _calls(model, tensor):
        if type(operation).__name__ == "GetItem" and len(shape) == 1 and len(node.arguments.args) > 1:
            key = whole_key(node.arguments.args[1], len(tensor.shape))[-1]
            cut = range(*key.indices(shape[0])) if isinstance(key, slice) else [key % shape[0]] if isinstance(key, int) else []
            found = _embedded_sizes(model, node.outputs[0])
            sizes = [size + found if column in cut else size for column, size in enumerate(sizes)]
    return tuple(min(size, default=None) for size in sizes)


def _embedded_sizes(model: Any, tensor: Any) -> list[int]:
    return [int(operation.input_dim) for operation in _consumers(model, tensor) if isinstance(operation, L.Embedding)]


def _reshaped_steps(model: Any, tensor: Any) -> int | None:
    """The steps of the Reshape that a flat input goes into first, or of what stands for one."""
    for operation in _consumers(model, tensor):
        if isinstance(operation, L.Reshape):
            target = operation.compute_output_shape((None, tensor.shape[1]))
            return int(target[1]) if len(target) > 2 else None
        if type(operation).__name__ == "ExpandDims" and operation.axis in (-1, 2):
            return int(tensor.shape[1])
    return None


def _said(given: Input, *, alone: bool) -> str:
    """An input in words; of one sequence of plain features alone there is nothing to say."""
    numbers = given.last - given.first
    of = "its" if alone else f"{given.name}'s"
    known = [f"number {i} of them a category from 0 to {count - 1}" for i, count in enumerate(given.categories) if count is not None]
    what = ", ".join([f"{numbers} {'number' if numbers == 1 else 'numbers'}", *known])
    if given.kind == "static":
        return f"{of} {what} (as of the latest reading)"
    if given.kind == "flat":
        return f"one of the {given.steps} steps in {of} row of {numbers * (given.steps or 1)}, {what}"
    if len(given.shape) > 1:
        return f"{of} {' x '.join(map(str, given.shape))} as {what}, row by row"
    return "" if alone and not known else f"{of} {what}"


