"""`make bench`: service / echo on a real Kafka, broker and service on the same cores, each scenario's runs alternating.

Ratios within one run say something on a shared machine; the rates beside them only say what this one did.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from bench import windowed
from bench.load import FEATURES, PARTITIONS, VALUES, fill, make_producer, new_topic, options, save_model
from processor.testbed.embedded_kafka import EmbeddedKafka

LATENCY_RATE = 10_000

SCENARIOS = {
    "2,000 sensors": lambda rng, n: rng.integers(0, 2_000, n),
    "Zipf 1.2": lambda rng, n: (rng.zipf(1.2, n) - 1) % 2_000,
    "100,000 sensors": lambda rng, n: rng.integers(0, 100_000, n),
    "one hot sensor": lambda _rng, n: np.zeros(n, np.int64),
}
WANTED = {"2,000 sensors": 0.75, "Zipf 1.2": 0.60, "100,000 sensors": 0.70, "one hot sensor": 0.30}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-s", type=int, default=15)
    parser.add_argument("--only", help="scenarios whose name contains this", default="")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.only in "windowed":
        windowed.measure(FEATURES)
        if arguments.only == "windowed":  # which needs no Kafka
            return
    with tempfile.TemporaryDirectory() as name, EmbeddedKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        model = save_model(folder)
        print(f"LSTM(64) + Dense(1), {FEATURES} features, JSON, exactly once")
        print(f"{arguments.records:,} records a run, median of {arguments.rounds} rounds")
        print(f"{'':18}{'service/s':>12}{'echo/s':>12}{'ratio':>8}{'wanted':>8}")
        for scenario, draw in SCENARIOS.items():
            if arguments.only in scenario:
                _measure(kafka.bootstrap, folder, model, scenario, draw, arguments)
        if arguments.only in "latency":
            _measure_latency(kafka.bootstrap, folder, model, arguments)


def _measure(bootstrap, folder, model, scenario, draw, arguments) -> None:
    topic = new_topic(bootstrap)
    fill(bootstrap, topic, draw(np.random.default_rng(1), arguments.records).tolist())
    runs: dict[bool, list[dict]] = {False: [], True: []}
    for _ in range(arguments.rounds):
        for echo in (True, False):
            runs[echo].append(_run(bootstrap, folder, model, topic, arguments.records, echo=echo))
    service, echo = (statistics.median(run["readings_per_s"] for run in runs[kind]) for kind in (False, True))
    ratios = [s["readings_per_s"] / e["readings_per_s"] for s, e in zip(runs[False], runs[True], strict=True)]
    print(f"{scenario:18}{service:12,.0f}{echo:12,.0f}{statistics.median(ratios):8.2f}{WANTED[scenario]:8.2f}")
    print(f"    ratios {[round(r, 2) for r in ratios]}")
    for name, kind in (("service", False), ("echo", True)):
        print(f"    seconds by stage, {name}: {runs[kind][-1]['stages_s']}")


def _run(bootstrap, folder, model, topic, records, *, echo) -> dict:
    command = [sys.executable, "-m", "bench.one", f"--records={records}", *(["--echo"] if echo else [])]
    command += options(bootstrap, folder, model, topic)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_latency(bootstrap, folder, model, arguments) -> None:
    """From a record's timestamp to its prediction in the hands of a read-committed consumer."""
    topic = new_topic(bootstrap)
    with (folder / "latency.log").open("w") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "processor.cli", "run", *options(bootstrap, folder, model, topic), "--http.port=0"], stderr=log
        )
        try:
            taken = _latencies(bootstrap, topic, service, arguments.latency_s)
        finally:
            service.terminate()
            service.wait(30)
    p50, p99 = np.percentile(taken, [50, 99]) * 1000
    print(f"latency at {LATENCY_RATE:,} readings/s, 2,000 sensors, commit every 100 ms: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    print(f"    {len(taken):,} predictions; wanted: p99 160 ms")


def _latencies(bootstrap, topic, service, seconds) -> list[float]:
    """Feeds at a steady rate and reads what comes; the first third is left out, the service may still be starting."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(f"{topic}.out", p, 0) for p in range(PARTITIONS)])
    producer, rng = make_producer(bootstrap, linger_ms=2), np.random.default_rng(3)
    sent, got, taken = 0, 0, list[float]()
    for name in ("warming", "measured"):
        begun_s, sent_before = time.time(), sent
        while time.time() - begun_s < seconds or got < sent:
            if service.poll() is not None:
                raise SystemExit("the service ended: no latency")
            due = sent_before + int(min(seconds, time.time() - begun_s) * LATENCY_RATE) - sent
            for sensor in rng.integers(0, 2000, due).tolist():
                producer.produce(topic, VALUES[sensor % 1000], f"sensor-{sensor}".encode())
            sent += due
            producer.poll(0)
            messages = consumer.consume(2000, 0.005)
            now_s = time.time()
            got += sum(m.error() is None for m in messages)
            if name == "measured":
                taken += [now_s - m.timestamp()[1] / 1000 for m in messages if m.error() is None]
    consumer.close()
    return taken


if __name__ == "__main__":
    main()
