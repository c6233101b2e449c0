"""How fast a process goes and what it takes of the processor, without its start."""

import time
from collections.abc import Mapping

# The start of a run is left out: the first fetches, the first calls of each rung.
WARM_SHARE = 0.15


class Rate:
    """records: of the whole run."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._seen: list[tuple[int, float, float, Mapping[str, float]]] = []

    def note(self, done: int, spent: Mapping[str, float] | None = None) -> None:
        """done: records so far. spent: whatever else is counted from the start on."""
        self._seen.append((done, time.perf_counter(), time.process_time(), spent or {}))

    @property
    def over(self) -> bool:
        return bool(self._seen) and self._seen[-1][0] >= self._records

    @property
    def done(self) -> int:
        """Records without those of the start."""
        first, last = self._ends()
        return last[0] - first[0]

    @property
    def spent(self) -> dict[str, float]:
        """The same of what else was counted."""
        first, last = self._ends()
        return {name: last[3][name] - first[3][name] for name in last[3]}

    def figures(self) -> dict[str, float]:
        """Records a second, and processor time a record in microseconds, of all threads."""
        first, last = self._ends()
        return {"readings_per_s": round(self.done / (last[1] - first[1])), "cpu_us": round((last[2] - first[2]) / self.done * 1e6, 3)}

    def _ends(self) -> tuple[tuple[int, float, float, Mapping[str, float]], ...]:
        return tuple(next(seen for seen in self._seen if seen[0] >= share * self._records) for share in (WARM_SHARE, 1.0))
