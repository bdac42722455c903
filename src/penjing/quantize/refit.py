"""Scales in closed form for codes that stay: least squares of the outputs, over all groups of a row at once.

With q_g the steps of group g (zero elsewhere), a row is sum_g s_g q_g, and its scales solve A s = b with
A_gh = q_g^T G q_h and b_g = q_g^T G w (Two-Stage Grid Optimization, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import round_to_half
from penjing.models.statistics import InputStatistics, gram_errors
from penjing.quantize.matrix import Placement, spread, to_groups

CHUNK_ROWS = 256  # solved at a time: bounds memory by rows x groups x K


@dataclass(frozen=True)
class RefitConfig:
    """damping: pull towards the present scales, in parts of the mean diagonal of A."""

    damping: float = 1e-3


def refit(
    target: Tensor, statistics: InputStatistics, placement: Placement, codes: Tensor, config: RefitConfig
) -> Placement:
    """The placement with refitted scales in those rows whose error under the Gram falls, after float16.

    target: what the matrix should be, float32 [N, K]. codes: float32 [N, K].
    """
    parts = []
    steps = placement.steps(codes)
    for first in range(0, target.shape[0], CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        parts.append(
            refit_rows(
                target[rows],
                statistics.gram,
                steps[rows],
                placement.scales[rows],
                config=config,
                size=placement.group_size,
            )
        )
    return placement.with_scales(torch.cat(parts))


def refit_rows(
    target: Tensor, gram: Tensor, steps: Tensor, scales: Tensor, *, size: int, config: RefitConfig
) -> Tensor:
    """Scales [n, groups] of some rows, groups of `size` columns."""
    columns = target.shape[1]
    left = target - steps * spread(scales, size, columns)
    change = solve(gram, steps, left, size, config.damping)
    fitted = round_to_half((scales + change).clamp(-LARGEST_HALF, LARGEST_HALF))
    fitted = fitted.where((fitted.abs() >= SMALLEST_HALF) & (scales != 0), scales)
    errors = gram_errors(target - steps * spread(fitted, size, columns), gram)
    better = errors < gram_errors(left, gram)
    return torch.where(better[:, None], fitted, scales)


def solve(gram: Tensor, steps: Tensor, left: Tensor, group_size: int, damping: float) -> Tensor:
    """The change of scales [n, groups] that takes most off the error `left` [n, K], codes being frozen."""
    grouped = to_groups(steps, group_size)  # [n, groups, G]
    num_groups = grouped.shape[1]
    products = torch.stack(  # q_g^T G of every group, [groups, n, K]
        [
            steps[:, at : at + group_size] @ gram[at : at + group_size]
            for at in range(0, steps.shape[1], group_size)
        ]
    )
    matrix = (to_groups(products, group_size) * grouped).sum(-1).permute(1, 0, 2).double()
    right = (to_groups(left @ gram, group_size) * grouped).sum(-1).double()
    extra = damping * matrix.diagonal(dim1=1, dim2=2).mean(1)
    matrix += torch.eye(num_groups, dtype=torch.double) * (extra + (extra == 0))[:, None, None]
    lower, failed = torch.linalg.cholesky_ex(matrix)
    change = torch.cholesky_solve(right[..., None], lower)[..., 0].float()
    return change.masked_fill((failed != 0)[:, None] | ~torch.isfinite(change), 0.0)
