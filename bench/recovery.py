"""`make bench-recovery`: what a crash, a restart, a rebalance and a checkpoint cost, on a real Kafka.

    restore       a million sensors back from each store, at a start of the service that has nothing to replay
    kill          kill -9 at a steady rate, the same command at once: until the first prediction of a reading that came after the kill
    rebalance     an instance comes, leaves, comes again and is killed for good: how long each partition has no prediction
    checkpoint    a backlog over 100,000 sensors, all of them dirty, with a checkpoint every 30 s and with none

Broker, services, generator and reader share one machine's cores, and so does TensorFlow when an instance starts: all times are upper
bounds of what a service with cores of its own takes.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from bench.load import PARTITIONS, VALUES, fill, make_producer, new_topic, options, save_model
from processor.testbed.embedded_kafka import EmbeddedKafka
from processor.testbed.patience import wait_for

ASSIGNED = "partitions assigned"
STORES = ("topic", "directory")
SESSION_S = 10.0
PATIENCE_S = 300.0
SETTLED_S = 1.0  # no partition's newest prediction is older than this


class Instance:
    """`slotstream run` as a process, and the events of its log."""

    def __init__(self, folder: Path, name: str, words: list[str]) -> None:
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "processor.cli", "run", *words, f"--instance={name}", "--http.port=0", "--log.format=json"]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._from = log.tell()
            self.begun_s = time.time()
            self.process = subprocess.Popen(self._command, stderr=log)

    def events(self, *names: str) -> list[dict]:
        """Of the process that was started last, each with `at_s`, in seconds of the clock."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            lines = [json.loads(line) for line in log.read().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
        found = [line for line in lines if line["event"] in names]
        for line in found:
            line["at_s"] = np.datetime64(line["timestamp"].rstrip("Z")).astype("datetime64[ms]").astype(np.int64) / 1000
        return found

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        def step() -> object:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.log.stem} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            return condition()

        wait_for(step, what, PATIENCE_S)

    def wait_ready(self) -> None:
        self.wait("ready", lambda: self.events("ready"))

    def stop(self, by: signal.Signals = signal.SIGTERM) -> float:
        """Ends it; returns when that began."""
        at_s = time.time()
        if self.process.poll() is None:
            self.process.send_signal(by)
            self.process.wait(PATIENCE_S)
        return at_s


class Load:
    """Readings of 2,000 sensors at a steady rate, and when the predictions for them arrive at a reader of committed data."""

    def __init__(self, bootstrap: str, topic: str, rate: int, sensors: int = 2000) -> None:
        self._topic, self._rate, self._sensors = topic, rate, sensors
        self._producer = make_producer(bootstrap, linger_ms=2)
        self._reader = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed", "fetch.wait.max.ms": 10}
        )
        self._reader.assign([TopicPartition(f"{topic}.out", p, 0) for p in range(PARTITIONS)])
        self.arrivals: dict[int, list[tuple[float, float]]] = {p: [] for p in range(PARTITIONS)}  # (seconds of the clock, its reading's)
        self._over = False
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._produce, self._read)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()
        self._reader.close()

    def first_after(self, at_s: float) -> float | None:
        """When the first prediction arrived for a reading that was made after a moment."""
        found = [arrived for pairs in self.arrivals.values() for arrived, made in pairs if made > at_s]
        return min(found, default=None)

    def lag_s(self) -> float:
        """How old the oldest of the newest predictions' readings is."""
        return time.time() - min((pairs[-1][1] for pairs in self.arrivals.values() if pairs), default=0.0)

    def stalls(self, partitions: list[int], begin_s: float, end_s: float) -> float:
        """The longest time between two arrivals of one of these partitions that lies, in part, within a span."""
        longest = 0.0
        for number in partitions:
            times = np.array([arrived for arrived, _ in self.arrivals[number]])
            within = times[(times >= begin_s - 5) & (times <= end_s)]
            within = np.append(within, end_s)
            gaps = np.diff(within)[within[1:] >= begin_s]
            longest = max(longest, float(gaps.max(initial=0.0)))
        return longest

    def _produce(self) -> None:
        rng, begun_s, sent = np.random.default_rng(4), time.monotonic(), 0
        while not self._over:
            due = int((time.monotonic() - begun_s) * self._rate) - sent
            for sensor in rng.integers(0, self._sensors, due).tolist():
                self._producer.produce(self._topic, VALUES[sensor % 1000], f"sensor-{sensor}".encode())
            sent += due
            self._producer.poll(0)
            time.sleep(0.005)
        self._producer.flush(30)

    def _read(self) -> None:
        while not self._over:
            messages = self._reader.consume(5000, 0.02)
            now_s = time.time()
            for message in messages:
                if message.error() is None:
                    self.arrivals[message.partition()].append((now_s, message.timestamp()[1] / 1000))


