"""Learned rounding of one block's matrices together (AutoRound, Cheng et al. 2024).

Each weight may round up or down: w/s + v with v in [-1/2, 1/2], learned by the sign of the gradient of the
block's output error, as are the scales. The best iterate on the whole batch list wins, so that the
result is never worse than the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.formats.codes import Codes
from penjing.quantize.latent import LatentMatrix, latent_matrices

BatchLoss = Callable[[Mapping[str, Tensor], int], Tensor]
Judge = Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True)
class RoundingConfig:
    """steps: of signSGD. reach: how many steps of the grid a latent may leave the original weight by: 0.5 is
    rounding up or down. rate: of latents, in steps of the grid, and of scales, relative; both fall linearly
    to 0. None: just enough to cross the reach. judge_every: steps between judgements.
    """

    steps: int = 200
    reach: float = 0.5
    rate: float | None = None
    scale_rate: float = 1e-3
    judge_every: int = 20


def learn_rounding(
    codes: Mapping[str, Codes],
    weights: Mapping[str, Tensor],
    *,
    loss: BatchLoss,
    judge: Judge,
    config: RoundingConfig,
) -> dict[str, Codes]:
    """Codes of a block's matrices by name, of no larger `judge` than those handed in.

    weights: the originals, float32 [N, K]. loss: from the block's weights by name and a batch number 0 .. to
    a differentiable scalar: mean squared error of the block's output. judge: the same over text held apart.
    """
    matrices = latent_matrices(dict(codes), dict(weights), config.reach)
    best, least = dict(codes), judge(present(matrices))
    rate = config.rate or 1.0 / config.steps
    for step in range(config.steps):
        loss({name: matrix() for name, matrix in matrices.items()}, step).backward()  # type: ignore[no-untyped-call]
        left = 1 - step / config.steps
        for matrix in matrices.values():
            descend_by_sign(matrix.latents, rate * left)
            descend_by_sign(matrix.log_scales, config.scale_rate * left)
            matrix.confine()
        if (step + 1) % config.judge_every == 0 or step + 1 == config.steps:
            found = judge(present(matrices))
            if found < least:
                best, least = {name: matrix.to_codes() for name, matrix in matrices.items()}, found
    return best


@torch.no_grad()
def present(matrices: Mapping[str, LatentMatrix]) -> dict[str, Tensor]:
    """The weights that matrices stand for now, without gradients."""
    return {name: matrix() for name, matrix in matrices.items()}


@torch.no_grad()
def descend_by_sign(parameter: Tensor, rate: float) -> None:
    """One step against the sign of the gradient, which is then forgotten."""
    if parameter.grad is not None:
        parameter.sub_(parameter.grad.sign(), alpha=rate)
        parameter.grad = None
