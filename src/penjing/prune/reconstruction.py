"""Least squares after removal: the matrices that read what was removed learn to do without it.

With G the Gram matrix of the inputs before removal, the matrix W' of the kept inputs that is nearest to W in
its outputs is W G[:, kept] G[kept, kept]^-1, which is W[:, kept] + W[:, gone] G[gone, kept] G[kept, kept]^-1:
what is gone, as far as the rest predicts it (Li et al. 2017 prune channels so).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from penjing.artifact.config import ModelConfig
from penjing.models.block import Block, Weights
from penjing.models.importance import noting
from penjing.models.moments import Moments
from penjing.models.statistics import InputStatistics, check_statistics, damped
from penjing.models.torch_model import TorchModel
from penjing.prune.axes import heads_of_groups
from penjing.prune.plan import Plan
from penjing.prune.walk import advance, embedded, float_weights

DAMPING = 0.01  # added to the Gram's diagonal, in parts of its mean


def fold(weight: Tensor, statistics: InputStatistics, kept: Tensor) -> Tensor:
    """A copy of float32 [N, K] whose columns `kept` (int64) also do what the others did, which are 0.

    Raises DataError for statistics of other inputs, or with NaN or Inf.
    """
    check_statistics(weight, statistics)
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    folded = weight.masked_fill(gone, 0.0)
    if bool(gone.any()):
        gram = statistics.gram
        solved = torch.linalg.solve(damped(gram[kept][:, kept], DAMPING), gram[kept][:, gone].double())
        folded[:, kept] += (weight[:, gone].double() @ solved.t()).float()
    return folded


def reconstruct(
    config: ModelConfig, tensors: Mapping[str, Tensor], plan: Plan, tokens: Tensor
) -> dict[str, Tensor]:
    """The tensors with every `output` and `down` folded into the groups and channels that a plan keeps.

    tensors: of a model that has the plan's blocks and hidden elements alone, but all groups and channels;
    float32, by canonical name. tokens: int64 [sequences, length]. Blocks are folded in order, each on the
    inputs that the folded ones before it leave.
    """
    model = TorchModel(config, tensors.__getitem__, tokens.shape[1])
    chunks, result = embedded(model, tokens), dict(tensors)
    for index, plan_of_block in enumerate(plan.blocks):
        block, weights = model.block(index), float_weights(model, index)
        heads = heads_of_groups(config, config.blocks[index], torch.tensor(plan_of_block.groups))
        for name, kept in (("output", heads["query"]), ("down", torch.tensor(plan_of_block.channels))):
            weights[name] = fold(weights[name], inputs_of(block, weights, name, chunks), kept)
            result[f"blocks.{index}.{name}"] = weights[name]
        advance(block, weights, chunks)
    return result


def inputs_of(block: Block, weights: Weights, name: str, chunks: list[Tensor]) -> InputStatistics:
    """Statistics of what one matrix of a block reads."""
    moments = Moments(weights[name].shape[1], cross=False, dtype=torch.float32)

    def note(reader: str, inputs: Tensor) -> None:
        if reader == name:
            moments.add(inputs, None)

    for chunk in chunks:
        replace(block, linear=noting(note))(weights, chunk)
    return moments.result()
