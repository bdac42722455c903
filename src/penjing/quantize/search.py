"""Scales (and zeros) of least weighted squared error, for any grid: what k-quants and imatrix do, full-range.

For a group of weights w with importances h, the mean squares of the inputs that they meet, minimize

    sum_i h_i (w_i - s (level(u_i) - z))^2

over the scale s, the zero z where the format has one, and the codes u, which are always the nearest ones for
the stored, float16 scale. Candidates of s stretch the group's range over the grid by a range of factors,
with both signs; the best is refitted in closed form, s = <w, q>_h / <q, q>_h, as long as that helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import FormatError, NonFiniteWeightError
from penjing.formats.codes import TABLE_BITS, Codes, grid_of
from penjing.formats.grids import Grid
from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import round_to_half
from penjing.models.statistics import InputStatistics, check_statistics
from penjing.quantize.matrix import Placement, to_groups
from penjing.quantize.table import fit_table
from penjing.spec import WeightFormat

CHUNK_WEIGHTS = 1 << 16  # searched at a time: the scratch arrays stay in the caches
MOST_CLIPPED_STEPS = 2.0  # at the outermost candidate, so that a residual plane can give nearly all back
MOST_CLIPPED_PART = 0.5  # of the largest weight, where the grid is not uniform and no such plane follows


@dataclass(frozen=True)
class SearchConfig:
    """candidates: scales tried for each sign. shrink: the smallest scale tried, as a part of the one whose
    grid just covers the group. refits: most closed-form refits of the best candidate. table_fits: how often
    a table is fitted anew to the scales that were found for the one before.
    """

    candidates: int = 16
    shrink: float = 0.6
    refits: int = 3
    table_fits: int = 1


def search(
    weight: Tensor, statistics: InputStatistics | None, format: WeightFormat, config: SearchConfig
) -> Codes:
    """Nearest codes at searched scales. weight: float32 [N, K]; without statistics every weight counts alike.

    Raises NonFiniteWeightError for NaN or Inf, FormatError where float16 cannot hold a scale, DataError for
    statistics of other inputs.
    """
    placement, table = search_placement(weight, statistics, format, config)
    return placement.to_codes(placement.nearest(weight), format, table)


def search_placement(
    weight: Tensor,
    statistics: InputStatistics | None,
    format: WeightFormat,
    config: SearchConfig,
    table: NDArray[np.int8] | None = None,
) -> tuple[Placement, NDArray[np.int8] | None]:
    """The placement alone, for methods that choose codes by themselves, and the table of formats with one,
    which is fitted unless it is known.
    """
    check_weight(weight)
    importance = torch.ones(weight.shape[1])
    if statistics is not None:
        check_statistics(weight, statistics)
        importance = relative(statistics.importance)
    if table is None and format.name in TABLE_BITS:
        table = search_table(weight, importance, format, config)
    grid = grid_of(format, table)
    scales, zeros = search_scales(weight, importance, grid, format, config)
    return Placement(grid, format.group_size, scales, zeros), table


def search_table(
    weight: Tensor, importance: Tensor, format: WeightFormat, config: SearchConfig
) -> NDArray[np.int8]:
    """Levels int8 [16] and scales in turn, each the best for the other (Lloyd 1957)."""
    bits = TABLE_BITS[format.name]
    table = fit_table(weight, importance, format.group_size, bits)
    for _ in range(config.table_fits):
        scales, _ = search_scales(weight, importance, grid_of(format, table), format, config)
        table = fit_table(weight, importance, format.group_size, bits, scales)
    return table


def check_weight(weight: Tensor) -> None:
    """Raise NonFiniteWeightError for NaN or Inf."""
    if not bool(torch.isfinite(weight).all()):
        raise NonFiniteWeightError("NaN or Inf among the weights to quantize; the checkpoint is damaged")


def relative(importance: Tensor) -> Tensor:
    """Importances with mean 1 and none of them 0: where no token fired, weights still count a little.

    Text that comes later may reach inputs that calibration text did not.
    """
    mean = importance.mean()
    if float(mean) == 0:
        return torch.ones_like(importance)
    return importance / mean + 1e-4


def search_scales(
    weight: Tensor, importance: Tensor, grid: Grid, format: WeightFormat, config: SearchConfig
) -> tuple[Tensor, Tensor | None]:
    """Scales [N, groups] and, on an asymmetric grid, zeros; `importance` float32 [K] or [N, K]."""
    groups = to_groups(weight, format.group_size)
    weights_of = to_groups(importance, format.group_size)
    rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
    parts = []
    for first in range(0, weight.shape[0], rows):
        part = groups[first : first + rows].contiguous()
        parts.append(search_groups(part, weights_of, grid, format, config))
    scales = torch.cat([scales for scales, _ in parts])
    if not format.asymmetric:
        return scales, None
    return scales, torch.cat([zeros for _, zeros in parts])


def search_groups(
    groups: Tensor, importance: Tensor, grid: Grid, format: WeightFormat, config: SearchConfig
) -> tuple[Tensor, Tensor]:
    """Scales and zeros (zeros of 0 on a symmetric grid) [n, groups] of weights [n, groups, G]."""
    best = torch.zeros(groups.shape[:2])
    best_zeros, least = torch.zeros_like(best), torch.full_like(best, float("inf"))
    for scales, zeros in candidates(groups, grid, format, config):
        errors = errors_of(groups, importance, grid, scales, zeros if format.asymmetric else None)
        better = errors < least
        best, least = torch.where(better, scales, best), torch.where(better, errors, least)
        best_zeros = torch.where(better, zeros, best_zeros)
    if format.name != "mxfp4":  # its scales are powers of two
        for _ in range(config.refits):
            best, least, changed = refitted(
                groups, importance, grid, scales=best, zeros=best_zeros, least=least
            )
            if not changed:
                break
    empty = groups.abs().amax(-1) == 0
    return best.masked_fill(empty, 0.0), best_zeros.masked_fill(empty, 0.0)


def candidates(
    groups: Tensor, grid: Grid, format: WeightFormat, config: SearchConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales that float16 holds, and zeros, [n, groups] each; the first pair covers the group's range."""
    if format.asymmetric:
        yield from asymmetric_candidates(groups, grid, config)
        return
    largest, none = groups.abs().amax(-1), torch.zeros(groups.shape[:2])
    if format.name == "mxfp4":
        exponents = torch.floor(torch.log2(largest.clamp(min=SMALLEST_HALF) / grid.highest))
        for extra in (1, 0, -1, 2):
            yield torch.exp2((exponents + extra).clamp(-24, 15)), none
        return
    longer, shorter = sorted((grid.highest, -grid.lowest), reverse=True)
    check_range(float(largest.max()) / longer)
    signs = (1.0,) if longer == shorter else (-1.0, 1.0)
    widest = min(longer / config.shrink, longer + MOST_CLIPPED_STEPS)
    if not grid.uniform:
        widest = longer / MOST_CLIPPED_PART
    for reach in np.linspace(min(shorter, longer - 0.001), widest, config.candidates):
        scales = to_half(largest / float(reach))
        for sign in signs:
            yield sign * scales, none


