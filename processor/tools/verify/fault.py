"""What a fault is, and what several files of faults share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from processor.errors import SlotstreamError
from processor.tools.verify.site import Site

T = TypeVar("T")

OUTAGE_S = 13.0  # longer than a transaction may be open
BOOST = 5.0


@dataclass(frozen=True)
class Fault:
    """what: for whoever watches. needs: the attributes of the site that must be there."""

    name: str
    what: str
    do: Callable[[Site], None]
    needs: tuple[str, ...] = ()


def of(found: T | None) -> T:
    """What a fault needs of the site: faults without it are never begun."""
    if found is None:
        raise SlotstreamError("a fault needs what is not there", expected="faults that fit the site", do="tell us which it was")
    return found
