"""TensorFlow's import without its notice.

TensorFlow tells at its import that oneDNN is on, on standard error, before any log level is looked at. Among JSON logs, or beside a
table, it is noise that every user would ask about. Responsible for leaving out these lines and nothing else.
"""

import os
import re
import sys
import tempfile

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
            import tensorflow  # noqa: F401
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            kept.seek(0)
            os.write(2, b"".join(line for line in kept if not NOTICE.search(line)))
