"""The throughput of each case as a picture: service and echo as shares of the raw pipe, their spread over the rounds."""

import statistics
from pathlib import Path


def throughput(runs: dict[str, dict[str, list[dict]]], folder: Path) -> None:
    """Writes throughput.png and throughput.svg. runs: of each case, of each kind, the figures of each round."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for i, kind in enumerate(("service", "echo")):
        places = [case + (i - 0.5) * 0.38 for case in range(len(runs))]
        shares = [[a["readings_per_s"] / b["readings_per_s"] for a, b in zip(of[kind], of["pipe"], strict=True)] for of in runs.values()]
        middle = [statistics.median(share) for share in shares]
        spread = [[m - min(s) for m, s in zip(middle, shares, strict=True)], [max(s) - m for m, s in zip(middle, shares, strict=True)]]
        axes.bar(places, middle, 0.36, yerr=spread, label=kind, color=("#1f6f8b", "#b8c4cc")[i], ecolor="#444444", capsize=3)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set_ylabel("readings a second / raw pipe")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(folder / f"throughput.{kind}", dpi=150)
