"""`make bench`: the service beside an echo and a raw pipe on a real Kafka, each case's runs taking turns.

Echo is the service's loop without a model, the pipe is the client alone. Broker and process share the cores, so only ratios within one
run say something; the rates beside them say what this machine did.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from bench import plot, windowed
from bench.load import FEATURES, PARTITIONS, VALUES, fill, make_producer, new_topic, options, save_model
from processor.testbed.embedded_kafka import EmbeddedKafka

LATENCY_RATE = 10_000

CASES = {
    "2,000 sensors": lambda rng, n: rng.integers(0, 2_000, n),
    "Zipf 1.2": lambda rng, n: (rng.zipf(1.2, n) - 1) % 2_000,
    "100,000 sensors": lambda rng, n: rng.integers(0, 100_000, n),
    "one hot sensor": lambda _rng, n: np.zeros(n, np.int64),
}
KINDS = ("service", "echo", "pipe")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-s", type=int, default=15)
    parser.add_argument("--case", help="those whose name contains this; latency and windowed are two more", default="")
    parser.add_argument("--json", type=Path, help="write every run here")
    parser.add_argument("--plot", type=Path, help="write throughput.png and throughput.svg into this folder")
    parser.add_argument("--least", type=float, help="end with 1 where service / pipe is less than this in any case")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if _wanted("windowed", arguments):
        windowed.measure(FEATURES)
    cases = [case for case in CASES if _wanted(case, arguments)]
    if not cases and not _wanted("latency", arguments):
        return
    with tempfile.TemporaryDirectory() as name, EmbeddedKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        model = save_model(folder)
        print(f"LSTM(64) + Dense(1), {FEATURES} features, JSON, exactly once")
        print(f"{arguments.records:,} records a run, {arguments.rounds} rounds: medians, and the least and most in brackets")
        print(f"{'':16}{'readings a second':^36}{'service /':^26}{'processor, us a reading':^27}")
        print(f"{'':16}{'service':>12}{'echo':>12}{'pipe':>12}{'echo':>13}{'pipe':>13}{'service':>9}{'echo':>9}{'pipe':>9}")
        runs = {case: _measure(kafka.bootstrap, folder, model, case, arguments) for case in cases}
        if _wanted("latency", arguments):
            _measure_latency(kafka.bootstrap, folder, model, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "records": arguments.records, "runs": runs}, indent=1) + "\n")
    if arguments.plot:
        plot.throughput(runs, arguments.plot)
    least = min((statistics.median(ratios(found, "pipe")) for found in runs.values()), default=1.0)
    if arguments.least is not None and least < arguments.least:
        sys.exit(f"found service / pipe {least:.2f}, expected at least {arguments.least}. To do: profile the stage that costs most")


def _wanted(case: str, arguments: argparse.Namespace) -> bool:
    return arguments.case in case


def machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "python": platform.python_version()}


def ratios(found: dict[str, list[dict]], kind: str) -> list[float]:
    """service / kind of each round."""
    pairs = zip(found["service"], found[kind], strict=True)
    return [service["readings_per_s"] / other["readings_per_s"] for service, other in pairs]


def _measure(bootstrap, folder, model, case, arguments) -> dict[str, list[dict]]:
    topic = new_topic(bootstrap)
    fill(bootstrap, topic, CASES[case](np.random.default_rng(1), arguments.records).tolist())
    runs: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for number in range(1, arguments.rounds + 1):
        for kind in KINDS:
            print(f"    {case}: {kind}, round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
            runs[kind].append(run_once(bootstrap, folder, model, topic, arguments.records, kind))
    rates = "".join(f"{statistics.median(run['readings_per_s'] for run in runs[kind]):12,.0f}" for kind in KINDS)
    shares = "".join(f"{_spread(ratios(runs, kind)):>13}" for kind in KINDS[1:])
    costs = "".join(f"{statistics.median(run['cpu_us'] for run in runs[kind]):9.2f}" for kind in KINDS)
    print(f"{case:16}{rates}{shares}{costs}")
    stages = {stage: round(s / arguments.records * 1e6, 2) for stage, s in runs["service"][-1]["stages_s"].items()}
    print(f"    service, us a reading by stage: {stages}", flush=True)
    return runs


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if len(found) > 1 else f"{found[0]:.2f}"


def run_once(bootstrap, folder, model, topic, records, kind) -> dict:
    if kind == "pipe":
        command = [sys.executable, "-m", "bench.pipe", f"--records={records}", f"--bootstrap={bootstrap}", f"--topic={topic}"]
    else:
        command = [sys.executable, "-m", "bench.one", f"--records={records}", *(["--echo"] if kind == "echo" else [])]
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
