"""Growth: a larger model that computes what a smaller one does, up to the rounding of float32.

New units are copies of old ones, and what reads a unit and its copies is shared out among them (Net2Net,
Chen et al. 2016); new blocks add nothing at first (Gesmundo and Maile 2023). In the residual stream every
channel is copied as often as any other: so the mean square, all that an RMS norm looks at, stays what it is.
(Channels of zeros would need another epsilon, which the norms of queries and keys share.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig
from penjing.errors import SpecError
from penjing.transfer.matching import check_same_kind, evenly, kind, match_blocks
from penjing.transfer.units import BlockUnits, Units, copied_model, inner_axes

Sharing = Literal["split", "zero"]


def grow(
    source: ModelConfig,
    tensors: Mapping[str, Tensor],
    target: ModelConfig,
    *,
    sharing: Sharing = "split",
    seed: int = 0,
) -> dict[str, Tensor]:
    """The tensors of `target`, float32 by canonical name, with the logits of `source`.

    May grow, together or alone: feed-forwards, of experts too; key-value heads with their groups of heads,
    and the heads of every group; the number of blocks; the residual stream, to a whole multiple. sharing:
    `split` among a unit and its copies, unevenly by `seed`, so that training can tell them apart; or `zero`,
    all to the original. Raises SpecError for a target that is smaller or computes differently.
    """
    check_same_kind(source, target)
    check_larger("hidden_size", target.hidden_size, source.hidden_size)
    if target.hidden_size % source.hidden_size:
        raise SpecError(
            f"hidden_size {target.hidden_size} cannot have the logits of {source.hidden_size}: "
            f"choose a multiple of {source.hidden_size}"
        )
    check_larger("the number of blocks", len(target.blocks), len(source.blocks))
    copies = Copies(sharing, seed)
    times = target.hidden_size // source.hidden_size
    hidden = copies.shared(torch.arange(source.hidden_size).repeat(times), source.hidden_size)
    blocks = []
    for place, (index, silent) in enumerate(grown_blocks(source, target)):
        units = block_units(source.blocks[index], target.blocks[place], place, source.head_dim, copies)
        blocks.append(BlockUnits(index, units, silent))
    return copied_model(source, tensors, target, hidden, tuple(blocks))


class Copies:
    """Draws which units are copied, and how what reads them is shared out."""

    def __init__(self, sharing: Sharing, seed: int) -> None:
        self.sharing = sharing
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, old: int, new: int) -> Units:
        """All `old` units, then copies of others drawn from them, each as often as any other or once more."""
        rounds = [torch.arange(old)]
        while sum(map(len, rounds)) < new:
            rounds.append(torch.randperm(old, generator=self.generator))
        return self.shared(torch.cat(rounds)[:new], old)

    def shared(self, indices: Tensor, old: int) -> Units:
        """Shares of units, the first `old` of which are the originals; those of one original sum to 1."""
        if self.sharing == "zero":
            return Units(indices, (torch.arange(len(indices)) < old).float())
        weights = 0.75 + 0.5 * torch.rand(len(indices), generator=self.generator, dtype=torch.float64)
        totals = torch.zeros(old, dtype=torch.float64).index_add(0, indices, weights)
        return Units(indices, (weights / totals[indices]).float())


def grown_blocks(source: ModelConfig, target: ModelConfig) -> list[tuple[int, bool]]:
    """For every block of the target the block of the source that it copies, and whether it is silent.

    The source's blocks are spread evenly, first and last staying so; a new block copies the nearest of its
    kind before it, or else the first.
    """
    even = evenly(len(source.blocks), len(target.blocks))
    places = match_blocks(source.blocks, target.blocks, even)
    chosen = []
    for place, block in enumerate(target.blocks):
        alike = [index for index, other in enumerate(source.blocks) if kind(other) == kind(block)]
        if not alike:
            raise SpecError(f"block {place} of the target is of a kind that the source has none of")
        before = [index for index in alike if places[index] <= place]
        chosen.append((before[-1] if before else alike[0], place not in places))
    return chosen


def block_units(
    source: BlockConfig, target: BlockConfig, place: int, head_dim: int, copies: Copies
) -> dict[str, Units]:
    """The units of block `place` of the target, copies of those of one block."""
    check_larger(f"block {place}: num_kv_heads", target.num_kv_heads, source.num_kv_heads)
    check_larger(f"block {place}: intermediate_size", target.intermediate_size, source.intermediate_size)
    groups = copies.drawn(source.num_kv_heads, target.num_kv_heads)
    heads = grown_heads(source, target, place, groups, copies)
    units = {"key": groups.of_heads(head_dim), "query": heads.of_heads(head_dim)}
    for axis in inner_axes(source):
        units[axis] = copies.drawn(source.intermediate_size, target.intermediate_size)
    return units


def grown_heads(source: BlockConfig, target: BlockConfig, place: int, groups: Units, copies: Copies) -> Units:
    """The heads that belong to the target's key-value heads: in each group the old ones, then copies."""
    shared, wanted = (block.num_heads // block.num_kv_heads for block in (source, target))
    check_larger(f"block {place}: heads for each key-value head", wanted, shared)
    slots = copies.drawn(shared, wanted)
    indices = groups.indices[:, None] * shared + slots.indices
    return Units(indices.flatten(), (groups.share[:, None] * slots.share).flatten())


def check_larger(what: str, wanted: int, available: int) -> None:
    """Raises SpecError for a target that is smaller than the source."""
    if wanted < available:
        raise SpecError(
            f"{what} is {wanted} in the target and {available} in the source: take at least that, or subclone"
        )
