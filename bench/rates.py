"""How fast a process goes and what it takes of the processor, without its start."""

import time

# The start of a run is left out: the first fetches, the first calls of each rung.
WARM_SHARE = 0.15


class Rate:
    """records: of the whole run."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._seen: list[tuple[int, float, float]] = []

    def note(self, done: int) -> None:
        """done: records so far."""
        self._seen.append((done, time.perf_counter(), time.process_time()))

    @property
    def over(self) -> bool:
        return bool(self._seen) and self._seen[-1][0] >= self._records

    def figures(self) -> dict[str, float]:
        """Records a second, and processor time a record in microseconds, of all threads."""
        first = next(seen for seen in self._seen if seen[0] >= self._records * WARM_SHARE)
        last = next(seen for seen in self._seen if seen[0] >= self._records)
        done, seconds, cpu_s = (b - a for a, b in zip(first, last, strict=True))
        return {"readings_per_s": round(done / seconds), "cpu_us": round(cpu_s / done * 1e6, 3)}
