"""SparseGPT (Frantar & Alistarh 2023): columns are pruned one by one, and those to come make up for it.

With U the upper Cholesky factor of the inverse Gram matrix, G^-1 = U^T U, pruning weight w_j costs
w_j^2 / U_jj^2 of squared output error once all later weights of its row have moved by -w_j U_jk / U_jj, which
is the least squares answer. Which weights go is decided a block of columns ahead, by that cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.models.factor import feedback_factor
from penjing.models.statistics import InputStatistics, check_statistics
from penjing.prune.patterns import Sparsity, highest, keep_mask

DAMPING = 0.01  # added to the Gram's diagonal, in parts of its mean
BLOCK_COLUMNS = 128  # whose masks are chosen together, and whose errors go to all later columns at once


def sparsegpt(weight: Tensor, statistics: InputStatistics, sparsity: Sparsity) -> Tensor:
    """A matrix like `weight` float32 [N, K], pruned, whose other weights keep its outputs on these inputs.

    A fraction is kept exactly, though rows and blocks of columns share it as their costs say; a pattern is
    chosen group by group. Raises DataError for statistics of other inputs, or with NaN or Inf.
    """
    check_statistics(weight, statistics)
    _, factor = feedback_factor(statistics, DAMPING, by_importance=False)
    rest = weight.t().contiguous().clone()  # [K, N]: a column of the matrix is a row here, side by side
    columns, group = len(rest), sparsity.group or 1
    step = max(BLOCK_COLUMNS // group, 1) * group
    kept = 0
    for first in range(0, columns, step):
        block, last = rest[first : first + step], min(first + step, columns)
        budget = round(sparsity.keep * weight.shape[0] * last) - kept
        kept += budget
        errors = prune_block(block, factor[first:last, first:last], sparsity, budget)
        rest[last:].addmm_(factor[first:last, last:].t(), errors, alpha=-1)
    return rest.t().contiguous()


def prune_block(block: Tensor, upper: Tensor, sparsity: Sparsity, budget: int) -> Tensor:
    """Prune columns of a matrix, float32 [B, N], in place; their errors over U_jj, [B, N].

    budget: how many weights stay, unless there is a pattern.
    """
    scale = upper.diagonal()[:, None]
    mask = torch.empty_like(block, dtype=torch.bool)
    if sparsity.group is None:
        mask = highest((block / scale).square().reshape(-1), budget).view_as(block)
    errors = torch.empty_like(block)
    for j in range(len(block)):
        if sparsity.group is not None and j % sparsity.group == 0:
            neighbours = slice(j, j + sparsity.group)
            costs = (block[neighbours] / scale[neighbours]).square()
            mask[neighbours] = keep_mask(costs.t(), sparsity).t()
        errors[j] = torch.where(mask[j], 0.0, block[j] / scale[j])
        block[j].masked_fill_(~mask[j], 0.0)
        block[j + 1 :].addr_(upper[j, j + 1 :], errors[j], alpha=-1)
    return errors
