"""How much a model uses each of its units on a text: what subcloning keeps first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig
from penjing.models.block import Weights
from penjing.models.importance import Magnitudes, column_norms, noting, turn
from penjing.models.torch_model import TorchModel
from penjing.transfer.units import inner_axes


@dataclass(frozen=True, eq=False)
class BlockImportance:
    """Of the units of one block, float32 and at least 0, the larger the more important.

    heads: [heads]. inner: by inner axis (`inner`, or `experts.N.inner`), [feed-forward channels]. block: of
    the block as a whole.
    """

    heads: Tensor
    inner: Mapping[str, Tensor]
    block: float = 1.0


@dataclass(frozen=True, eq=False)
class Importance:
    """Of all units of a model. hidden: of the channels of the residual stream, float32 [hidden]."""

    hidden: Tensor
    blocks: tuple[BlockImportance, ...]


@torch.no_grad()
def measure_importance(model: TorchModel, tokens: Tensor) -> Importance:
    """The importance of every unit on token ids int64 [sequences, length].

    As `models.importance` has it; of a channel of the residual stream, the mean magnitude at which attention,
    feed-forwards and the head read it after their norms, summed over them (Samragh et al. 2023).
    """
    count = tokens.numel()
    hidden_sum = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    hidden, blocks = model.embed(tokens), []
    for index, block in enumerate(model.config.blocks):
        weights, read, before = model.block_weights(index), Magnitudes(), hidden
        hidden = replace(model.block(index), linear=noting(read.note))(weights, before)
        for name, total in read.sums.items():
            if name.rpartition(".")[2] in ("query", "gate"):
                hidden_sum += total
        blocks.append(block_importance(block, weights, read, count, turn(before, hidden).mean().item()))
    normed = model.block(0).norm(model.read("final_norm"), hidden)
    hidden_sum += normed.flatten(0, 1).abs().double().sum(0)
    return Importance((hidden_sum / count).float(), tuple(blocks))


def block_importance(
    block: BlockConfig, weights: Weights, read: Magnitudes, count: int, whole: float
) -> BlockImportance:
    """The importance within one block; an expert that no token reached has none."""

    def read_by(name: str) -> Tensor:
        norms = column_norms(weights[name])
        return read.mean(name, count) * norms if name in read.sums else torch.zeros_like(norms)

    heads = read_by("output").view(block.num_heads, -1).sum(1)
    inner = {axis: read_by(f"{axis.removesuffix('inner')}down") for axis in inner_axes(block)}
    return BlockImportance(heads, inner, max(whole, 0.0))
