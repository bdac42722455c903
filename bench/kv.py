"""Prints what each format of the KV cache costs: weights as published, keys and values rounded, as served.

python bench/kv.py [MODEL] [--data FILE] [--tokens N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from penjing.artifact import ModelConfig
from penjing.measure.cost import kv_bytes_per_token
from penjing.models import SEEDLING, SEEDLING_TEXT
from penjing.optimize.evaluate import evaluate
from penjing.quantize import quantize_checkpoint
from penjing.spec import KvFormat, KvFormats, preset

PAIRS: tuple[tuple[KvFormat, KvFormat], ...] = (
    ("int8", "int8"),
    ("int6", "int6"),
    ("int6", "int4"),
    ("int5", "int5"),
    ("int4", "int4"),
)


def bytes_per_token(config: ModelConfig) -> int:
    """Of all blocks."""
    return sum(kv_bytes_per_token(config, block) for block in config.blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(SEEDLING))
    parser.add_argument("--data", type=Path, default=SEEDLING_TEXT)
    parser.add_argument("--tokens", type=int, default=None)
    options = parser.parse_args()
    print("| keys | values | bytes a token | mean KL | loss | at most (95%) | same first choice |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        for key, value in PAIRS:
            recipe = preset("keep", kv=KvFormats(key=key, value=value))
            artifact = quantize_checkpoint(options.model, Path(directory) / f"{key}-{value}", recipe)
            found = evaluate(
                artifact.path, options.model, options.data, tokens=options.tokens, speed=False
            ).compared
            print(
                f"| {key} | {value} | {bytes_per_token(artifact.config):,} | {found.quality.mean_kl:.2e} "
                f"| {found.bound.mean:+.5f} | {found.bound.upper:+.5f} "
                f"| {found.quality.top1_agreement:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
