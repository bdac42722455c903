"""What removing part of the blocks' parameters does for speed, at the shape of a model of 1.1 billion.

    python bench/cut_speed.py --fractions 0.25 0.5

Artifacts of random weights at the shape of tinyllama-1.1b, whole and with so many feed-forward channels fewer
that the fraction of the blocks' parameters is gone, take turns: a prompt of 512 tokens and 64 more, alone.
Ratios are of medians, cut to whole.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from penjing.artifact import ModelConfig
from penjing.engine import Engine
from penjing.engine.pages import pages_for
from penjing.models.shapes import find_shape
from penjing.optimize.bench.random_artifact import random_artifact_of
from penjing.optimize.progress import silent
from penjing.optimize.serving import Request, RequestTiming, measure_serving
from penjing.prune.plan import block_parameters

SHAPE, MULTIPLE = "tinyllama-1.1b", 128
PROMPT, WRITTEN = 512, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--formats", nargs="+", default=["int4", "int8"])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    whole = find_shape(SHAPE)
    shapes = {0.0: whole} | {fraction: cut(whole, fraction) for fraction in options.fractions}
    rng = np.random.default_rng(0)
    print("| format | parameters of the blocks | prefill | decode |\n|---|---:|---:|---:|")
    for format in options.formats:
        engines = {
            name_of(fraction): Engine(
                random_artifact_of(config, name_of(fraction), format),
                threads=options.threads,
                num_pages=pages_for(PROMPT + WRITTEN),
                max_sequences=1,
                prefix_cache=False,
            )
            for fraction, config in shapes.items()
        }
        request = Request(rng.integers(0, whole.vocab_size, PROMPT).tolist(), WRITTEN)
        timings = measure_serving(engines, request, "speed", silent)
        medians = {fraction: medians_of(found) for fraction, found in timings.items()}
        before = medians[SHAPE]
        for fraction, config in shapes.items():
            kept = block_parameters(config) / block_parameters(whole)
            prefill, decode = medians[name_of(fraction)]
            print(
                f"| {format} | {kept:.1%} | {PROMPT / prefill:,.0f} tokens/s, {before[0] / prefill:.2f}x "
                f"| {WRITTEN / decode:,.1f} tokens/s, {before[1] / decode:.2f}x |",
                flush=True,
            )


def cut(config: ModelConfig, fraction: float) -> ModelConfig:
    """The shape without `fraction` of the blocks' parameters, all of them channels; to whole groups."""
    block = config.blocks[0]
    goal = (1 - fraction) * block_parameters(config)
    for width in range(block.intermediate_size // MULTIPLE * MULTIPLE, 0, -MULTIPLE):
        smaller = block.model_copy(update={"intermediate_size": width})
        found = config.model_copy(update={"blocks": (smaller,) * len(config.blocks)})
        if block_parameters(found) <= goal:
            return found
    raise SystemExit(f"cut_speed: channels are less than {fraction:.0%} of the blocks' parameters")


def name_of(fraction: float) -> str:
    """Of an artifact's directory."""
    return f"{SHAPE}-cut-{fraction:g}" if fraction else SHAPE


def medians_of(timings: list[RequestTiming]) -> tuple[float, float]:
    """Seconds to the first token, and seconds of all that follow."""
    return (
        statistics.median(timing.first_token_seconds for timing in timings),
        statistics.median(timing.decode_seconds for timing in timings),
    )


if __name__ == "__main__":
    main()
