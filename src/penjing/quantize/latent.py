"""A quantized matrix that gradients reach: codes as the rounding of real numbers, the latents.

Forward it is exactly what its codes stand for. Backward, rounding is taken for the identity (Bengio et al.
2013, straight-through), so that latents gather gradients until a code changes; scales learn as their
logarithms and are rounded to float16 likewise (LSQ, Esser et al. 2020).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from penjing.formats.codes import Codes
from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import round_to_half
from penjing.quantize.matrix import placement_of, spread

EDGE = 0.45  # of a step: how far past the grid's ends a latent may go
# How far from its code's level a latent may begin. Error feedback leaves many codes that are not the nearest
# ones: begun at the border between two codes, these flip back at the first noise, all at once.
BEGIN = 0.2


class LatentMatrix(nn.Module):
    """codes: where to begin. weight: the original, float32 [N, K]: latents begin as close to it as the codes
    allow, and stay within `reach` steps of it (None: anywhere on the grid).

    Parameters: `latents` float32 [N, K], in steps of the scale; `log_scales` [N, groups], relative to the
    scales of `codes`. Zeros and tables stay.
    """

    def __init__(self, codes: Codes, weight: Tensor, reach: float | None = None) -> None:
        super().__init__()
        self._codes = codes
        self._placement, begin = placement_of(codes)
        zeros = self._placement.zeros
        self._zeros = None if zeros is None else spread(zeros, self._placement.group_size, weight.shape[1])
        steps = self._placement.steps(begin)
        placed = spread(self._placement.scales, self._placement.group_size, weight.shape[1])
        wanted = torch.where(placed == 0, 0.0, weight / torch.where(placed == 0, 1.0, placed))
        grid = self._placement.grid
        offsets = 0.0 if self._zeros is None else self._zeros
        self._low, self._high = grid.lowest - offsets - EDGE, grid.highest - offsets + EDGE
        if reach is not None:
            self._low = torch.maximum(wanted - reach, torch.as_tensor(self._low))
            self._high = torch.maximum(torch.minimum(wanted + reach, torch.as_tensor(self._high)), self._low)
        near = torch.minimum(torch.maximum(wanted, steps - BEGIN), steps + BEGIN) if grid.uniform else steps
        self.latents = nn.Parameter(near)
        self.log_scales = nn.Parameter(torch.zeros_like(self._placement.scales))

    def forward(self) -> Tensor:
        """The weights [N, K] that the present codes and scales stand for."""
        steps: Tensor = self.latents + (self._rounded() - self.latents).detach()
        return steps * spread(self._scales(), self._placement.group_size, steps.shape[1])

    @torch.no_grad()
    def confine(self) -> None:
        """Bring latents back into their bounds; after every step of an optimizer."""
        low, high = torch.as_tensor(self._low), torch.as_tensor(self._high)
        self.latents.copy_(torch.minimum(torch.maximum(self.latents, low), high))

    @torch.no_grad()
    def to_codes(self) -> Codes:
        """The present codes and scales."""
        codes = self._nearest(self.latents)
        found = self._placement.with_scales(self._scales()).to_codes(codes, self._codes.format)
        return replace(self._codes, codes=found.codes, scales=found.scales)

    def _scales(self) -> Tensor:
        """Float16 numbers of the sign that they had, differentiable in their logarithms."""
        scales = self._placement.scales * self.log_scales.exp()
        sizes = scales.detach().abs().clamp(SMALLEST_HALF, LARGEST_HALF)
        stored = round_to_half(sizes) * scales.detach().sign()
        through: Tensor = scales + (stored - scales).detach()
        return through

    @torch.no_grad()
    def _nearest(self, steps: Tensor) -> Tensor:
        codes: Tensor = self._placement.grid.nearest(steps, torch.ones(()), self._zeros)
        return codes

    @torch.no_grad()
    def _rounded(self) -> Tensor:
        steps: Tensor = self._placement.grid.values(self._nearest(self.latents), torch.ones(()), self._zeros)
        return steps


def latent_matrices(
    codes: dict[str, Codes], weights: dict[str, Tensor], reach: float | None
) -> dict[str, LatentMatrix]:
    """One latent matrix for each name."""
    return {name: LatentMatrix(matrix, weights[name], reach) for name, matrix in codes.items()}
