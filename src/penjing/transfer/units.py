"""Models whose units are copies of another's: one choice of units serves every tensor that touches them.

A unit is a channel of the residual stream, a feed-forward channel, or an element of a head. A tensor's
dimensions run along axes (`models.axes`); what is chosen for an axis is chosen in all tensors. Matrices are
[outputs, inputs]: their columns read units, and are multiplied by each unit's `share`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig, block_tensors, expected_tensors
from penjing.models.axes import axes_of, scaled_norm, select

BRANCH_ENDS = ("output", "output_bias", "down", "down_bias")
POST_NORMS = ("post_attention_norm", "post_feed_forward_norm")


@dataclass(frozen=True, eq=False)
class Units:
    """Which unit of the source each unit of the target copies.

    indices: int64 [units of the target]. share: float32, as long; what reads the unit is multiplied by it.
    """

    indices: Tensor
    share: Tensor

    def of_heads(self, head_dim: int) -> Units:
        """The elements of heads, given the heads."""
        within = torch.arange(head_dim)
        return Units(
            (self.indices[:, None] * head_dim + within).flatten(), self.share.repeat_interleave(head_dim)
        )


@dataclass(frozen=True, eq=False)
class BlockUnits:
    """Which block of the source a block copies, and its units by axis: `query`, `key`, and `inner` or, by
    expert, `experts.N.inner`. silent: the block adds nothing to the residual stream.
    """

    source: int
    units: Mapping[str, Units]
    silent: bool = False


def copied_model(
    source: ModelConfig,
    tensors: Mapping[str, Tensor],
    target: ModelConfig,
    hidden: Units,
    blocks: tuple[BlockUnits, ...],
) -> dict[str, Tensor]:
    """The target's tensors, float32, by canonical name.

    Where the head is tied to the embedding, whose columns both write and read, the final norm takes the
    shares; and it makes up for the embedding's change where the configurations scale it differently.
    """
    rescale = source.embedding_scale / target.embedding_scale
    units = {"hidden": hidden}
    copied = {"embedding": gather("embedding", tensors["embedding"], units) * rescale}
    for index, chosen in enumerate(blocks):
        copied |= copied_block(target, index, tensors, units, chosen)
    norm = gather("final_norm", tensors["final_norm"], units)
    if target.tied_head:
        norm = scaled_norm(norm, target.norm_offset, hidden.share / rescale)
    copied["final_norm"] = norm
    if not target.tied_head:
        copied["head"] = read_through("head", tensors["head"], units)
    return {name: copied[name] for name in expected_tensors(target)}


def copied_block(
    target: ModelConfig,
    index: int,
    tensors: Mapping[str, Tensor],
    hidden: Mapping[str, Units],
    chosen: BlockUnits,
) -> dict[str, Tensor]:
    """The tensors of one block of the target, by canonical name."""
    units = {**hidden, **chosen.units}
    copied = {}
    for name in block_tensors(target, target.blocks[index]):
        tensor = read_through(name, tensors[f"blocks.{chosen.source}.{name}"], units)
        if chosen.silent:
            tensor = silenced(target, name, tensor)
        copied[f"blocks.{index}.{name}"] = tensor
    return copied


def silenced(config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    """A tensor of a block that adds nothing: its post norms are 0 or, without them, the ends of its branches.

    A norm of nothing but zeros would multiply the gradient of what it norms by the root of 1 / eps.
    """
    last = name.rpartition(".")[2]
    if config.post_norms:
        return torch.full_like(tensor, -config.norm_offset) if last in POST_NORMS else tensor
    return torch.zeros_like(tensor) if last in BRANCH_ENDS else tensor


def gather(name: str, tensor: Tensor, units: Mapping[str, Units]) -> Tensor:
    """The chosen units of every dimension, in float32."""
    return select(tensor.detach().float(), name, {axis: chosen.indices for axis, chosen in units.items()})


def read_through(name: str, tensor: Tensor, units: Mapping[str, Units]) -> Tensor:
    """The chosen units, a matrix's columns times the shares of what they read."""
    gathered, axis = gather(name, tensor, units), axes_of(name)[-1]
    return gathered * units[axis].share if gathered.ndim == 2 and axis in units else gathered


def inner_axes(block: BlockConfig) -> tuple[str, ...]:
    """The inner axis of a block, or of each of its experts."""
    if block.feed_forward == "dense":
        return ("inner",)
    return tuple(f"experts.{expert}.inner" for expert in range(block.num_experts))
