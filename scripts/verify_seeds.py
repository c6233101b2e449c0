"""`slotstream verify` with one seed after another, whatever comes of each: a table at the end, and exit code 1 if one failed.

    python -m scripts.verify_seeds --count 10 --load

Owns the sequence and the load beside it; what a run proves is verify's. What each run prints goes to a file of its own.
"""

import argparse
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from processor.cli.types import above_zero, positive
from processor.testbed import child_process as process
from processor.testbed.signals import Interrupts

FOLDER = Path("build/verify")
COLUMNS = ("records", "predictions", "dead_letters", "faults", "kills", "longest_stall_s")
BUSY = "while True: pass"
OK, INTERRUPTED = 0, 130
STOP_S = 120.0


@dataclass(frozen=True)
class Run:
    """figures: of the last line, by name; empty if there is none. why: the reason of a failure, else empty."""

    seed: int
    code: int
    seconds: float
    figures: dict[str, str]
    why: str
    log: Path

    @property
    def good(self) -> bool:
        """Verify said so, in both ways: by its exit code and by its last line."""
        return self.code == OK and all(self.figures.get(kind) == "0" for kind in ("lost", "duplicated", "different"))


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 every seed was survived, 1 one was not, 2 wrong use, 130 interrupted."""
    parser = argparse.ArgumentParser(description="Runs `slotstream verify` with several seeds, one after the other.")
    parser.add_argument("--count", type=positive, default=10, metavar="N", help="of the seeds (10)")
    parser.add_argument("--from", dest="first", type=int, metavar="SEED", help="the first one (a random one)")
    parser.add_argument("--minutes", type=above_zero, default=2.0, metavar="M", help="of each run's breaking (2)")
    parser.add_argument("--load", action="store_true", help="keep each core busy with a process beside the runs")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- MORE", help="more options of verify")
    options = parser.parse_args(arguments)
    first = secrets.randbelow(1_000_000) if options.first is None else options.first
    command = [sys.executable, "-m", "processor.cli", "verify", f"--minutes={options.minutes:g}"]
    command += [word for word in options.rest if word != "--"]
    console = Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 150)
    console.print(f"seeds {first} to {first + options.count - 1}: {shlex.join(command)}", highlight=False, soft_wrap=True)
    interrupts = Interrupts()
    interrupts.install()
    runs: list[Run] = []
    with load(cores() if options.load else 0), suppress(KeyboardInterrupt):
        for seed in range(first, first + options.count):
            console.print(f"seed {seed}: goes on; see {FOLDER / f'{seed}.txt'}", highlight=False, soft_wrap=True)
            runs.append(one(command, seed, FOLDER))
            console.print(f"seed {seed}: {told(runs[-1])}", highlight=False, soft_wrap=True)
            if interrupts.seen:
                break
    console.print(table(runs))
    if interrupts.seen:
        return INTERRUPTED
    return OK if all(run.good for run in runs) else 1


def one(command: list[str], seed: int, folder: Path) -> Run:
    """One run to its end; an interrupt is passed on to it, so that it removes what it made."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{seed}.txt"
    log.unlink(missing_ok=True)
    begun_s = time.monotonic()
    running = process.spawn([*command, f"--seed={seed}"], log)
    try:
        code = running.wait()
    except KeyboardInterrupt:
        process.stop(running, STOP_S)
        code = INTERRUPTED
    text = log.read_text(errors="replace")
    return Run(seed, code, time.monotonic() - begun_s, figures_of(text), "" if code == OK else why(text), log)


def figures_of(text: str) -> dict[str, str]:
    """The words name=value of verify's last line."""
    lines = [line for line in text.splitlines() if line.startswith("verify: seed=")]
    return dict(word.split("=", 1) for word in lines[-1].split()[1:]) if lines else {}


def why(text: str) -> str:
    """The first sentence of what failed, or the last line where nothing says so."""
    if failed := re.search(r"FAILED: (.+)", text):
        return failed[1].partition(". Expected")[0]
    if found := re.search(r"^found +(\S+)$", text, re.MULTILINE):
        return found[1]
    return (text.splitlines() or ["no output"])[-1]


def result(run: Run) -> str:
    return "survived" if run.good else "interrupted" if run.code == INTERRUPTED else f"failed, {run.code}"


def told(run: Run) -> str:
    return f"{result(run)} in {run.seconds:.0f} s" + (f": {run.why}" if run.why else "")


def table(runs: list[Run]) -> Table:
    found = Table("seed", "result", "seconds", *COLUMNS, "why")
    for run in runs:
        found.add_row(str(run.seed), result(run), f"{run.seconds:.0f}", *(run.figures.get(name, "-") for name in COLUMNS), run.why)
    return found


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many busy loops beside what is done, which end with this process however it ends."""
    busy = [subprocess.Popen(process.tied([sys.executable, "-c", BUSY]), start_new_session=True) for _ in range(processes)]
    try:
        yield
    finally:
        for one_of_them in busy:
            process.kill(one_of_them)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
