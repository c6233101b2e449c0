"""How the layers of an old graph are joined: references and calls, as every Keras before 3 wrote them.

Responsible for the forms of `inbound_nodes`, `input_layers` and `output_layers`. Not responsible for the layers (configuration.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from processor.errors import ModelRefused


@dataclass(frozen=True)
class Ref:
    """An output of a layer's call. call: as the file counts; a nested model's own graph is call 0 there, so its first use is 1."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True)
class Constant:
    """A value in the place of a tensor, as in 1.0 - x."""

    value: Any


@dataclass(frozen=True)
class Call:
    """One use of a layer.

    inputs: what is given to it, and listed whether the file had it in a list. state: what a recurrent layer begins with, where the file has
    it apart from the inputs. options: of an operation or an attention, by name; a Ref for each tensor among them.
    """

    inputs: tuple[Ref | Constant, ...]
    state: tuple[Ref, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Every tensor that must be there before the call."""
        return tuple(ref for ref in (*self.inputs, *self.state, *self.options.values()) if isinstance(ref, Ref))


def read_calls(label: str, nodes: Any, *, with_options: bool = False) -> tuple[Call, ...]:
    """`[[["name", 0, 0, {}], ...], ...]`, one list a call; tf.keras writes a single input without its list at times.

    with_options: whether a call may say more than its inputs.
    """
    if nodes is None:
        return ()
    if not isinstance(nodes, list):
        raise _unreadable(label, nodes)
    return tuple(_read_call(label, node, with_options) for node in nodes)


def read_refs(label: str, entries: Any) -> tuple[Ref, ...]:
    entries = [entries] if _is_entry(entries) else entries
    if not isinstance(entries, list) or not entries:
        raise _unreadable(label, entries)
    return tuple(_read_ref(label, entry) for entry in entries)


def _read_call(label: str, node: Any, with_options: bool) -> Call:
    entries = [node] if _is_entry(node) else node
    if not isinstance(entries, list) or not entries:
        raise _unreadable(label, entries)
    inputs = tuple(Constant(entry[2]) if _is_constant(entry) else _read_ref(label, entry) for entry in entries)
    state: tuple[Ref, ...] = ()
    options: dict[str, Any] = {}
    for entry in entries:
        for key, value in (entry[3] if len(entry) > 3 else {}).items():
            if key == "training" and value:
                raise ModelRefused(
                    f"layer {label} is called with training=True, so it draws random numbers",
                    expected="a model without chance",
                    do="rebuild it without training=True",
                )
            if with_options:
                options[key] = _read_ref(label, value) if _is_entry(value) and len(value) > 2 else value
            elif key == "initial_state" and value:
                state = read_refs(label, value)
            elif value not in (None, False):
                raise ModelRefused(f"layer {label} is called with {key}", expected="calls with inputs only", do="rebuild it without")
    constants = any(isinstance(item, Constant) for item in inputs)
    if constants and not with_options:
        raise _unreadable(label, node)
    return Call(inputs, state, options, listed=entries is node)


def _is_constant(entry: Any) -> bool:
    return _is_entry(entry) and entry[0] == "_CONSTANT_VALUE" and len(entry) > 2 and isinstance(entry[-1], dict)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and bool(entry) and isinstance(entry[0], str)


def _read_ref(label: str, entry: Any) -> Ref:
    good = _is_entry(entry) and len(entry) in (3, 4) and all(type(number) is int and 0 <= number < 1 << 20 for number in entry[1:3])
    if not good or not isinstance(entry[3] if len(entry) > 3 else {}, dict):
        raise _unreadable(label, entry)
    return Ref(entry[0], entry[1], entry[2])


def _unreadable(label: str, found: Any) -> ModelRefused:
    return ModelRefused(
        f"the inputs of {label} are written as {str(found)[:60]!r}", expected='lists such as ["name", 0, 0]', do="copy the file again"
    )