# -- restore ------------------------------------------------------------------------------------------------------------------


def restore(bootstrap: str, folder: Path, model: Path, sensors: int) -> dict[str, float]:
    """Rows a second, by store: the faster of two starts."""
    print(f"restore of {sensors:,} sensors, {PARTITIONS} partitions, 512 bytes of state each; wanted: topic 8 s, directory 4 s")
    topic = new_topic(bootstrap)
    fill(bootstrap, topic, range(sensors))
    rows_per_s = dict.fromkeys(STORES, 0.0)
    for store in STORES:
        words = [*options(bootstrap, folder, model, topic), f"--checkpoint.store={store}", "--drain_timeout=5m", "--checkpoint.interval=1h"]
        instance = Instance(folder, f"restore-{store}", words)
        instance.wait_ready()
        instance.stop()
        for attempt in range(2):
            instance.start()
            instance.wait("restored", lambda instance=instance: len(instance.events("partition restored")) == PARTITIONS)
            begun, *_ = instance.events(ASSIGNED)
            restored = instance.events("partition restored")
            held = sum(event["sensors"] for event in restored)
            rss_mb = _rss_mb(instance.process.pid)
            seconds = max(event["at_s"] for event in restored) - begun["at_s"]
            rows_per_s[store] = max(rows_per_s[store], held / seconds)
            print(f"    {store:10} {seconds:6.1f} s   {held:,} sensors held, {rss_mb:,.0f} MB resident   (start {attempt + 1})")
            instance.wait_ready()
            instance.stop()
    return rows_per_s


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


# -- kill ---------------------------------------------------------------------------------------------------------------------


def kill(bootstrap: str, folder: Path, model: Path, rate: int, rounds: int) -> None:
    print(f"kill -9 at {rate:,} readings/s, 2,000 sensors, the same command at once; wanted: a restart + 2 s")
    for store in STORES:
        topic = new_topic(bootstrap)
        instance = Instance(folder, f"kill-{store}", [*options(bootstrap, folder, model, topic), f"--checkpoint.store={store}"])
        instance.wait_ready()
        with Load(bootstrap, topic, rate) as load:
            _settled(load)
            starts, firsts, caught_up = [], [], []
            for _ in range(rounds):
                time.sleep(5)
                killed_s = instance.stop(signal.SIGKILL)
                instance.start()
                instance.wait("a prediction", lambda load=load, killed_s=killed_s: load.first_after(killed_s))
                # Its own restart: until the group is joined, which is after the import and the compilation.
                starts.append(instance.events(ASSIGNED)[0]["at_s"] - killed_s)
                firsts.append((load.first_after(killed_s) or 0.0) - killed_s)
                _settled(load)
                caught_up.append(time.time() - killed_s)
        instance.stop()
        print(
            f"    {store:10} {statistics.median(firsts):5.1f} s to the first new prediction (all: {_listed(firsts)}), "
            f"{statistics.median(starts):.1f} s of it to the assignment (import, compile, join); "
            f"caught up after {statistics.median(caught_up):.1f} s"
        )


def _settled(load: Load) -> None:
    wait_for(lambda: load.lag_s() < SETTLED_S, f"a lag below {SETTLED_S:.0f} s", PATIENCE_S)


def _listed(numbers: list[float], digits: int = 1) -> str:
    return ", ".join(f"{one:.{digits}f}" for one in numbers)


# -- rebalance ----------------------------------------------------------------------------------------------------------------


