"""How much a model uses each of its units on a text: what subcloning keeps first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig
from penjing.models.block import Weights, linear
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


class Recorder:
    """A `linear` that adds up the magnitudes of what every matrix reads, by its name; float64 [columns]."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def __call__(self, weights: Weights, name: str, inputs: Tensor) -> Tensor:
        self.sums[name] = self.sums.get(name, 0.0) + inputs.flatten(0, -2).abs().double().sum(0)
        return linear(weights, name, inputs)


@torch.no_grad()
def measure_importance(model: TorchModel, tokens: Tensor) -> Importance:
    """The importance of every unit on token ids int64 [sequences, length].

    Of a channel of the residual stream, the mean magnitude at which attention, feed-forwards and the head
    read it after their norms, summed over them (Samragh et al. 2023); of a head or a feed-forward channel,
    its mean magnitude times the norm of the columns that read it (Muralidharan et al. 2024); of a block, 1 -
    the mean cosine between what enters and what leaves it (Men et al. 2024).
    """
    count = tokens.numel()
    hidden_sum = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    hidden, blocks = model.embed(tokens), []
    for index, block in enumerate(model.config.blocks):
        weights, recorder = model.block_weights(index), Recorder()
        before = hidden
        hidden = replace(model.block(index), linear=recorder)(weights, before)
        for name, total in recorder.sums.items():
            if name.rpartition(".")[2] in ("query", "gate"):
                hidden_sum += total
        cosine = torch.cosine_similarity(before, hidden, dim=-1).mean().item()
        blocks.append(block_importance(block, weights, recorder.sums, count, 1.0 - cosine))
    normed = model.block(0).norm(model.read("final_norm"), hidden)
    hidden_sum += normed.flatten(0, 1).abs().double().sum(0)
    return Importance((hidden_sum / count).float(), tuple(blocks))


def block_importance(
    block: BlockConfig, weights: Weights, sums: Mapping[str, Tensor], count: int, whole: float
) -> BlockImportance:
    """The importance within one block; an expert that no token reached has none."""

    def read_by(name: str) -> Tensor:
        norms = weights[name].float().norm(dim=0)
        return (sums[name] / count).float() * norms if name in sums else torch.zeros_like(norms)

    heads = read_by("output").view(block.num_heads, -1).sum(1)
    inner = {axis: read_by(f"{axis.removesuffix('inner')}down") for axis in inner_axes(block)}
    return BlockImportance(heads, inner, max(whole, 0.0))
