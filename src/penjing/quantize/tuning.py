"""After the walk: scales, norms and roundings of all blocks tuned together, to the original's predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact import ModelConfig, expected_tensors
from penjing.models.torch_model import TorchModel
from penjing.quantize.state import BlockResult
from penjing.quantize.tune import TuneConfig, against_original, tune

BATCH_SEQUENCES = 4
# Codes stay beside the original weight in formats that a residual plane may be added to, so that the base
# plane of `layered` is `int4` tuned.
REACH = 0.7


def tune_blocks(
    config: ModelConfig,
    originals: Mapping[str, Tensor],
    results: list[BlockResult],
    tokens: NDArray[np.int64],
    held: NDArray[np.int64],
    *,
    steps: int,
    seed: int,
    sequences: int = BATCH_SEQUENCES,
) -> tuple[list[BlockResult], float, float]:
    """The blocks after tuning, and the mean KL to the original on `held` before and after, nats per token.

    originals: every tensor of the model, float32; embedding and head stay theirs. tokens, held: int64
    [sequences, length], apart; so many `sequences` make a batch. Blocks are what they were if nothing was
    gained. Raises DivergedError.
    """
    named = {
        f"blocks.{i}.{name}": codes
        for i, result in enumerate(results)
        for name, codes in result.codes.items()
    }
    narrow = any(codes.format.name == "int4" for codes in named.values())
    vectors = {
        name: originals[name]
        for name, role in expected_tensors(config).items()
        if not role.is_matrix and name.startswith("blocks.")
    }

    def forward(tensors: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        return TorchModel(config, tensors.__getitem__, batch.shape[1])(batch)

    loss, judge = against_original(
        forward,
        originals,
        torch.from_numpy(tokens),
        torch.from_numpy(held),
        sequences=sequences,
        seed=seed,
    )
    weights = {name: originals[name] for name in named}
    with torch.enable_grad():
        tuned = tune(
            named,
            weights,
            vectors,
            loss=loss,
            judge=judge,
            config=TuneConfig(steps=steps, reach=REACH if narrow else None),
        )
    blocks = []
    for index in range(len(results)):
        prefix = f"blocks.{index}."
        blocks.append(
            BlockResult(
                {n.removeprefix(prefix): c for n, c in tuned.matrices.items() if n.startswith(prefix)},
                vectors={
                    n.removeprefix(prefix): v.numpy()
                    for n, v in tuned.vectors.items()
                    if n.startswith(prefix)
                },
            )
        )
    return blocks, tuned.before, tuned.after
