"""What can be removed whole, by axes of tensors (`models.axes`)."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig
from penjing.errors import UnsupportedConfigError
from penjing.models.axes import axes_of


def sum_by_axis(tensor: Tensor, name: str, axis: str) -> Tensor | None:
    """Sums of a tensor over all but one axis, float32 [n]; None if it does not have that axis."""
    if axis not in axes_of(name):
        return None
    kept = axes_of(name).index(axis)
    others = [dimension for dimension in range(tensor.ndim) if dimension != kept]
    return tensor.sum(others) if others else tensor


def heads_of_groups(config: ModelConfig, block: BlockConfig, groups: Tensor) -> dict[str, Tensor]:
    """Indices of the axes `query` and `key` that key-value groups [n] consist of."""
    shared = block.num_heads // block.num_kv_heads
    return {"query": spread(groups, shared * config.head_dim), "key": spread(groups, config.head_dim)}


def spread(places: Tensor, width: int) -> Tensor:
    """Whole runs of `width` indices."""
    return (places[:, None] * width + torch.arange(width)).flatten()


def check_dense(config: ModelConfig) -> None:
    """Raise UnsupportedConfigError for a model of experts, whose widths the router has a say in."""
    for index, block in enumerate(config.blocks):
        if block.feed_forward != "dense":
            raise UnsupportedConfigError(
                f"{config.family}: block {index} has experts, and structured pruning removes parts of dense "
                "feed-forwards only; prune single weights instead"
            )
