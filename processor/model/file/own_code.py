"""Classes and functions of a user's own, from the one Python file that the operator has named with its digest.

The only place where code that is not part of the service is run for a model. What a model file says never decides which file that is:
of the names in a model file, only those that this Python file defines are known. Must not import what a model file names.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from processor.errors import ModelRefused
from processor.model.backend import keras

MODULE = re.compile(r"(?!__main__$)[A-Za-z_][A-Za-z0-9_]{0,50}")
MODULE_DEFAULT = "my_layers"


@dataclass(frozen=True)
class CodeFile:
    """What the operator named: the setting model.code."""

    module: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class OwnCode:
    """What the operator's file defines. objects: by each name that a model file may have for one, with Keras's package or without."""

    path: Path
    objects: dict[str, Any]

    def find(self, name: Any, registered_name: Any = None) -> Any:
        """The class or function that a model file calls so; None if there is none."""
        for found in (registered_name, name):
            if isinstance(found, str) and found in self.objects:
                return self.objects[found]
        return self.objects.get(name.split(">")[-1]) if isinstance(name, str) else None

    @property
    def defines(self) -> str:
        return ", ".join(sorted({thing.__name__ for thing in self.objects.values()})) or "nothing"


def run(code: CodeFile) -> OwnCode:
    """Runs the file once its digest is proved, under its module's name. Raises ModelRefused."""
    try:
        source = code.path.read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"the file {code.path} of model.code cannot be read: {error.strerror}", expected="a Python file", do="correct model.code"
        ) from error
    found = hashlib.sha256(source).hexdigest()  # of the bytes that are run, whatever becomes of the file meanwhile
    if found != code.sha256:
        raise ModelRefused(
            f"{code.path} has the sha256 {found}, and model.code names {code.sha256}",
            expected="the file that was approved",
            do="find out who changed it; if the change is meant, write its new sha256 into model.code",
        )
    objects = _defined(_executed(code, source))
    keras.saving.get_custom_objects().update(objects)  # as Keras's decorator does: what is rebuilt later finds them too
    return OwnCode(code.path, objects)


def _executed(code: CodeFile, source: bytes) -> ModuleType:
    known = sys.modules.get(code.module)
    if known is not None and not getattr(known, "__slotstream__", False):
        raise ModelRefused(
            f"model.code names its module {code.module}, and another module has that name",
            expected="a name of its own",
            do=f"set module to another one, such as {MODULE_DEFAULT}; the model file need not be changed",
        )
    module = ModuleType(code.module)
    module.__file__ = str(code.path)
    module.__dict__["__slotstream__"] = True
    sys.modules[code.module] = module
    try:
        exec(compile(source, str(code.path), "exec"), module.__dict__)  # noqa: S102 (what the operator has asked for, by digest)
    except Exception as error:
        del sys.modules[code.module]
        raise ModelRefused(
            f"{code.path} cannot be run: {type(error).__name__}: {error}",
            expected="a Python file that defines the model's own layers, and does nothing else",
            do="keep only the imports and the definitions in it, install what it imports, and write its new sha256 into model.code",
        ) from error
    return module


def _defined(module: ModuleType) -> dict[str, Any]:
    """What the module defines itself, not what it imports: a model file must not reach os.system through it."""
    found = dict[str, Any]()
    for name, thing in vars(module).items():
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == module.__name__:
            found[name] = found[keras.saving.get_registered_name(thing)] = thing
    return found


def advice(module: Any = None) -> str:
    """The settings that let own code in, as a command line that can be copied. module: as the model file calls it."""
    last = module.split(".")[-1] if isinstance(module, str) else ""
    name = last if MODULE.fullmatch(last) and not last.startswith("keras") and last != "builtins" else MODULE_DEFAULT
    digest = f"$(sha256sum {name}.py | cut -c -64)"
    return (
        f"put its definition and the imports that it needs, and nothing else, into {name}.py; if you trust that file, add "
        f'--model.code="{{module: {name}, path: {name}.py, sha256: {digest}}}" to the command, or the same as model.code to the settings'
    )


def is_own(thing: Any) -> bool:
    """Whether a layer, or a function that a layer holds, is not Keras's."""
    owner = thing if isinstance(thing, (type, FunctionType)) else type(thing)
    return str(owner.__module__).partition(".")[0] not in ("keras", "tensorflow", "builtins")


def own_functions(layer: Any) -> Iterator[Any]:
    """What a layer calls on its numbers that is not Keras's."""
    for key in ("activation", "function"):
        held = getattr(layer, key, None)
        if callable(held) and is_own(held):
            yield held
