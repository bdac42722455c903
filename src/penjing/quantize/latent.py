"""A quantized matrix that gradients reach: codes as the rounding of real numbers, the latents.

Forward it is exactly what its codes stand for. Backward, rounding is taken for the identity (Bengio et al.
2013, straight-through), so that latents gather gradients until a code changes; scales learn as their
logarithms and are rounded to float16 likewise (LSQ, Esser et al. 2020), and so do the levels of a table,
which are rounded to whole numbers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from penjing.formats.codes import TABLE_BITS, Codes
from penjing.formats.grids import Grid, table_grid
from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import round_to_half
from penjing.formats.table_fit import LARGEST_LEVEL, to_table
from penjing.quantize.matrix import placement_of, spread

EDGE = 0.45  # of a gap between levels: how far past the grid's ends a latent may go
# How far from its code's level a latent may begin, as a part of the way to the border between two codes.
# Error feedback leaves many codes that are not the nearest ones: begun at the border, these flip back at the
# first noise, all at once.
BEGIN = 0.4


class LatentMatrix(nn.Module):
    """codes: where to begin. weight: the original, float32 [N, K]: latents begin as close to it as the codes
    allow, and stay within `reach` gaps of it (None: anywhere on the grid).

    Parameters: `latents` float32 [N, K], in mean gaps between levels (steps of the scale on uniform grids);
    `log_scales` [N, groups], relative to the scales of `codes`; `levels` [2^bits], in mean gaps, of a format
    with a table, else None. Zeros stay.
    """

    def __init__(self, codes: Codes, weight: Tensor, reach: float | None = None) -> None:
        super().__init__()
        self._codes = codes
        self._placement, begin = placement_of(codes)
        grid = self._placement.grid
        self._gap = (grid.highest - grid.lowest) / (len(grid.levels) - 1)
        zeros = self._placement.zeros
        self._zeros = None if zeros is None else spread(zeros, self._placement.group_size, weight.shape[1])
        placed = spread(self._placement.scales, self._placement.group_size, weight.shape[1]) * self._gap
        wanted = torch.where(placed == 0, 0.0, weight / torch.where(placed == 0, 1.0, placed))
        offsets = 0.0 if self._zeros is None else self._zeros
        self._low = grid.lowest / self._gap - offsets - EDGE
        self._high = grid.highest / self._gap - offsets + EDGE
        if reach is not None:
            self._low = torch.maximum(wanted - reach, torch.as_tensor(self._low))
            self._high = torch.maximum(torch.minimum(wanted + reach, torch.as_tensor(self._high)), self._low)
        steps = self._placement.steps(begin) / self._gap
        below, above = (room[begin.long()] / self._gap for room in rooms(grid))
        self.latents = nn.Parameter(
            torch.minimum(torch.maximum(wanted, steps - BEGIN * below), steps + BEGIN * above)
        )
        self.log_scales = nn.Parameter(torch.zeros_like(self._placement.scales))
        self.levels = (
            nn.Parameter(torch.tensor(grid.levels) / self._gap) if codes.format.name in TABLE_BITS else None
        )

    def forward(self) -> Tensor:
        """The weights [N, K] that the present codes, levels and scales stand for."""
        codes = self._nearest()
        through = (self.latents - self.latents.detach()) * self._gap
        if self.levels is None:
            steps = self._placement.steps(codes) + through
        else:
            levels = self.levels * self._gap
            steps = (levels + (self._entries() - levels).detach())[codes.long()] + through
        return steps * spread(self._scales(), self._placement.group_size, steps.shape[1])

    @torch.no_grad()
    def confine(self) -> None:
        """Bring latents back into their bounds; after every step of an optimizer."""
        low, high = torch.as_tensor(self._low), torch.as_tensor(self._high)
        self.latents.copy_(torch.minimum(torch.maximum(self.latents, low), high))

    @torch.no_grad()
    def to_codes(self) -> Codes:
        """The present codes, levels and scales."""
        found = self._placement.with_scales(self._scales()).to_codes(self._nearest(), self._codes.format)
        table = self._codes.table if self.levels is None else to_table(self._entries().double().numpy())
        return replace(self._codes, codes=found.codes, scales=found.scales, table=table)

    def _scales(self) -> Tensor:
        """Float16 numbers of the sign that they had, differentiable in their logarithms."""
        scales = self._placement.scales * self.log_scales.exp()
        sizes = scales.detach().abs().clamp(SMALLEST_HALF, LARGEST_HALF)
        stored = round_to_half(sizes) * scales.detach().sign()
        through: Tensor = scales + (stored - scales).detach()
        return through

    @torch.no_grad()
    def _entries(self) -> Tensor:
        """The levels of the table as they are stored."""
        assert self.levels is not None
        return (self.levels * self._gap).round().clamp(-LARGEST_LEVEL, LARGEST_LEVEL)

    @torch.no_grad()
    def _nearest(self) -> Tensor:
        grid = self._placement.grid
        if self.levels is not None:
            grid = table_grid([int(entry) for entry in self._entries().tolist()])
        codes: Tensor = grid.nearest(self.latents * self._gap, torch.ones(()), self._zeros)
        return codes


def rooms(grid: Grid) -> tuple[Tensor, Tensor]:
    """From every level to the borders with the next one below and above, float32 [levels] each.

    Beyond the ends there is as much room as half the mean gap.
    """
    levels = torch.tensor(grid.levels)
    order = levels.argsort(stable=True)
    halves = levels[order].diff() / 2
    end = (levels.max() - levels.min()).reshape(1) / (2 * (len(levels) - 1))
    below, above = torch.empty_like(levels), torch.empty_like(levels)
    below[order], above[order] = torch.cat([end, halves]), torch.cat([halves, end])
    return below, above


def latent_matrices(
    codes: dict[str, Codes], weights: dict[str, Tensor], reach: float | None
) -> dict[str, LatentMatrix]:
    """One latent matrix for each name."""
    return {name: LatentMatrix(matrix, weights[name], reach) for name, matrix in codes.items()}
