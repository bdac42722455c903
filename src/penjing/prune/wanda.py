"""Wanda (Sun et al. 2024): a weight matters by its magnitude times the norm of the input that it meets."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.models.statistics import InputStatistics, check_statistics
from penjing.prune.patterns import Sparsity, keep_mask

LEAST_IMPORTANCE = 1e-10  # of the mean: among inputs that never fired, weights are told apart by magnitude


def wanda(weight: Tensor, statistics: InputStatistics, sparsity: Sparsity) -> Tensor:
    """A copy of float32 [N, K] with 0 for the least |w_ij| |x_j| of every output row, or of every group.

    |x_j|: root of the mean square of input j. Rows are never compared with each other: a row of small weights
    has its own output to keep. Raises DataError for statistics of other inputs, or with NaN or Inf.
    """
    check_statistics(weight, statistics)
    importance = statistics.importance
    floor = max(LEAST_IMPORTANCE * float(importance.mean()), torch.finfo(torch.float32).tiny)
    scores = weight.abs() * importance.clamp(min=floor).sqrt()
    return torch.where(keep_mask(scores, sparsity), weight, 0.0)
