"""Prints the README's table: every format of the embedded model, measured as served.

python bench/formats.py [MODEL] [--data FILE] [--tokens N]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from penjing.models import SEEDLING, SEEDLING_TEXT
from penjing.optimize.evaluate import evaluate
from penjing.optimize.evaluation import Evaluation
from penjing.quantize import quantize_checkpoint
from penjing.spec import Tier, WeightFormatName, preset

RUNS: tuple[tuple[WeightFormatName, Tier], ...] = (
    ("int8", "best"),
    ("layered", "best"),
    ("layered", "fast"),
    ("int4", "best"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(SEEDLING))
    parser.add_argument("--data", type=Path, default=SEEDLING_TEXT)
    parser.add_argument("--tokens", type=int, default=None)
    options = parser.parse_args()
    print(
        "| | size | perplexity | rise, at most (95%) | mean KL | same first choice | decode | first token |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        for index, (name, tier) in enumerate(RUNS):
            tray = Path(directory) / name
            if not tray.exists():
                quantize_checkpoint(options.model, tray, preset(name))
            found = evaluate(tray, options.model, options.data, tokens=options.tokens, tier=tier)
            if index == 0:
                print(reference_row(found))
            print(row(f"{name}, {tier}" if name == "layered" else name, found))
    print(
        f"\n{found.tokens:,} tokens of {found.text.name}; "
        f"{found.host.cpu_model}, {found.host.isa}, {found.host.threads} threads"
    )


def reference_row(found: Evaluation) -> str:
    """The checkpoint in its own dtype."""
    side = found.reference
    assert side is not None
    assert side.speed is not None
    size = f"{found.compared.checkpoint_bytes / 1e6:.2f} MB"
    speed = f"{side.speed.decode_tokens_per_second:,.0f} tokens/s | {1e3 * side.speed.ttft_seconds:.1f} ms"
    return f"| checkpoint | {size} | {side.perplexity:.3f} | | | | {speed} |"


def row(name: str, found: Evaluation) -> str:
    """One artifact and tier against the checkpoint."""
    compared, side = found.compared, found.candidate
    quality = compared.quality
    assert side.speed is not None
    cells = (
        name,
        f"{compared.size_ratio:.1%}",
        f"{side.perplexity:.3f}",
        f"{math.expm1(compared.bound.upper):+.2%}",
        f"{quality.mean_kl:.5f}",
        f"{quality.top1_agreement:.1%}",
        f"{side.speed.decode_tokens_per_second:,.0f} tokens/s",
        f"{1e3 * side.speed.ttft_seconds:.1f} ms",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
