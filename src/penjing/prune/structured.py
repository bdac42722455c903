"""Structured pruning from beginning to end: judge, plan, remove, reconstruct; in steps of at most a third."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from penjing.artifact.config import ModelConfig
from penjing.prune.importance import Importance, activation_importance
from penjing.prune.plan import Plan, Shrinking, block_parameters, make_plan, schedule
from penjing.prune.reconstruction import reconstruct
from penjing.prune.removal import norm_energies, remove
from penjing.prune.taylor import gradient_importance
from penjing.spec import Spec

Judge = Callable[[ModelConfig, Mapping[str, Tensor], Tensor], Importance]
JUDGES: dict[str, Judge] = {"activation": activation_importance, "gradient": gradient_importance}


class StructuredPruning(Spec):
    """fraction: of the blocks' parameters that go, at least. importance: how units are judged.

    reconstruct: whether `output` and `down` make up for what they no longer read.
    """

    fraction: float = Field(default=0.25, gt=0, lt=1)
    shrinking: Shrinking = Shrinking()
    importance: Literal["activation", "gradient"] = "activation"
    reconstruct: bool = True


def prune_structured(
    config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor, pruning: StructuredPruning
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A smaller model of tensors float32 by canonical name, judged on tokens int64 [sequences, length].

    Nothing is trained: between the steps of `schedule` a model can be, by calling this once a step. Raises
    as `make_plan` does.
    """
    wanted, result = 1.0, dict(tensors)
    whole = block_parameters(config)
    for step in schedule(pruning.fraction):
        wanted *= 1 - step
        fraction = max(0.0, 1 - wanted * whole / block_parameters(config))
        importance = JUDGES[pruning.importance](config, result, tokens)
        plan = make_plan(config, importance, fraction, pruning.shrinking)
        config, result = apply_plan(config, result, plan, tokens if pruning.reconstruct else None)
    return config, result


def apply_plan(
    config: ModelConfig, tensors: Mapping[str, Tensor], plan: Plan, tokens: Tensor | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What a plan leaves of a model. tokens: int64 [sequences, length] to reconstruct on; None does not.

    Blocks and hidden elements go first, so that the rest is reconstructed on what they leave.
    """
    if tokens is None:
        return remove(config, tensors, plan)
    outer, inner = plan.parts(config)
    narrow = len(plan.hidden) < config.hidden_size
    energies = norm_energies(config, tensors, tokens) if narrow else None
    config, result = remove(config, tensors, outer, energies)
    return remove(config, reconstruct(config, result, inner, tokens), inner)
