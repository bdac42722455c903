"""SmoothQuant (Xiao et al. 2023): outliers of activations are moved into weights, where groups bear them.

s_j = max|x_j|^alpha / max|w_j|^(1 - alpha); weights are multiplied by s and inputs divided, as in `awq`.
What it serves is the int8 of activations, not of weights: where weights have few bits, `awq` chooses better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import DataError, SpecError


@dataclass(frozen=True)
class SmoothquantConfig:
    """alpha: how much of the range of activations is moved, 0 to 1."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SpecError(f"smoothquant: alpha is {self.alpha}; it must be between 0 and 1")


def smoothing_scales(weights: Sequence[Tensor], largest: Tensor, config: SmoothquantConfig) -> Tensor:
    """s, float32 [K], positive, for all matrices [N_i, K] that read one input.

    largest: max |x_j| over calibration tokens, float32 [K]. A channel that never fired, or that no matrix
    reads, keeps 1. Raises DataError where `largest` is not finite or of another width.
    """
    if largest.shape != weights[0].shape[1:] or not bool(torch.isfinite(largest).all()):
        raise DataError(f"the largest activations {list(largest.shape)} do not belong to these matrices")
    reach = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    scales = largest**config.alpha / reach.clamp(min=1e-12) ** (1 - config.alpha)
    used = (largest > 0) & (reach > 0)
    middle = torch.exp(torch.log(scales.where(used, torch.ones(()))).mean())
    return torch.where(used, scales / middle, torch.ones(()))
