"""What a file is that is no Keras model, in words, and what to do with it.

Responsible for telling formats apart by their first bytes, or else by their names, without reading further: a pickle, which could run
code, is never opened. Not responsible for Keras's own formats (load.py).
"""

import shlex
from pathlib import Path

HEAD_BYTES = 256
SAVE_AGAIN = "save the whole model with Keras 3: model.save('model.keras')"
FROM_CODE = "build the model in Keras, load the weights into it, and " + SAVE_AGAIN
TWO_HALVES = (
    "if there is its other half (model.to_json() and model.save_weights() of Keras 2): slotstream model convert ARCHITECTURE.json "
    f"WEIGHTS.h5 NEW.keras; else {FROM_CODE}"
)
COPY_AGAIN = "copy the file again, or " + SAVE_AGAIN
FROM_KERAS = "go back to the Keras model that it was made from, and " + SAVE_AGAIN
OTHER_LIBRARY = "build the same layers in Keras, copy the weights over, and " + SAVE_AGAIN
SCALER = (
    "if it is a scaler, print its numbers and put them into input.scale (\"The scaler of the training pipeline\" in docs/recipes.md): "
    "python -c 'import joblib, sys; print(vars(joblib.load(sys.argv[1])))' {path}"
)
PICKLE = "a Python pickle, which is never loaded, since it can run code"
A_PICKLE = (PICKLE, f"{SCALER}; if it is a model, {SAVE_AGAIN}")
A_SCALER = (PICKLE.replace("Python pickle", "scaler in a Python pickle"), SCALER.removeprefix("if it is a scaler, "))

BY_FIRST_BYTES = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for", "fetch the file: git lfs pull"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself"),
    (0, b"<html", "a web page", "download the file itself"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it: gunzip"),
    (4, b"TFL3", "a TensorFlow Lite model", FROM_KERAS),
    (0, b"\x93NUMPY", "a NumPy array", FROM_CODE),
    (0, b"GGUF", "a GGUF file", OTHER_LIBRARY),
    (0, b"{", "JSON: an architecture at most, without weights", TWO_HALVES),
    (0, b"[", "JSON: an architecture at most, without weights", TWO_HALVES),
    *((0, b"\x80" + bytes([protocol]), *A_PICKLE) for protocol in (2, 3, 4, 5)),
)
BY_NAME = {
    ".onnx": ("an ONNX model", FROM_KERAS),
    ".pb": ("a TensorFlow graph", FROM_KERAS),
    ".pt": ("a PyTorch file", OTHER_LIBRARY),
    ".pth": ("a PyTorch file", OTHER_LIBRARY),
    ".ckpt": ("a checkpoint of weights", FROM_CODE),
    ".index": ("part of a TensorFlow checkpoint, which holds weights only", FROM_CODE),
    ".data-00000-of-00001": ("part of a TensorFlow checkpoint, which holds weights only", FROM_CODE),
    ".tflite": ("a TensorFlow Lite model", FROM_KERAS),
    ".npz": ("a set of NumPy arrays", FROM_CODE),
    ".safetensors": ("a set of weights (safetensors)", FROM_CODE),
    ".pkl": A_PICKLE,
    ".pickle": A_PICKLE,
    ".joblib": A_PICKLE,
    ".json": ("JSON: an architecture at most, without weights", TWO_HALVES),
}


def foreign(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a file is and what to do with it; None if neither its first bytes nor its name tell."""
    what, do = _foreign(path, head) or ("", "")
    if what == PICKLE and (b"Scaler" in head or "scaler" in path.name.lower()):
        what, do = A_SCALER
    return (what, do.replace("{path}", shlex.quote(str(path)))) if what else None


def _foreign(path: Path, head: bytes) -> tuple[str, str] | None:
    for at, magic, what, do in BY_FIRST_BYTES:
        if head[at : at + len(magic)].lower() == magic.lower():
            return what, do
    return BY_NAME.get(path.suffix)


def folder(path: Path) -> tuple[str, str]:
    """As foreign, for a folder."""
    if (path / "saved_model.pb").exists():
        new = shlex.quote(f"{path.resolve().name}.keras")
        return "a TensorFlow SavedModel folder", f"slotstream model convert {shlex.quote(str(path))} {new}"
    if (path / "config.json").exists() and (path / "model.weights.h5").exists():
        return "a .keras file that was unpacked", f"pack it again: cd {path} && zip -r ../{path.stem}.keras . && name that in model.path"
    return "a directory", f"name the model file in it, or {SAVE_AGAIN}"
