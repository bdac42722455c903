"""GPTQ (Frantar et al. 2023): columns are rounded one by one, and those to come make up for the error.

With U the upper Cholesky factor of the inverse Gram matrix, G^-1 = U^T U, rounding column j leaves the error
e = (w_j - q_j) / U_jj, and every later column k becomes w_k - e U_jk: the least squares solution for the
outputs W x over all calibration tokens, given what is rounded already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.formats.codes import Codes
from penjing.models.factor import feedback_factor
from penjing.models.statistics import InputStatistics, check_statistics
from penjing.quantize.matrix import Placement
from penjing.quantize.search import SearchConfig, search_placement
from penjing.spec import WeightFormat

BLOCK_COLUMNS = 64  # whose errors are fed back at once to all later columns


@dataclass(frozen=True)
class GptqConfig:
    """damping: added to the Gram's diagonal, in parts of its mean. order: whether columns of large inputs go
    first ("act-order"); groups keep their columns, so that nothing is permuted in the artifact. reach: how
    many steps a code may lie from its weight, however much error is fed back to it, on uniform grids of 4
    bits and more (None: any number). Below 1 it leaves the codes beside the weight, so that a residual plane
    can bring the weight back. search: how scales are found, beforehand.
    """

    damping: float = 0.01
    order: bool = True
    reach: float | None = 0.9
    search: SearchConfig = field(default_factory=SearchConfig)


def gptq(weight: Tensor, statistics: InputStatistics, format: WeightFormat, config: GptqConfig) -> Codes:
    """Codes of a float32 matrix [N, K] that keep its outputs on the calibration inputs.

    Raises as `search` does, and DataError for a Gram matrix that no damping makes positive definite.
    """
    placement, table = search_placement(weight, statistics, format, config.search)
    return placement.to_codes(feed_back(weight, statistics, placement, config), format, table)


def feed_back(
    target: Tensor,
    statistics: InputStatistics,
    placement: Placement,
    config: GptqConfig,
    weight: Tensor | None = None,
) -> Tensor:
    """Codes float32 [N, K] of a target [N, K] on grids that are in place already.

    weight: what `config.reach` is measured from (None: the target).
    """
    check_statistics(target, statistics)
    columns = target.shape[1]
    order, factor = feedback_factor(statistics, config.damping, by_importance=config.order)
    rest = target.t()[order].contiguous()  # [K, N]: a column of the matrix is a row here, side by side
    codes = torch.empty_like(rest)
    scales = placement.scales.t().contiguous()
    zeros = None if placement.zeros is None else placement.zeros.t().contiguous()
    groups = (order // placement.group_size).tolist()
    bounds = placement.bounds(target if weight is None else weight, config.reach)
    if bounds is not None:
        bounds = (bounds[0].t()[order].contiguous(), bounds[1].t()[order].contiguous())
    for first in range(0, columns, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, columns)
        block, errors = rest[first:last], torch.empty_like(rest[first:last])
        upper = factor[first:last, first:last]
        for j in range(last - first):
            scale = scales[groups[first + j]]
            zero = None if zeros is None else zeros[groups[first + j]]
            nearest = placement.grid.nearest(block[j], scale, zero)
            if bounds is not None:
                nearest = torch.clamp(nearest, bounds[0][first + j], bounds[1][first + j])
            codes[first + j] = nearest
            torch.sub(block[j], placement.grid.values(nearest, scale, zero), out=errors[j])
            errors[j] /= upper[j, j]
            block[j + 1 :].addr_(upper[j, j + 1 :], errors[j], alpha=-1)
        rest[last:].addmm_(factor[first:last, last:].t(), errors, alpha=-1)
    return codes[torch.argsort(order)].t().contiguous()
