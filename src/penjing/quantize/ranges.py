"""Scales from a range: the largest magnitude (round to nearest), a percentile, or the best of smaller ones.

The plain forms, for comparison and for data-free use. All are symmetric full-range: the range's extreme maps
to the end of the grid that reaches further, and the scale takes the sign that this needs. On an asymmetric
grid the range is [minimum, maximum].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import SpecError
from penjing.formats.codes import TABLE_BITS, Codes, grid_of
from penjing.formats.grids import Grid
from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import round_to_half
from penjing.models.statistics import InputStatistics
from penjing.quantize.matrix import Placement, to_groups
from penjing.quantize.search import SearchConfig, check_range, check_weight, search
from penjing.quantize.table import fit_table
from penjing.spec import WeightFormat


@dataclass(frozen=True)
class PercentileConfig:
    """keep: the part of a group's weights, by magnitude, that the range covers; the rest is clipped."""

    keep: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise SpecError(f"percentile: keep is {self.keep}; it must be above 0 and at most 1")


def percentile(
    weight: Tensor,
    statistics: InputStatistics | None,  # noqa: ARG001 (every method is called alike)
    format: WeightFormat,
    config: PercentileConfig,
) -> Codes:
    """Nearest codes in a range that leaves out each group's largest weights. Statistics are not used."""
    check_weight(weight)
    table = (
        fit_table(weight, torch.ones(weight.shape[1]), format.group_size, TABLE_BITS[format.name])
        if format.name in TABLE_BITS
        else None
    )
    grid = grid_of(format, table)
    groups = to_groups(weight, format.group_size)
    low, high = clipped_range(groups, config.keep)
    scales, zeros = covering(low, high, grid, format)
    empty = groups.abs().amax(-1) == 0
    placement = Placement(grid, format.group_size, scales.masked_fill(empty, 0.0), zeros)
    return placement.to_codes(placement.nearest(weight), format, table)


def mse(
    weight: Tensor,
    statistics: InputStatistics | None,  # noqa: ARG001 (every method is called alike)
    format: WeightFormat,
    config: SearchConfig,
) -> Codes:
    """Nearest codes at the scale of least squared error, every weight counting alike."""
    return search(weight, None, format, config)


def clipped_range(groups: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Least and greatest weight [N, groups] after clipping to the magnitude that `keep` of a group's weights
    do not exceed; never 0 where a weight is not.
    """
    size = groups.shape[-1]
    magnitudes = groups.abs().sort(-1).values
    limit = magnitudes[..., max(0, round(keep * size) - 1)]
    limit = torch.where(limit > 0, limit, magnitudes[..., -1])
    return torch.maximum(groups.amin(-1), -limit), torch.minimum(groups.amax(-1), limit)


def covering(low: Tensor, high: Tensor, grid: Grid, format: WeightFormat) -> tuple[Tensor, Tensor | None]:
    """Scales and zeros [N, groups] that put the range [low, high] on the grid. FormatError past float16."""
    if format.asymmetric:
        low, high = low.clamp(max=0), high.clamp(min=0)  # a zero point inside the grid
        check_range(float((high - low).max()) / grid.highest)
        scales = round_to_half(((high - low) / grid.highest).clamp(SMALLEST_HALF, LARGEST_HALF))
        return scales, torch.round(-low / scales).clamp(0, grid.highest)
    extreme = torch.where(high > -low, high, low)
    if format.name == "mxfp4":  # OCP MX 1.0, section 6.3
        exponents = torch.floor(torch.log2(extreme.abs().clamp(min=SMALLEST_HALF))) - 2
        return torch.exp2(exponents.clamp(-24, 15)), None
    end = grid.lowest if -grid.lowest > grid.highest else grid.highest
    check_range(float(extreme.abs().max()) / abs(end))
    sizes = round_to_half((extreme.abs() / abs(end)).clamp(SMALLEST_HALF, LARGEST_HALF))
    return sizes * torch.sign(extreme * end), None
