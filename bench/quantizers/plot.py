"""Draws bits per weight against KL. Runs in the peers' environment: python plot.py table.json table.svg."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

STYLES = {
    "Penjing": ("#2f6f4f", "o"),
    "AutoRound": ("#b5651d", "s"),
    "GPTQ": ("#4a6fa5", "^"),
    "AWQ": ("#8a5a9e", "v"),
    "llama.cpp": ("#8c8778", "D"),
}


def main() -> None:
    rows = [row for row in json.loads(Path(sys.argv[1]).read_text())["rows"] if row.get("blocks")]
    plt.rcParams["svg.hashsalt"] = "quality"  # the same numbers, the same file
    figure, axes = plt.subplots(figsize=(8, 5))
    for maker, (color, marker) in STYLES.items():
        own = [row for row in rows if row["name"].startswith(maker)]
        points = [(row["bits_per_weight"], row["blocks"]["kl"][0]) for row in own]
        if points:
            axes.scatter(*zip(*points, strict=True), color=color, marker=marker, s=28, label=maker)
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight, scales included (block linears)", fontsize=9)
    axes.set_ylabel("mean KL to the original, nats", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
