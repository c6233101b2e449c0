"""`python -m bench.machine`: measures what `slotstream plan` cannot measure without a broker, and writes it for `plan`.

Needs a machine with nothing else to do: the figures stand for every other machine, scaled as decoding is.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np

from bench.__main__ import CASES, run_once
from bench.load import FEATURES, fill, new_topic, save_model
from bench.recovery import restore
from processor.settings import load_settings
from processor.sizing import reference_machine
from processor.sizing.measure import measure
from processor.sizing.plan_parts import Measured, Wanted
from processor.testbed.embedded_kafka import EmbeddedKafka

FILE = Path(reference_machine.__file__).with_name(reference_machine.FILE)
SENSORS = "2,000 sensors"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.machine", description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--restored", type=int, default=1_000_000, help="sensors")
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as name, EmbeddedKafka(Path(name) / "kafka") as kafka:
        folder = Path(name)
        model, topic = save_model(folder), new_topic(kafka.bootstrap)
        fill(kafka.bootstrap, topic, CASES[SENSORS](np.random.default_rng(1), arguments.records).tolist())
        steady = run_once(kafka.bootstrap, folder, model, topic, arguments.records, "service")
        restored = restore(kafka.bootstrap, folder, model, arguments.restored)
        planned = measure(load_settings(None, [f"--model.path={model}"], {}), Wanted(2_000, 10_000.0))
    found = {"measured_on": _here(), **_seconds(steady, planned), "restored_rows_per_s": restored}
    arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(arguments.output.read_text(encoding="utf-8"))


def _seconds(run: dict, planned: Measured) -> dict[str, float]:
    """A run of the service over a full topic, whose loop never waits, beside what `plan` measures of the same model."""
    readings, steady, largest = run["readings"], run["steady"], planned.batches[-1]
    of_plan = (largest.decode_s + largest.encode_s) / largest.readings
    loop_s = sum(seconds for name, seconds in steady.items() if name not in ("cpu", "commits"))
    return {
        "decode_s": largest.decode_s / largest.readings,
        "consume_s": steady["consume"] / readings,
        "message_s": max(0.0, (steady["decode"] + steady["encode"]) / readings - of_plan),
        "publish_s": steady["publish"] / readings,
        "commit_s": steady["commit"] / max(1.0, steady["commits"]),
        "client_cpu_s": max(0.0, steady["cpu"] - loop_s) / readings,
    }


def _here() -> str:
    return f"{os.cpu_count()} {platform.machine()} cores, broker and service on all: LSTM(64), {FEATURES} features in JSON"


if __name__ == "__main__":
    main()
