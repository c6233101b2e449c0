"""Maven Central, from which the testbed gets what is no Python package."""

import contextlib
from collections.abc import Iterator

from processor.errors import SlotstreamError


@contextlib.contextmanager
def getting(what: str, *, kept: str = "") -> Iterator[None]:
    """Turns what a fetch raises into one error. kept: what a fetch that was cut short leaves behind, in words."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise SlotstreamError(
            f"{what} could not be fetched: {error}",
            expected="Maven Central within reach, the first time",
            do=f"try again with a network, or set M2_REPO to a Maven repository folder that holds it{kept}",
        ) from error
