"""Names of layers, as TensorFlow takes them: a name with a blank or an umlaut loads, and then cannot be compiled.

Responsible for renaming the layers of a loaded model, and for the name that a layer has in its file. No name decides what is computed.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

LENGTH_MAX = 100
USABLE = re.compile(rf"[A-Za-z0-9.][A-Za-z0-9_.-]{{0,{LENGTH_MAX - 1}}}")


def make_usable(model: Any) -> None:
    """Gives every layer and operation of a keras.Model whose name TensorFlow does not take one that it does, unlike all others."""
    operations = list(_operations(model, set()))
    taken = {str(operation.name) for operation in operations}
    for operation in operations:
        name = str(operation.name)
        if not USABLE.fullmatch(name):
            operation.name_in_file = name
            operation.name = usable(name, taken)
            taken.add(operation.name)


def usable(name: str, taken: Collection[str] = ()) -> str:
    """The name with "_" for what is not usable in it, and a number behind it where that is taken."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[: LENGTH_MAX - 10]
    cleaned = cleaned if re.match(r"[A-Za-z0-9.]", cleaned) else f"layer{cleaned}"
    number, found = 1, cleaned
    while found in taken:
        number += 1
        found = f"{cleaned}_{number}"
    return found


def in_file(operation: Any) -> str:
    """What a layer or operation is called in its file."""
    return str(getattr(operation, "name_in_file", operation.name))


def output_names(model: Any) -> list[str]:
    """One for each of a keras.Model's outputs: its key where the outputs are a dict, else the layer or operation that gives it.

    Of several with the same name the later ones have a number behind it.
    """
    given = [in_file(tensor._keras_history.operation) for tensor in model.outputs]
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict) and len(structure) == len(given):
        given = sorted(structure)  # as Keras flattens a dict
    found = list[str]()
    for name in given:
        number, unlike = 1, str(name)
        while unlike in found:
            unlike, number = f"{name}_{number}", number + 1
        found.append(unlike)
    return found


def _operations(model: Any, seen: set[int]) -> Iterator[Any]:
    """All of a model: layers, those that they hold, and the operations between them; each once."""
    for layer in model._flatten_layers(include_self=True, recursive=True):
        for operation in (layer, *getattr(layer, "operations", ())):
            if id(operation) not in seen:
                seen.add(id(operation))
                yield operation
