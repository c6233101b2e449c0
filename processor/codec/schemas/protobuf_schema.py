"""A .proto schema as descriptors: compiled by protoc, in a process and a folder of its own, into a pool of its own.

A process of its own, because protoc and TensorFlow bring two copies of one C++ library: in TensorFlow's process protoc ends both. Knows the
text, its imports and which message is meant; how a record becomes Python's types is protobuf_records'.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processor.codec.schemas.avro_schema import SchemaError
from processor.errors import ConfigurationError

MAIN = "schema_of_the_records.proto"
OWN = "google/protobuf/"  # what the compiler brings itself
TIMEOUT_S = 60.0


def compiled(text: str, imports: Sequence[tuple[str, str]]) -> Any:
    """A google.protobuf FileDescriptorSet of the schema and all that it imports, the schema last.

    Raises SchemaError, and ConfigurationError where a package is missing.
    """
    if importlib.util.find_spec("grpc_tools") is None:
        raise _extra_missing()
    from google.protobuf import descriptor_pb2

    with tempfile.TemporaryDirectory(prefix="slotstream-proto-") as name:
        folder = Path(name)
        for path, inner in [*imports, (MAIN, text)]:
            if not path.startswith(OWN):
                _write(folder, path, inner)
        out = folder / "descriptors"
        words = [f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}", MAIN]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "grpc_tools.protoc", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise SchemaError(f"protoc has not compiled the schema within {TIMEOUT_S:.0f} s") from None
        if done.returncode != 0 or not out.exists():
            raise SchemaError(f"protoc refuses the schema: {_first_line(done.stderr)}")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def message_of(files: Any, indexes: tuple[int, ...] = ()) -> str:
    """The full name of the message at these indexes, or of the one that a record is: the first that no other message of the file holds.

    files: of compiled(). Raises SchemaError.
    """
    file = files.file[-1]
    if not file.message_type:
        raise SchemaError("the .proto schema has no message")
    if not indexes:
        used = {field.type_name for message in file.message_type for field in message.field}
        space = f".{file.package}." if file.package else "."
        tops = [message.name for message in file.message_type if f"{space}{message.name}" not in used]
        return f"{space}{(tops or [file.message_type[0].name])[0]}".removeprefix(".")
    name, messages = file.package, file.message_type
    for index in indexes:
        if not 0 <= index < len(messages):
            raise SchemaError(f"the frame names message {list(indexes)}, which the .proto schema does not have")
        name = f"{name}.{messages[index].name}" if name else messages[index].name
        messages = messages[index].nested_type
    return str(name)


def message_class(files: Any, name: str) -> Any:
    """The class of a message, in a pool of its own: schemas of several versions define the same names."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _extra_missing() -> ConfigurationError:
    return ConfigurationError(
        "the packages for Protobuf are not installed",
        expected="those of the extra protobuf",
        do="pip install 'slotstream[protobuf]'",
        see="the-settings-are-wrong",
    )


def _write(folder: Path, name: str, text: str) -> None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SchemaError(f"the .proto schema imports {name[:80]}, which lies outside")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _first_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").splitlines()
    told = [line.removeprefix(f"{MAIN}:") for line in lines if "warning" not in line]
    return told[0][:200] if told else "no reason"
