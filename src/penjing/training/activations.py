"""Activation checkpointing: compute activations again in the backward pass instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, cast

from torch.utils.checkpoint import checkpoint

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def checkpointed(function: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
    """`function` (a module or anything differentiable) with the same results and gradients, bit for bit.

    Only its arguments and results are kept between forward and backward, for a second forward pass (Chen et
    al., 2016); dropout draws the same numbers twice. Without gradients nothing changes. Wrap the blocks of
    a model, not the whole: what is computed again is held at once.
    """

    def recomputing(*arguments: *Arguments) -> Result:
        return cast(Result, checkpoint(function, *arguments, use_reentrant=False))

    return recomputing
