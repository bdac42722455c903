"""What heads, feed-forward channels, hidden elements and blocks are worth, by the activations of some text.

As `models.importance` has it; of a hidden element, summed over all matrices of attention and feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.artifact.config import ModelConfig
from penjing.models.block import Weights
from penjing.models.importance import Magnitudes, column_norms, noting, turn
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
        weights, read, before = float_weights(model, index), Magnitudes(), chunks
        block = replace(model.block(index), linear=noting(read.note))
        chunks = [block(weights, chunk) for chunk in before]
        values = {
            name: read.mean(name, tokens.numel()) * joined_norms(weights, name)
            for name in ("query", "output", "gate", "down")
        }
        groups.append(values["output"].view(block_config.num_kv_heads, -1).sum(1))
        channels.append(values["down"])
        hidden += values["query"] + values["gate"]
        turns = [turn(old, new).flatten() for old, new in zip(before, chunks, strict=True)]
        changes.append(torch.cat(turns).mean())
    return Importance(tuple(groups), tuple(channels), hidden, torch.stack(changes))


def joined_norms(weights: Weights, name: str) -> Tensor:
    """The norm of each column of all matrices, one below the other, that read what `name` reads."""
    return column_norms(*(weights[reader] for reader in READERS.get(name, (name,))))
