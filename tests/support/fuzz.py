"""Bad input in bulk: `make fuzz`, or python tests/support/fuzz.py --count 10000000 --seed 1.

Runs the targets of fuzz_targets.py side by side, a batch each in turn, and judges what no single batch shows: that none takes
long, and that memory does not grow. A batch is made from its target, the seed and its number alone: a finding names all three,
and `--only TARGET --seed S --from N --count 1` makes it again.
"""

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz_targets import Target, all_targets

from processor import logs

BATCH_S_MAX = 5.0  # of processor time: some ten thousand times what a batch takes
HANG_S = 120.0
GROWTH_BYTES_MAX = 64_000_000
FINDINGS_MAX = 20  # then it is no fuzzing any more
TELL_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a batch did that must not be, and its name."""

    target: str
    batch: int
    what: str


@dataclass(slots=True)
class Turn:
    """Where a target is in its own batches. done: inputs."""

    target: Target
    batch: int
    done: int = 0


def fuzz(
    targets: list[Target], count: int, seed: int, *, first: int = 0, tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, int], list[Finding]]:
    """Inputs given to each target, and what was found. Each target gets its share of the count, at least one batch."""
    turns = [Turn(target, first) for target in targets]
    found, done, warm = list[Finding](), 0, 0
    said_s = time.monotonic()
    while done < count and len(found) < FINDINGS_MAX:
        # Whoever is furthest behind its share.
        turn = min(turns, key=lambda turn: turn.done / turn.target.share)
        found += run_batch(turn.target, seed, turn.batch)
        turn.batch, turn.done, done = turn.batch + 1, turn.done + turn.target.inputs, done + turn.target.inputs
        if not warm and done > count / 10:
            warm = resident_bytes()
        if time.monotonic() - said_s > TELL_EVERY_S:
            said_s = time.monotonic()
            tell(f"{done:,} of {count:,} inputs, {len(found)} findings, {resident_bytes() / 1e6:.0f} MB")
    grown = resident_bytes() - warm
    if warm and grown > GROWTH_BYTES_MAX:
        found.append(Finding("memory", 0, f"{grown / 1e6:.0f} MB more at the end than after a tenth of the inputs"))
    return {turn.target.name: turn.done for turn in turns}, found


def run_batch(target: Target, seed: int, batch: int) -> list[Finding]:
    begun_s = time.thread_time()
    try:
        target.run(Random(f"{seed} {target.name} {batch}"))
    except Exception as error:  # noqa: BLE001 - any exception is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return [Finding(target.name, batch, f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}")]
    took_s = time.thread_time() - begun_s
    return [Finding(target.name, batch, f"took {took_s:.1f} s")] if took_s > BATCH_S_MAX else []


def resident_bytes() -> int:
    """What the process has in memory; where the system does not tell, what it had at most."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tell(line: str) -> None:
    """Prints it, and gives the next line HANG_S seconds: then the process shows where each thread is, and ends."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    if line:
        print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bad input in bulk into whatever reads bytes.")
    parser.add_argument("--count", type=int, default=10_000_000, help="inputs (10,000,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="TARGET", help="one target")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="N", help="the number of the first batch")
    parser.add_argument("--oracle-share", type=float, default=1 / 50, help="of the records that the slow oracle judges too (0.02)")
    given = parser.parse_args(argv)
    faulthandler.enable()  # a crash of a library is a finding too
    tell("")
    logs.configure("error", "console")  # that damage is passed over is said each time
    with tempfile.TemporaryDirectory() as folder:
        targets = [t for t in all_targets(Path(folder), oracle_share=given.oracle_share) if given.only in (None, t.name)]
        if not targets:
            parser.error(f"there is no target {given.only}")
        begun_s = time.monotonic()
        counts, found = fuzz(targets, given.count, given.seed, first=given.first, tell=tell)
    faulthandler.cancel_dump_traceback_later()
    for finding in found:
        print(f"FOUND --only {finding.target} --seed {given.seed} --from {finding.batch} --count 1\n      {finding.what}")
    inputs = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    print(f"{sum(counts.values()):,} inputs in {time.monotonic() - begun_s:.0f} s ({inputs}): {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
