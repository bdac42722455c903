"""What quantization-aware distillation leaves of the damage of 2 bits.

    python bench/low_bits.py --steps 1100 --directory /tmp/low-bits

Seedling's blocks in `table2`, groups of 64 (2.25 bits a weight): as `auto` quantizes them block by block,
which trains nothing, and then after so many steps in which codes (latents, straight through), scales, tables
and norms learn together from the original's distributions, 8 sequences of 256 tokens of the standard library
a step. KL to the original on Seedling's held-out text, nats a token, weights as stored, activations in
float32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from compression import LENGTH, packed_text
from quantizers.texts import calibration_windows, evaluation_windows
from torch import Tensor

from penjing.artifact import expected_tensors
from penjing.formats.codes import dequantize
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.optimize.progress import silent
from penjing.quantize.calibrated import CalibratedWalk
from penjing.quantize.state import BlockResult, WorkDirectory
from penjing.quantize.tune import mean_kl
from penjing.quantize.tuning import tune_blocks
from penjing.spec import QuantizeStep, WeightFormat

SEQUENCES, HELD = 8, 32


def main() -> None:
    """KL before and after, and the processor time of both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--format", default="table2")
    parser.add_argument("--stride", type=int, default=1, help="judge on every so many-th window")
    parser.add_argument("--directory", type=Path, required=True, help="for the text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(SEEDLING)
    originals = {
        name: tensor_of(checkpoint.read(name)).float() for name in expected_tensors(checkpoint.config)
    }
    judged = torch.from_numpy(evaluation_windows().tokens)[:: options.stride]
    calibration = calibration_windows().tokens
    began = time.process_time()
    blocks = by_blocks(checkpoint, options.format, calibration)
    print("| | KL, nats | CPU seconds |\n|---|---:|---:|")
    say("auto, block by block", checkpoint, originals, blocks, judged, seconds=time.process_time() - began)
    text = packed_text(options.directory)
    order = np.random.default_rng(0).permutation(text.num_blocks(LENGTH))[: options.steps * SEQUENCES]
    began = time.process_time()
    learned, _, _ = tune_blocks(
        checkpoint.config,
        originals,
        blocks,
        text.blocks(order, LENGTH)[:, :-1],
        calibration[-HELD:],
        steps=options.steps,
        seed=0,
        sequences=SEQUENCES,
    )
    say(
        f"distilled, {options.steps} steps",
        checkpoint,
        originals,
        learned,
        judged,
        seconds=time.process_time() - began,
    )


def by_blocks(checkpoint: Checkpoint, format: str, tokens: np.ndarray) -> list[BlockResult]:
    """What `auto` makes of the blocks without tuning the whole model."""
    weights = WeightFormat.model_validate({"name": format, "group_size": 64})
    step = QuantizeStep(weights=weights, method="auto", tuning_steps=0)
    with (
        tempfile.TemporaryDirectory() as directory,
        WorkDirectory(Path(directory) / "walk", {}, resume=False, force=True) as work,
    ):
        walk = CalibratedWalk(checkpoint, step, tokens, work, False, silent, silent)
        walk.run()
        return list(walk.results())


@torch.no_grad()
def say(
    name: str,
    checkpoint: Checkpoint,
    originals: dict[str, Tensor],
    blocks: list[BlockResult],
    judged: Tensor,
    *,
    seconds: float,
) -> None:
    """A row of the table."""
    tensors = dict(originals)
    for index, block in enumerate(blocks):
        prefix = f"blocks.{index}."
        tensors |= {prefix + name: torch.from_numpy(dequantize(codes)) for name, codes in block.codes.items()}
        tensors |= {prefix + name: torch.from_numpy(vector) for name, vector in block.vectors.items()}
    first, second = (
        TorchModel(checkpoint.config, each.__getitem__, judged.shape[1]) for each in (originals, tensors)
    )
    total = sum(float(mean_kl(first(part), second(part))) * len(part) for part in judged.split(8))
    print(f"| {name} | {total / len(judged):.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
