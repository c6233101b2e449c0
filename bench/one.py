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

from bench.rates import Rate
from processor import logs
from processor.app import build
from processor.app.service import Service
from processor.metrics import STAGES, Metrics
from processor.model import tiles
from processor.records import Applied, Batch
from processor.settings import load_settings


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
    # The whole ladder first: what is compiled beside the loop would be measured with it.
    make_tiles = tiles.Tiles
    tiles.Tiles = lambda model, **chosen: make_tiles(model, **{**chosen, "beside": False})
    service = Service(load_settings(None, rest, {}), metrics)
    rate = Rate(arguments.records)

    def watch() -> None:
        while not rate.over:
            rate.note(int(metrics.value("readings_total")), _spent(metrics))
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    service.run()
    stages = {stage: round(metrics.total("stage_seconds", stage=stage), 3) for stage in ("decode", "apply", "encode", "publish", "commit")}
    print(json.dumps({**rate.figures(), "stages_s": stages, "readings": rate.done, "steady": rate.spent}))


def _spent(metrics: Metrics) -> dict[str, float]:
    """Seconds so far, of the loop by stage and of all threads' processor time, and the transactions committed."""
    found = {stage: metrics.total("stage_seconds", stage=stage) for stage in STAGES}
    return {**found, "cpu": time.process_time(), "commits": metrics.value("transactions_total", result="committed")}


if __name__ == "__main__":
    main()