def rebalance(bootstrap: str, folder: Path, model: Path, rate: int) -> None:
    print(f"rebalance at {rate:,} readings/s, session {SESSION_S:.0f} s: the longest time without a prediction, in seconds")
    topic = new_topic(bootstrap)
    words = [*options(bootstrap, folder, model, topic), f"--kafka=session.timeout.ms={SESSION_S * 1000:.0f}"]
    instances = {"a": Instance(folder, "a", words)}
    instances["a"].wait_ready()
    with Load(bootstrap, topic, rate) as load:
        _settled(load)
        instances["b"] = Instance(folder, "b", words)
        _all_live(instances, load)
        for what in ("c joins", "c leaves", "c joins again", "c is killed and never returns"):
            before = _owners(instances)
            time.sleep(5)
            begin_s = time.time()
            if "joins" in what:
                instances["c"] = Instance(folder, "c", words)
                instances["c"].wait("assigned", lambda: instances["c"].events(ASSIGNED))
                begin_s = instances["c"].events(ASSIGNED)[0]["at_s"] - 1.0  # its start is no part of the rebalance
            else:
                instances["c"].stop(signal.SIGTERM if "leaves" in what else signal.SIGKILL)
                del instances["c"]
            _all_live(instances, load)
            after, end_s = _owners(instances), time.time()
            stayed = [p for p in range(PARTITIONS) if before.get(p) == after.get(p)]
            moved = [p for p in range(PARTITIONS) if p not in stayed]
            print(
                f"    {what:32} {load.stalls(stayed, begin_s, end_s):5.1f} for the {len(stayed)} that stay   "
                f"{load.stalls(moved, begin_s, end_s):5.1f} for the {len(moved)} that move"
            )
    for instance in instances.values():
        instance.stop()


def _owners(instances: dict[str, Instance]) -> dict[int, str]:
    """Who owns what, as the logs tell."""
    found: dict[int, str] = {}
    for name, instance in instances.items():
        owned: set[int] = set()
        for event in instance.events(ASSIGNED, "partitions revoked", "partitions lost: the group continued without this instance"):
            owned = owned | set(event["partitions"]) if event["event"] == ASSIGNED else owned - set(event["partitions"])
        found |= dict.fromkeys(owned, name)
    return found


def _all_live(instances: dict[str, Instance], load: Load) -> None:
    def live() -> bool:
        fair = [list(_owners(instances).values()).count(name) for name in instances]
        return sum(fair) == PARTITIONS and max(fair) - min(fair) <= 1 and load.lag_s() < SETTLED_S

    wait_for(live, "every partition has an owner and no lag", PATIENCE_S)


# -- checkpoints --------------------------------------------------------------------------------------------------------------


def checkpoint(bootstrap: str, folder: Path, model: Path, records: int, rounds: int) -> None:
    print(f"checkpoints over a backlog of {records:,} readings of 100,000 sensors: throughput with one every 30 s / with none")
    topic = new_topic(bootstrap)
    fill(bootstrap, topic, np.random.default_rng(5).integers(0, 100_000, records).tolist())
    for store in STORES:
        ratios, rates = [], []
        for _ in range(rounds):
            of = {interval: _rate(bootstrap, folder, model, topic, store, interval, records) for interval in ("1h", "30s")}
            ratios.append(of["30s"] / of["1h"])
            rates.append(of["1h"])
        cost, rate = 100 * (1 - statistics.median(ratios)), statistics.median(rates)
        print(f"    {store:10} {cost:5.1f} % of the throughput ({rate:,.0f} readings/s; ratios {_listed(ratios, 3)})")


def _rate(bootstrap: str, folder: Path, model: Path, topic: str, store: str, interval: str, records: int) -> float:
    words = [*options(bootstrap, folder, model, topic), f"--checkpoint.store={store}", f"--checkpoint.interval={interval}"]
    command = [sys.executable, "-m", "bench.one", f"--records={records}", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["readings_per_s"])


@contextlib.contextmanager
def site() -> Iterator[tuple[str, Path, Path]]:
    """A broker, a folder, and a model in it."""
    with tempfile.TemporaryDirectory() as name, EmbeddedKafka(Path(name) / "kafka", heap_mb=1024) as kafka:
        yield kafka.bootstrap, Path(name), save_model(Path(name))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", help="restore, kill, rebalance or checkpoint", default="")
    parser.add_argument("--sensors", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parts: dict[str, Callable[[str, Path, Path], None]] = {
        "restore": lambda *at: restore(*at, arguments.sensors),
        "kill": lambda *at: kill(*at, arguments.rate, arguments.rounds),
        "rebalance": lambda *at: rebalance(*at, arguments.rate),
        "checkpoint": lambda *at: checkpoint(*at, arguments.records, arguments.rounds),
    }
    for name, part in parts.items():
        if arguments.only in name:
            with site() as at:
                part(*at)


if __name__ == "__main__":
    main()