def asymmetric_candidates(
    groups: Tensor, grid: Grid, config: SearchConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shrunken ranges, each with the zero that centres it and its two neighbours."""
    low, high = groups.amin(-1), groups.amax(-1)
    check_range(float((high - low).max()) / grid.highest)
    shrink = max(config.shrink, grid.highest / (grid.highest + 2 * MOST_CLIPPED_STEPS))
    for part in np.linspace(1.0, shrink, config.candidates):
        for reach in (high - low, torch.maximum(high.clamp(min=0), -low.clamp(max=0))):
            scales = to_half(reach * float(part) / grid.highest)
            middle = torch.round((grid.highest * scales - high - low) / (2 * scales))
            for shift in (0, -1, 1):
                yield scales, (middle + shift).clamp(0, grid.highest)


def check_range(largest_scale: float) -> None:
    """Raise FormatError where float16 cannot hold a scale."""
    if largest_scale > LARGEST_HALF:
        raise FormatError(
            f"a scale of {largest_scale:.3g} overflows float16; keep this tensor in its own dtype"
        )


def to_half(scales: Tensor) -> Tensor:
    """The nearest positive float16 numbers, still float32."""
    rounded: Tensor = round_to_half(scales.clamp(SMALLEST_HALF, LARGEST_HALF))
    return rounded


def errors_of(groups: Tensor, importance: Tensor, grid: Grid, scales: Tensor, zeros: Tensor | None) -> Tensor:
    """Weighted squared errors [n, groups] of the nearest codes."""
    places = scales[..., None]
    offsets = None if zeros is None else zeros[..., None]
    if grid.uniform:  # the same as nearest and values, in fewer passes
        steps = groups / places
        if offsets is not None:
            steps += offsets
        left = steps.round().clamp_(grid.lowest, grid.highest).sub_(steps)
        errors: Tensor = left.mul_(left).mul_(importance).sum(-1) * (scales * scales)
        return errors
    left = grid.values(grid.nearest(groups, places, offsets), places, offsets) - groups
    weighted: Tensor = left * left * importance
    return weighted.sum(-1)


def refitted(
    groups: Tensor, importance: Tensor, grid: Grid, *, scales: Tensor, zeros: Tensor, least: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Least-squares scales for the nearest codes, where they lower the error; whether any did."""
    places, offsets = scales[..., None], zeros[..., None]
    steps = grid.values(grid.nearest(groups, places, offsets), torch.ones(()), offsets)
    norms = (steps * steps * importance).sum(-1)
    fitted = (groups * steps * importance).sum(-1) / norms.where(norms > 0, torch.ones(()))
    fitted = round_to_half(fitted.clamp(-LARGEST_HALF, LARGEST_HALF))
    usable = fitted.abs() >= SMALLEST_HALF
    errors = errors_of(groups, importance, grid, fitted.where(usable, scales), zeros)
    better = usable & (errors < least)
    return fitted.where(better, scales), errors.where(better, least), bool(better.any())
