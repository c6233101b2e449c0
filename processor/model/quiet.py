"""The import of TensorFlow and Keras: without the user's settings for Keras, without TensorFlow's notice, without what only draws.

A user may have another backend, another float or another order of axes in the environment or in Keras's own file: for their programs,
not for a service that computes in float32 on TensorFlow. TensorFlow tells at its import that oneDNN is on, on standard error, before any
log level is looked at. Among JSON logs, or beside a table, it is noise that every user would ask about. Responsible for leaving out
these, and the import of matplotlib, which Keras does where it is installed: a sixth of the time.
"""

import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from processor.errors import ConfigurationError

BACKEND = "tensorflow"
NOTICE = re.compile(rb"before absl::InitializeLog|oneDNN custom operations are on")


def import_tensorflow() -> None:
    """Imports both. What else is written to standard error meanwhile, by any thread, comes when the import is over.

    Raises ConfigurationError where something has imported Keras before, on another backend.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Kept, so that processes started from here have it too.
        os.environ["KERAS_BACKEND"] = BACKEND
        with _standard_error_held(), _left_out("matplotlib"), _without_file(), _without_collections():
            import keras
            import tensorflow  # noqa: F401
    else:
        import keras
    if keras.config.backend() != BACKEND:
        raise ConfigurationError(
            f"Keras was imported on {keras.config.backend()} before", expected=f"Keras on {BACKEND}", do="set KERAS_BACKEND=tensorflow"
        )
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")


@contextlib.contextmanager
def _standard_error_held() -> Iterator[None]:
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        standard_error = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            kept.seek(0)
            with contextlib.suppress(OSError):  # a full disk, or a reader that is gone
                os.write(2, b"".join(line for line in kept if not NOTICE.search(line)))


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """An import makes hundreds of thousands of objects that stay: looking for garbage among them takes a sixth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_file() -> Iterator[None]:
    """As if Keras had no folder: it reads keras.json there, and writes one where there is none."""
    kept = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull
    try:
        yield
    finally:
        del os.environ["KERAS_HOME"]
        if kept is not None:
            os.environ["KERAS_HOME"] = kept


@contextlib.contextmanager
def _left_out(module: str) -> Iterator[None]:
    """As if it was not installed, unless it was imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
