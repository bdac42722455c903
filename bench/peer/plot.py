"""Draws a contest's rates. Runs in the peers' environment: python plot.py peers.json peers.svg."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

OURS, THEIRS = "#2f6f4f", "#b9b4a8"


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    contenders = results["contenders"]
    names = list(contenders)[::-1]
    tasks = list(next(iter(contenders.values()))["tokens_per_second"])
    plt.rcParams["svg.hashsalt"] = "peers"  # the same numbers, the same file
    figure, panels = plt.subplots(1, len(tasks), figsize=(11, 0.5 + 0.4 * len(names)), sharey=True)
    for panel, task in zip(panels, tasks, strict=True):
        rates = [median(contenders[name]["tokens_per_second"][task]) for name in names]
        colors = [OURS if name.startswith("Penjing") else THEIRS for name in names]
        bars = panel.barh(names, rates, color=colors)
        panel.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        panel.set_title(f"{task}, tokens/s", fontsize=9, loc="left")
        panel.set_xlim(0, 1.15 * max(rates))
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.xaxis.set_visible(False)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
