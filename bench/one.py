"""One measured run of the service, or of the echo, over a topic that is full already: prints one JSON line.

Echo is the same loop, codec and transactions with no model and no state: what of the time is Kafka's, JSON's and Python's.
"""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np

from processor import logs
from processor.app import build
from processor.app.service import Service
from processor.metrics import STAGES, Metrics
from processor.records import Applied, Batch
from processor.settings import load_settings

# The start of a run is left out: the first fetches, the first calls of each rung.
WARM_SHARE = 0.15


class Echo:
    """An engine that gives every reading the same prediction, and is the one it is given in all else."""

    def __init__(self, engine, outputs):
        self._engine, self._outputs = engine, outputs

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def apply(self, batch: Batch, *, replay: bool = False) -> Applied:  # noqa: ARG002
        n = len(batch)
        return Applied(
            y=np.full((len(batch.x), self._outputs), 0.12345678, np.float32),
            last=np.cumsum(batch.steps) - 1,
            steps=np.ones(n, np.int64),
            residual=np.full(n, np.nan, np.float32),
            warming=np.zeros(n, np.bool_),
            filling=np.zeros(n, np.bool_),
            finite=np.ones(n, np.bool_),
            late=np.zeros(n, np.bool_),
            reset_by=np.zeros(n, np.int8),
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--records", type=int, required=True)
    arguments, rest = parser.parse_known_args(argv)
    logs.configure("warning", "json")
    metrics = Metrics()
    if arguments.echo:
        make = build.Engine
        build.Engine = lambda stepper, shapes, *rest, **options: Echo(make(stepper, shapes, *rest, **options), shapes.outputs)
    service = Service(load_settings(None, rest, {}), metrics)
    seen: list[tuple[float, float]] = []
    spent: list[dict[str, float]] = []

    def watch() -> None:
        while not seen or seen[-1][1] < arguments.records:
            seen.append((time.perf_counter(), metrics.value("readings_total")))
            spent.append(_spent(metrics))
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    service.run()
    begin, end = (next(i for i, s in enumerate(seen) if s[1] >= share * arguments.records) for share in (WARM_SHARE, 1.0))
    stages = {stage: round(metrics.total("stage_seconds", stage=stage), 3) for stage in ("decode", "apply", "encode", "publish", "commit")}
    seconds, readings = (last - first for first, last in zip(seen[begin], seen[end], strict=True))
    steady = {name: spent[end][name] - spent[begin][name] for name in spent[end]}
    print(json.dumps({"readings_per_s": round(readings / seconds), "stages_s": stages, "readings": readings, "steady": steady}))


def _spent(metrics: Metrics) -> dict[str, float]:
    """Seconds so far, of the loop by stage and of all threads' processor time, and the transactions committed."""
    found = {stage: metrics.total("stage_seconds", stage=stage) for stage in STAGES}
    return {**found, "cpu": time.process_time(), "commits": metrics.value("transactions_total", result="committed")}


if __name__ == "__main__":
    main()
