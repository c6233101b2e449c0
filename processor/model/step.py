"""One step of a Keras model with its states in the open: `step(x, states) -> (y, new states)`.

Responsible for the walk over the model's graph, and for proving layer by layer that steps stay apart. What it cannot prove it refuses
by the layer's name. Not responsible for files, for choosing a mode, or for compiling.

Two kinds of step keep one contract: `carried` keeps the recurrent states; `windowed`, in windows.py, keeps the last readings and runs the
whole model on them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from processor.model.backend import keras, tf
from processor.model.graphs import is_graph, through
from processor.model.inputs import RECURRENT, Input, Inputs
from processor.model.names import output_names
from processor.model.own_layers import check_whole, has_own, kept_apart
from processor.model.pointwise import (
    AFTER_THE_END,
    CannotStepError,
    is_pointwise_op,
    named,
    refuse_axes,
    refuse_unless_pointwise,
    whole_key,
)
from processor.model.precision import kept, parts_of, unpacked
from processor.model.stable import call_kwargs, is_training_only, stable
from processor.records import Output

L = keras.layers
Step = Callable[[Any, Sequence[Any]], tuple[Any, list[Any]]]



@dataclass(frozen=True)
class Stepped:
    """A model as a step.

    step: (x float32 [B, 1, F], states: a list of float32 [B, w]) -> (y float32 [B, O], the new states in the same order).
    widths: the states' w, in the order in which the graph reaches them. outputs: the model's, which lie side by side in y, in its order.
    note: what to know about them, or an empty text.
    row_numbers: the most numbers that one row has on the way through the model, as far as known.
    """

    step: Step
    widths: tuple[int, ...]
    outputs: tuple[Output, ...]
    note: str = ""
    row_numbers: int = 0


@dataclass(frozen=True)
class _Signal:
    """What one tensor of the graph becomes when a single step is fed.

    timed: axis 1 is the time axis, here of length 1; otherwise the value belongs to the sequence as a whole so far.
    static: it follows from static inputs alone, so that it is the same at each step.
    shape: without the batch axis; None where the graph leaves a dimension open.
    """

    index: int
    timed: bool
    shape: tuple[int | None, ...]
    static: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape) + 1

    @property
    def spec(self) -> Any:
        return keras.KerasTensor((None, *self.shape))


@dataclass(frozen=True)
class _Call:
    """One operation of the step: `run(states, *args, **kwargs) -> (outputs, new states)`, the signals in args filled in."""

    run: Callable[..., tuple[Any, list[Any]]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[_Signal, ...]
    states: slice


def carried(model: Any, inputs: Inputs) -> Stepped:
    """The step of a model whose recurrent states are kept between steps. Raises CannotStepError."""
    try:
        return _Planner(model, inputs).plan()
    except CannotStepError:
        raise
    except Exception as error:  # a layer rejects a sequence of a single step, in its own words
        raise CannotStepError(f"Keras cannot run it on a single step: {str(error).strip().partition(chr(10))[0].rstrip('.')}") from error


def stepped_layers(model: Any, inputs: Inputs) -> list[Any]:
    """The recurrent layers of a model that carried() takes, in the order of its states; one that is used twice comes twice."""
    planner = _Planner(model, inputs)
    planner.plan()
    return planner.recurrent


def flat(values: Sequence[Any]) -> Any:
    """Outputs of one step or window, [B, ...] each, side by side: [B, O]."""
    rows = [tf.cast(tf.reshape(value, (-1, prod(value.shape[1:]))), tf.float32) for value in values]
    return rows[0] if len(rows) == 1 else tf.concat(rows, axis=1)


def side_by_side(outputs: Iterable[tuple[str, int, bool, int | None]], notes: Sequence[str]) -> tuple[tuple[Output, ...], str]:
    """Outputs by name, numbers, per_step and rows, one behind the other; and what is to be known of them, each under its name."""
    placed, first = list[Output](), 0
    for name, numbers, per_step, rows in outputs:
        placed.append(Output(name, first, first + numbers, per_step, rows))
        first += numbers
    if len(placed) == 1:
        return tuple(placed), notes[0]
    said = [f"{output.name}: {note}" for output, note in zip(placed, notes, strict=True) if note]
    return tuple(placed), "; ".join([several_note(placed), *said])


def several_note(outputs: Sequence[Output]) -> str:
    return f"a prediction is an object of its {len(outputs)} outputs: {', '.join(output.name for output in outputs)}"


def whole_note(shape: tuple[int, ...]) -> str:
    return f"its output of {' x '.join(map(str, shape))} is given as {prod(shape)} numbers, row by row"


def leaf_layers(model: Any) -> Iterator[Any]:
    """The layers of a model in its own order, nested models opened, their input layers left out."""
    for layer in model.layers:
        if is_graph(layer):
            yield from leaf_layers(layer)
        elif not isinstance(layer, L.InputLayer):
            yield layer


def state_widths(layer: Any) -> tuple[int, ...]:
    """The widths of a recurrent layer's states; empty for any other layer."""
    if type(layer) not in RECURRENT:
        return ()
    return tuple(int(size) for size in keras.tree.flatten(layer.cell.state_size))


