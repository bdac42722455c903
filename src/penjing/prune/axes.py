"""What can be removed whole, and where it lies: one index of an axis, in every tensor that has the axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig
from penjing.errors import UnsupportedConfigError

# The axes of every tensor's dimensions, by its name inside a block or the model. `query` and `key` are the
# rows of heads, which go by key-value groups; a norm inside heads ("") belongs to all of them.
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "embedding": ("", "hidden"),
    "attention_norm": ("hidden",),
    "query": ("query", "hidden"),
    "key": ("key", "hidden"),
    "value": ("key", "hidden"),
    "query_bias": ("query",),
    "key_bias": ("key",),
    "value_bias": ("key",),
    "query_norm": ("",),
    "key_norm": ("",),
    "output": ("hidden", "query"),
    "output_bias": ("hidden",),
    "post_attention_norm": ("hidden",),
    "feed_forward_norm": ("hidden",),
    "gate": ("channels", "hidden"),
    "up": ("channels", "hidden"),
    "gate_bias": ("channels",),
    "up_bias": ("channels",),
    "down": ("hidden", "channels"),
    "down_bias": ("hidden",),
    "post_feed_forward_norm": ("hidden",),
    "final_norm": ("hidden",),
    "head": ("", "hidden"),
}


def select(tensor: Tensor, name: str, kept: Mapping[str, Tensor]) -> Tensor:
    """A copy of a tensor with the indices `kept` (int64, by axis) of its dimensions.

    name: inside the block or the model. Axes that `kept` lacks stay whole.
    """
    for dimension, axis in enumerate(DIMENSIONS[name]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor.clone()


def sum_by_axis(tensor: Tensor, name: str, axis: str) -> Tensor | None:
    """Sums of a tensor over all but one axis, float32 [n]; None if it does not have that axis."""
    if axis not in DIMENSIONS[name]:
        return None
    kept = DIMENSIONS[name].index(axis)
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
