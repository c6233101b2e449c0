"""TensorFlow's import without its notice, and without what only draws.

TensorFlow tells at its import that oneDNN is on, on standard error, before any log level is looked at. Among JSON logs, or beside a
table, it is noise that every user would ask about. Responsible for leaving out these lines, and for the import of matplotlib, which
Keras does where it is installed: a sixth of the time.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

NOTICE = re.compile(rb"before absl::InitializeLog|oneDNN custom operations are on")


def import_tensorflow() -> None:
    """Imports it. What else is written to standard error meanwhile, by any thread, comes when the import is over."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        standard_error = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            with _left_out("matplotlib"):
                import tensorflow  # noqa: F401
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            kept.seek(0)
            with contextlib.suppress(OSError):  # a full disk, or a reader that is gone
                os.write(2, b"".join(line for line in kept if not NOTICE.search(line)))


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
