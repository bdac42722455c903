"""Subcloning: a smaller model begins with the most important units of a larger one.

Weight subcloning (Samragh et al. 2023): units are ranked by importance, the same channels of the residual
stream are taken from every tensor, blocks are removed, and weights are scaled so that what each unit receives
keeps its variance although it reads fewer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig
from penjing.errors import SpecError
from penjing.transfer.importance import BlockImportance, Importance
from penjing.transfer.matching import check_same_kind, evenly, match_blocks
from penjing.transfer.units import BlockUnits, Units, copied_model, inner_axes


def subclone(
    source: ModelConfig,
    tensors: Mapping[str, Tensor],
    target: ModelConfig,
    importance: Importance,
    *,
    rank_blocks: bool = False,
) -> dict[str, Tensor]:
    """The tensors of `target`, float32 by canonical name, out of those of `source`.

    Of key-value heads the most important groups are taken, and of each group its most important heads. Blocks
    are taken evenly, first and last among them, or by their importance (`rank_blocks`), the first and last
    still among them. Raises SpecError for a target that is larger or computes differently.
    """
    check_same_kind(source, target)
    check_smaller("hidden_size", target.hidden_size, source.hidden_size)
    check_smaller("the number of blocks", len(target.blocks), len(source.blocks))
    cost = evenly(len(target.blocks), len(source.blocks))
    if rank_blocks:
        values = [block.block for block in importance.blocks]
        values[0] = values[-1] = math.fsum(values) + 1.0
        cost = lambda _, index: -values[index]  # noqa: E731
    chosen = match_blocks(target.blocks, source.blocks, cost)
    hidden = most_important(importance.hidden, target.hidden_size)
    blocks = tuple(
        block_units(source.blocks[index], block, index, importance.blocks[index], source.head_dim)
        for index, block in zip(chosen, target.blocks, strict=True)
    )
    return copied_model(source, tensors, target, hidden, blocks)


def block_units(
    source: BlockConfig, target: BlockConfig, index: int, importance: BlockImportance, head_dim: int
) -> BlockUnits:
    """What one block of the target takes of block `index` of the source."""
    check_smaller(f"block {index}: num_kv_heads", target.num_kv_heads, source.num_kv_heads)
    check_smaller(f"block {index}: intermediate_size", target.intermediate_size, source.intermediate_size)
    groups, heads = important_heads(source, target, importance.heads)
    units = {"key": groups.of_heads(head_dim), "query": heads.of_heads(head_dim)}
    for axis in inner_axes(source):
        units[axis] = most_important(importance.inner[axis], target.intermediate_size)
    return BlockUnits(index, units)


def important_heads(source: BlockConfig, target: BlockConfig, importance: Tensor) -> tuple[Units, Units]:
    """Key-value heads, and the query heads that belong to them, in the target's order."""
    shared, wanted = (block.num_heads // block.num_kv_heads for block in (source, target))
    check_smaller("heads for each key-value head", wanted, shared)
    grouped = importance.view(source.num_kv_heads, shared)
    groups = most_important(grouped.sum(1), target.num_kv_heads)
    heads = torch.cat(
        [group * shared + most_important(grouped[group], wanted).indices for group in groups.indices.tolist()]
    )
    return groups, Units(heads, torch.full((len(heads),), math.sqrt(source.num_heads / len(heads))))


def most_important(importance: Tensor, count: int) -> Units:
    """The `count` most important units in ascending order, the earlier among equals.

    Fewer terms of a sum have less variance: each counts sqrt(all / kept) times. A norm over fewer channels of
    the residual stream has no part in this, since it leaves their mean square what it was.
    """
    order = torch.argsort(importance, descending=True, stable=True)
    indices = order[:count].sort().values
    return Units(indices, torch.full((count,), math.sqrt(len(importance) / count)))


def check_smaller(what: str, wanted: int, available: int) -> None:
    """Raises SpecError for a target that wants more than the source has."""
    if wanted > available:
        raise SpecError(
            f"{what} is {wanted} in the target and {available} in the source: take at most that, or grow"
        )
