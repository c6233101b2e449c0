"""What a fault is, and what several files of faults share."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from processor.errors import SlotstreamError
from processor.verify.harm import NoHarmError
from processor.verify.site import Site

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

    def inflict(self, site: Site) -> Counter[str]:
        """Returns what was broken, counted. Raises SlotstreamError, also where nothing was broken."""
        site.harm.taken()
        try:
            self.do(site)
        except NoHarmError as error:
            raise NoHarmError(f"the fault {self.name} did not happen: {error.found}") from error
        harm = site.harm.taken()
        if not harm:
            raise NoHarmError(f"the fault {self.name} did not happen: it broke nothing that it could count")
        return harm


def of(found: T | None) -> T:
    """What a fault needs of the site: faults without it are never begun."""
    if found is None:
        raise SlotstreamError("a fault needs what is not there", expected="faults that fit the site", do="tell us which it was")
    return found


def end_brokers(site: Site, end: Callable[[], None]) -> None:
    """Counts the brokers whose processes `end` has ended. Raises NoHarmError where there is none."""
    before = of(site.broker).pids
    end()
    site.harm.done("brokers ended", sum(not _runs(pid) for pid in before))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
