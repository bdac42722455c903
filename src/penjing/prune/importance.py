"""What heads, feed-forward channels, hidden elements and blocks are worth, by the activations of some text.

As in Minitron (Muralidharan et al. 2024), a unit is worth its mean |activation|, here times the norm of the
column of weights that reads it; a block 1 - cosine of what enters and what leaves it (Men et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import ModelConfig
from penjing.models.block import Weights, linear
from penjing.models.torch_model import TorchModel
from penjing.prune.axes import check_dense
from penjing.prune.walk import embedded, float_weights

READERS = {"query": ("query", "key", "value"), "gate": ("gate", "up")}  # matrices that read one input


@dataclass(frozen=True, eq=False)
class Importance:
    """Scores, float32; the least are removed first.

    groups: key-value groups with their query heads, [num_kv_heads] a block. channels: [intermediate_size] a
    block. hidden: [hidden_size]. blocks: [blocks].
    """

    groups: tuple[Tensor, ...]
    channels: tuple[Tensor, ...]
    hidden: Tensor
    blocks: Tensor


def activation_importance(config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor) -> Importance:
    """Scores of a model with these tensors (float32, by canonical name) on tokens int64 [sequences, length].

    Raises UnsupportedConfigError for a model with experts, NonFiniteWeightError for NaN or Inf.
    """
    check_dense(config)
    model = TorchModel(config, tensors.__getitem__, tokens.shape[1])
    chunks = embedded(model, tokens)
    groups, channels, changes = [], [], []
    hidden = torch.zeros(config.hidden_size)
    for index, block_config in enumerate(config.blocks):
        block, weights, means = model.block(index), float_weights(model, index), MeanMagnitudes()
        recording, before = replace(block, linear=means.record), chunks
        chunks = [recording(weights, chunk) for chunk in before]
        values = {name: means.of(name) * joined_norms(weights, name) for name in means.sums}
        groups.append(values["output"].view(block_config.num_kv_heads, -1).sum(1))
        channels.append(values["down"])
        hidden += values["query"] + values["gate"]
        changes.append(mean_turn(before, chunks))
    return Importance(tuple(groups), tuple(channels), hidden, torch.stack(changes))


def joined_norms(weights: Weights, name: str) -> Tensor:
    """The norm of each column of all matrices, one below the other, that read what `name` reads."""
    joined = torch.cat([weights[reader] for reader in READERS.get(name, (name,))])
    norms: Tensor = torch.linalg.vector_norm(joined, dim=0)
    return norms


def mean_turn(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """1 - cosine between the states before and after a block, the mean over tokens."""
    turns = [
        1 - functional.cosine_similarity(old, new, dim=-1) for old, new in zip(before, after, strict=True)
    ]
    return torch.cat([turn.flatten() for turn in turns]).mean()


@dataclass(eq=False)
class MeanMagnitudes:
    """Mean |x| of what every matrix of a block reads."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0

    def record(self, weights: Weights, name: str, inputs: Tensor) -> Tensor:
        """The matrix applied (`block.linear`); of several that read one input, the first is noted."""
        if name not in ("key", "value", "up"):
            magnitudes = inputs.abs().flatten(0, -2)
            self.sums[name] = self.sums.get(name, torch.zeros(())) + magnitudes.sum(0)
            self.tokens += len(magnitudes) if name == "query" else 0
        return linear(weights, name, inputs)

    def of(self, name: str) -> Tensor:
        """The means of one input, [columns]."""
        return self.sums[name] / self.tokens
