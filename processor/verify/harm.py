"""What a fault has broken, counted as proof: a fault that broke nothing proves nothing when everything survives it.

Owns the counts of one fault. How harm is done, and how it is seen to be done, is the faults'.
"""

from collections import Counter

from processor.errors import SlotstreamError


class NoHarmError(SlotstreamError):
    """A fault found nothing to break, or what it broke is whole."""

    def __init__(self, found: str) -> None:
        super().__init__(found, expected="a fault that breaks what it says", do="look at the logs; this run proves nothing about the fault")


class Harm:
    """Of a fault, by what was done ("killed", "connections cut")."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def done(self, what: str, count: int = 1) -> None:
        """Raises NoHarmError where nothing was done after all."""
        if count <= 0:
            raise NoHarmError(f"{what}: {count}")
        self._counts[what] += count

    def taken(self) -> Counter[str]:
        """All since the last call."""
        counts, self._counts = self._counts, Counter()
        return counts
