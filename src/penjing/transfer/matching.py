"""Whether a model can start from another, and which block starts from which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from penjing.artifact.config import BlockConfig, ModelConfig
from penjing.errors import SpecError

# What may differ between a model and the one that it starts from; all else is part of how both compute.
FREE_FIELDS = frozenset({"hidden_size", "max_positions", "embedding_scale", "bos_ids", "eos_ids", "blocks"})
# What a block must share with the block that it starts from.
KIND_FIELDS = ("feed_forward", "num_experts", "experts_per_token", "normalize_experts", "sliding_window")


def check_same_kind(source: ModelConfig, target: ModelConfig) -> None:
    """Raises SpecError, naming the field, for two models that compute differently."""
    for name in ModelConfig.model_fields:
        ours, theirs = getattr(source, name), getattr(target, name)
        if name not in FREE_FIELDS and ours != theirs:
            raise SpecError(
                f"{name} is {theirs!r} in the target and {ours!r} in the source: it must be the same"
            )


def kind(block: BlockConfig) -> tuple[object, ...]:
    """What decides whether the weights of one block mean the same in another."""
    return tuple(getattr(block, name) for name in KIND_FIELDS)


def match_blocks(
    few: Sequence[BlockConfig], many: Sequence[BlockConfig], cost: Callable[[int, int], float]
) -> list[int]:
    """For each of `few` the index of a block of its kind in `many`, ascending, the sum of costs the least.

    cost: of (index in few, index in many). Raises SpecError if there is no such choice.
    """
    kinds, offered = [kind(block) for block in few], [kind(block) for block in many]

    @cache
    def best(first: int, start: int) -> tuple[float, tuple[int, ...]]:
        """The least cost of few[first:] among many[start:], and the choice."""
        if first == len(kinds):
            return 0.0, ()
        found: tuple[float, tuple[int, ...]] = (float("inf"), ())
        for index in range(start, len(offered) - (len(kinds) - first) + 1):
            if offered[index] == kinds[first]:
                rest, chosen = best(first + 1, index + 1)
                found = min(found, (rest + cost(first, index), (index, *chosen)))
        return found

    total, chosen = best(0, 0)
    if total == float("inf"):
        raise SpecError(
            f"{len(few)} blocks cannot be matched with {len(many)} of the same windows, experts and order: "
            "choose a target with the source's pattern"
        )
    return list(chosen)


def evenly(few: int, many: int) -> Callable[[int, int], float]:
    """The squared distance from even places that begin with the first and end with the last."""
    step = (many - 1) / max(few - 1, 1)
    return lambda first, index: (index - first * step) ** 2
