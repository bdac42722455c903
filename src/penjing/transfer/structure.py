"""Structure transfer: a smaller model of a model's own proportions, within a number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from penjing.artifact.config import BlockConfig, ModelConfig, count_parameters
from penjing.errors import SpecError
from penjing.models.families import family_named


def transfer_structure(source: ModelConfig, max_parameters: int) -> ModelConfig:
    """A configuration of at most `max_parameters` elements, embedding and norms included.

    Head width, vocabulary, positions and all else stay; every width (hidden, heads, key-value heads,
    feed-forward) is scaled by one factor that leaves whole heads and their grouping. A model with one
    key-value head keeps it. Each factor allows a largest depth; the pair whose depth shrinks most nearly as
    its width does is taken, of equals the larger model. Blocks are taken evenly from first to last. With
    room for the source, that is the source. Raises SpecError if even one narrowest block is too much.
    """
    fitting: list[tuple[float, int, ModelConfig]] = []
    smallest = count_parameters(source)
    for factor in width_factors(source):
        shallow = scaled(source, factor, 1)
        smallest = min(smallest, count_parameters(shallow))
        depth = deepest(source, factor, max_parameters)
        if depth > 0:
            target = scaled(source, factor, depth)
            distortion = abs(math.log(depth / len(source.blocks) / factor))
            fitting.append((distortion, -count_parameters(target), target))
    if not fitting:
        raise SpecError(
            f"{max_parameters:,} parameters: a {source.family} of these heads and this vocabulary has at "
            f"least {smallest:,}; allow that many"
        )
    return min(fitting, key=lambda choice: choice[:2])[2]


def width_factors(source: ModelConfig) -> Iterator[Fraction]:
    """Factors in (0, 1] that leave whole heads in every block, in their groups."""
    most = max(block.num_heads for block in source.blocks)
    for heads in range(1, most + 1):
        factor = Fraction(heads, most)
        if all(keeps_groups(block, factor) for block in source.blocks):
            yield factor


def keeps_groups(block: BlockConfig, factor: Fraction) -> bool:
    """Whether both numbers of heads stay whole; a single key-value head always does."""
    key_heads = Fraction(1) if block.num_kv_heads == 1 else block.num_kv_heads * factor
    return key_heads.denominator == 1 and (block.num_heads * factor).denominator == 1


def deepest(source: ModelConfig, factor: Fraction, max_parameters: int) -> int:
    """The most blocks, up to the source's, that stay within the limit; 0 if not even one does."""
    for depth in range(len(source.blocks), 0, -1):
        if count_parameters(scaled(source, factor, depth)) <= max_parameters:
            return depth
    return 0


def scaled(source: ModelConfig, factor: Fraction, depth: int) -> ModelConfig:
    """The source with its widths times `factor`, and `depth` of its blocks."""
    last = len(source.blocks) - 1
    chosen = [round(last * index / max(depth - 1, 1)) for index in range(depth)]
    blocks = tuple(
        block.model_copy(
            update={
                "num_heads": int(block.num_heads * factor),
                "num_kv_heads": max(1, int(block.num_kv_heads * factor)),
                "intermediate_size": scale(block.intermediate_size, factor),
            }
        )
        for block in (source.blocks[index] for index in chosen)
    )
    return resized(source, scale(source.hidden_size, factor), blocks)


def resized(source: ModelConfig, hidden_size: int, blocks: tuple[BlockConfig, ...]) -> ModelConfig:
    """The source with another residual stream and other blocks.

    Families that multiply the embedding do so by the root of its width: the scale that a checkpoint of this
    shape will be read with.
    """
    scales = family_named(source.family).scales_embedding and hidden_size != source.hidden_size
    scale = math.sqrt(hidden_size) if scales else source.embedding_scale
    return source.model_copy(update={"hidden_size": hidden_size, "embedding_scale": scale, "blocks": blocks})


def scale(size: int, factor: Fraction) -> int:
    """A width times the factor, to the nearest whole element, and at least one."""
    return max(1, round(size * factor))
