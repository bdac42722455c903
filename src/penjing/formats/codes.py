"""A weight matrix as codes of a format, row by row: what every method of quantization makes.

`pack` puts it in the order in which kernels read (`Encoded`); `dequantize` is what the engine computes with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats.grids import FIXED_GRIDS, Grid, table_grid, uniform_grid
from penjing.spec import Tier, WeightFormat

UNIFORM_BITS = {"int2": 2, "int3": 3, "int4": 4, "int5": 5, "int6": 6, "int8": 8, "layered": 4}
TABLE_BITS = {"table2": 2, "table3": 3, "table4": 4}
TABLE_ENTRIES = 16  # stored for each of them; those that no code names are 0


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes uint8 [N, K] of a format, and what they mean.

    scales: float16 [N, groups], as stored. zeros: uint8 [N, groups] where the format is asymmetric, else
    None. table: int8 [16], where a format of TABLE_BITS has its levels. residual: uint8 [N, K], the second
    plane of `layered`: its code v stands for (v - 8) / 8 of a step. tiny_groups: how many groups are
    too small for float16's scales, and hold what its smallest gives; for reports, not stored.
    """

    format: WeightFormat
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8] | None = None
    table: NDArray[np.int8] | None = None
    residual: NDArray[np.uint8] | None = None
    tiny_groups: int = 0

    @property
    def grid(self) -> Grid:
        """What the codes stand for."""
        return grid_of(self.format, self.table)


def grid_of(format: WeightFormat, table: NDArray[np.int8] | None = None) -> Grid:
    """The grid of a format. Raises FormatError for `keep`, which has none, and for a missing table."""
    if format.name in UNIFORM_BITS:
        return uniform_grid(UNIFORM_BITS[format.name], asymmetric=format.asymmetric)
    if format.name in FIXED_GRIDS:
        return FIXED_GRIDS[format.name]
    if table is None or format.name not in TABLE_BITS:
        raise FormatError(f"the format {format.name!r} has no grid of its own")
    return table_grid(table[: 2 ** TABLE_BITS[format.name]].tolist())


def dequantize(codes: Codes, tier: Tier = "best") -> NDArray[np.float32]:
    """The float32 matrix [N, K] that codes stand for at a tier (docs/artifact.md, "Values")."""
    rows, columns = codes.codes.shape
    scales = spread(codes.scales.astype(np.float32), columns, codes.format.group_size)
    zeros = (
        None
        if codes.zeros is None
        else spread(codes.zeros.astype(np.float32), columns, codes.format.group_size)
    )
    if codes.residual is not None and tier == "best":
        fine = 8.0 * codes.codes.astype(np.float32) + codes.residual.astype(np.float32) - 72.0
        result: NDArray[np.float32] = fine * (scales / np.float32(8))
    else:
        result = codes.grid.values(codes.codes, scales, zeros)
    return result.reshape(rows, columns)


def spread(groups: NDArray[np.float32], columns: int, group_size: int) -> NDArray[np.float32]:
    """One value a group [N, groups] to one a weight [N, K]."""
    return np.repeat(groups, group_size, axis=1)[:, :columns]
