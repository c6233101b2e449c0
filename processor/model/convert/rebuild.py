"""From the layers and weights of an old file to a model of Keras 3.

Responsible for making the layers, calling them as the file says, and filling in their weights. Only Keras's own classes are made, from
options that were read one by one: nothing of the file is run. Not responsible for reading the file (configuration.py,
weights.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from processor.errors import ModelRefused
from processor.model.backend import keras
from processor.model.convert import operations
from processor.model.convert.configuration import REBUILD
from processor.model.convert.graph import Call, Constant, Ref
from processor.model.convert.old_model import OldLayer, OldModel
from processor.model.convert.weights import GATES, HARD_SIGMOID, Weights, check_input
from processor.model.names import usable

L = keras.layers
# Every array is filled in from the file, so that random ones need not be drawn first; an orthogonal one takes its time.
EMPTY: dict[str, Any] = {
    **{kind: {"kernel_initializer": "zeros"} for kind in ("Dense", "Conv1D")},
    **{kind: {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"} for kind in GATES},
}


def build(model: OldModel, weights: Mapping[OldLayer, Weights], changed: list[str]) -> Any:
    """A keras.Model with these weights; what had to be added to it is added to `changed`."""
    builder = _Builder(weights, changed)
    built = builder.model(model, None)
    builder.fill()
    return built


class _Builder:
    def __init__(self, weights: Mapping[OldLayer, Weights], changed: list[str]) -> None:
        self._weights, self._changed = weights, changed
        self._made: list[tuple[OldLayer, Any]] = []
        self._names: dict[OldLayer, str] = {}

    def model(self, old: OldModel, shape: Sequence[int | None] | None) -> Any:
        """shape: of what is given to it, with the batch; for a chain that does not say it itself."""
        taken = {layer.name for layer in old.layers if "/" not in layer.name}
        for layer in old.layers:
            if "/" in layer.name:  # which Keras 3 does not take
                self._names[layer] = usable(_clean(layer.name), taken)
                taken.add(self._names[layer])
        return self._chain(old, shape) if old.is_chain else self._graph(old)

    def fill(self) -> None:
        for old, layer in self._made:
            for leaf, made in _leaves(old, layer):
                if self._weights[leaf].arrays:
                    made.set_weights(list(self._weights[leaf].arrays))

    def _named(self, old: OldLayer) -> str:
        return self._names.get(old, _clean(old.name))

    # Models.

    def _chain(self, old: OldModel, shape: Sequence[int | None] | None) -> Any:
        first = old.layers[0]
        shape = first.input_shape or shape
        if shape is None:
            raise ModelRefused(
                f"the model {old.name} does not say what it reads", expected="a batch_input_shape", do="call it once on data of its shape, "
                "and save the whole model again"
            )  # fmt: skip
        x = keras.Input(batch_shape=shape, name=self._named(first) if first.kind == "InputLayer" else None)
        layers = [x]
        for layer in old.layers[1:] if first.kind == "InputLayer" else old.layers:
            made = self._make(layer, x.shape)
            layers += made
            x = self._call(layer, made, [x], ())
        return keras.Sequential(layers, name=_clean(old.name))

    def _graph(self, old: OldModel) -> Any:
        graph = _Graph(old)
        made: dict[str, list[Any]] = {}
        while (at := graph.next_call()) is not None:
            layer, number, call = at
            inputs = [graph.value(item) for item in call.inputs]
            if layer.kind == "Operation":
                options = {key: graph.value(value) for key, value in call.options.items()}
                given = [inputs] if call.listed else inputs
                graph.done(layer, number, [operations.apply(layer.label, layer.options["function"], given, options)])
                continue
            if layer.kind == "InputLayer":
                graph.done(layer, number, [keras.Input(batch_shape=layer.input_shape, name=self._named(layer))])
                continue
            if layer.name not in made:
                made[layer.name] = self._make(layer, inputs[0].shape)
            if layer.kind == "MultiHeadAttention":
                options = {key: graph.value(value) for key, value in call.options.items()}
                graph.done(layer, number, [self._attend(layer, made[layer.name][0], inputs, options)])
                continue
            state = [graph.tensor(ref) for ref in call.state]
            graph.done(layer, number, keras.tree.flatten(self._call(layer, made[layer.name], inputs, state)))
        inputs, outputs = ([graph.tensor(ref) for ref in refs] for refs in (old.inputs, old.outputs))
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs, name=_clean(old.name))

    def _call(self, old: OldLayer, made: Sequence[Any], inputs: Sequence[Any], state: Sequence[Any]) -> Any:
        self._check(old, inputs[0].shape)
        if old.kind in (*GATES, "Bidirectional") and (state or len(inputs) > 1):
            return made[0](inputs[0], initial_state=[*inputs[1:], *state])
        x = list(inputs) if len(inputs) > 1 else inputs[0]
        for layer in made:
            x = layer(x)
        return x

    def _attend(self, old: OldLayer, made: Any, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
        given = {key: value for key, value in options.items() if value is not None and value is not False}
        unknown = set(given) - {"value", "key", "query", "use_causal_mask"}
        if unknown:
            found = f"layer {old.label} is called with {', '.join(sorted(unknown))}"
            raise ModelRefused(found, expected="query, value, key and use_causal_mask", do=REBUILD)
        self._check(old, (*inputs, given.get("query"))[0].shape)
        return made(*inputs, **given)

    def _check(self, old: OldLayer, shape: Sequence[int | None]) -> None:
        """Whether the weights fit what is given to them; a nested model was checked when it was made."""
        if old.kind == "TimeDistributed":
            self._check(old.inner[0], (shape[0], *shape[2:]))
        elif old.model is None:
            for leaf in old.inner or (old,):
                check_input(leaf, self._weights[leaf], shape)

    # Layers.

    def _make(self, old: OldLayer, shape: Sequence[int | None]) -> list[Any]:
        """The layers of Keras 3 that one old layer becomes, in the order in which they are called."""
        if old.kind == "TimeDistributed" and old.inner[0].kind == "Activation":
            return self._activation(old, old.inner[0])  # it works on each number alone, so on each step as well
        if old.kind == "Activation":
            return self._activation(old, old)
        layer = self._single(old, shape)
        if not old.trainable:  # to say yes would thaw all that it holds
            layer.trainable = False
        self._made.append((old, layer))
        return [layer]

    def _single(self, old: OldLayer, shape: Sequence[int | None]) -> Any:
        options: dict[str, Any] = {**old.options, "name": self._named(old)}
        if old.model is not None:
            return self.model(old.model, shape)
        if old.kind == "TimeDistributed":
            return L.TimeDistributed(self._single(old.inner[0], (shape[0], *shape[2:])), name=self._named(old))
        if old.kind == "Bidirectional":
            forward, backward = (self._single(inner, shape) for inner in old.inner)
            own = {"backward_layer": backward} if options.pop("own_backward") else {}
            return L.Bidirectional(forward, **options, **own)
        if isinstance(options.get("activation"), OldLayer):
            options["activation"] = self._single(options["activation"], shape)
        options |= {**EMPTY.get(old.kind, {}), **(self._weights[old].options if old in self._weights else {})}
        return getattr(L, old.kind)(**options)

    def _activation(self, old: OldLayer, inner: OldLayer) -> list[Any]:
        activation = inner.options["activation"]
        if isinstance(activation, OldLayer):
            raise ModelRefused(f"layer {old.label} holds a {activation.saved_as}", expected="the name of an activation", do=REBUILD)
        layer = L.Activation(activation, name=self._named(old))
        if activation != "hard_sigmoid":
            return [layer]
        self._changed.append(f"{old.label}: a Rescaling by {HARD_SIGMOID} before it, since hard_sigmoid is less steep in Keras 3")
        return [L.Rescaling(HARD_SIGMOID, name=f"{self._named(old)}_rescaled"), layer]


class _Graph:
    """The calls of a graph in an order in which each has its inputs, and what came of them."""

    def __init__(self, old: OldModel) -> None:
        self._model = old.name
        self._calls: dict[str, Sequence[Call]] = {
            layer.name: layer.calls or ((Call(()),) if layer.kind == "InputLayer" else ()) for layer in old.layers
        }
        self._waiting = [(layer, number) for layer in old.layers for number in range(len(self._calls[layer.name]))]
        self._tensors: dict[tuple[str, int], Sequence[Any]] = {}
        # A nested model's first use is numbered 1 where it has a graph of its own, 0 where not: the least number is the first use.
        calls = [call for calls in self._calls.values() for call in calls]
        self._first: dict[str, int] = {}
        for ref in (*old.inputs, *old.outputs, *(ref for call in calls for ref in call.refs)):
            self._first[ref.layer] = min(ref.call, self._first.get(ref.layer, ref.call))

    def next_call(self) -> tuple[OldLayer, int, Call] | None:
        for at, (layer, number) in enumerate(self._waiting):
            call = self._calls[layer.name][number]
            if all(self._key(ref) in self._tensors for ref in call.refs):
                del self._waiting[at]
                return layer, number, call
        if self._waiting:
            layer, number = self._waiting[0]
            missing = next(ref for ref in self._calls[layer.name][number].refs if self._key(ref) not in self._tensors)
            raise ModelRefused(
                f"layer {layer.label} reads from {missing.layer}, which gives nothing", expected="a graph without gaps and circles",
                do="save the whole model again",
            )  # fmt: skip
        return None

    def done(self, layer: OldLayer, number: int, outputs: Sequence[Any]) -> None:
        self._tensors[layer.name, number] = outputs

    def value(self, item: Any) -> Any:
        return self.tensor(item) if isinstance(item, Ref) else item.value if isinstance(item, Constant) else item

    def tensor(self, ref: Ref) -> Any:
        outputs = self._tensors.get(self._key(ref), ())
        if ref.output >= len(outputs):
            raise ModelRefused(
                f"the model {self._model} reads output {ref.output} of {ref.layer}", expected=f"one of its {len(outputs)}", do="save the "
                "whole model again"
            )  # fmt: skip
        return outputs[ref.output]

    def _key(self, ref: Ref) -> tuple[str, int]:
        return ref.layer, ref.call - self._first.get(ref.layer, 0)


def _leaves(old: OldLayer, layer: Any) -> list[tuple[OldLayer, Any]]:
    """The layers with weights in an old layer, beside those of Keras 3 in the one that was made of it.

    A nested model's are not among them: they were made, and written down, on their own.
    """
    if old.kind == "TimeDistributed":
        return _leaves(old.inner[0], layer.layer)
    if old.kind == "Bidirectional":
        # Keras works with copies of the layer that it was given.
        return list(zip(old.inner, (layer.forward_layer, layer.backward_layer), strict=True))
    return [] if old.model is not None else [(old, layer)]


def _clean(name: str) -> str:
    return name.replace("/", "_")