class _Planner:
    """Walks a model's graph once with signals instead of tensors, and writes down the calls that one step consists of."""

    def __init__(self, model: Any, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        self.steps = inputs.steps  # None: free
        self.calls: list[_Call] = []
        self.widths: list[int] = []
        self.recurrent: list[Any] = []
        self.signals = 0
        self.stateful_seen: set[int] = set()
        self.states: set[int] = set()  # signals that are states of a recurrent layer, which the step keeps itself

    def plan(self) -> Stepped:
        for given in self.inputs.each:
            if given.kind == "flat":
                raise CannotStepError(f"its input {given.name} takes a whole window in one row")
        for layer in leaf_layers(self.model):
            if isinstance(layer, L.Masking) or getattr(layer, "mask_zero", False):
                raise CannotStepError(f"{named(layer)} skips steps by their content, which is done on windows only")
        firsts = [self._first(given) for given in self.inputs.each]
        self.states = {first.index for first, given in zip(firsts, self.inputs.each, strict=True) if given.kind == "state"}
        lasts: list[_Signal] = self.inputs.without_states(keras.tree.flatten(self._walk(self.model, firsts)))
        wanted = self.inputs.without_states(list(zip(output_names(self.model), self.model.outputs, strict=True)))
        outputs, notes = [], []
        for (name, tensor), last in zip(wanted, lasts, strict=True):
            shape = last.shape[1:] if last.timed else last.shape
            if None in shape:
                raise CannotStepError(f"the output's shape is not known: {tensor.shape}")
            whole = tuple(d for d in shape if d is not None)
            outputs.append((name, prod(whole), last.timed, None))
            notes.append("" if last.timed or len(whole) < 2 else whole_note(whole))
        step = self._step(firsts, lasts)
        if any(has_own(layer) or has_own(getattr(layer, "cell", layer)) for layer in leaf_layers(self.model)):
            if self.stateful_seen:
                raise CannotStepError("it is stateful and has code of your own, so that the two cannot be compared with Keras")
            check_whole(self.model, self.inputs, step, tuple(self.widths))
        return Stepped(step, tuple(self.widths), *side_by_side(outputs, notes))

    def _first(self, given: Input) -> _Signal:
        timed = given.kind == "sequence"
        return self._signal(timed=timed, shape=(1, *given.shape) if timed else given.shape, static=given.kind == "static")

    def _step(self, firsts: Sequence[_Signal], lasts: Sequence[_Signal]) -> Step:
        calls, inputs = tuple(self.calls), self.inputs

        def step(x: Any, states: Sequence[Any]) -> tuple[Any, list[Any]]:
            values, new = dict(zip((first.index for first in firsts), inputs.of(x), strict=True)), []
            for call in calls:
                args, kwargs = keras.tree.map_structure(partial(_filled, values), (call.args, call.kwargs))
                results, left = call.run(states[call.states], *args, **kwargs)
                values.update(zip((s.index for s in call.outputs), keras.tree.flatten(results), strict=True))
                new += left
            return flat([values[last.index] for last in lasts]), new

        return step

    def _signal(self, *, timed: bool, shape: tuple[int | None, ...], static: bool = False) -> _Signal:
        self.signals += 1
        return _Signal(self.signals, timed, shape, static)

    def _walk(self, model: Any, inputs: Any) -> Any:
        return through(model, inputs, self._operation)

    def _operation(self, operation: Any) -> Callable[..., Any]:
        if is_graph(operation):
            return lambda inputs, **_: self._walk(operation, inputs)
        return partial(self._record, operation)

    def _record(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuses the operation or writes its call down; returns its output signals as Keras would return tensors."""
        if is_training_only(operation):
            return args[0]
        if type(operation) in RECURRENT:
            return self._recurrent(operation, *args, **kwargs)
        if type(operation).__name__ == "GetItem":
            return self._item(operation, *args, **kwargs)
        inputs = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, _Signal)]
        if has_own(operation):
            return self._own(operation, inputs, args, kwargs)
        if not any(s.timed for s in inputs):
            return self._after_the_end(operation, inputs, args, kwargs)
        if not all(s.timed for s in inputs):
            raise CannotStepError(f"{named(operation)} joins a sequence with the end of a sequence")
        if isinstance(operation, L.Reshape):
            return self._timed_reshape(operation, inputs[0], args)
        if isinstance(operation, L.TimeDistributed):
            return self._plain(operation, args, kwargs, timed=True)
        refuse_unless_pointwise(operation, inputs, args, kwargs)
        return self._plain(operation, args, kwargs, timed=True)

    def _own(self, operation: Any, inputs: list[_Signal], args: Any, kwargs: Any) -> Any:
        """A layer with code of a user's own, of which only its numbers say what it does."""
        if not any(s.timed for s in inputs):
            return self._plain(operation, args, kwargs, timed=False, static=all(s.static for s in inputs))
        if not all(s.timed for s in inputs):
            raise CannotStepError(f"{named(operation)} joins a sequence with the end of a sequence")
        more = call_kwargs(operation, kwargs)

        def call(*arrays: Any) -> Any:
            values = dict(zip((s.index for s in inputs), map(tf.constant, arrays), strict=True))
            given, named_given = keras.tree.map_structure(partial(_filled, values), (tuple(args), more))
            return operation(*given, **named_given)

        kept_steps = kept_apart(operation, call, inputs, self.steps)
        return self._plain(operation, args, kwargs, timed=kept_steps == "each")

    def _after_the_end(self, operation: Any, inputs: list[_Signal], args: Any, kwargs: Any) -> Any:
        static = all(s.static for s in inputs)
        if isinstance(operation, L.RepeatVector) and static and operation.n == self.steps:
            return self._call(lambda _, v: (v[:, None], []), args, {}, (self._signal(timed=True, shape=(1, *inputs[0].shape)),))
        if not isinstance(operation, (*AFTER_THE_END, L.TimeDistributed)) and not is_pointwise_op(operation):
            raise CannotStepError(f"{named(operation)} after the end of the sequence is not known to keep steps apart")
        refuse_axes(operation, inputs, first=1)
        return self._plain(operation, args, kwargs, timed=False, static=static)

    def _plain(self, operation: Any, args: Any, kwargs: Any, *, timed: bool, static: bool = False) -> Any:
        """An operation that is called as it is."""
        kwargs = call_kwargs(operation, kwargs)
        spec = operation.compute_output_spec(*_specs(args), **_specs(kwargs))
        outputs = tuple(self._signal(timed=timed, shape=tuple(o.shape[1:]), static=static) for o in keras.tree.flatten(spec))
        called = stable(operation) if isinstance(operation, L.TimeDistributed) else operation
        return self._call(lambda _, *a, **k: (called(*a, **k), []), args, kwargs, outputs)

    def _call(self, run: Callable[..., Any], args: Any, kwargs: Any, outputs: tuple[_Signal, ...], widths: tuple[int, ...] = ()) -> Any:
        states = slice(len(self.widths), len(self.widths) + len(widths))
        self.calls.append(_Call(run, tuple(args), dict(kwargs), outputs, states))
        self.widths += widths
        return outputs[0] if len(outputs) == 1 else list(outputs)

    def _recurrent(self, layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        self._refuse_recurrent(layer, x, args, kwargs)
        self.recurrent.append(layer)
        widths, size = state_widths(layer), _output_width(layer)
        in_row = tuple(width * parts_of(layer) for width in widths)
        shape: tuple[int | None, ...] = (1, size) if layer.return_sequences else (size,)
        outputs = [self._signal(timed=layer.return_sequences, shape=shape)]
        if layer.return_state:
            outputs += [self._signal(timed=False, shape=(w,)) for w in widths]
        return self._call(partial(_run_cell, layer), (x,), {}, tuple(outputs), in_row)

    def _refuse_recurrent(self, layer: Any, x: Any, args: Any, kwargs: Any) -> None:
        if not (isinstance(x, _Signal) and x.timed):
            raise CannotStepError(f"{named(layer)} reads a sequence that another layer made up")
        if any(isinstance(v, _Signal) and v.index not in self.states for v in keras.tree.flatten((args, kwargs))):
            raise CannotStepError(f"{named(layer)} takes its initial state from another layer")
        if layer.go_backwards:
            raise CannotStepError(f"{named(layer)} reads backwards")
        if layer.stateful and id(layer) in self.stateful_seen:
            raise CannotStepError(f"{named(layer)} is stateful and used twice, so its states would mix")
        if layer.stateful:
            self.stateful_seen.add(id(layer))

    def _timed_reshape(self, layer: Any, x: _Signal, args: Any) -> Any:
        """A Reshape that leaves the time axis alone: each step's numbers keep to their step."""
        rest = tuple(layer.compute_output_shape((None, self.steps or 1, *x.shape[1:]))[2:])
        steps = layer.target_shape[0]
        if steps not in (-1, self.steps) or None in x.shape or None in rest or prod(rest) != prod(x.shape[1:]):  # type: ignore[arg-type]
            raise CannotStepError(f"{named(layer)} moves numbers between steps")
        output = self._signal(timed=True, shape=(1, *rest))
        return self._call(lambda _, v: (tf.reshape(v, (-1, 1, *rest)), []), args, {}, (output,))

    def _item(self, operation: Any, x: Any, key: Any) -> Any:
        """Indexing: of a timed signal all its steps, or its last one."""
        key = whole_key(key, x.rank)
        if key[0] != slice(None) or any(k is None for k in key):
            raise CannotStepError(f"{named(operation)} indexes the batch axis, or adds an axis")
        ends = x.timed and key[1] in (-1, (self.steps or 0) - 1) and not isinstance(key[1], slice)
        if x.timed and not ends and key[1] != slice(None):
            raise CannotStepError(f"{named(operation)} takes step {key[1]} of a sequence, which is not the last")
        key = (key[0], 0, *key[2:]) if ends else key
        shape = tuple(operation.compute_output_spec(x.spec, key).shape[1:])
        output = self._signal(timed=x.timed and not ends, shape=shape)
        return self._call(lambda _, v: (v[key], []), (x,), {}, (output,))


def _run_cell(layer: Any, states: Sequence[Any], x: Any) -> tuple[Any, list[Any]]:
    """One step of a recurrent layer: x [B, 1, F] -> (its outputs as Keras shapes them, its new states as they are kept, flat)."""
    stacked = isinstance(layer.cell, L.StackedRNNCells)
    packed: list[Any] = [unpacked(state, layer.compute_dtype) for state in states]
    if stacked:
        left = iter(packed)
        packed = [[next(left) for _ in keras.tree.flatten(size)] for size in layer.cell.state_size]
    y, new = layer.cell(x[:, 0], packed, **call_kwargs(layer.cell, {}))
    new = keras.tree.flatten(new)
    y = y[:, None] if layer.return_sequences else y
    return ([y, *new] if layer.return_state else y), [kept(state) for state in new]


def _output_width(layer: Any) -> int:
    width = getattr(layer.cell, "output_size", None)
    return int(state_widths(layer)[0] if width is None else width)


def _filled(values: dict[int, Any], argument: Any) -> Any:
    return values[argument.index] if isinstance(argument, _Signal) else argument


def _specs(arguments: Any) -> Any:
    return keras.tree.map_structure(lambda v: v.spec if isinstance(v, _Signal) else v, arguments)
