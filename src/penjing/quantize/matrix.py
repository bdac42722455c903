"""A matrix on its way to being `Codes`: a grid that is placed by a scale (and zero) in every group."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from penjing.formats.codes import Codes
from penjing.formats.grids import Grid
from penjing.spec import WeightFormat

BOUNDED_BITS = 4


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the levels of a grid lie in each group of each row.

    scales: float32 [N, groups], each a float16 number. zeros: float32 whole numbers [N, groups], or None. A
    group is `group_size` columns in their natural order; the last one may be short.
    """

    grid: Grid
    group_size: int
    scales: Tensor
    zeros: Tensor | None = None

    def nearest(self, weight: Tensor) -> Tensor:
        """Codes of the nearest levels, float32 [N, K]."""
        columns = weight.shape[1]
        zeros = None if self.zeros is None else spread(self.zeros, self.group_size, columns)
        codes: Tensor = self.grid.nearest(weight, spread(self.scales, self.group_size, columns), zeros)
        return codes

    def bounds(self, weight: Tensor, reach: float | None) -> tuple[Tensor, Tensor] | None:
        """Least and greatest codes [N, K] that lie within `reach` steps of the weight, at least 0.5.

        Where the grid ends before that, both are its end. None without a reach, on grids that are not uniform
        and on those of fewer than 4 bits, which need every freedom.
        """
        if reach is None or not self.grid.uniform or self.grid.bits < BOUNDED_BITS:
            return None
        columns = weight.shape[1]
        placed = spread(self.scales, self.group_size, columns)
        places = (
            torch.where(placed == 0, 0.0, weight / torch.where(placed == 0, 1.0, placed)) - self.grid.lowest
        )
        if self.zeros is not None:
            places = places + spread(self.zeros, self.group_size, columns)
        last = self.grid.highest - self.grid.lowest
        return torch.ceil(places - reach).clamp(0, last), torch.floor(places + reach).clamp(0, last)

    def steps(self, codes: Tensor) -> Tensor:
        """What codes [N, K] stand for in steps of the scale, float32."""
        ones = torch.ones(())
        zeros = None if self.zeros is None else spread(self.zeros, self.group_size, codes.shape[1])
        steps: Tensor = self.grid.values(codes, ones, zeros)
        return steps

    def values(self, codes: Tensor) -> Tensor:
        """The weights [N, K] that codes stand for, float32."""
        return self.steps(codes) * spread(self.scales, self.group_size, codes.shape[1])

    def with_scales(self, scales: Tensor) -> Placement:
        """The same grid and zeros at other scales."""
        return replace(self, scales=scales)

    def to_codes(self, codes: Tensor, format: WeightFormat, table: NDArray[np.int8] | None = None) -> Codes:
        """Codes of a format, on the CPU, as the artifact holds them."""
        zeros = None if self.zeros is None else self.zeros.cpu().numpy().astype(np.uint8)
        return Codes(
            format=format,
            codes=codes.cpu().numpy().astype(np.uint8),
            scales=self.scales.cpu().numpy().astype(np.float16),
            zeros=zeros,
            table=table,
        )


def spread(groups: Tensor, group_size: int, columns: int) -> Tensor:
    """One value a group [N, groups] to one a weight [N, columns]."""
    return groups.repeat_interleave(group_size, 1)[:, :columns]


def placement_of(codes: Codes) -> tuple[Placement, Tensor]:
    """The base plane of `codes` as a placement and float32 codes [N, K]."""
    zeros = None if codes.zeros is None else torch.from_numpy(codes.zeros.astype(np.float32))
    scales = torch.from_numpy(codes.scales.astype(np.float32))
    placement = Placement(codes.grid, codes.format.group_size, scales, zeros)
    return placement, torch.from_numpy(codes.codes.astype(np.float32))


def to_groups(columns: Tensor, group_size: int) -> Tensor:
    """[..., K] to [..., groups, group_size], padded with zeros to whole groups."""
    missing = -columns.shape[-1] % group_size
    return functional.pad(columns, (0, missing)).reshape(*columns.shape[:-1], -1, group_size)
