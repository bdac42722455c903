"""Codes by coordinate descent under the Gram (QuantEase, Behdin et al. 2023), after any other method.

The error of a row is quadratic in each weight. With every other code fixed, the best value of weight j is

    q_j + ((w - q) G)_j / G_jj,

and its nearest level is the best code: every step lowers the error or leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.models.statistics import InputStatistics, check_statistics
from penjing.quantize.matrix import Placement

BLOCK_COLUMNS = 64


@dataclass(frozen=True)
class DescentConfig:
    """passes: over all columns. damping: added to the Gram's diagonal, in parts of its mean. reach: how many
    steps a code may lie from its weight, as in `gptq`.
    """

    passes: int = 4
    damping: float = 0.01
    reach: float | None = 0.9


def descend(
    target: Tensor,
    statistics: InputStatistics,
    placement: Placement,
    codes: Tensor,
    config: DescentConfig,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Codes float32 [N, K] of no larger error against `target` under the damped Gram.

    weight: what `config.reach` is measured from (None: the target).
    """
    check_statistics(target, statistics)
    gram = statistics.gram.clone()
    extra = config.damping * float(gram.diagonal().mean())
    gram.diagonal().add_(extra if extra > 0 else 1.0)
    bounds = placement.bounds(target if weight is None else weight, config.reach)
    if bounds is not None:
        bounds = (bounds[0].t().contiguous(), bounds[1].t().contiguous())
    codes, wanted = codes.t().contiguous(), target.t().contiguous()  # [K, N]
    for _ in range(config.passes):
        before = codes.clone()
        descend_once(wanted, gram, placement, codes, bounds)
        if torch.equal(before, codes):
            break
    return codes.t().contiguous()


def descend_once(
    wanted: Tensor, gram: Tensor, placement: Placement, codes: Tensor, bounds: tuple[Tensor, Tensor] | None
) -> None:
    """One pass over the columns, in place on `codes` [K, N]; pulls are exact at the start of each block."""
    columns, size = wanted.shape[0], placement.group_size
    scales = placement.scales.t().contiguous()
    zeros = None if placement.zeros is None else placement.zeros.t().contiguous()
    left = wanted - placement.values(codes.t()).t()
    for first in range(0, columns, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, columns)
        pulls = gram[first:last] @ left  # [block, N]
        for j in range(first, last):
            scale, zero = scales[j // size], None if zeros is None else zeros[j // size]
            present = wanted[j] - left[j]
            best = placement.grid.nearest(present + pulls[j - first] / gram[j, j], scale, zero)
            if bounds is not None:
                best = torch.clamp(best, bounds[0][j], bounds[1][j])
            value = placement.grid.values(best, scale, zero)
            pulls[j - first + 1 :].addr_(gram[j + 1 : last, j], value - present, alpha=-1)
            left[j] -= value - present
            codes[j] = best
